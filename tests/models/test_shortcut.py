"""Shortcut models: a known flow of Gaussians is consistent with itself at every length, and draws in one call."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError
from worldformula.models.shortcut import SYSTEM, Length, build, plane, tiny
from worldformula.training.slow import move_slow

SPREAD = 1.5


class Perfect(nn.Module):
    """The mean velocity from τ to τ + d of the flow from N(0, I) to N(0, SPREAD² I): x goes as the deviation does."""

    def __init__(self, error=0.0):
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, x, tau, d):
        now, after = (((t * SPREAD) ** 2 + (1 - t) ** 2).sqrt() for t in (tau, tau + d))
        return x * (after / now - 1) / d + self.error * d.log2()


def halves(model, rows, seed=0):
    """The second term, by hand from the draws of a call."""
    s = model.loss(x=rows, seed=seed).samples
    difference = s["v_prime"] - (s["b"] + s["b_prime"]) / 2
    return difference.square().sum(-1)


def test_a_flow_that_is_known_is_consistent_with_itself():
    x = SPREAD * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    model = build(replace(plane(), finest=32), Perfect())
    assert halves(model, x).max() < 1e-8
    assert halves(build(replace(plane(), finest=32), Perfect(0.1)), x).min() > 1e-3
    for steps in (1, 2, 8, 32):
        drawn = model.generate(4000, seed=0, steps=steps)["x"]
        assert drawn.std(0).tolist() == pytest.approx([SPREAD, SPREAD], rel=0.05)
        assert torch.allclose(drawn, model.generate(4000, seed=0, steps=1)["x"], atol=1e-4)


def test_the_density_is_that_of_the_finest_steps():
    model = build(replace(plane(), finest=256), Perfect())
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    truth = -0.5 * x.square().sum(-1) / SPREAD**2 - math.log(2 * math.pi * SPREAD**2)
    assert (model.log_prob(x=x) - truth).abs().max() < 0.02


def test_both_terms_make_the_loss_and_only_the_copy_is_slow():
    torch.manual_seed(0)
    model = build(replace(plane(), units=16, blocks=1, decay=0.5))
    with torch.no_grad():
        for p in model.step.net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    rows = torch.randn(64, 2)
    out = model.loss(x=rows, seed=1)
    flow = (out.samples["v"] - out.samples["dot_x"]).square().sum(-1)
    again = halves(model, rows, 1)
    assert out.value.item() == pytest.approx((flow + model.sizes.share * again).mean().item(), rel=1e-5)
    s = out.samples
    assert torch.allclose(s["dot_x"], rows - s["epsilon"])
    assert torch.allclose(s["hat_x"], s["tilde_x_prime"] + s["d_prime"] * s["b"])
    before = halves(model, rows, 1).mean().item()
    with torch.no_grad():
        for p in model.step.net.parameters():
            p.mul_(1.5)
    b = model.loss(x=rows, seed=1).samples["b"]
    assert torch.allclose(b, s["b"]), "the targets stay"
    move_slow(model.loss)
    assert not torch.allclose(model.loss(x=rows, seed=1).samples["b"], s["b"])
    assert before > 0


def test_lengths_are_those_of_two_halves():
    """Against a list: every start of 2d below 1, equally often."""
    k, u = torch.arange(3).repeat_interleave(1000), (torch.arange(3000) % 1000 + 0.5)[:, None] / 1000
    d, whole, tau, middle = Length(8)(k, u)
    for i, wide in enumerate((0.25, 0.5, 1.0)):
        own = slice(1000 * i, 1000 * (i + 1))
        assert set(whole[own].flatten().tolist()) == {wide}
        assert set(d[own].flatten().tolist()) == {wide / 2}
        starts, counts = tau[own].unique(return_counts=True)
        assert starts.tolist() == [wide * j for j in range(round(1 / wide))]
        assert set(counts.tolist()) == {1000 * wide}
        assert torch.equal(middle[own], tau[own] + wide / 2)


def test_a_step_lowers_the_loss_and_code_is_the_interpreter():
    torch.manual_seed(0)
    model = SYSTEM.build(replace(tiny(), units=32, blocks=1))
    rows = {"x": torch.randint(17, (32, 64))}
    model.loss.eval()
    noise = model.loss.noise(**rows)
    before = model.loss(**rows, noise=noise).value
    assert torch.allclose(before, model.loss.interpret(**rows, noise=noise).value)
    before.backward()
    torch.optim.SGD([p for p in model.loss.parameters() if p.requires_grad], lr=1e-3).step()
    assert model.loss(**rows, noise=noise).value < before
    assert model.generate(5, seed=0, steps=2)["x"].dtype == torch.int64


@pytest.mark.parametrize("steps", [0, 3, 256])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(ConfigError, match="power of two up to 128"):
        build(tiny()).generate(2, steps=steps)


def test_the_finest_length_is_a_power_of_two():
    for wrong in (12, 1, 16.0):
        with pytest.raises(ConfigError, match="power of two"):
            build(replace(plane(), finest=wrong))
    model = build(replace(plane(), finest=2))
    assert model.generate(3, steps=2, seed=0)["x"].shape == (3, 2)
    with pytest.raises(ConfigError, match=r"got 2\.0"):
        model.generate(3, steps=2.0)
