"""PixelCNN and transformer over pixels: exact densities by enumeration, what they print, samples, conditions."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from worldformula.models import pixel_cnn, transformer_ar

PIXELS = pixel_cnn.Sizes(height=2, width=2, levels=3, channels=8, blocks=2)
ROWS = transformer_ar.Sizes(length=4, levels=3, width=16, layers=1, heads=2)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=4)))
MODELS = {
    "softmax": (pixel_cnn.build, PIXELS, (2, 2)),
    "logistics": (pixel_cnn.build, replace(PIXELS, logistics=2), (2, 2)),
    "transformer": (transformer_ar.build, ROWS, (4,)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_density_adds_up_to_one(kind):
    build, sizes, shape = MODELS[kind]
    model = build(sizes)
    for weight in model.loss.parameters():
        nn.init.normal_(weight, std=0.3)
    log_prob = model.log_prob(x=EVERY.reshape(-1, *shape))
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert log_prob.std() > 0.1
    assert str(model.loss).endswith(r"\left[ -\log p(x) \right] \right)")


@pytest.mark.parametrize("kind", MODELS)
def test_samples_have_the_frequencies_of_the_density(kind):
    build, sizes, shape = MODELS[kind]
    torch.manual_seed(0)
    model = build(sizes)
    drawn = model.generate(20_000, seed=0)["x"].reshape(-1, 4).long()
    found = torch.bincount(drawn @ torch.tensor([27, 9, 3, 1]), minlength=81) / len(drawn)
    assert (found - model.log_prob(x=EVERY.reshape(-1, *shape)).exp()).abs().max() < 0.01


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_lowers_the_loss_and_code_is_the_interpreter(kind):
    build, sizes, shape = MODELS[kind]
    model = build(replace(sizes, classes=3))
    data = {"x": torch.randint(3, (16, *shape)), "y": nn.functional.one_hot(torch.arange(16) % 3).float()}
    before = model.loss(**data).value
    assert torch.allclose(before, model.loss.interpret(**data).value)
    before.backward()
    torch.optim.Adam(model.loss.parameters(), lr=1e-3).step()
    assert model.loss(**data).value < before
    assert model.generate(16, seed=0, y=data["y"])["x"].shape == (16, *shape)


def test_the_sizes_of_the_papers_build():
    with torch.device("meta"):
        assert sum(p.numel() for p in transformer_ar.build(transformer_ar.paper()).loss.parameters()) == pytest.approx(
            76e6, rel=0.02
        )  # iGPT-S has 76 million
