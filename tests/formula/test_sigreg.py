"""SIGReg, against the integral of SciPy along given directions, and against values that are known in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import Deterministic, E, Mean, Normal, SIGReg, Value
from worldformula.errors import FormulaError

N, D = 7, 3
A = Value("a", shape=D)


def statistic(x, directions, scaled=True):
    """The integral over [−3, 3] on 33 knots, of every direction in turn."""
    t = np.linspace(-3, 3, 33)
    found = []
    for theta in directions:
        along = x @ (theta / np.linalg.norm(theta))
        phi = np.mean(np.exp(1j * np.outer(along, t)), 0)
        found.append(trapezoid(np.abs(phi - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t))
    return np.mean(found) * (len(x) if scaled else 1)


def drawn(seed=0, rows=N):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, D, generator=rng, dtype=torch.float64) for _ in range(2))


@PATHS
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("directions", [1, 4, 99])
def test_value(directions, scaled, path):
    a, theta = drawn()
    found = run(SIGReg(A, directions=directions, scaled=scaled), path, a=a, noise={"vec_a": theta}).value
    assert found.item() == pytest.approx(statistic(a.numpy(), theta.numpy()[:directions], scaled), rel=1e-9)


def test_gradient():
    a, theta = drawn(1)
    a.requires_grad_()
    SIGReg(A, directions=5)(a=a, noise={"vec_a": theta}).value.backward()
    for place in ((0, 0), (6, 2), (3, 1)):
        step, ends = 1e-6, []
        for sign in (1, -1):
            moved = a.detach().numpy().copy()
            moved[place] += sign * step
            ends.append(statistic(moved, theta.numpy()[:5]))
        assert a.grad[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(("deviation", "right"), [(0.0, 0.402), (0.1, 0.387), (2.0, 0.244)])
def test_of_many_rows_it_is_that_of_their_law(deviation, right):
    """An integral of e^{−σ²t²/2}, to three digits as published for 17 knots."""
    rng = torch.Generator().manual_seed(0)
    x = deviation * torch.randn(20_000, 4, generator=rng, dtype=torch.float64)
    found = SIGReg(Value("a", shape=4), directions=16, scaled=False)(a=x, seed=0).value.item()
    assert found == pytest.approx(right, abs=6e-4 + 3 * deviation / math.sqrt(len(x)))


def test_of_normal_rows_it_is_105_whatever_their_number():
    rng = torch.Generator().manual_seed(0)
    for rows in (64, 512):
        found = [
            SIGReg(A, directions=8)(a=torch.randn(rows, D, generator=rng), seed=i).value.item() for i in range(200)
        ]
        error = np.std(found) / math.sqrt(len(found))
        assert np.mean(found) == pytest.approx(1.0525, abs=3 * error)  # ∫_{−3}^{3} (1 − e^{−t²}) e^{−t²/2} dt


@PATHS
def test_rows_that_do_not_count_are_as_if_they_were_not_there(path):
    a, theta = drawn(2)
    kept = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.float64)
    right = statistic(a.numpy()[kept.numpy() > 0], theta.numpy())
    a[1], a[4] = torch.nan, 1e6
    a.requires_grad_()
    out = run(SIGReg(A, where=Value("w", shape=())), path, a=a, w=kept, noise={"vec_a": theta}).value
    assert out.item() == pytest.approx(right, rel=1e-7)
    gradient = torch.autograd.grad(out, a)[0]
    assert gradient.isfinite().all()
    assert not gradient[[1, 4]].any()


@PATHS
@pytest.mark.parametrize("by_step", [False, True])
def test_in_time(by_step, path):
    B, T = 4, 3
    torch.manual_seed(0)
    embed = Deterministic("z_t = enc(x_t)", nn.Linear(2, D).double(), shape=D)
    loss = Mean("t", E(embed, SIGReg(Value("z_t", shape=D), directions=6, by_step=by_step))).mean()
    x, theta = torch.randn(B, T, 2, dtype=torch.float64), torch.randn(B, T, D, dtype=torch.float64)
    found = run(loss, path, x=x, noise={"vec_z": theta}).value
    z, directions = embed.net(x).detach().numpy(), theta.reshape(-1, D).numpy()[:6]
    right = (
        np.mean([statistic(z[:, t], directions) for t in range(T)])
        if by_step
        else statistic(z.reshape(-1, D), directions)
    )
    assert found.item() == pytest.approx(right, rel=1e-9)


def test_descent_makes_a_point_normal():
    torch.manual_seed(0)
    x = (0.01 * torch.randn(128, 2)).requires_grad_()
    adam, term = torch.optim.Adam([x], lr=0.05), SIGReg(Value("x", shape=2), directions=16)
    before = term(x=x, seed=1000).value.item()
    for i in range(160):
        adam.zero_grad()
        term(x=x, seed=i).value.backward()
        adam.step()
    assert term(x=x, seed=1000).value.item() < 0.02 * before
    assert ((x.detach().std(0) - 1).abs() < 0.2).all()


def test_what_is_printed():
    term = SIGReg(Value("z_t", shape=D), directions=8, scaled=False, by_step=True)
    assert repr(SIGReg(A)) == "<Expression SIGReg{M=256}[a]>"
    assert repr(term) == "<Expression SIGReg{M=8; mean; step}[z_t]>"
    assert str(SIGReg(A)) == r"\mathcal{S}_{256}\left[ a \right]"
    assert str(term) == r"\mathcal{S}_{8,\, \mathrm{mean},\, \mathrm{step}}\left[ z_{t} \right]"


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: SIGReg(2 * A), "name it: Deterministic"),
        (lambda: SIGReg(A, directions=0), "directions= as a whole number"),
        (lambda: SIGReg(A, directions=2.5), "directions= as a whole number"),
        (lambda: SIGReg(A, knots=1), "knots= as a whole number"),
        (lambda: E(Normal("q(a|x)", nn.Linear(2, 6), shape=3), SIGReg(A), samples=4)(x=torch.ones(N, 2)), "several"),
    ],
)  # fmt: skip
def test_refused(write, told):
    with refused(told, error=FormulaError):
        write()
