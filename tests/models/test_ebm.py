"""EBM: Z and the chain on an energy whose density is known, the penalty, what it prints, a fit that comes closer."""

import math

import pytest
import torch
from torch import nn

from worldformula.cards.ebm_rings import divergence, gaussian_divergence
from worldformula.data.rings import Density, three
from worldformula.errors import ConfigError, UnnormalisedError
from worldformula.models.ebm import SYSTEM, Sizes, build, tiny
from worldformula.training.chains import Chains
from worldformula.training.fit import fit


class Bowl(nn.Module):
    """E = ‖x‖²/2 − 5: the standard normal in the plane, Z = 2π e⁵."""

    def forward(self, x):
        return 0.5 * x.square().sum(-1) - 5.0


def test_z_the_density_and_the_chain_of_a_known_energy():
    model = build(tiny())
    model.density.__dict__["_modules"]["net"] = Bowl()  # a known energy in the place of the one that is learnt
    assert model.log_z() == pytest.approx(math.log(2 * math.pi) + 5, abs=1e-4)
    x = torch.randn(50, 2)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1)
    assert torch.allclose(model.log_prob(x, model.log_z()), truth, atol=1e-4)
    drawn = model.generate(4000, seed=0, steps=1500)["x"]
    assert drawn.std(0).tolist() == pytest.approx([1.0, 1.0], abs=0.04)
    origin = Density(torch.zeros(1, 2).double().numpy(), 1.0)
    assert divergence(model, origin) == pytest.approx(0.0, abs=1e-4)


def test_the_floor_of_one_gaussian_is_zero_for_a_gaussian():
    origin = Density(torch.zeros(1, 2).double().numpy(), 1.0)
    assert gaussian_divergence(torch.from_numpy(origin.sample(50_000)), origin) == pytest.approx(0.0, abs=0.01)
    assert gaussian_divergence(torch.from_numpy(three().sample(5000)), three()) > 1.0


def test_what_it_prints_and_code_is_the_interpreter():
    model = build(Sizes(2, (8,), steps=3, step_size=0.01, noise=0.1, penalty=0.5, reach=1.0))
    text = str(model.loss)
    assert r"\mathrm{CD}_{k=3,\, \sigma=0.1,\, \mathrm{start}=x_{0}}\left[ p(x) \right]" in text
    assert "0.5" in text
    data = {"x": torch.randn(5, 2), "x_0": torch.randn(5, 2)}
    noise = model.loss.noise(**data)
    out = model.loss(**data, noise=noise)
    assert torch.allclose(out.value, model.loss.interpret(**data, noise=noise).value)
    energy = {k: model.energy(v) for k, v in {**data, "end": out.samples["x_model"]}.items()}
    expected = energy["x"] - energy["end"] + 0.5 * (energy["x"] ** 2 + energy["x_0"] ** 2)
    assert torch.allclose(out.value, expected.mean(), atol=1e-5)


def test_a_short_fit_comes_closer_to_the_density():
    torch.manual_seed(0)
    model = build(Sizes(2, (32,), steps=10, step_size=0.02, noise=0.2, penalty=0.0, reach=3.0))
    x = torch.randn(2000, 2) * 0.7 + torch.tensor([1.0, 0.0])
    chains = Chains("x", "x_0", model.fresh, size=1000, restart=0.05)
    before = -model.log_prob(x, model.log_z()).mean()
    fit(model.loss, {"x": x}, steps=150, batch=128, lr=5e-3, inputs=chains, callback=chains.keep, clip=1.0)
    after = -model.log_prob(x, model.log_z()).mean()
    assert before > 3.0
    assert after < before - 0.5  # the entropy of the data is 2.12


def test_refusals():
    model = build(Sizes(3, (8,), steps=1, step_size=0.1, noise=0.1, penalty=0.0, reach=1.0))
    with pytest.raises(UnnormalisedError):
        model.density.log_prob(x=torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="expected D = 2"):
        model.log_z()
    assert model.given({"x": torch.zeros(4, 3)})["x_0"].shape == (4, 3)
    assert set(SYSTEM.presets) == {"paper", "tiny"}
