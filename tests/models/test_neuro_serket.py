"""Neuro-SERKET: its formula, a step, and messages that help where each module alone is half blind."""

from dataclasses import replace

import pytest
import torch

from worldformula.cards.serket_words import accuracies
from worldformula.errors import ShapeError
from worldformula.models.neuro_serket import SYSTEM, build, tiny

SMALL = replace(tiny(), pixels=12, latent=2, hidden=(16,), clusters=4, first=30, later=2, rounds=2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pairs(count=400, classes=4):
    """Images show which half of the classes a row is of with some doubt, sounds which parity, both a little more."""
    y = torch.arange(count) % classes
    pattern = torch.zeros(classes, 12)
    for k in range(classes):
        pattern[k, 3 * k : 3 * k + 3] = 1.0
    x = torch.where(torch.rand(count, 12) < 0.1, 1 - pattern[y], pattern[y])
    sounds = 1.2 * torch.eye(classes)[y] + torch.randn(count, classes)
    return x, 2.0 * sounds, y


def test_formula_prints_and_code_equals_interpreter():
    model = build(SMALL)
    assert model.loss.latex.startswith(
        r"\operatorname{mean}\left( D_{\mathrm{KL}}\left[ q(z \mid x) \,\|\, p(z \mid m)"
    )
    model.loss.double()
    x, m = torch.rand(5, 12, dtype=torch.float64).round(), torch.randn(5, 2, dtype=torch.float64)
    noise = model.loss.noise(x=x, m=m)
    values = [call(x=x, m=m, noise=noise).value for call in (model.loss, model.loss.interpret)]
    torch.testing.assert_close(*values)
    grads = [torch.autograd.grad(v, list(model.loss.parameters())) for v in values]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model = SYSTEM.build(sizes)
    rows = model.given({"x": torch.rand(8, sizes.pixels).round()})
    assert rows["m"].shape == (8, sizes.latent)
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(**rows, seed=0).value
    before.backward()
    optimiser.step()
    assert model.loss(**rows, seed=0).value < before


@pytest.mark.slow
def test_together_the_modules_know_more_and_seeds_repeat():
    x, sounds, y = pairs()
    scores = []
    for links in ({"mixture": False, "cause": False, "words": False}, {}):
        torch.manual_seed(0)
        found = build(SMALL).learn(x, sounds, seed=0, **links)
        scores.append(accuracies(found, y))
        assert [f.exp().sum(-1).allclose(torch.ones(400)) for f in found] == [True] * 3
    alone, together = scores
    assert together["words"] > alone["words"] + 0.05
    assert together["topics"] > alone["topics"] + 0.05
    assert alone["words"] == pytest.approx(float((sounds.argmax(-1) == y).float().mean()))
    torch.manual_seed(0)
    assert torch.equal(build(SMALL).learn(x, sounds, seed=0).words, found.words)


def test_pairs_are_pairs():
    with pytest.raises(ShapeError, match=r"x \[N, X\] and sounds \[N, W\]"):
        build(SMALL).learn(torch.zeros(4, 12), torch.zeros(3, 4))
