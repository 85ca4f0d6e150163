"""Latent diffusion: stage 1 stands still, codes have deviation 1, texts are read, decoder of the stage is used."""

import pytest
import torch

from worldformula.errors import FormulaError
from worldformula.model import Model
from worldformula.models.ldm import SYSTEM, Sizes, build, spelt, stage_one, tiny

SMALL = Sizes(6, 3, (16,), deviation=0.1, weight=0.02, steps=8, units=16, blocks=1)


def data(n=32):
    return {"x": torch.rand(n, 6), "c": spelt(["one", "two"] * (n // 2), 5)}


def test_letters():
    assert spelt(["Abz", "a b", ""], 4).tolist() == [[1, 2, 26, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    model = build(SMALL)
    assert torch.equal(model.named(torch.tensor([3])), spelt(["three"], 5))
    assert torch.equal(model.given({"x": torch.zeros(1, 6), "y": torch.tensor([3])})["c"], spelt(["three"], 5))


def test_stage_one_is_stopped_and_stage_two_learns():
    torch.manual_seed(0)
    model = build(SMALL)
    rows = data()
    noise = model.loss.noise(**rows)
    before = model.loss(**rows, noise=noise)
    assert torch.allclose(before.value, model.loss.interpret(**rows, noise=noise).value)
    before.value.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.stage.loss.parameters())
    assert all(p.grad is not None for p in model.guess.parameters())
    kept = [p.clone() for p in model.stage.loss.parameters()]
    torch.optim.AdamW(model.loss.parameters(), lr=1e-3).step()
    assert all(torch.equal(a, b) for a, b in zip(kept, model.stage.loss.parameters(), strict=True))
    assert model.loss(**rows, noise=noise).value < before.value


def test_codes_have_deviation_one_once_calibrated():
    torch.manual_seed(0)
    model = build(SMALL)
    rows = data(2000)
    with torch.no_grad():
        for weight in model.stage.loss.parameters():
            weight.mul_(3.0)
    scale = model.calibrate(rows["x"])
    assert scale != 1.0
    assert model.loss(**rows, seed=0).samples["z_0"].std().item() == pytest.approx(1.0, abs=0.05)
    assert model.loss.state_dict()["rescale.scale"].item() == pytest.approx(scale), "it is saved with the weights"


def test_what_it_prints():
    text = str(build(tiny()).loss)
    assert r"\mathrm{sg}\left[q(z \mid x)\right],\, z_{0} = \mathrm{rescale}(z)" in text
    assert r"\hat{\epsilon} = \epsilon_{\theta}(z_{t}, t, c')" in text
    assert r"0.02 \, D_{\mathrm{KL}}" in str(build(tiny()).stage.loss)


@pytest.mark.parametrize("steps", [None, 4])
def test_pictures_come_from_the_decoder_of_the_codes(steps):
    model = build(SMALL)
    found = model.generate(5, seed=0, mean=True, steps=steps, guidance=1.0, c=spelt(["six"] * 5, 5))
    assert torch.equal(found["x"], model.stage.render(z=found["z"])["x"])
    assert torch.equal(found["z"], model.generate(5, seed=0, steps=steps, guidance=1.0, c=spelt(["six"] * 5, 5))["z"])
    assert model.generate(5, seed=0)["x"].shape == (5, 6)


@pytest.mark.parametrize("steps", [None, 4])
def test_codes_stay_within_their_range_whatever_the_network_says(steps):
    model = build(SMALL)
    torch.nn.init.normal_(model.guess.net.denoise.leave[-1].weight, std=30.0)
    z = model.generate(50, seed=0, steps=steps)["z"]
    assert z.abs().max() <= SMALL.clip * model.rescale.scale


def test_texts_are_hidden_in_their_share_and_read_otherwise():
    model = build(SMALL)
    rows = data(8000)
    hidden = model.loss(**rows, seed=0).samples["c_prime"]
    assert (hidden == 0).all(-1).float().mean().item() == pytest.approx(0.1, abs=0.02)
    net, z, t = model.guess.net, torch.randn(2, 3), torch.ones(2).long()
    torch.nn.init.normal_(net.denoise.leave[-1].weight)
    assert not torch.allclose(net(z, t, spelt(["one", "one"], 5)), net(z, t, spelt(["two", "two"], 5)))


def test_a_given_stage_is_used_and_one_without_an_encoder_is_refused():
    stage = stage_one(SMALL)
    assert SYSTEM.build(SMALL, stage).stage is stage
    with pytest.raises(FormulaError, match="has no encode"):
        build(SMALL, Model())
