"""Particles through time in all that a sum over time can do: restarts, masks, starts, states, discrete latents."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.formula.filters import (
    DECAY,
    FILTERS,
    MOVE,
    SEE,
    Line,
    factors,
    filtered,
    fivo,
    iwae,
    kalman,
    rows,
    series,
    settings,
)
from tests.formula.test_particles import within
from worldformula import (
    Bernoulli,
    Categorical,
    Deterministic,
    E,
    Normal,
    OneHot,
    Resample,
    Sum,
    Value,
    exp,
    log,
    ratio,
    relu,
    sg,
    total,
)
from worldformula.errors import FormulaError, GradientError, OneDrawError, TimeError
from worldformula.formula import sums
from worldformula.nets.transformer import CausalTransformer

KINDS = {"trajectories": None, **FILTERS}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bound(kind, K=5, **clock):
    return iwae(*factors(), K, **clock) if kind == "trajectories" else fivo(*factors(), K, FILTERS[kind], **clock)


def cut(noise, *places):
    """The noise [..., B, T, ...] of these rows and steps, by variable."""
    where = {"z": (slice(None), *places), "resampling": (..., *places)}
    return {key: noise[key][place] for key, place in where.items() if key in noise}


def bound_of_y(resample, K=5):
    """Another filter of the same data, of states called y."""
    move = Normal("p(y_t|y_{t-1})", Line(0.5, scale=0.9), shape=1)
    see = Normal("p(x_t|y_t)", Line(0.8, scale=0.6), shape=1)
    return fivo(move, see, Normal("q(y_t|y_{t-1},x_t)", Line(0.3, 0.6, scale=0.5), shape=1), K, resample)


# ----------------------------------------------------------------------------------------------------- rows and steps


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_what_it_is_alone(kind):
    x = torch.from_numpy(np.stack([series(8, seed=s) for s in range(6)]))[..., None]
    formula = bound(kind)
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(0))
    whole = formula(x=x, noise=noise).value
    for row in range(6):
        alone = formula(x=x[row : row + 1], noise=cut(noise, slice(row, row + 1), slice(None))).value
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", FILTERS)
def test_a_restart_begins_another_filter(kind):
    x, first = rows(series(9), 3), torch.zeros(3, 9)
    first[0, 4] = first[1, 6] = 1
    formula, plain = bound(kind, reset="first"), bound(kind)
    noise = formula.noise(x=x, first=first, generator=torch.Generator().manual_seed(0))
    pieces = [[(0, 4), (4, 9)], [(0, 6), (6, 9)], [(0, 9)]]
    for run in (formula, formula.interpret):
        value = run(x=x, first=first, noise=noise).value
        for row, parts in enumerate(pieces):
            each = [
                plain(x=x[row : row + 1, a:b], noise=cut(noise, slice(row, row + 1), slice(a, b))).value
                for a, b in parts
            ]
            torch.testing.assert_close(value[row], sum(each)[0], rtol=0, atol=1e-10)


def test_whole_trajectories_may_go_through_a_restart():
    """One trajectory is both sequences: the product of their weights, averaged once."""
    x, first = rows(series(6), 1), torch.tensor([[0, 0, 0, 1, 0, 0]])
    noise = {"z": torch.randn(4, 1, 6, 1)}
    formula, plain = bound("trajectories", 4, reset="first"), bound("trajectories", 1)
    weights = [
        sum(plain(x=x[:, a:b], noise={"z": noise["z"][k, :, a:b]}).value for a, b in ((0, 3), (3, 6))) for k in range(4)
    ]
    expected = torch.stack(weights).logsumexp(0) - math.log(4)
    torch.testing.assert_close(formula(x=x, first=first, noise=noise).value, expected)
    torch.testing.assert_close(formula.interpret(x=x, first=first, noise=noise).value, expected)


@pytest.mark.parametrize("kind", FILTERS)
def test_steps_that_do_not_count_weigh_nothing(kind):
    x, valid = rows(series(9), 2), torch.ones(2, 9)
    valid[0, 6:] = valid[1, 3] = 0
    formula = bound(kind, mask="valid")
    noise = formula.noise(x=x, valid=valid, generator=torch.Generator().manual_seed(0))
    hidden = torch.where(valid[..., None] == 1, x, torch.nan)
    points = noise["resampling"].expand(5, 2, 9)
    expected = [
        filtered(x[b, :, 0].numpy(), noise["z"][:, b, :, 0].numpy(), points[:, b].numpy(), counts=valid[b].numpy(),
                 **settings(FILTERS[kind]))
        for b in (0,)
    ]  # fmt: skip
    for given in (x, hidden):
        value = formula(x=given, valid=valid, noise=noise).value
        np.testing.assert_allclose(value[:1].detach(), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(formula.interpret(x=given, valid=valid, noise=noise).value, value)
    short = bound(kind)(x=x[:1, :6], noise=cut(noise, slice(0, 1), slice(0, 6))).value
    torch.testing.assert_close(value[:1], short, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_does_not_count_may_hold_nan(kind):
    """What is not known there reaches no particle, neither in its step nor in later ones."""
    x, valid = rows(series(6), 2), torch.ones(2, 6)
    valid[0, 2] = valid[1, 0] = 0
    formula = bound(kind, mask="valid")
    noise = formula.noise(x=x, valid=valid, generator=torch.Generator().manual_seed(0))
    hidden, zero = (torch.where(valid[..., None] == 1, x, hole) for hole in (torch.nan, 0.0))
    found = formula(x=hidden, valid=valid, noise=noise).value
    torch.testing.assert_close(found, formula(x=zero, valid=valid, noise=noise).value)
    torch.testing.assert_close(formula.interpret(x=hidden, valid=valid, noise=noise).value, found)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sum(), list(formula.parameters())))


@pytest.mark.parametrize("kind", FILTERS)
def test_a_burn_in_weighs_the_particles_that_go_on_from_it(kind):
    """Its steps are left out of the sum alone: what is counted is log p of the others, given them."""
    x = rows(series(8), 2)
    whole, late = bound(kind), bound(kind, burn_in=3)
    noise = whole.noise(x=x, generator=torch.Generator().manual_seed(0))
    head = bound(kind)(x=x[:, :3], noise=cut(noise, slice(None), slice(0, 3))).value
    expected = whole(x=x, noise=noise).value - head
    torch.testing.assert_close(late(x=x, noise=noise).value, expected)
    torch.testing.assert_close(late.interpret(x=x, noise=noise).value, expected)


@pytest.mark.parametrize("kind", FILTERS)
def test_what_some_rows_lack_weighs_nothing(kind):
    """Data that are not there at a step say nothing of its particles, which the prior moves on."""
    move, see, _ = factors()
    x, has = rows(series(6), 2), torch.tensor([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0]])
    formula = fivo(move, see, move, 5, FILTERS[kind])
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(0))
    hidden = torch.where(has[..., None] == 1, x, torch.nan)
    points = noise["resampling"].expand(5, 2, 6)
    expected = [
        filtered(x[b, :, 0].numpy(), noise["z"][:, b, :, 0].numpy(), points[:, b].numpy(), counts=has[b].numpy(),
                 propose=(DECAY, 0.0, MOVE), **settings(FILTERS[kind]))
        for b in (0, 1)
    ]  # fmt: skip
    for run in (formula, formula.interpret):
        found = run(x=hidden, noise=noise, present={"x": has}).value.detach()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_classes_that_are_carried_begin_with_the_first():
    """As numbers of classes, which an embedding reads, and not as those of the data."""
    move = Categorical("p(z_t|z_{t-1})", nn.Embedding(3, 3), shape=(), classes=3)
    see = Normal("p(x_t|z_t)", nn.Embedding(3, 2), shape=1)
    formula = Sum("t", log(E(sg(move), ratio(see * move, move), samples=4, resample="systematic")))
    x = rows(series(5), 2)
    out = formula(x=x, seed=0)
    assert out.samples["z"].dtype == torch.long
    torch.testing.assert_close(formula.interpret(x=x, seed=0).value, out.value)


@pytest.mark.parametrize("kind", FILTERS)
def test_two_filters_of_one_formula_are_two(kind):
    """Each has its own weights and its own ancestors, and both go on to the next call."""
    x = rows(series(6), 2)
    one, two = bound(kind), bound_of_y(FILTERS[kind])
    both = one + two
    noise = both.noise(x=x, generator=torch.Generator().manual_seed(0))
    parts = {"z": noise["z"], "resampling": noise["resampling"]}, {"y": noise["y"], "resampling": noise["resampling_2"]}
    expected = one(x=x, noise=parts[0]).value + two(x=x, noise=parts[1]).value
    torch.testing.assert_close(both(x=x, noise=noise).value, expected)
    torch.testing.assert_close(both.interpret(x=x, noise=noise).value, expected)
    assert both(x=x, noise=noise).last.keys() == {"z", "log_weight", "y", "log_weight_2"}


def test_sums_around_which_trajectories_are_drawn_may_count_other_steps():
    move, see, guide = factors()
    x, valid = rows(series(5), 2), torch.tensor([[1.0, 0, 1, 1, 0], [1, 1, 0, 1, 1]])
    both = log(E(guide, exp(Sum("t", log(see)) + Sum("t", log(move) - log(guide), mask="valid")), samples=3))
    by_weight = log(E(guide, exp(Sum("t", log(see) + Value("valid_t") * (log(move) - log(guide)))), samples=3))
    noise = both.noise(x=x, valid=valid, generator=torch.Generator().manual_seed(0))
    expected = by_weight(x=x, valid=valid, noise=noise).value
    torch.testing.assert_close(both(x=x, valid=valid, noise=noise).value, expected)


@pytest.mark.parametrize("kind", FILTERS)
def test_a_call_goes_on_from_the_last_particles(kind):
    x, formula = rows(series(10), 3), bound(kind)
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(0))
    whole = formula(x=x, noise=noise).value
    early = formula(x=x[:, :4], noise=cut(noise, slice(None), slice(0, 4)))
    assert {key: tuple(v.shape) for key, v in early.last.items()} == {"z": (5, 3, 1), "log_weight": (5, 3)}
    late = {"x": x[:, 4:], "noise": cut(noise, slice(None), slice(4, 10)), "start": early.last}
    torch.testing.assert_close(early.value + formula(**late).value, whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(early.value + formula.interpret(**late).value, whole, rtol=0, atol=1e-10)


def test_all_particles_can_go_on_from_one_state():
    x, formula = rows(series(4), 3), bound("trajectories")
    z, noise = torch.randn(3, 1), {"z": torch.randn(5, 3, 4, 1)}
    one = formula(x=x, start={"z": z}, noise=noise).value
    torch.testing.assert_close(formula(x=x, start={"z": z.expand(5, 3, 1)}, noise=noise).value, one)
    with pytest.raises(FormulaError, match=r"\[5, 3, 1\] +\| \[2, 3, 1\]"):
        formula(x=x, start={"z": z.expand(2, 3, 1)}, noise=noise)


@pytest.mark.parametrize("kind", KINDS)
def test_without_draws_all_particles_are_the_mode(kind):
    move, see, guide = factors()
    x = rows(series(6), 2)
    plain = Sum("t", E(guide, log(see * move) - log(guide)))(x=x, deterministic=True).value
    formula = bound(kind)
    torch.testing.assert_close(formula(x=x, deterministic=True).value, plain, rtol=0, atol=1e-10)
    torch.testing.assert_close(formula.interpret(x=x, deterministic=True).value, plain, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------ where it begins


def test_a_drawn_start_is_drawn_for_every_particle():
    """z_0 ~ N(0, 4) proposed by q(z_0|x_1): its weight stands beside the sum, and the bound is unbiased."""
    x, B = series(4, seed=5), 40_000
    prior, begin = Normal("p(z_0)", shape=1, loc=0.0, scale=2.0), Normal("q(z_0|x_1)", Line(0.5, scale=1.5), shape=1)
    move, see, guide = factors()
    weight = Sum("t", log(see * move) - log(guide)) + log(prior) - log(begin)
    whole = log(E(begin * guide, exp(weight), samples=3))
    filter_ = Sum("t", log(E(guide, ratio(see * move, guide), samples=3, resample="systematic")), initial=prior)
    for formula in (whole, filter_):
        with torch.no_grad():
            out = formula(x=rows(x, B), seed=0)
        assert out.samples["z_0"].shape == (3, B, 1)
        assert within(np.exp(out.value.numpy() - kalman(x, first=4.0)), 1.0)
        few = rows(x, 3)
        torch.testing.assert_close(formula(x=few, seed=1).value, formula.interpret(x=few, seed=1).value)


def test_a_restart_begins_with_a_start_of_its_own():
    x, first = rows(series(6), 3), torch.zeros(3, 6)
    first[:, 0] = first[1, 3] = 1
    prior = Normal("p(z_0)", shape=1, loc=0.0, scale=2.0)
    formula, plain = bound("systematic, ESS", reset="first", initial=prior), bound("systematic, ESS", initial=prior)
    noise = formula.noise(x=x, first=first, generator=torch.Generator().manual_seed(0))
    assert noise["z_0"].shape == (5, 3, 6, 1)
    parts = [
        plain(x=x[1:2, a:b], noise=cut(noise, slice(1, 2), slice(a, b)) | {"z_0": noise["z_0"][:, 1:2, a]}).value
        for a, b in ((0, 3), (3, 6))
    ]
    for run in (formula, formula.interpret):
        torch.testing.assert_close(run(x=x, first=first, noise=noise).value[1], sum(parts)[0])


def test_a_learnt_start_is_that_of_every_particle():
    move, see, guide = factors()
    start = nn.Parameter(torch.tensor([0.7]))
    body = log(see * move) - log(guide)
    x, noise = rows(series(5), 2), {"z": torch.randn(4, 2, 5, 1)}
    formula = log(E(guide, exp(Sum("t", body, initial={"z": start})), samples=4))
    value = formula(x=x, noise=noise).value
    given = log(E(guide, exp(Sum("t", body)), samples=4))
    torch.testing.assert_close(value, given(x=x, noise=noise, start={"z": start.expand(2, 1)}).value)
    torch.autograd.grad(value.sum(), start)
    assert "initial_state.z" in dict(formula.named_parameters())


# --------------------------------------------------------------------------------------------- what particles carry


class Cell(nn.Module):
    """h_t of h_{t-1}, z_t and x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 3)

    def forward(self, h, z, x):
        return self.cell(torch.cat((z, x), -1), h)


class Joined(nn.Linear):
    """A layer of several conditions."""

    def forward(self, *given):
        return super().forward(torch.cat(given, -1))


def recurrent(K, resample):
    """A VRNN: prior, proposal and decoder read h_{t-1}, of which every particle has its own."""
    prior = Normal("p(z_t|h_{t-1})", nn.Linear(3, 2), shape=1)
    post = Normal("q(z_t|h_{t-1},x_t)", Joined(4, 2), shape=1)
    decode = Normal("p(x_t|z_t,h_{t-1})", Joined(4, 2), shape=1)
    core = Deterministic("h_t = f(h_{t-1}, z_t, x_t)", Cell(), shape=3)
    return (prior, post, decode, core), Sum(
        "t", log(E(post * core, ratio(decode * prior, post), samples=K, resample=resample))
    )


def test_a_recurrent_state_is_resampled_with_its_particle():
    torch.manual_seed(0)
    K, B, T = 4, 3, 7
    (prior, post, decode, core), formula = recurrent(K, "systematic")
    x = torch.randn(B, T, 1)
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(0))
    expected = []
    for b in range(B):
        h, share, value = torch.zeros(K, 3), None, 0.0
        for t in range(T):
            if share is not None:
                points = (torch.arange(K) + noise["resampling"][b, t]) / K
                h = h[[int((p >= share.cumsum(0)).sum()) for p in points]]
            seen, weights, states = x[b, t].expand(K, 1), [], []
            for k in range(K):
                loc, scale = post.net(h[k : k + 1], seen[:1])[0]
                scale = nn.functional.softplus(scale)
                z = (loc + scale * noise["z"][k, b, t]).view(1, 1)
                dist = torch.distributions.Normal
                prior_loc, prior_scale = prior.net(h[k : k + 1])[0]
                x_loc, x_scale = decode.net(z, h[k : k + 1])[0]
                weights.append(
                    dist(x_loc, nn.functional.softplus(x_scale)).log_prob(seen[0, 0])
                    + dist(prior_loc, nn.functional.softplus(prior_scale)).log_prob(z[0, 0])
                    - dist(loc, scale).log_prob(z[0, 0])
                )
                states.append(core.net(h[k : k + 1], z, seen[:1])[0])
            w = torch.stack(weights)
            value, h, share = value + w.logsumexp(0) - math.log(K), torch.stack(states), w.detach().softmax(0)
        expected.append(value)
    expected = torch.stack(expected)
    weights = [*prior.parameters(), *post.parameters(), *decode.parameters(), *core.parameters()]
    wanted = torch.autograd.grad(expected.sum(), weights)
    for run in (formula, formula.interpret):
        value = run(x=x, noise=noise).value
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)
        for found, known in zip(torch.autograd.grad(value.sum(), weights), wanted, strict=True):
            torch.testing.assert_close(found, known, rtol=1e-7, atol=1e-8)


def test_a_state_outside_of_the_expectation_is_resampled_too():
    """h_t = f(h_{t-1}, z_{t-1}) around the E of z_t: the same filter as with both in one."""
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", lambda h, z: 0.5 * h + z, shape=1)
    prior, see = (
        Normal("p(z_t|h_t)", Line(0.8, scale=0.5), shape=1),
        Normal("p(x_t|z_t)", Line(1.0, scale=0.4), shape=1),
    )
    x = rows(series(6), 3)
    apart = Sum("t", E(core, log(E(prior, ratio(see * prior, prior), samples=4, resample="systematic"))))
    joint = Sum("t", log(E(core * prior, ratio(see * prior, prior), samples=4, resample="systematic")))
    torch.testing.assert_close(apart(x=x, seed=0).value, joint(x=x, seed=0).value, rtol=0, atol=1e-12)
    torch.testing.assert_close(apart.interpret(x=x, seed=0).value, joint(x=x, seed=0).value, rtol=0, atol=1e-12)


def test_what_no_draw_leads_to_is_carried_once():
    code = Deterministic("h_t = rnn(h_{t-1}, x_t)", lambda h, x: 0.5 * h + x, shape=1)
    move, see, _ = factors()
    guide = Normal("q(z_t|z_{t-1},h_t)", Line(0.4, 0.5, scale=0.6), shape=1)
    formula = Sum("t", log(E(code * guide, ratio(see * move, guide), samples=4, resample="systematic")))
    out = formula(x=rows(series(5), 3), seed=0)
    assert out.samples["h"].shape == (3, 5, 1)
    assert out.samples["z"].shape == (4, 3, 5, 1)
    assert {key: tuple(v.shape) for key, v in out.last.items()} == {
        "h": (3, 1), "z": (4, 3, 1), "log_weight": (4, 3)
    }  # fmt: skip


def test_particles_of_each_draw_around_them():
    """E over s of the bound of whole trajectories given s: an axis of particles inside one of draws."""
    outer, K, B, T = 2, 3, 4, 5
    scale = Normal("q(s)", shape=1)
    guide = Normal("q(z_t|z_{t-1},s)", Line(0.5, 0.5, scale=1.0), shape=1)
    see = Normal("p(x_t|z_t)", Line(1.0, scale=SEE), shape=1)
    formula = E(scale, log(E(guide, exp(Sum("t", log(see))), samples=K)), samples=outer)
    given = log(E(guide, exp(Sum("t", log(see))), samples=K))
    x = rows(series(T), B)
    noise = {"s": torch.randn(outer, B, 1), "z": torch.randn(K, outer, B, T, 1)}
    each = [given(x=x, s=s, noise={"z": z}).value for s, z in zip(noise["s"], noise["z"].unbind(1), strict=True)]
    for run in (formula, formula.interpret):
        torch.testing.assert_close(run(x=x, noise=noise).value, torch.stack(each).mean(0))


def test_rows_without_data_weigh_nothing():
    move, see, _ = factors()
    x, has = rows(series(6), 3), torch.tensor([[1, 1, 0, 1, 1, 1], [1] * 6, [1, 0, 1, 0, 1, 0]])
    again = Resample("systematic", ess=0.5)
    step = log(E(move, ratio(see * move, move), samples=4, resample=again))
    noise = Sum("t", step).noise(x=x)
    expected = Sum("t", step, mask="has")(x=x, has=has, noise=noise).value
    torch.testing.assert_close(Sum("t", step)(x=x, present={"x": has}, noise=noise).value, expected)


def test_the_last_value_weighs_whole_trajectories():
    """log p(y|z_T) beside the sum, inside the E: as one more observation of the last step."""
    move, see, guide = factors()
    end = Normal("p(y|z_T)", Line(1.0, scale=SEE), shape=1)
    weight = Sum("t", log(see * move) - log(guide)) + log(end)
    formula = log(E(guide, exp(weight), samples=3))
    x, y, noise = rows(series(5), 2), torch.randn(2, 1), {"z": torch.randn(3, 2, 5, 1)}
    one = Sum("t", E(guide, log(see * move) - log(guide)))
    outs = [one(x=x, noise={"z": z}) for z in noise["z"]]
    seen = [torch.distributions.Normal(o.samples["z"][:, -1], SEE).log_prob(y)[:, 0] for o in outs]
    expected = torch.stack([o.value + s for o, s in zip(outs, seen, strict=True)]).logsumexp(0) - math.log(3)
    for run in (formula, formula.interpret):
        torch.testing.assert_close(run(x=x, y=y, noise=noise).value, expected)


def test_older_steps_are_those_of_the_ancestors():
    K, B, T = 5, 3, 8
    move = Normal("p(z_t|z_{t-1},z_{t-2})", Line(1.2, -0.5, scale=MOVE), shape=1)
    see = Normal("p(x_t|z_t)", Line(1.0, scale=SEE), shape=1)
    formula = Sum("t", log(E(move, ratio(see * move, move), samples=K, resample="multinomial")))
    x = rows(series(T), B)
    noise = formula.noise(x=x, generator=torch.Generator().manual_seed(0))
    expected = []
    for b in range(B):
        z, older, share, value = np.zeros(K), np.zeros(K), None, 0.0
        for t in range(T):
            if share is not None:
                lines = [int((p >= share.cumsum()).sum()) for p in noise["resampling"][:, b, t].numpy()]
                z, older = z[lines], older[lines]
            z, older = 1.2 * z - 0.5 * older + MOVE * noise["z"][:, b, t, 0].numpy(), z
            seen = np.exp(-0.5 * ((x[b, t, 0].item() - z) / SEE) ** 2) / (SEE * math.sqrt(2 * math.pi))
            value, share = value + math.log(seen.mean()), seen / seen.sum()
        expected.append(value)
    for run in (formula, formula.interpret):
        np.testing.assert_allclose(run(x=x, noise=noise).value.detach(), expected, rtol=0, atol=1e-9)


SCORED = {"multinomial, score": Resample("multinomial", gradient="score")}


@pytest.mark.parametrize("resample", (FILTERS | SCORED).values(), ids=FILTERS | SCORED)
def test_particles_of_weight_zero_die_out_and_no_weight_at_all_is_minus_infinity(resample):
    """A potential that is 0 below 0; the second row sees none above."""
    walk = Normal("p(z_t|z_{t-1},s)", lambda z, s: {"loc": z + s, "scale": torch.ones_like(z)}, shape=1)
    formula = Sum("t", log(E(sg(walk), exp(log(relu(total(Value("z_t"))))), samples=6, resample=resample)))
    s = torch.tensor([[0.3], [-50.0]])
    start = {"z": torch.zeros(6, 2, 1), "log_weight": torch.zeros(6, 2)}
    out = formula(s=s, start=start, horizon=5, seed=0)
    assert out.value[0].isfinite()
    assert out.value[1] == -math.inf
    assert not out.samples["log_weight"].isnan().any()
    assert (out.samples["log_weight"][:, 0] == -math.inf).any()
    again = formula.interpret(
        s=s, start={"z": torch.zeros(6, 2, 1), "log_weight": torch.zeros(6, 2)}, horizon=5, seed=0
    )
    torch.testing.assert_close(again.value, out.value)


# ----------------------------------------------------------------------------------------------------- discrete latents


TRANSITION = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]], dtype=torch.float64)
EMISSION = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], dtype=torch.float64)


def forward_algorithm(x):
    """p(x_{1:T}) of a chain that begins in state 0 before its first step."""
    alpha = torch.eye(3)[0]
    for seen in x:
        alpha = (alpha @ TRANSITION) * EMISSION[:, int(seen)]
    return alpha.sum().item()


@pytest.mark.parametrize("family", ["Categorical", "OneHot"])
def test_a_filter_of_a_discrete_chain_is_unbiased(family):
    if family == "Categorical":
        move = Categorical("p(k_t|k_{t-1})", lambda k: {"probs": TRANSITION[k]}, shape=(), classes=3)
        see = Bernoulli("p(x_t|k_t)", lambda k: {"probs": EMISSION[k][..., 1:]}, shape=1)
        begin = {"k": torch.zeros((), dtype=torch.long)}
    else:
        move = OneHot("p(k_t|k_{t-1})", lambda k: {"probs": k @ TRANSITION}, shape=3)
        see = Bernoulli("p(x_t|k_t)", lambda k: {"probs": k @ EMISSION[:, 1:]}, shape=1)
        begin = {"k": torch.eye(3)[0]}
    x = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    formula = Sum("t", log(E(sg(move), exp(log(see)), samples=3, resample="systematic")), initial=begin)
    whole = log(E(sg(move), exp(Sum("t", log(see), initial=begin)), samples=3))
    for each in (formula, whole):
        values = each(x=x[None, :, None].repeat(20_000, 1, 1), seed=0).value.numpy()
        assert within(np.exp(values), forward_algorithm(x))


# ---------------------------------------------------------------------------------------- the gradient of the ancestors


def two_steps(resample):
    """Bits z_1, z_2, each more often like the one before, two particles, and weights e^{θ z}."""
    coin = Bernoulli("q(z_t|z_{t-1})", lambda z: {"probs": 0.2 + 0.6 * z}, shape=1)
    weight = total(Value("z_t")) * total(Value("theta_t", shape=1))
    return Sum("t", log(E(sg(coin), exp(weight), samples=2, resample=resample)))


def exact_gradient(theta):
    """d/dθ of the expected bound, by enumeration of z_1, the ancestors, and z_2, of weights e^{θ z}."""
    t = torch.tensor(theta, requires_grad=True)
    found = 0.0
    for first in product((0, 1), repeat=2):
        p1 = math.prod(0.2 if z else 0.8 for z in first)  # z_0 = 0
        w = (t * torch.tensor(first, dtype=t.dtype)).exp()
        share = w / w.sum()
        for lines in product((0, 1), repeat=2):
            alike = first[0] == first[1]
            pa = float(lines == (0, 1)) if alike else math.prod(share[a] for a in lines)
            for second in product((0, 1), repeat=2):
                up = [0.2 + 0.6 * first[a] for a in lines]
                p2 = math.prod(u if z else 1 - u for u, z in zip(up, second, strict=True))
                v = (t * torch.tensor(second, dtype=t.dtype)).exp()
                found = found + p1 * pa * p2 * (w.mean().log() + v.mean().log())
    return torch.autograd.grad(found, t)[0].item(), found.item()


def test_the_score_of_the_ancestors_makes_the_gradient_unbiased():
    B = 200_000
    wanted, value = exact_gradient(1.0)
    estimates = {}
    for name, resample in (("kept", Resample("multinomial", gradient="score")), ("dropped", "multinomial")):
        theta = torch.ones(B, 2, 1, requires_grad=True)
        out = two_steps(resample)(theta=theta, seed=0)
        assert within(out.value.detach().numpy(), value)
        estimates[name] = torch.autograd.grad(out.value.sum(), theta)[0].sum((1, 2)).numpy()
    assert within(estimates["kept"], wanted)
    assert not within(estimates["dropped"], wanted, errors=10)


def test_the_score_goes_through_restarts_and_the_interpreter():
    move, see, guide = factors()
    formula = fivo(move, see, guide, 3, Resample("multinomial", gradient="score"), reset="first")
    plain = fivo(move, see, guide, 3, "multinomial", reset="first")
    x, first = rows(series(8), 4), torch.rand(4, 8) < 0.3
    weights = [*move.parameters(), *see.parameters(), *guide.parameters()]
    one, other = formula(x=x, first=first, seed=0).value, formula.interpret(x=x, first=first, seed=0).value
    torch.testing.assert_close(one, plain(x=x, first=first, seed=0).value)
    torch.testing.assert_close(one, other)
    for a, b in zip(*(torch.autograd.grad(v.sum(), weights) for v in (one, other)), strict=True):
        torch.testing.assert_close(a, b)


# -------------------------------------------------------------------------------------------------- refusals and words


REFUSED = {
    "a mean of each step": (
        lambda m, s, q: Sum("t", log(E(q, ratio(s * m, q), samples=4))),
        TimeError,
        "later steps read what is drawn, and the sum over 't' of logarithms of means bounds nothing",
    ),
    "a function of a sum whose ancestors have a score": (
        lambda m, s, q: exp(fivo(m, s, q, 4, Resample("multinomial", gradient="score"))),
        GradientError,
        "the score function has the gradient of E[f], not of the exp of its estimate",
    ),
    "a term beside such a sum": (
        lambda m, s, q: fivo(m, s, q, 4, Resample("multinomial", gradient="score")) + Sum("t", E(q, log(s), samples=4)),
        FormulaError,
        "draws too, which does not, or in another way\nwrite one resample= in both, or two formulas",
    ),
    "what is drawn once": (
        lambda m, s, q: Sum(
            "t",
            log(
                E(
                    Normal("p(s)", shape=1) * q,
                    ratio(Normal("p(x_t|z_t,s)", Line(1.0, 1.0, scale=0.5), shape=1) * m, q),
                    samples=4,
                    resample="systematic",
                )
            ),
        ),
        TimeError,
        "s is drawn once for all steps, and a particle that is drawn anew would go on with the s of another",
    ),
    "a start that every step reads": (
        lambda m, s, q: fivo(
            m, Normal("p(x_t|z_t,z_0)", Line(1.0, 1.0, scale=0.5), shape=1), q, 4, initial=Normal("p(z_0)", shape=1)
        ),
        TimeError,
        "reads z_0 of particles that are drawn anew, each by its number, and not that of its ancestors\ncarry it along",
    ),
    "a series of numbers": (
        lambda m, s, q: Sum(
            "t",
            log(
                E(
                    q * Deterministic("r_t = f(z_{1:T})", nn.Identity(), shape=1),
                    ratio(Normal("p(x_t|z_t,r_t)", Line(1.0, 1.0, scale=0.5), shape=1) * m, q),
                    samples=4,
                    resample="systematic",
                )
            ),
        ),
        TimeError,
        "reads z_{1:T} of particles that are drawn anew",
    ),
    "a start outside of the mean": (
        lambda m, s, q: fivo(m, s, q, 4, initial=(start := Normal("p(z_0)", shape=1))) + log(start),
        TimeError,
        "log p(z_0) is of draws of which there are several (samples=), and stands outside of the E",
    ),
    "a start that the sum draws, inside an exponential": (
        lambda m, s, q: iwae(m, s, q, 4, initial=Normal("p(z_0)", shape=1)),
        OneDrawError,
        "leave initial= out, and let the E around the sum draw what it begins with:\nE(p(z_0) * q, exp(Sum('t', ...)),",
    ),
    "no weights": (
        lambda m, s, q: Sum("t", E(q, log(s), samples=4, resample="systematic")),
        FormulaError,
        "resample= is of the weights of a particle filter\nwrite Sum('t', log(E(q, ratio(p, q), samples=K,",
    ),
    "whole trajectories": (
        lambda m, s, q: log(E(q, exp(Sum("t", log(s * m) - log(q))), samples=4, resample="systematic")),
        FormulaError,
        "resample= is of the weights of a particle filter",
    ),
    "nothing to resample": (
        lambda m, s, q: Sum(
            "t",
            log(
                E(
                    r := Normal("q(z_t|x_t)", Line(0.5, scale=1.0), shape=1),
                    ratio(s * Normal("p(z_t)", shape=1), r),
                    samples=4,
                    resample="systematic",
                )
            ),
        ),
        TimeError,
        "no later step reads what is drawn here, so there is nothing to resample",
    ),
    "no particles": (
        lambda m, s, q: E(q, log(s), resample="systematic"),
        FormulaError,
        "E: resample= is of K particles; give their number, samples=K",
    ),
    "an unknown rule": (
        lambda m, s, q: E(q, log(s), samples=2, resample="residual"),
        FormulaError,
        "resample='residual': expected 'systematic' or 'multinomial'.",
    ),
    "no rule": (lambda m, s, q: E(q, log(s), samples=2, resample=True), FormulaError, "E: expected resample="),
    "no share": (lambda m, s, q: Resample(ess=2.0), FormulaError, "Resample: expected ess= as a share of the"),
    "the score of systematic ancestors": (
        lambda m, s, q: Resample("systematic", gradient="score"),
        GradientError,
        "Resample: gradient='score' needs the density of the ancestors",
    ),
    "dreg": (
        lambda m, s, q: log(E(q, exp(Sum("t", log(s * m) - log(q))), samples=4, gradient="dreg")),
        GradientError,
        "gradient='dreg' is not known of particles that go from step to step",
    ),
    "the score of particles": (
        lambda m, s, q: Sum(
            "t",
            log(
                E(
                    k := Categorical("q(k_t|k_{t-1})", nn.Linear(1, 3), shape=(), classes=3),
                    ratio(Normal("p(x_t|k_t)", nn.Linear(1, 2), shape=1) * k, k),
                    "score",
                    samples=4,
                    resample="systematic",
                )
            ),
        ),
        GradientError,
        "draw by a family such as OneHot, or without a gradient, E(sg(q), ...), which leaves that of the weights",
    ),
    "the score of trajectories": (
        lambda m, s, q: E(q, Sum("t", log(s)), samples=4, gradient="score"),
        GradientError,
        "gradient='score' is not known of whole trajectories\nuse gradient='straight-through'",
    ),
    "two numbers of particles": (
        lambda m, s, q: Sum("t", E(q, log(s), samples=4) + E(q, log(m), samples=3)),
        TimeError,
        "z_t is drawn by two E of different samples=, or beside different factors",
    ),
    "a term outside": (
        lambda m, s, q: Sum("t", E(q, log(s), samples=4) + E(q, log(m))),
        TimeError,
        "depends on z_t, of which there are several (samples=), and stands outside of the E",
    ),
    "two weights": (
        lambda m, s, q: Sum(
            "t",
            log(E(q, ratio(s * m, q), samples=4, resample="systematic"))
            + log(E(q, exp(log(s)), samples=4, resample="systematic")),
        ),
        TimeError,
        "the same particles are weighted in two ways",
    ),
    "a filter of whole trajectories": (
        lambda m, s, q: (
            E(q, Sum("t", log(s)), samples=4) + Sum("t", log(E(q, ratio(s * m, q), samples=4, resample="systematic")))
        ),
        FormulaError,
        "draws too, which does not, or in another way\nwrite one resample= in both, or two formulas",
    ),
    "a history of particles": (
        lambda m, s, q: log(
            E(Normal("q(z_t|z_{<t})", CausalTransformer(1, 2), shape=1), exp(Sum("t", log(s))), samples=4)
        ),
        TimeError,
        "is the history of what is drawn several times (samples=), and a history is one value a row",
    ),
    "weights without particles": (
        lambda m, s, q: Sum("t", log(E(q, exp(log(Normal("p(x_t)", shape=1))), samples=4, resample="systematic"))),
        FormulaError,
        "the weights of a filter are those of its particles",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_particles_cannot_be_is_refused(case):
    build, kind, said = REFUSED[case]
    with pytest.raises(kind) as caught:
        build(*factors())(x=rows(series(3), 2))
    assert said in str(caught.value)


def test_the_sign_and_the_table_say_what_is_computed():
    formula = fivo(*factors(), 8, Resample("systematic", ess=0.5))
    sign = (
        r"\mathbb{E}^{K=8,\, \mathrm{resample}=\mathrm{systematic},\, \mathrm{ESS}<0.5K}_{q(z_{t} \mid z_{t-1}, x_{t})}"
    )
    assert sign in formula.latex
    assert "K=8; resample=systematic; ESS<0.5K" in repr(formula)
    said = str(formula.explain())
    assert "filter of 8 particles, systematic resampling where ESS < 0.5 K" in said
    assert "none through the ancestors (dropped)" in said
    kept = str(fivo(*factors(), 8, Resample("multinomial", gradient="score")).explain())
    assert "multinomial resampling at every step" in kept
    assert "score of the ancestors" in kept
    assert "8 whole trajectories" in str(iwae(*factors(), 8).explain())


class Waiting(TorchDispatchMode):
    """Notes what would wait for a device: the value of a tensor, and shapes that depend on one."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "unique")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(kind, monkeypatch):
    monkeypatch.setattr(sums, "at_hand", lambda x: False)  # as on a device
    x, formula = rows(series(6), 3), bound(kind)
    formula(x=x)  # the first call looks at its data
    with Waiting() as mode:
        formula(x=x).value.sum().backward()
    assert mode.found == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_in_pieces_it_is_the_same(kind):
    x, formula = rows(series(6), 3), bound(kind, reset="first") if kind != "trajectories" else bound(kind)
    given = {"x": x} if kind == "trajectories" else {"x": x, "first": torch.zeros(3, 6)}
    plain = formula(**given, seed=0).value
    torch.testing.assert_close(formula.compile()(**given, seed=0).value, plain, rtol=1e-9, atol=1e-9)
