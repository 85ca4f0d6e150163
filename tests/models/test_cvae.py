"""Conditional VAE: what the condition reaches, the closed form of two networks' KL, bounds of log p(x|y)."""

import math
from dataclasses import replace

import pytest
import torch

from worldformula.errors import MissingInputError, ShapeError
from worldformula.models.cvae import SYSTEM, build, learned, paper, tiny

SMALL = replace(tiny(), pixels=4, condition=3, latent=1, hidden=(6,))
ENTIRE = {"fixed": SMALL, "learned": replace(SMALL, prior=(5,))}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(sizes, n=6):
    return {"x": torch.rand(n, sizes.pixels).round(), "y": torch.eye(sizes.condition)[torch.arange(n) % 3]}


def test_it_prints_the_equation():
    assert build(learned()).loss.latex == (
        r"\operatorname{mean}\left( D_{\mathrm{KL}}\left[ q(z \mid x, y) \,\|\, p(z \mid y) \right] - "
        r"\mathbb{E}_{q(z \mid x, y)}\left[ \log p(x \mid y, z) \right] \right)"
    )
    assert r"\,\|\, p(z) \right]" in build(tiny()).loss.latex
    assert paper().pixels + paper().condition == 784


@pytest.mark.parametrize("name", ENTIRE)
def test_value_and_gradient_against_torch(name):
    model, data = build(ENTIRE[name]), rows(SMALL)
    noise = model.loss.noise(**data)
    q = torch.distributions.Normal(*model.encode.params(data["x"], data["y"]))
    if name == "learned":
        p = torch.distributions.Normal(*model.prior.params(data["y"]))
    else:
        p = torch.distributions.Normal(0.0, 1.0)
    z = q.loc + q.scale * noise["z"]
    x = torch.distributions.Bernoulli(logits=model.decode.net(data["y"], z))
    expected = (torch.distributions.kl_divergence(q, p).sum(-1) - x.log_prob(data["x"]).sum(-1)).mean()
    weights = list(model.loss.parameters())
    wanted = torch.autograd.grad(expected, weights, retain_graph=True)
    for out in (model.loss(**data, noise=noise), model.loss.interpret(**data, noise=noise)):
        torch.testing.assert_close(out.value, expected)
        for got, want in zip(torch.autograd.grad(out.value, weights), wanted, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ENTIRE)
def test_the_bound_closes_in_on_the_integral(name):
    model, data = build(ENTIRE[name]), rows(SMALL, 3)
    model.loss.double()
    data = {k: v.double() for k, v in data.items()}
    with torch.no_grad():
        model.encode.net.layers[-1].bias[1] = 1.0  # wider than p(z|x,y), so that the weights are bounded
        z = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None, None].expand(2001, 3, 1)
        y = data["y"].expand(2001, 3, 3)
        x = torch.distributions.Bernoulli(logits=model.decode.net(y, z)).log_prob(data["x"]).sum(-1)
        given = {"y": y} if name == "learned" else {}
        exact = (x + model.prior.log_prob(z=z, **given)).logsumexp(0) + math.log(18 / 2000)
    torch.testing.assert_close(model.bound(20_000, seed=0, chunk=5000, **data), exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model, data = SYSTEM.build(sizes), rows(sizes)
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-4)
    before = model.loss(**data, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(**data, seed=0).value < before


def test_drawing_wants_the_condition():
    for sizes in ENTIRE.values():
        model, y = build(sizes), torch.eye(3)
        one = model.generate(3, seed=0, mean=True, y=y)
        assert {k: tuple(v.shape) for k, v in one.items()} == {"z": (3, 1), "x": (3, 4)}
        same = model.render(z=one["z"][:1].expand(3, 1), y=y)["x"]
        assert not torch.allclose(same[0], same[1]), "the decoder reads y itself, not through z alone"
        with pytest.raises(MissingInputError, match="y"):
            model.generate(3)


def test_a_wrong_width_names_both():
    with pytest.raises(ShapeError, match="expected 7 numbers per row, got 4 . 2"):
        build(SMALL).loss(x=torch.zeros(2, 4), y=torch.zeros(2, 2))
