"""The logarithm of what is made of densities needs none of the exponentials, which are 0 for some hundred pixels; that
of a mean of other values is taken of the mean, as the values may be 0 or less: beside sums by hand, in NumPy.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import Bernoulli, Categorical, Deterministic, E, Normal, Value, exp, log, ratio, sg, total

PIXELS, K, ROWS = 784, 5, 3


def log_mean(numbers):
    """log of the mean of exponentials over the first axis."""
    top = numbers.max(0)
    return top + np.log(np.exp(numbers - top).mean(0))


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    q = Normal("q(z|x)", nn.Linear(PIXELS, 4).double(), shape=2)
    prior, paint = Normal("p(z)", shape=2), Bernoulli("p(x|z)", nn.Linear(2, PIXELS).double(), shape=PIXELS)
    x = (torch.rand(ROWS, PIXELS, dtype=torch.float64) < 0.5).double()
    return q, prior, paint, x


def parts(made, z):
    """log p(x|z), log p(z) and log q(z|x) at draws [K, B, 2], with NumPy alone."""
    q, _, paint, x = made
    (w, b), (u, c) = ([p.detach().numpy() for p in f.net.parameters()] for f in (q, paint))
    loc, raw = np.split(x.numpy() @ w.T + b, 2, -1)
    scale, logits = np.log1p(np.exp(raw)), z @ u.T + c

    def normal(loc, scale):
        return (-0.5 * ((z - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)).sum(-1)

    return (x.numpy() * logits - np.logaddexp(0, logits)).sum(-1), normal(0.0, np.float64(1.0)), normal(loc, scale)


def forms(made):
    """Ways to write a bound, and what each is of log p(x|z), log p(z) and log q."""
    q, prior, paint, _ = made
    w = ratio(paint * prior, q)
    return {
        "named": (log(E(q, w.named("w"), samples=K)), lambda a, b, c: log_mean(a + b - c)),
        "half": (log(0.5 * E(q, w, samples=K)), lambda a, b, c: log_mean(a + b - c) + math.log(0.5)),
        "times": (log(E(q, 3.0 * w, samples=K)), lambda a, b, c: log_mean(a + b - c) + math.log(3.0)),
        "stopped": (log(E(q, sg(w), samples=K)), lambda a, b, c: log_mean(a + b - c)),
        "product": (log(E(q, exp(log(paint)) * ratio(prior, q), samples=K)), lambda a, b, c: log_mean(a + b - c)),
        "quotient": (log(E(q, exp(log(paint)) / ratio(q, prior), samples=K)), lambda a, b, c: log_mean(a + b - c)),
        "power": (log(E(q, w**0.5, samples=K)), lambda a, b, c: log_mean(0.5 * (a + b - c))),
        "part": (log(E(q, w, samples=K).named("evidence")), lambda a, b, c: log_mean(a + b - c)),
        "alone": (E(q, log(w)), lambda a, b, c: (a + b - c)[0]),
    }


@pytest.mark.parametrize("form", ["named", "half", "times", "stopped", "product", "quotient", "power", "part", "alone"])
def test_a_bound_is_finite_however_it_is_written(made, form):
    formula, by_hand = forms(made)[form]
    q, *_, x = made
    out = formula(x=x, seed=1)
    want = by_hand(*parts(made, out.samples["z"].detach().numpy().reshape(-1, ROWS, 2)))
    assert (want < -200).all()  # e to that is 0 in float32
    np.testing.assert_allclose(out.value.detach().numpy(), want, rtol=1e-9)
    np.testing.assert_allclose(formula.interpret(x=x, seed=1).value.detach().numpy(), want, rtol=1e-9)
    for net in (q.net, made[2].net):
        net.float()
    single = formula(x=x.float(), noise={"z": torch.zeros_like(out.samples["z"], dtype=torch.float32)})
    for net in (q.net, made[2].net):
        net.double()
    assert single.value.isfinite().all()


def test_a_mean_of_means_is_one_too(made):
    q, prior, paint, x = made
    k, same = Categorical("q(k)", shape=(), classes=2), Categorical("p(k)", shape=(), classes=2)
    out = log(E(k, E(q, ratio(paint * prior * same, q * k), samples=K), "exact"))(x=x.double(), seed=1)
    z = out.samples["z"].detach().numpy()
    found = np.stack([sum(s * p for s, p in zip((1, 1, -1), parts(made, own), strict=True)) for own in each(z)], 1)
    np.testing.assert_allclose(out.value.detach().numpy(), log_mean(found.reshape(-1, ROWS)), rtol=1e-6)


def each(z):
    """The draws of each class, [K, B, 2]; those of one where both share them."""
    return [z] if z.ndim == 3 else [z[:, i] if z.shape[1] == 2 else z[i] for i in range(2)]


class Table(nn.Module):
    """Numbers of s."""

    def __init__(self, values):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, s):
        return self.v[s]


@pytest.mark.parametrize("values", [[2.0, 0.0, 1.0], [-1.0, 3.0, 0.5], [4.0, 0.0, -math.inf]])
def test_a_mean_of_values_that_are_not_all_positive(values):
    """log Σ p·d and its gradient p / Σ p·d; it was NaN, as the log of each value was taken."""
    shares = np.array([0.5, 0.5, 0.0]) if math.inf in map(abs, values) else np.array([0.25, 0.5, 0.25])
    q, net = Categorical("q(s)", probs=torch.tensor(shares), shape=(), classes=3), Table(values)
    d = Deterministic("d = f(s)", net, shape=())
    out = log(E(q * d, Value("d"), "exact"))()
    mean = sum(p * v for p, v in zip(shares, values, strict=True) if p > 0)
    assert out.value.item() == pytest.approx(math.log(mean))
    out.value.backward()
    np.testing.assert_allclose(net.v.grad.numpy(), shares / mean)


def test_a_mean_of_draws_on_both_sides_of_0():
    q = Normal("q(z)", shape=1)
    out = log(E(q, total(Value("z", shape=1)) + 3.0, samples=4))(
        noise={"z": torch.tensor([[-4.0], [0.0], [1.0], [2.0]])}
    )
    assert out.value.item() == pytest.approx(math.log(11.0 / 4.0))
