"""K particles through time: bounds of whole trajectories (sequence IWAE) and particle filters (FIVO)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.formula.filters import (
    DECAY,
    FILTERS,
    MOVE,
    SEE,
    Line,
    bound_by_hand,
    factors,
    filtered,
    fivo,
    gauss,
    iwae,
    kalman,
    rows,
    series,
    settings,
)
from worldformula import KL, E, Normal, Sum, log, ratio
from worldformula.errors import FormulaError


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def within(values, expected, errors=3.0):
    """Whether the mean of independent values is the expected one, within so many standard errors."""
    values = np.asarray(values)
    return abs(values.mean() - expected) <= errors * values.std(ddof=1) / math.sqrt(len(values))


# ------------------------------------------------------------------------------------------ against the Kalman filter


@pytest.mark.parametrize("make", [iwae, fivo])
def test_bounds_lie_below_the_likelihood_and_rise_to_it(make):
    x = series(50)
    exact, found = kalman(x), []
    for K in (1, 10, 100, 1000):
        with torch.no_grad():
            values = make(*factors(), K)(x=rows(x, 36), seed=K).value.numpy()
        assert values.mean() <= exact + 3 * values.std(ddof=1) / 6
        found.append(values.mean())
    assert found == sorted(found)
    if make is fivo:
        assert exact - found[-1] < 0.1


def test_a_filter_is_far_tighter_than_whole_trajectories_when_they_are_long():
    x = series(100, seed=1)
    exact = kalman(x)
    with torch.no_grad():
        whole = iwae(*factors(), 100)(x=rows(x, 50), seed=0).value.mean().item()
        step = fivo(*factors(), 100)(x=rows(x, 50), seed=0).value.mean().item()
    assert exact - step < 0.5
    assert exact - whole > 3.0


@pytest.mark.parametrize("kind", ["trajectories", *FILTERS])
def test_the_exponential_of_a_bound_is_unbiased(kind):
    x = series(5, seed=2)
    formula = iwae(*factors(), 3) if kind == "trajectories" else fivo(*factors(), 3, FILTERS[kind])
    with torch.no_grad():
        values = formula(x=rows(x, 40_000), seed=0).value.numpy()
    assert within(np.exp(values - kalman(x)), 1.0)
    assert values.mean() < kalman(x) - 0.01  # and the bound itself is one


def test_one_particle_is_the_elbo():
    move, see, guide = factors()
    x, noise = rows(series(7), 4), {"z": torch.randn(4, 7, 1)}
    elbo = Sum("t", E(guide, log(see * move) - log(guide)))(x=x, noise=noise).value
    for one in (iwae(move, see, guide, 1), fivo(move, see, guide, 1), fivo(move, see, guide, 1, "multinomial")):
        torch.testing.assert_close(one(x=x, noise=noise).value, elbo, rtol=1e-12, atol=1e-12)


def test_weights_of_the_smoothing_distribution_are_the_likelihood():
    """p(z_t|z_{t-1}, x_{t:T}), by the backward information filter: every trajectory weighs p(x_{1:T})."""
    x = series(30, seed=3)
    precision, linear, told = 0.0, 0.0, []
    for seen in x[::-1]:
        shrink = 1 + MOVE**2 * precision
        precision, linear = DECAY**2 * precision / shrink + SEE**-2, DECAY * linear / shrink + seen * SEE**-2
        told.append((precision, linear))
    told = torch.tensor(told[::-1])[None].repeat(6, 1, 1)

    def smooth(z, s):
        held = MOVE**-2 + s[..., :1]
        return {"loc": (DECAY * z * MOVE**-2 + s[..., 1:]) / held, "scale": held.rsqrt()}

    move, see, _ = factors()
    guide = Normal("q(z_t|z_{t-1},s_t)", smooth, shape=1)
    value = iwae(move, see, guide, 4)(x=rows(x, 6), s=told, seed=0).value
    torch.testing.assert_close(value, torch.full((6,), kalman(x)), rtol=0, atol=1e-8)


def test_an_optimal_proposal_of_independent_steps_has_no_variance():
    """Without a past p(z_t|x_t) is exact, and each step of a filter is log p(x_t)."""
    held = MOVE**-2 + SEE**-2
    move = Normal("p(z_t|z_{t-1})", Line(0.0, scale=MOVE), shape=1)
    see = Normal("p(x_t|z_t)", Line(1.0, scale=SEE), shape=1)
    guide = Normal("q(z_t|z_{t-1},x_t)", Line(0.0, SEE**-2 / held, scale=held**-0.5), shape=1)
    x = series(20, seed=4)
    exact = sum(gauss(seen, 0.0, math.hypot(MOVE, SEE)) for seen in x)
    value = fivo(move, see, guide, 5)(x=rows(x, 3), seed=0).value
    torch.testing.assert_close(value, torch.full((3,), exact), rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------------- against filters by hand


@pytest.mark.parametrize("kind", FILTERS)
def test_a_filter_is_that_of_numpy_with_the_same_noise(kind):
    K, B, T = 6, 5, 12
    x = torch.from_numpy(np.stack([series(T, seed=s) for s in range(B)]))[..., None]
    formula = fivo(*factors(), K, FILTERS[kind])
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(3))
    assert set(noise) == {"z", "resampling"}
    points = noise["resampling"].expand(K, B, T)
    expected = [
        filtered(x[b, :, 0].numpy(), noise["z"][:, b, :, 0].numpy(), points[:, b].numpy(), **settings(FILTERS[kind]))
        for b in range(B)
    ]
    for run in (formula, formula.interpret):
        np.testing.assert_allclose(run(x=x, noise=noise).value.detach().numpy(), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(formula(x=x, seed=3).value, formula(x=x, noise=noise).value, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["trajectories", *FILTERS])
def test_gradients_are_those_of_a_loop_by_hand(kind):
    K, B, T = 5, 3, 9
    move, see, guide = factors()
    formula = iwae(move, see, guide, K) if kind == "trajectories" else fivo(move, see, guide, K, FILTERS[kind])
    x = torch.from_numpy(np.stack([series(T, seed=s) for s in range(B)]))[..., None].requires_grad_()
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(1))
    told = {} if kind == "trajectories" else settings(FILTERS[kind])
    expected = bound_by_hand(move.net, see.net, guide.net, x, noise["z"], noise.get("resampling"), **told)
    weights = [*move.net.parameters(), *see.net.parameters(), *guide.net.parameters(), x]
    wanted = torch.autograd.grad(expected.sum(), weights)
    for run in (formula, formula.interpret):
        value = run(x=x, noise=noise).value
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
        for found, known in zip(torch.autograd.grad(value.sum(), weights), wanted, strict=True):
            torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)


def test_the_mean_of_whole_trajectories_is_the_elbo_of_k_draws():
    move, see, guide = factors()
    step = log(see) - KL(guide, move)
    x = rows(series(6), 4)
    noise = {"z": torch.randn(3, 4, 6, 1)}
    one = Sum("t", E(guide, step))
    expected = torch.stack([one(x=x, noise={"z": z}).value for z in noise["z"]]).mean(0)
    for many in (E(guide, Sum("t", step), samples=3), Sum("t", E(guide, step, samples=3))):
        torch.testing.assert_close(many(x=x, noise=noise).value, expected)
        torch.testing.assert_close(many.interpret(x=x, noise=noise).value, expected)
    around = E(guide, Sum("t", step))
    torch.testing.assert_close(
        around(x=x, noise={"z": noise["z"][0]}).value, one(x=x, noise={"z": noise["z"][0]}).value
    )


# --------------------------------------------------------------------------------------------- what is drawn outside


def around(**how):
    """A filter whose particles are seen through g, which is drawn outside of it."""
    torch.manual_seed(0)
    q = Normal("q(z_t|z_{t-1},x_t)", lambda z, x: {"loc": 0.5 * (z + x), "scale": torch.ones_like(z)}, shape=1)
    p = Normal("p(z_t|z_{t-1})", lambda z: {"loc": z, "scale": torch.ones_like(z)}, shape=1)
    seen = Normal("p(x_t|z_t,g)", lambda z, g: {"loc": z + g, "scale": torch.ones_like(z)}, shape=1)
    outer = Normal("q(g|y)", torch.nn.Linear(2, 2), shape=1)
    particles = E(q, ratio(seen * p, q), samples=4, resample="systematic")
    return E(outer, Sum("t", log(particles)), **how)


@pytest.mark.parametrize("how", [{"samples": 3}, {"samples": 2, "gradient": "score"}])
def test_several_draws_around_a_filter_are_refused_by_their_names(how):
    with pytest.raises(FormulaError) as told:
        _ = around(**how).program
    said = str(told.value)
    assert "the particles are filtered once, and g, which they depend on, has several values in the E around" in said
    assert "g        | q(g|y)" in said
    assert "take one draw of g around the filter: leave samples= out of E(q(g|y), Sum(...))" in said
    assert "log_weight" not in said


def test_what_is_written_instead_gives_a_draw_to_each_copy_of_a_row():
    x, y = torch.randn(2, 5, 1), torch.randn(2, 2)
    out = around()(x=x.repeat_interleave(3, 0), y=y.repeat_interleave(3, 0), seed=0)
    assert out.value.shape == (6,)
    assert len(out.samples["g"].unique()) == 6
