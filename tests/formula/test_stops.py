"""What a stop-gradient stops, and what it leaves alone: the value, and the draw."""

import pytest
import torch
from torch import nn

from tests.formula.models import B, Join, T, X, Z
from worldformula import Bernoulli, Deterministic, E, Normal, Sum, Symbol, log, maximum, sg

PATHS = pytest.mark.parametrize("path", ["call", "interpret"])


def value(loss, path, **given):
    return (loss if path == "call" else loss.interpret)(**given).value


@PATHS
@pytest.mark.parametrize("stopped", [True, False])
def test_a_stopped_computed_value_passes_no_gradient(path, stopped):
    computed, density = Deterministic("y = g(x)", nn.Linear(X, Z)), Normal("p(w|y)", nn.Linear(Z, 4))
    loss = E(sg(computed) if stopped else computed, log(density)).mean()
    value(loss, path, x=torch.randn(B, X), w=torch.randn(B, 2)).backward()
    assert (computed.net.weight.grad is None) == stopped
    assert density.net.weight.grad.abs().sum() > 0


@PATHS
@pytest.mark.parametrize("carried", [True, False])
def test_a_stopped_computed_value_passes_no_gradient_through_time(path, carried):
    header = "h_t = f(h_{t-1},x_t)" if carried else "h_t = f(x_t)"
    computed = Deterministic(header, Join(Z + X if carried else X, Z), shape=Z)
    density = Normal("p(w_t|h_t)", nn.Linear(Z, 4), shape=2)
    given = {"x": torch.randn(B, T, X), "w": torch.randn(B, T, 2)}
    free, stopped = (Sum("t", E(use, log(density))).mean() for use in (computed, sg(computed)))
    torch.testing.assert_close(value(stopped, path, **given), value(free, path, **given))
    value(stopped, path, **given).backward()
    assert computed.net.linear.weight.grad is None
    assert density.net.weight.grad.abs().sum() > 0


def chains():
    q, r = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z), Normal("r(y|z)", nn.Linear(Z, 2 * Z), shape=Z)
    return q, r, log(Normal("p(x|y)", nn.Linear(Z, 2 * X), shape=X))


@PATHS
def test_a_stopped_factor_draws_what_the_factor_draws(path):
    q, _, _ = chains()
    f, x = log(Normal("p(x|z)", nn.Linear(Z, 2 * X), shape=X)), torch.randn(B, X)
    for loss in (E(q, f) - E(sg(q), f), E(sg(q), f) - E(q, f)):
        assert torch.equal(value(loss, path, x=x), torch.zeros(B))
        assert list(loss.noise(x=x)) == ["z"]


@PATHS
def test_a_stopped_product_draws_what_the_product_draws(path):
    q, r, f = chains()
    x = torch.randn(B, X)
    for stopped in (E(sg(q * r), f), E(sg(q), E(r, f)), E(q, E(sg(r), f))):
        assert torch.equal(value(E(q * r, f) - stopped, path, x=x), torch.zeros(B))


@PATHS
def test_fresh_still_draws_anew(path):
    q, r, f = chains()
    loss = E(q * r, f) - E(sg(q.fresh()), E(r, f))
    assert value(loss, path, x=torch.randn(B, X)).abs().min() > 0


@PATHS
def test_a_draw_behind_the_loop_shares_the_noise_of_the_loop(path):
    draw = Normal("q(y_t|x_t)", nn.Linear(X, 2 * Z), shape=Z)
    walk = Deterministic("h_t = f(h_{t-1},y_t)", Join(2 * Z, Z), shape=Z)
    norm = nn.Sequential(nn.Linear(X, 2 * Z), nn.BatchNorm1d(2 * Z)).eval()  # keeps its draw inside the loop
    inside = Normal("q(y_t|x_t)", norm, shape=Z)
    p = Normal("p(x_t|y_t)", nn.Linear(Z, 2 * X), shape=X)
    x = torch.randn(B, T, X)
    both = Sum("t", E(inside * walk, log(p)) - E(sg(inside), log(p)))
    torch.testing.assert_close(value(both, path, x=x), torch.zeros(B))
    assert torch.equal(value(Sum("t", E(draw * walk, log(p)) - E(sg(draw), log(p))), path, x=x), torch.zeros(B))


def test_a_stopped_draw_outside_reads_the_noise_of_a_draw_in_the_loop():
    q = Normal("q(y_t|x_t)", nn.Linear(X, 2 * Z), shape=Z)
    walk = Deterministic("h_t = f(h_{t-1},y_t)", Join(2 * Z, Z), shape=Z)
    p, r = Normal("p(x_t|y_t)", nn.Linear(Z, 2 * X), shape=X), Normal("r(x_t|h_t)", nn.Linear(Z, 2 * X), shape=X)
    loss, x = Sum("t", E(q * walk, log(p) + log(r)) - E(sg(q), log(p))), torch.randn(B, T, X)
    assert "flat(noise_y)" in loss.code
    torch.testing.assert_close(loss(x=x, seed=1).value, loss.interpret(x=x, seed=1).value)


def test_a_stopped_discrete_factor_needs_no_estimator_and_shares_its_draw():
    code, paint = Bernoulli("q(b|x)", nn.Linear(3, 4), shape=4), Bernoulli("p(x|b)", nn.Linear(4, 3), shape=3)
    body = -log(paint)
    difference = (E(code, body, gradient="score") - E(sg(code), body)).mean()
    x = torch.rand(6, 3)
    assert difference(x=x).value == 0  # one draw for both
    alone = E(sg(code), body).mean()
    alone(x=x).value.backward()
    assert code.net.weight.grad is None or not code.net.weight.grad.any()
    assert paint.net.weight.grad.any()


@PATHS
@pytest.mark.parametrize("number", [2, 2.0, torch.tensor(2.0, requires_grad=True)])
def test_a_stopped_number_of_the_call_may_be_a_python_number(path, number):
    density, z = Normal("p(z)", shape=Z), torch.randn(B, Z)
    beta = Symbol("beta")
    loss = maximum(sg(beta), -100.0) * log(density) + sg(2 * beta)
    found = value(loss, path, z=z, beta=number)
    torch.testing.assert_close(found, 2 * density.log_prob(z=z) + 4)
    assert not found.requires_grad
