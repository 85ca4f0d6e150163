"""The VAE file and what its card measures, against sizes of the paper, quadrature and counting."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from worldformula.cards.vae_digits import mixture_floor
from worldformula.errors import ConfigError
from worldformula.models.vae import SYSTEM, Sizes, build, mlp, paper, world_models


def test_paper_has_the_networks_of_the_paper():
    sizes = paper()
    shapes = [tuple(p.shape) for p in build(sizes).loss.parameters()]
    assert shapes == [(500, 784), (500,), (40, 500), (40,), (500, 20), (500,), (784, 500), (784,)]
    assert any(isinstance(m, nn.Tanh) for m in mlp(784, 40, sizes))


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model = SYSTEM.build(sizes)
    x = torch.rand(16, sizes.pixels).bernoulli()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    before = model.loss(x=x, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(x=x, seed=0).value < before


def exact(decoder, x):
    """-log ∫ N(z; 0, 1) p(x|z) dz by the trapezoidal rule, mean over x."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    logits = decoder(z[:, None])[:, None]
    log_likelihood = (x * nn.functional.logsigmoid(logits) + (1 - x) * nn.functional.logsigmoid(-logits)).sum(-1)
    log_prior = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    return -((log_likelihood + log_prior[:, None]).exp().sum(0) * (z[1] - z[0])).log().mean().item()


def test_importance_bound_closes_in_on_the_integral_and_the_elbo_stays_above():
    model = build(Sizes(pixels=3, latent=1, hidden=(4,), activation=nn.SiLU))
    model.loss.double()
    with torch.no_grad():
        model.decode.net[-1].weight.mul_(6.0)
        x = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)
        truth = exact(model.decode.net, x)
        elbo = model.loss(x=x.repeat(4000, 1)).value.item()
        few = -model.bound(5, x=x.repeat(2000, 1)).mean().item()
        many = -model.bound(200_000, chunk=20_000, x=x).mean().item()
    assert abs(many - truth) < 0.01
    assert truth < few < elbo


def test_one_component_is_smoothed_counting():
    train = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    probs = torch.tensor([3.1 / 3.2, 1.1 / 3.2])
    test = torch.tensor([[1.0, 0.0]])
    expected = -(probs[0].log() + (1 - probs[1]).log()).item()
    assert mixture_floor(train, test, components=1) == pytest.approx(expected, rel=1e-5)


def test_two_components_find_two_prototypes():
    """Pixels of one prototype are equal: one Bernoulli per pixel needs 8 log 2 nats, two components log 2."""
    train = torch.cat((torch.zeros(500, 8), torch.ones(500, 8)))
    assert mixture_floor(train, train, components=1) == pytest.approx(8 * math.log(2), rel=1e-3)
    assert mixture_floor(train, train, components=8) == pytest.approx(math.log(2), abs=0.05)


def test_v_of_world_models_has_the_weights_of_the_paper():
    model = build(world_models())
    assert sum(p.numel() for p in model.loss.parameters()) == 4_348_547


def test_v_minimises_squared_errors_and_nats_beyond_those_that_are_free():
    """By hand, on small pictures: Σ (x − x̂)² and Normal(x; x̂, ½)'s constant; a KL below ½ Z counts as ½ Z."""
    sizes = Sizes(768, 4, (3, 6), nn.ReLU, deviation=math.sqrt(0.5), picture=(16, 16, 3), strided=True, free=0.5)
    torch.manual_seed(0)
    model = build(sizes)
    x = torch.rand(40, 768)
    for much in (1.0, 20.0):  # nothing is said, and much
        with torch.no_grad():
            model.encode.net.net[1].weight.mul_(much)
        out = model.loss(x=x, seed=0)
        loc, raw = model.encode.net(x).split(4, -1)
        scale = nn.functional.softplus(raw)
        nats = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
        error = ((x - model.decode.net(out.samples["z"])) ** 2).sum(-1) + 384 * math.log(math.pi)
        torch.testing.assert_close(out.value, (nats.clamp(min=2.0) + error).mean())
    assert (nats > 2).any()
    assert model.decode.net(torch.randn(5, 4) * 50).amin() >= 0


@pytest.mark.parametrize(
    "change", [{"picture": (16, 12, 3)}, {"hidden": (3, 7)}, {"pixels": 767}, {"picture": (16, 16, 1)}]
)
def test_strided_convolutions_refuse_other_pictures(change):
    sizes = Sizes(768, 4, (3, 6), nn.ReLU, picture=(16, 16, 3), strided=True)
    with pytest.raises(ConfigError, match="strided convolutions expect square pictures"):
        build(dataclasses.replace(sizes, **change))
