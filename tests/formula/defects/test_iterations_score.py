"""Estimators of draws that lead to later iterations: right against enumeration, or refused."""

import itertools

import pytest
import torch
from torch import nn

from worldformula import Bernoulli, Deterministic, E, Mean, Normal, Sum, log
from worldformula.errors import WorldformulaError

ROWS, L = 20_000, 3
Y = torch.tensor([0.5, 1.5, -0.3], dtype=torch.float64)
END = torch.tensor(0.8, dtype=torch.float64)
THETA = (0.3, -0.6)


class Logit(nn.Module):
    """θ₀ + θ₁·c, each row with parameters of its own, also where K samples stand in front of the rows."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(THETA, dtype=torch.float64).expand(ROWS, -1).clone())

    def forward(self, e, c):
        theta = self.theta.repeat(len(c) // ROWS, 1)
        return theta[:, :1] + theta[:, 1:] * c


def parts():
    rows = Logit()
    start = Deterministic("e = enc(x)", lambda x: 0 * x, shape=1)
    draw = Bernoulli("q(b_l|e,c_{l-1})", rows, shape=1)
    core = Deterministic("c_l = f(c_{l-1},b_l)", lambda c, b: 0.5 * c + b, shape=1)
    seen = Normal("p(y_l|c_l)", lambda c: c, shape=1, scale=1.0)
    end = Normal("p(w|c_L)", lambda c: 2 * c, shape=1, scale=1.0)
    return rows, start, draw, core, seen, end


def enumerated(over="sum", last=False):
    """The exact value and its gradient by θ: all 2³ sequences of bits."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    normal, value = torch.distributions.Normal, torch.zeros((), dtype=torch.float64)
    for bits in itertools.product((0.0, 1.0), repeat=L):
        c, log_q, reward = torch.zeros((), dtype=torch.float64), 0.0, 0.0
        for bit, y in zip(bits, Y, strict=True):
            p = (theta[0] + theta[1] * c).sigmoid()
            log_q = log_q + (p if bit else 1 - p).log()
            c = 0.5 * c + bit
            reward = reward + normal(c, 1.0).log_prob(y)
        reward = reward / (L if over == "mean" else 1) + (normal(2 * c, 1.0).log_prob(END) if last else 0.0)
        value = value + log_q.exp() * reward
    return value.detach(), torch.autograd.grad(value, theta)[0]


def within(found, exact):
    error = found.std(0) / ROWS**0.5
    return bool(((found.mean(0) - exact).abs() <= 4 * error + 1e-9).all())


def right_or_refused(build, expected, rows, **data):
    """Value and gradient of every row average to those of enumeration, or a message says what to write."""
    try:
        value = build()(x=torch.zeros(ROWS, 1).double(), y=Y[:, None].expand(ROWS, L, 1), seed=1, **data).value
    except WorldformulaError as error:
        said = str(error)
        if not ("c_l" in said or "carr" in said or "iteration" in said):
            raise
        if not ("gradient=" in said or "samples=" in said):
            raise
        return
    assert value.shape == (ROWS,)
    (gradient,) = torch.autograd.grad(value.sum(), rows.theta)
    assert within(value, expected[0])
    assert within(gradient, expected[1])


HOW = {
    "score": {"gradient": "score"},
    "4 samples": {"gradient": "score", "samples": 4},
    "leave-one-out": {"gradient": "score", "samples": 4, "baseline": "leave-one-out"},
    "exact": {"gradient": "exact"},
}
ESTIMATORS = pytest.mark.parametrize("how", HOW)
W = {"w": END.expand(ROWS, 1)}


@ESTIMATORS
@pytest.mark.parametrize("over", [Sum, Mean])
def test_a_draw_that_later_iterations_read(how, over):
    rows, start, draw, core, seen, _ = parts()
    expected = enumerated("mean" if over is Mean else "sum")
    right_or_refused(lambda: E(start, over("l", E(draw * core, log(seen), **HOW[how]), steps=L)), expected, rows)


@ESTIMATORS
def test_a_draw_whose_last_value_is_read_to_the_right_of_the_sum(how):
    rows, start, draw, core, seen, end = parts()
    right_or_refused(
        lambda: E(start, Sum("l", E(draw * core, log(seen), **HOW[how]), steps=L)) + log(end),
        enumerated(last=True), rows, **W,
    )  # fmt: skip


@ESTIMATORS
def test_the_last_value_inside_the_expectation_around_the_sum(how):
    rows, start, draw, core, seen, end = parts()
    right_or_refused(
        lambda: E(start, Sum("l", E(draw * core, log(seen), **HOW[how]), steps=L) + log(end)),
        enumerated(last=True), rows, **W,
    )  # fmt: skip


@ESTIMATORS
def test_the_product_of_the_carry_first_and_the_draw_in_an_expectation_of_its_own(how):
    rows, start, draw, core, seen, _ = parts()
    right_or_refused(lambda: E(start, Sum("l", E(draw, E(core, log(seen)), **HOW[how]), steps=L)), enumerated(), rows)


@pytest.mark.parametrize("how", HOW)
def test_iterations_that_do_not_read_one_another(how):
    """Without a carry every estimator is right: the exact value is a sum of three small enumerations."""
    theta = nn.Parameter(torch.tensor(0.4, dtype=torch.float64).expand(ROWS, 1).clone())
    draw = Bernoulli("q(b_l|u_l)", _Scaled(theta), shape=1)
    seen = Normal("p(y_l|b_l)", lambda b: b, shape=1, scale=1.0)
    loss = Sum("l", E(draw, log(seen), **HOW[how]), steps=L)
    scales = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    value = loss(u=scales[:, None].expand(ROWS, L, 1), y=Y[:, None].expand(ROWS, L, 1), seed=2).value
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    p, normal = (t * scales).sigmoid(), torch.distributions.Normal
    exact = (p * normal(1.0, 1.0).log_prob(Y) + (1 - p) * normal(0.0, 1.0).log_prob(Y)).sum()
    assert value.shape == (ROWS,)
    assert within(value, exact.detach())
    assert within(gradient, torch.autograd.grad(exact, t)[0])


class _Scaled(nn.Module):
    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, u):
        return self.theta.repeat(len(u) // ROWS, 1) * u


def test_samples_of_a_reparametrised_draw_that_later_iterations_read():
    """c_l = z_l + c_{l-1}/2 with z_l ~ N(θ, 1): a Gaussian walk, whose E[-(c_l - y_l)²/2] is arithmetic."""
    theta = nn.Parameter(torch.tensor(0.4, dtype=torch.float64).expand(ROWS, 1).clone())
    start = Deterministic("e = enc(x)", lambda x: 0 * x, shape=1)
    draw = Normal("q(z_l|e,c_{l-1})", _Walk(theta), shape=1, scale=1.0)
    core = Deterministic("c_l = f(z_l)", lambda z: z, shape=1)
    seen = Normal("p(y_l|c_l)", lambda c: c, shape=1, scale=1.0)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    mean, variance, exact = 0.0, 0.0, 0.0
    for y in Y:
        mean, variance = t + 0.5 * mean, 1 + 0.25 * variance
        exact = exact - 0.5 * ((mean - y) ** 2 + variance) - 0.5 * torch.tensor(2 * torch.pi).log()
    rows = _Rows(theta)
    right_or_refused(
        lambda: E(start, Sum("l", E(draw * core, log(seen), samples=4), steps=L)),
        (exact.detach(), torch.autograd.grad(exact, t)[0]), rows,
    )  # fmt: skip


class _Walk(_Scaled):
    def forward(self, e, c):
        return self.theta.repeat(len(c) // ROWS, 1) + 0.5 * c


class _Rows:
    def __init__(self, theta):
        self.theta = theta


def test_inner_iterations_under_a_sum_over_time():
    """A slow clock around the same iterations: two frames, each with its own bits and a carry of its own."""
    rows, start, draw, core, seen, _ = parts()
    start = Deterministic("e_t = enc(x_t)", lambda x: 0 * x, shape=1)
    draw = Bernoulli("q(b_l|e_t,c_{l-1})", _TwoFrames(rows), shape=1)
    seen = Normal("p(y_{t,l}|c_l)", lambda c: c, shape=1, scale=1.0)
    value, gradient = enumerated()
    try:
        loss = Sum("t", E(start, Sum("l", E(draw * core, log(seen), gradient="score"), steps=L)))
        found = loss(x=torch.zeros(ROWS, 2, 1).double(), y=Y[:, None].expand(ROWS, 2, L, 1), seed=1).value
    except WorldformulaError as error:
        if not ("carr" in str(error) or "iteration" in str(error) or "c_l" in str(error)):
            raise
        return
    assert within(found, 2 * value)
    assert within(torch.autograd.grad(found.sum(), rows.theta)[0], 2 * gradient)


class _TwoFrames(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, e, c):
        theta = self.rows.theta.repeat_interleave(len(c) // ROWS, 0)
        return theta[:, :1] + theta[:, 1:] * c
