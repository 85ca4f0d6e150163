"""The asymmetric square, against the expectiles of SciPy, arithmetic by hand, and what it is at τ = ½."""

import numpy as np
import pytest
import torch
from scipy.stats import expectile
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import Deterministic, E, Expectile, Normal, Sum, Value, sg, total
from worldformula.errors import FormulaError


@PATHS
def test_value_by_hand(path):
    y = torch.tensor([3.0, -2.0, 0.0])
    assert run(Expectile(Value("y"), 0.1), path, y=y).value.tolist() == pytest.approx([0.1 * 9, 0.9 * 4, 0.0])


@PATHS
def test_elements_of_an_event(path):
    f = Value("y", shape=2) - Value("V", shape=2)
    y, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert run(total(Expectile(f, 0.25)), path, y=y, V=v).value.tolist() == pytest.approx([0.75 * 4 + 0.25 * 9])


def test_gradient_by_hand():
    v = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    Expectile(Value("y") - Value("V"), 0.2).mean()(y=torch.tensor([4.0, -1.0, 2.0]).double(), V=v).value.backward()
    expected = np.array([-2 * 0.2 * 3, 2 * 0.8 * 2, 0.0]) / 3
    assert v.grad.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_its_minimiser_is_the_expectile(share):
    """`scipy.stats.expectile`, by a descent that shares nothing with it."""
    y = torch.as_tensor(np.random.default_rng(0).gamma(2.0, size=200))
    v = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = Expectile(Value("y") - Value("V"), share).mean()
    lbfgs = torch.optim.LBFGS(
        [v], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        lbfgs.zero_grad()
        value = loss(y=y, V=v.expand(200)).value
        value.backward()
        return value

    lbfgs.step(closure)
    assert v.item() == pytest.approx(expectile(y.numpy(), alpha=share), abs=1e-6)


@PATHS
def test_half_of_it_is_half_of_the_square(path):
    y = torch.randn(6, 3)
    found = run(total(Expectile(Value("y", shape=3), 0.5)), path, y=y).value
    torch.testing.assert_close(found, 0.5 * y.square().sum(-1))


def test_in_time_and_with_a_stopped_target():
    value = Deterministic("V_t = v(x_t)", nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), shape=())
    loss = Sum("t", E(value, Expectile(sg(Value("y_t")) - Value("V_t"), 0.1)), mask="w").mean()
    x, y, w = torch.randn(2, 3, 2), torch.randn(2, 3, requires_grad=True), torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    out = loss(x=x, y=y, w=w)
    d = (y - value.net(x).view(2, 3)).detach()
    expected = (torch.where(d > 0, 0.1, 0.9) * d.square() * w).sum(1).mean()
    torch.testing.assert_close(out.value.detach(), expected)
    out.value.backward()
    assert y.grad is None


def test_it_prints():
    f = Value("y") - Value("V")
    assert repr(Expectile(f, 0.1)) == "<Expression Expectile{τ=0.1}[y - V]>"
    assert str(Expectile(f, 0.1)) == r"\rho_{0.1}\left[ y - V \right]"


@pytest.mark.parametrize("share", [0, 1, -0.1, "half", None])
def test_shares_outside_are_refused(share):
    with refused("share as a number in (0, 1)", error=FormulaError):
        Expectile(Value("y"), share)


def test_densities_are_refused():
    with refused("expected", "log(p)", error=FormulaError):
        Expectile(Normal("p(z)", shape=2), 0.5)
