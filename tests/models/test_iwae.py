"""IWAE and its relatives: values against explicit weights, gradients against each other, bounds and the integral."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.models.iwae import SYSTEM, Objective, build, paper, tiny

SMALL = replace(tiny(), pixels=5, latent=2, hidden=(6,), samples=4)
PATHWISE = [name for name in get_args(Objective) if name != "vimco"]
LATEX = {
    "iwae": r"-\log\left( \mathbb{E}^{K=4}_{q(z \mid x)}\left[ \frac{p(x \mid z)\, p(z)}{q(z \mid x)} \right] \right)",
    "stl": r"\frac{p(x \mid z)\, p(z)}{\mathrm{sg}\left[q(z \mid x)\right]}",
    "dreg": r"\mathbb{E}^{\mathrm{dreg},\, K=4}_{q(z \mid x)}",
    "renyi": r"\exp\left( 0.5 \, \left( \log p(x \mid z)\, p(z) - \log q(z \mid x) \right) \right)",
    "ciwae": r"0.5 \, \mathbb{E}^{K=4}_{q(z \mid x)}\left[ \log p(x \mid z)\, p(z) - \log q(z \mid x) \right]",
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(objective, **sizes):
    model = build(replace(SMALL, objective=objective, **sizes))
    model.loss.double()
    return model, torch.rand(3, 5, dtype=torch.float64).round()


def log_weights(model, x, noise):
    loc, scale = model.encode.params(x)
    z = loc + scale * noise
    many = x.expand(len(z), *x.shape)
    return model.decode.log_prob(x=many, z=z) + model.prior.log_prob(z=z) - model.encode.log_prob(z=z, x=many)


def reference(objective, w):
    """From log-weights ``[K, B]`` to the objective, as the papers write it."""
    iwae = -(w.exp().mean(0)).log()
    if objective == "renyi":
        return -2 * ((0.5 * w).exp().mean(0)).log()
    return 0.5 * -w.mean(0) + 0.5 * iwae if objective == "ciwae" else iwae


def gradients(model, value):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.encode.parameters()))])


def test_paper_has_the_networks_of_the_paper():
    widths = [tuple(p.shape) for p in build(paper()).encode.parameters() if p.ndim == 2]
    assert widths == [(200, 784), (200, 200), (100, 200)]
    assert paper().samples == 50


@pytest.mark.parametrize("objective", PATHWISE)
def test_value_and_print(objective):
    model, x = small(objective)
    noise = model.loss.noise(x=x)
    assert noise["z"].shape == (4, 3, 2)
    expected = reference(objective, log_weights(model, x, noise["z"])).mean()
    one, two = model.loss(x=x, noise=noise).value, model.loss.interpret(x=x, noise=noise).value
    torch.testing.assert_close(one, expected)
    torch.testing.assert_close(two, expected)
    torch.testing.assert_close(gradients(model, one), gradients(model, two))
    assert LATEX[objective] in model.loss.latex


@pytest.mark.parametrize("objective", ["stl", "dreg"])
def test_only_the_gradient_of_the_encoder_differs(objective):
    (plain, x), (other, _) = small("iwae"), small(objective)
    other.loss.load_state_dict(plain.loss.state_dict())
    noise = plain.loss.noise(x=x)
    values = [m.loss(x=x, noise=noise).value for m in (plain, other)]
    decoders = [torch.autograd.grad(v, list(m.decode.parameters()), retain_graph=True)
                for v, m in zip(values, (plain, other), strict=True)]  # fmt: skip
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(decoders[0], decoders[1])
    one, two = (gradients(m, v) for m, v in zip((plain, other), values, strict=True))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(("objective", "unbiased"), [("dreg", True), ("stl", False)])
def test_mean_of_the_gradient(objective, unbiased):
    """DReG has the gradient of IWAE on average, sticking the landing has not (with more than one sample)."""
    (plain, x), (other, _) = small("iwae", samples=2), small(objective, samples=2)
    other.loss.load_state_dict(plain.loss.state_dict())
    rows = x[:1].expand(1000, 5)
    seeds = range(40)
    sums = [torch.stack([gradients(m, m.loss(x=rows, seed=s).value) for s in seeds]) for m in (plain, other)]
    gap = sums[0] - sums[1]
    z = gap.mean(0) / (gap.std(0) / len(seeds) ** 0.5 + 1e-12)
    assert (z.abs().max() < 4.5) == unbiased, z.abs().max()


def test_dreg_of_a_perfect_encoder_has_no_noise():
    """At q(z|x) = p(z|x) every weight is p(x): the gradient of the encoder vanishes draw by draw; IWAE's does not."""
    for objective, silent in (("iwae", False), ("dreg", True), ("stl", True)):
        model, x = small(objective)
        with torch.no_grad():
            for layers in (model.decode.net.layers, model.encode.net.layers):
                layers[-1].weight.zero_()
            model.encode.net.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, *[math.log(math.e - 1)] * 2]))
        size = gradients(model, model.loss(x=x, seed=0).value).abs().max()
        assert (size < 1e-8) == silent, (objective, size)


def test_more_samples_come_closer_to_the_integral():
    """One latent: the integral by the trapezoidal rule."""
    model, x = small("iwae", latent=1)
    with torch.no_grad():
        model.decode.net.layers[-1].weight.mul_(5.0)
        model.encode.net.layers[-1].bias[1] = 1.0  # wider than p(z|x), so that the weights are bounded
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    logits = model.decode.net(z)[:, None]
    log_x = -torch.nn.functional.binary_cross_entropy_with_logits(
        logits.expand(-1, 3, -1), x.expand(4001, 3, 5), reduction="none"
    ).sum(-1)
    log_z = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    truth = -((log_x + log_z).logsumexp(0) + math.log(18 / 4000)).mean().item()
    values = []
    for k in (1, 4, 64):
        other = build(replace(SMALL, latent=1, samples=k))
        other.loss.double().load_state_dict(model.loss.state_dict())
        values.append(other.loss(x=x.repeat(2000, 1), seed=0).value.item())
    assert truth < values[2] < values[1] < values[0]
    assert values[2] - truth < 0.02


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = replace(SYSTEM.sizes(preset), samples=5)
    model, x = SYSTEM.build(sizes), torch.rand(4, sizes.pixels).round()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-4)
    before = model.loss(x=x, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(x=x, seed=0).value < before


@pytest.mark.parametrize("wrong", [{"objective": "drag"}, {"samples": 0}, {"alpha": 1.0}, {"beta": 1.5}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        replace(SMALL, **wrong)


def test_vimco_has_the_gradient_of_the_mean_bound_of_bits():
    """All tuples of K = 2 draws of two bits, by hand: mean bound and its gradients, within 4.5 standard errors."""
    model, x = small("vimco", samples=2)
    assert r"\mathbb{E}^{\mathrm{score},\, \mathrm{leave-one-out},\, K=2}_{q(z \mid x)}" in model.loss.latex
    row, codes = x[:1], torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)
    logits = model.encode.net(row)
    log_q = -torch.nn.functional.binary_cross_entropy_with_logits(logits.expand(4, 2), codes, reduction="none").sum(-1)
    seen = model.decode.net(codes)
    log_x = -torch.nn.functional.binary_cross_entropy_with_logits(seen, row.expand(4, 5), reduction="none").sum(-1)
    w = log_x - 2 * math.log(2.0) - log_q
    pairs = torch.logsumexp(torch.stack(torch.broadcast_tensors(w[:, None], w)), 0) - math.log(2.0)
    exact = -((log_q[:, None] + log_q).exp() * pairs).sum()
    weights = list(model.loss.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, weights)])
    found, values = [], []
    for seed in range(40):
        value = model.loss(x=row.expand(500, 5), seed=seed).value
        values.append(value.detach())
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)]))
    for each, truth in ((torch.stack(found), expected), (torch.stack(values)[:, None], exact.detach()[None])):
        z = (each.mean(0) - truth) / (each.std(0) / len(each) ** 0.5 + 1e-12)
        assert z.abs().max() < 4.5, z


def test_vimco_compares_draws():
    with pytest.raises(ConfigError, match="expected samples of at least 2, got 1"):
        replace(tiny(), objective="vimco", samples=1)
