"""Transport: algebra of the ends, solvers beside SciPy's, densities of Gaussians, gradients by differences."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import norm
from torch import nn

from worldformula import Data, E, Flow, log
from worldformula.errors import ConfigError, ShapeError
from worldformula.formula.print.densities import factor_mathml
from worldformula.formula.print.latex_lines import factor_latex
from worldformula.nets import transport
from worldformula.nets.transport import INTERPOLANTS, AsVelocity, Transport, Velocity, divergence, integrate, optimal


class Gaussian(nn.Module):
    """E[u|y_τ] for data N(m, s²) and independent noise, from the joint Gaussian of u and y_τ."""

    def __init__(self, way, mean, spread):
        super().__init__()
        self.way, self.mean, self.spread = way, mean, spread

    def forward(self, y, tau, context=None):
        a, s = self.way.alpha(tau), self.way.sigma(tau)
        da, ds = self.way.alpha_rate(tau), self.way.sigma_rate(tau)
        cov, var = a * da * self.spread**2 + s * ds, (a * self.spread) ** 2 + s**2
        shift = self.mean if context is None else self.mean + context
        return da * shift + cov / var * (y - a * shift)


class Linear(nn.Module):
    """dy/dτ = A y + b."""

    def __init__(self, seed=0, features=3):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(torch.randn(features, features, generator=rng, dtype=torch.float64) * 0.7)
        self.b = nn.Parameter(torch.randn(features, generator=rng, dtype=torch.float64))

    def forward(self, y, tau):
        return y @ self.A.T * (1 + tau) + self.b


@pytest.mark.parametrize("name", list(INTERPOLANTS))
@pytest.mark.parametrize("tau", [0.02, 0.3, 0.77, 0.98])
def test_data_noise_and_velocity_tell_each_other(name, tau):
    way, rng = INTERPOLANTS[name], torch.Generator().manual_seed(3)
    x, noise = (torch.randn(50, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    t = torch.full((50, 1), tau, dtype=torch.float64)
    y, rate = way.at(x, noise, t), way.rate(x, noise, t)
    h = 1e-6
    assert torch.allclose(rate, (way.at(x, noise, t + h) - way.at(x, noise, t - h)) / (2 * h), atol=1e-8)
    for kind, told in (("velocity", rate), ("data", x), ("noise", noise)):
        ends = way.ends(y, t, told, kind)
        for found, wanted in ((ends.x, x), (ends.noise, noise), (ends.velocity, rate)):
            assert (found - wanted).abs().max() < 1e-10
    t = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert torch.allclose(way.at(x[:2], noise[:2], t), torch.stack((noise[0], x[1])), atol=1e-15)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_a_solver_has_its_order(solver, order):
    """y' = y cos(5τ) has the solution y_0 exp(sin(5τ)/5): halving the step divides the error by 2^order."""

    def error(steps, back):
        begin = torch.tensor([[1.7]], dtype=torch.float64)
        found = integrate(lambda y, t: y * torch.cos(5 * t), begin, steps, solver, back=back)
        return abs(float(found) - 1.7 * math.exp((-1 if back else 1) * math.sin(5.0) / 5))

    for back in (False, True):
        rate = math.log2(error(300, back) / error(600, back))
        assert rate == pytest.approx(order, abs=0.15)


def test_the_calls_of_a_solver_are_counted_right():
    for solver, calls in transport.CALLS.items():
        seen = []
        integrate(lambda y, t, seen=seen: seen.append(1) or y, torch.zeros(1, 1), 3, solver)
        assert len(seen) == 3 * calls


@pytest.mark.parametrize("name", list(INTERPOLANTS))
@pytest.mark.parametrize("predicts", ["velocity", "data", "noise"])
def test_the_flow_of_a_gaussian_has_its_density_and_its_draws(name, predicts):
    way, mean, spread = INTERPOLANTS[name], 0.7, 0.4
    true = Gaussian(way, mean, spread)

    class Told(nn.Module):
        def forward(self, y, tau, context=None):
            return getattr(way.ends(y, tau, true(y, tau, context), "velocity"), {"data": "x"}.get(predicts, predicts))

    density = Flow("p(x|c)", Transport(AsVelocity(Told(), way, predicts), steps=24, solver="rk4"), shape=2)
    x, c = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    found = density.log_prob(x=x, c=c)
    known = norm.logpdf(x.numpy(), mean + c.numpy(), spread).sum(-1)
    assert np.abs(found.numpy() - known).max() < (1e-4 if predicts == "velocity" else 0.02)
    drawn = density.sample(c=torch.zeros(5_000, 2), seed=0)
    assert drawn.mean(0).tolist() == pytest.approx([mean] * 2, abs=3 * spread / math.sqrt(5_000) + 2e-3)
    assert drawn.std(0).tolist() == pytest.approx([spread] * 2, rel=0.04)


def test_what_goes_there_comes_back_and_scipy_agrees():
    field, rng = Linear(), torch.Generator().manual_seed(1)
    way = Transport(field, steps=64, solver="rk4")
    u = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    x = way.inverse(u)
    back, log_det = way(x)
    assert (back - u).abs().max() < 1e-7
    A, b = field.A.detach().numpy(), field.b.detach().numpy()
    for i in range(4):
        known = solve_ivp(lambda t, y: (1 + t) * A @ y + b, (0, 1), u[i].numpy(), rtol=1e-10, atol=1e-12).y[:, -1]
        assert np.abs(known - x[i].detach().numpy()).max() < 1e-6
    assert log_det.tolist() == pytest.approx([-1.5 * np.trace(A)] * 4, abs=1e-8)  # ∫ (1 + τ) dτ = 1.5


@pytest.mark.parametrize("group", [1, 2, 16])
def test_the_divergence_is_the_trace_of_the_jacobian(group):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    y, tau = torch.randn(3, 2, 5, dtype=torch.float64), torch.rand(3, 2, 1, dtype=torch.float64)

    def field(y, tau):
        return net(torch.cat((y, tau), -1))

    rate, trace = divergence(field, y, tau, group=group)
    assert torch.equal(rate, field(y, tau)) or (rate - field(y, tau)).abs().max() < 1e-12
    for i in range(3):
        for j in range(2):
            jacobian = torch.autograd.functional.jacobian(lambda v, i=i, j=j: field(v, tau[i, j]), y[i, j])
            assert trace[i, j].item() == pytest.approx(jacobian.trace().item(), abs=1e-10)


def test_a_probe_estimates_the_trace_without_bias():
    torch.manual_seed(0)
    way = Transport(Linear(2), steps=4)
    x = torch.randn(1, 3, dtype=torch.float64).expand(4000, 3)
    signs = torch.randint(2, (4000, 3), generator=torch.Generator().manual_seed(5)).double() * 2 - 1
    exact, several = way(x[:1])[1].detach(), way(x, probe=signs)[1].detach()
    assert abs(float(several.mean() - exact)) < 3 * float(several.std()) / math.sqrt(4000)


def test_gradients_of_the_density_are_those_of_differences():
    field = Linear(4)
    loss = E(Data("p_data(x)", shape=3), -log(Flow("p(x)", Transport(field, steps=6), shape=3))).mean()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss(x=x).value.backward()
    for weight, index in ((field.A, (0, 2)), (field.A, (1, 1)), (field.b, (2,))):
        h, found = 1e-5, weight.grad[index].item()
        with torch.no_grad():
            weight[index] += h
            up = loss(x=x).value.item()
            weight[index] -= 2 * h
            down = loss(x=x).value.item()
            weight[index] += h
        assert found == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-7)


def test_gradients_of_the_density_go_through_layer_norm():
    """Of `Velocity`, by its weights and by x, against central differences."""
    torch.manual_seed(0)
    field = Velocity(3, 2, units=6, blocks=1).double()
    with torch.no_grad():
        for weight in field.parameters():
            weight += 0.4 * torch.randn_like(weight)
    flow = Flow("p(x|c)", Transport(field, steps=2), shape=3)
    x, c = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 2, dtype=torch.float64)
    flow.log_prob(x=x, c=c).sum().backward()
    h, checked = 1e-5, 0
    for leaf in (x, *field.parameters()):
        for at in (0, leaf.numel() - 1):
            found = leaf.grad.view(-1)[at].item()
            with torch.no_grad():
                sums = []
                for step in (h, -2 * h, h):
                    leaf.data.view(-1)[at] += step
                    sums.append(flow.log_prob(x=x, c=c).sum().item())
            assert found == pytest.approx((sums[0] - sums[1]) / (2 * h), rel=1e-4, abs=1e-6)
            checked += abs(found) > 1e-3
    assert checked > 10


def test_an_event_of_several_axes_has_the_density_of_its_numbers():
    field = Linear(2, features=6)
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Flow("p(x)", Transport(field, steps=48, solver="rk4"), shape=(2, 3)).log_prob(x=x)
    A, b = field.A.detach().numpy(), field.b.detach().numpy()
    for i in range(4):
        u = solve_ivp(lambda t, y: (1 + t) * A @ y + b, (1, 0), x[i].flatten().numpy(), rtol=1e-10, atol=1e-12).y[:, -1]
        assert found[i].item() == pytest.approx(norm.logpdf(u).sum() - 1.5 * np.trace(A), rel=1e-5)


@pytest.mark.parametrize("wrong", [lambda y: y[..., :1], lambda y: torch.cat((y, y), -1), lambda y: y[..., 0]])
def test_a_velocity_of_another_shape_is_named(wrong):
    """One number a row would be added to all features of it."""

    class Wrong(nn.Module):
        def forward(self, y, tau):
            return wrong(y)

    flow = Flow("p(x)", Transport(Wrong()), shape=3)
    for call in (lambda: flow.sample(sample_shape=(5,)), lambda: flow.log_prob(x=torch.randn(5, 3))):
        with pytest.raises(ShapeError, match=r"expected \[5, 3\], got"):
            call()


def test_a_condition_that_the_velocity_does_not_read_is_named():
    for field, wanted in ((Velocity(2), "of 0 numbers, got 3"), (Velocity(2, 4), "of 4 numbers, got 3")):
        flow = Flow("p(x|c)", Transport(field), shape=2)
        with pytest.raises(ShapeError, match=wanted):
            flow.log_prob(x=torch.randn(5, 2), c=torch.randn(5, 3))


def test_an_assignment_among_rows_of_one_label_leaves_the_noise_of_each():
    rng = torch.Generator().manual_seed(0)
    label = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 2, 1, 0, 1, 0]), 3).float()
    x, noise = torch.randn(8, 2, generator=rng) + 4 * label[:, :2], torch.randn(8, 2, generator=rng)
    found = optimal(noise, x, label)
    for kind in range(3):
        rows = [i for i in range(8) if label[i, kind] == 1]
        assert sorted(map(tuple, found[rows].tolist())) == sorted(map(tuple, noise[rows].tolist()))
        least = min(float((noise[list(p)] - x[rows]).square().sum()) for p in permutations(rows))
        assert float((found[rows] - x[rows]).square().sum()) == pytest.approx(least)


@pytest.mark.parametrize(
    ("noise", "x", "error", "word"),
    [
        (torch.zeros(3, 2), torch.zeros(5, 2), ShapeError, r"noise \[3, 2\] and x \[5, 2\]"),
        (torch.zeros(5, 3), torch.zeros(5, 2), ShapeError, r"noise \[5, 3\] and x \[5, 2\]"),
        (torch.zeros(3), torch.zeros(3), ShapeError, "rows"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), ConfigError, "no NaN"),
    ],
)
def test_what_cannot_be_paired_is_named(noise, x, error, word):
    with pytest.raises(error, match=word):
        optimal(noise, x)


def test_an_assignment_is_the_least_of_all():
    rng = torch.Generator().manual_seed(0)
    for n in (1, 2, 5, 6):
        x, noise = torch.randn(n, 2, generator=rng), torch.randn(n, 2, generator=rng)
        found = optimal(noise, x)
        cost = float((found - x).square().sum())
        assert cost == pytest.approx(min(float((noise[list(p)] - x).square().sum()) for p in permutations(range(n))))
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, noise.tolist()))


def test_what_it_prints():
    flow = Flow("p(x|c)", Transport(Velocity(2, 3)), shape=2)
    line = r"p(x \mid c):\; x = u_{0} + \int_{0}^{1} v(u_{\tau}, \tau, c)\, d\tau,\quad u_{0} \sim p_{0}"
    assert factor_latex(flow) == line
    page = factor_mathml(flow)
    assert "∫" in page
    assert "∼" in page
    assert page.startswith("<math")
    assert page.endswith("</math>")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Transport(nn.Linear(2, 2)), "velocity.y, tau.*got Linear"),
        (lambda: Transport(Velocity(2), steps=0), "steps >= 1"),
        (lambda: Transport(Velocity(2), steps=2.5), "whole numbers.*got 2.5"),
        (lambda: Transport(Velocity(2), steps="16"), "whole numbers.*got '16'"),
        (lambda: Transport(Velocity(2), group=True), "whole numbers"),
        (lambda: integrate(lambda y, t: y, torch.zeros(1, 1), 2.5), "whole number.*got 2.5"),
        (lambda: Transport(Velocity(2), solver="dopri5"), "euler, midpoint, heun, rk4"),
        (lambda: integrate(lambda y, t: y, torch.zeros(1, 1), 0), "steps >= 1"),
        (lambda: transport.interpolant("cubic"), "linear, trigonometric"),
        (lambda: INTERPOLANTS["linear"].ends(*[torch.zeros(1, 1)] * 3, "score"), "velocity, data, noise"),
    ],
)
def test_what_is_wrong_is_named(make, word):
    with pytest.raises(ConfigError, match=word):
        make()
