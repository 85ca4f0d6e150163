"""MADE: the card's leak test catches a mask that is off by one, densities add up to one, labels condition."""

import itertools

import pytest
import torch
from torch import nn

from worldformula.cards.made_digits import leak
from worldformula.models.made import SYSTEM, Sizes, build, tiny


def test_the_formula_is_the_negative_log_of_one_factor():
    text = str(build(tiny()).loss)
    assert text == r"\operatorname{mean}\left( \mathbb{E}_{p_{\mathrm{data}}(x)}\left[ -\log p(x) \right] \right)"
    assert r"\log p(x \mid y)" in str(build(Sizes(4, (8,), classes=3)).loss)


def test_the_density_adds_up_to_one_and_the_loss_is_its_mean():
    model = build(Sizes(pixels=4, hidden=(16, 16)))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    log_prob = model.log_prob(x=every)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    assert model.loss(x=every).value.item() == pytest.approx(-log_prob.mean().item(), abs=1e-6)
    assert torch.equal(model.bound(10, x=every), log_prob)


def test_no_logit_reads_its_own_pixel_and_an_off_by_one_is_caught():
    torch.manual_seed(0)
    model = build(Sizes(pixels=8, hidden=(64, 64)))
    x = torch.rand(3, 8).bernoulli()
    assert leak(model, x) == 0
    head = model.density.net.causal.head
    head.mask.copy_(head.mask.roll(-1, 0))  # every output sees what its successor may see
    assert leak(model, x) > 0


def test_learns_and_generates():
    torch.manual_seed(0)
    model = build(Sizes(pixels=6, hidden=(64,), dropout=0.2))
    x = torch.rand(500, 1).bernoulli().expand(500, 6).contiguous()  # all pixels equal: log 2 nats
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(x=x).value.backward()
        optimiser.step()
    assert -model.log_prob(x=x).mean() < 0.9
    assert model.loss.training
    drawn = model.generate(400, seed=0)["x"]
    assert ((drawn == drawn[:, :1]).all(-1)).float().mean() > 0.9
    assert torch.equal(drawn, model.generate(400, seed=0)["x"])


def test_labels_change_the_density():
    model = build(Sizes(pixels=4, hidden=(16,), classes=3))
    x, y = torch.rand(5, 4).bernoulli(), nn.functional.one_hot(torch.arange(5) % 3).float()
    assert not torch.allclose(model.log_prob(x=x, y=y), model.log_prob(x=x, y=y.roll(1, 1)))
    assert model.generate(5, y=y, seed=0)["x"].shape == (5, 4)


@pytest.mark.parametrize("preset", ["tiny"])
def test_a_step_lowers_the_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model = SYSTEM.build(sizes)
    model.loss.eval()
    x = torch.rand(32, sizes.pixels).bernoulli()
    before = model.loss(x=x).value
    before.backward()
    torch.optim.Adam(model.loss.parameters(), lr=1e-3).step()
    assert model.loss(x=x).value < before
    assert torch.allclose(model.loss(x=x).value, model.loss.interpret(x=x).value)
