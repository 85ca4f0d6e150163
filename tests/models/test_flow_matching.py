"""Flow matching: its loss at the known optimum, draws and densities of Gaussians, reflow, guidance, levels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from worldformula.errors import ConfigError, MissingInputError, SupportError
from worldformula.models.flow_matching import GIVEN, SYSTEM, Sizes, build, plane, tiny
from worldformula.nets.transport import INTERPOLANTS
from worldformula.training.fit import fit

SPREAD = 1.5


class Perfect(nn.Module):
    """What a network learns of data N(0, SPREAD² I): E of velocity, data or noise, given the point."""

    def __init__(self, name, predicts, factor=1.0):
        super().__init__()
        self.way, self.predicts, self.factor = INTERPOLANTS[name], predicts, factor

    def forward(self, y, tau, context=None):
        a, s = self.way.alpha(tau), self.way.sigma(tau)
        variance = (a * SPREAD) ** 2 + s**2
        x, noise = a * SPREAD**2 / variance * y, s / variance * y
        found = {"data": x, "noise": noise}.get(self.predicts)
        rate = self.way.alpha_rate(tau) * x + self.way.sigma_rate(tau) * noise
        return self.factor * (rate if found is None else found)


def test_what_it_prints():
    model = build(replace(plane(), coupling="optimal"))
    text = str(model.loss)
    assert r"\epsilon' = \mathrm{OT}(\epsilon, x)" in text
    assert r"\left\| v - \dot{x} \right\|^{2}" in text
    assert r"\left\| \hat{x} - x \right\|^{2}" in str(build(replace(plane(), predicts="data")).loss)


@pytest.mark.parametrize("name", list(INTERPOLANTS))
@pytest.mark.parametrize("predicts", ["velocity", "data", "noise"])
def test_the_loss_is_least_at_what_is_known(name, predicts):
    """The least is the variance of the aim that the point does not tell, by the conditional of a joint Gaussian."""
    sizes = replace(plane(), interpolant=name, predicts=predicts)
    x = SPREAD * torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    tau = (torch.arange(4000) + 0.5) / 4000
    way, rows = INTERPOLANTS[name], {}
    a, s, da, ds = way.alpha(tau), way.sigma(tau), way.alpha_rate(tau), way.sigma_rate(tau)
    rows = {"velocity": (da, ds), "data": (torch.ones_like(tau), 0 * tau), "noise": (0 * tau, torch.ones_like(tau))}
    p, q = rows[predicts]
    own, cov = (p * SPREAD) ** 2 + q**2, a * p * SPREAD**2 + s * q
    best = 2 * (own - cov**2 / ((a * SPREAD) ** 2 + s**2)).mean().item()
    at = {f: build(sizes, Perfect(name, predicts, f)).loss(x=x, seed=1).value.item() for f in (0.9, 1.0, 1.1)}
    assert at[1.0] == pytest.approx(best, rel=0.02)
    assert at[1.0] < min(at[0.9], at[1.1])


@pytest.mark.parametrize("name", list(INTERPOLANTS))
def test_draws_and_density_of_a_known_flow(name):
    model = build(replace(plane(), interpolant=name, steps=32), Perfect(name, "velocity"))
    for options in ({}, {"solver": "midpoint"}, {"stochastic": 1.0, "steps": 200}, {"stochastic": 0.3, "steps": 200}):
        x = model.generate(4000, seed=0, **options)["x"]
        assert x.mean(0).abs().max() < 0.1, options
        assert x.std(0).tolist() == pytest.approx([SPREAD, SPREAD], rel=0.05), options
        assert torch.equal(x, model.generate(4000, seed=0, **options)["x"])
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    truth = -0.5 * x.square().sum(-1) / SPREAD**2 - math.log(2 * math.pi * SPREAD**2)
    assert (model.log_prob(x=x) - truth).abs().max() < 3e-3
    assert (model.density.log_prob(x=x) - model.log_prob(x=x)).abs().max() < 1e-5
    rough = model.log_prob(x=x, steps=2, solver="euler")
    assert (rough - truth).abs().max() > 0.01, "the steps that are asked for are those that are taken"


def test_the_optimal_coupling_is_scipys_and_its_velocities_are_short():
    model = build(replace(plane(), coupling="optimal"))
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    out = model.loss(x=x, seed=3)
    noise = torch.as_tensor(out.samples["epsilon"])
    order = linear_sum_assignment(torch.cdist(x, noise).square().numpy())[1]
    pairs = {k: v for k, v in out.samples.items() if v.shape == noise.shape}
    assert any(torch.equal(v, noise[order]) for v in pairs.values())
    assert torch.allclose(out.samples["dot_x"], x - noise[order])
    assert out.samples["dot_x"].square().sum() < (x - noise).square().sum()


def test_the_optimal_coupling_leaves_the_noise_of_a_label():
    """Labels at −3 and 3: across labels, the noise of the left would be the left half of p_0, where no draw begins."""
    model = build(replace(plane(), coupling="optimal", classes=2))
    label = torch.arange(400) % 2
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) + 6 * label[:, None] - 3
    samples = model.loss(x=x, y=torch.nn.functional.one_hot(label, 2).float(), seed=3).samples
    noise = x - samples["dot_x"]
    for kind in range(2):
        mine = torch.as_tensor(samples["epsilon"])[label == kind]
        assert noise[label == kind].sort(0).values.numpy() == pytest.approx(mine.sort(0).values.numpy(), abs=1e-5)
        assert noise[label == kind].mean(0).abs().max() < 3 / 200**0.5
    free = x - model.loss(x=x, y=torch.zeros(400, 2), seed=3).samples["dot_x"]
    assert free[label == 0, 0].mean() < -0.5, "of one label for all, the assignment is that of all"


def test_what_a_draw_cannot_be_told_is_named():
    plain, told = build(plane()), build(replace(plane(), classes=3))
    y = torch.eye(3)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="steps >= 1"):
            plain.generate(3, steps=steps)
        with pytest.raises(ConfigError, match="steps >= 1"):
            plain.log_prob(torch.zeros(3, 2), steps=steps)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="stochastic"):
            told.generate(3, y=y, stochastic=wrong)
    with pytest.raises(ConfigError, match="no labels"):
        plain.generate(3, y=y)
    with pytest.raises(ConfigError, match="no labels"):
        plain.log_prob(torch.zeros(3, 2), y)
    for wrong in (None, torch.tensor([0, 1, 2]), torch.zeros(3, 5), torch.zeros(1, 3)):
        with pytest.raises(MissingInputError, match="of 3 rows and 3 numbers"):
            told.generate(3, y=wrong)
        with pytest.raises(MissingInputError, match="of 3 rows and 3 numbers"):
            told.log_prob(torch.zeros(3, 2), wrong)
    assert torch.equal(told.generate(3, y=y.long(), seed=0)["x"], told.generate(3, y=y, seed=0)["x"])
    assert told.log_prob(torch.zeros(3, 2), y).shape == (3,)


@pytest.mark.parametrize("wrong", [9, -1, 0.5, 5])
def test_a_bound_of_levels_that_are_none_is_refused(wrong):
    model = build(replace(plane(), levels=5))
    with pytest.raises(SupportError, match="from 0 to 4"):
        model.bound(x=torch.full((3, 2), wrong))


@pytest.mark.parametrize("share", [1, 1.0, -0.1, 5, float("nan")])
def test_a_share_that_hides_all_labels_is_named(share):
    with pytest.raises(ConfigError, match="unlabelled"):
        build(replace(plane(), classes=3, unlabelled=share))


@pytest.mark.slow
def test_a_reflow_learns_from_pairs_and_is_straighter():
    torch.manual_seed(0)
    points = torch.randn(4000, 2) * 0.3 + torch.randint(2, (4000, 1)) * 4 - 2
    model = build(replace(plane(), units=64))
    fit(model.loss, {"x": points}, steps=600, batch=256, lr=2e-3, seed=0)
    pairs = model.pairs(4000, seed=1, steps=8)
    assert set(pairs) == {"x", GIVEN}
    again = build(replace(model.sizes, coupling="given"))
    fit(again.loss, pairs, steps=600, batch=256, lr=2e-3, seed=0)

    def bend(found):
        """How far one step of Euler is from what many steps do."""
        one, many = (found.generate(500, seed=2, steps=n, solver="euler")["x"] for n in (1, 64))
        return float((one - many).square().sum(-1).mean())

    assert bend(again) < 0.2 * bend(model)
    with pytest.raises(ConfigError, match="independent"):
        again.generate(3, stochastic=1.0)


def test_guidance_goes_from_no_label_to_beyond_it():
    class Told(nn.Module):
        """Straight to the place that a label names; without one, to the middle."""

        def forward(self, y, tau, context):
            return (context[:, :1] * 3 - context[:, 1:2] * 3) - y + 0 * tau

    model = build(Sizes(features=1, classes=2), Told())
    y = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    found = {w: model.generate(4, seed=0, y=y, guidance=w)["x"] for w in (0.0, 1.0, 2.0)}
    assert torch.allclose(found[2.0] - found[1.0], found[1.0] - found[0.0], atol=1e-5)
    assert torch.allclose(found[0.0], model.generate(4, seed=0, y=torch.zeros(4, 2))["x"], atol=1e-6)
    with pytest.raises(MissingInputError, match="one-hot"):
        model.generate(4)
    with pytest.raises(ConfigError, match="classes"):
        build(plane()).generate(4, guidance=2.0)


def test_levels_are_dequantised_and_their_bound_is_a_bound():
    """A flow whose density is N(0, SPREAD²) of x_1: its mass in the bins is a sum of normal integrals."""
    levels, model = 4, build(Sizes(features=1, levels=4, steps=16), Perfect("linear", "velocity"))
    edges = torch.linspace(-1, 1, levels + 1) / SPREAD
    mass = torch.special.ndtr(edges[1:].double()) - torch.special.ndtr(edges[:-1].double())
    rows = torch.arange(levels).repeat_interleave(200)[:, None]
    found = model.bound(2, seed=0, x=rows).view(levels, 200).mean(1)
    gap = mass.log() - found
    assert (gap > -0.01).all()
    assert (gap < 0.1).all()
    drawn = model.generate(2000, seed=0)["x"]
    assert drawn.dtype == torch.int64
    assert set(drawn.flatten().tolist()) == set(range(levels))
    with pytest.raises(ConfigError, match="levels=0"):
        model.pairs(3)


def test_a_step_lowers_the_loss_and_code_is_the_interpreter():
    torch.manual_seed(0)
    model = SYSTEM.build(replace(tiny(), units=32, blocks=1, classes=3))
    rows = {"x": torch.randint(17, (32, 64)), "y": torch.eye(3)[torch.randint(3, (32,))]}
    noise = model.loss.noise(**rows)
    model.loss.eval()
    before = model.loss(**rows, noise=noise).value
    assert torch.allclose(before, model.loss.interpret(**rows, noise=noise).value)
    before.backward()
    torch.optim.SGD(model.loss.parameters(), lr=1e-3).step()
    assert model.loss(**rows, noise=noise).value < before


@pytest.mark.parametrize(("change", "word"), [({"coupling": "sinkhorn"}, "optimal"), ({"predicts": "score"}, "noise")])
def test_parts_that_are_none_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        build(replace(plane(), **change))
