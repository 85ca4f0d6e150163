"""Groups of latents: residual posteriors and their KL, the two directions, the bound against the integral."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.models.hierarchical import SYSTEM, Posterior, bounded, build, ladder, tiny

SMALL = replace(tiny(), pixels=5, latents=(2, 3), hidden=7, warm_up=101)
BETAS = {"beta_1": 0.5, "beta_2": 0.25}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def stirred(sizes, by=0.3):
    """A model whose heads are no longer near zero."""
    model = build(sizes)
    model.loss.double()
    with torch.no_grad():
        for weight in model.loss.parameters():
            weight.add_(by * torch.randn_like(weight))
    return model, torch.rand(4, sizes.pixels, dtype=torch.float64).round()


def walk(model, x, noise, posterior):
    """−ELBO of two groups by torch.distributions: the KLs by row, and log p(x|z)."""
    up, top_q, down, moments, lower = model.encode.factors
    h_1, h_2 = up.net(x)
    loc, raw = top_q.net.net(h_1).chunk(2, -1)
    q_1 = torch.distributions.Normal(loc, bounded(raw))
    z_1 = q_1.loc + q_1.scale * noise["z_1"]
    kl_1 = torch.distributions.kl_divergence(q_1, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    d_1 = down.net(z_1)
    m, s = moments.net(d_1)
    dm, raw = lower.net.net(d_1, h_2).chunk(2, -1)
    ds = bounded(raw)
    if posterior == "residual":
        q_2 = torch.distributions.Normal(m + dm, s * ds)
        kl_2 = 0.5 * (dm**2 / s**2 + ds**2 - (ds**2).log() - 1).sum(-1)  # eq. 2 of the paper
    elif posterior == "ladder":
        precision = ds**-2 + s**-2
        q_2 = torch.distributions.Normal((dm * ds**-2 + m * s**-2) / precision, precision**-0.5)
        kl_2 = torch.distributions.kl_divergence(q_2, torch.distributions.Normal(m, s)).sum(-1)
    else:
        q_2 = torch.distributions.Normal(dm, ds)
        kl_2 = torch.distributions.kl_divergence(q_2, torch.distributions.Normal(m, s)).sum(-1)
    z_2 = q_2.loc + q_2.scale * noise["z_2"]
    last, pixels = model.decode.factors
    logits = pixels.net(last.net(d_1, z_2))
    return kl_1, kl_2, torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)


@pytest.mark.parametrize("posterior", get_args(Posterior))
def test_value_and_gradient_against_torch(posterior):
    model, x = stirred(replace(SMALL, posterior=posterior))
    noise = model.loss.noise(x=x, **BETAS)
    kl_1, kl_2, log_x = walk(model, x, noise, posterior)
    expected = (0.5 * kl_1 + 0.25 * kl_2 - log_x).mean()
    weights = list(model.loss.parameters())
    wanted = torch.autograd.grad(expected, weights)
    for run in (model.loss, model.loss.interpret):
        out = run(x=x, **BETAS, noise=noise)
        torch.testing.assert_close(out.value, expected)
        for got, want in zip(torch.autograd.grad(out.value, weights), wanted, strict=True):
            torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        model.rates(x, seed=0)[0], kl_1.mean().item(), msg="the rate of the top group does not depend on a draw"
    )


def test_it_prints_group_by_group():
    printed = build(SMALL).loss.latex
    assert r"\beta_{1} \, D_{\mathrm{KL}}\left[ q(z_{1} \mid h_{1}) \,\|\, p(z_{1}) \right]" in printed
    assert (
        r"\beta_{2} \, D_{\mathrm{KL}}\left[ q(z_{2} \mid m_{2}, s_{2}, d_{1}, h_{2}) \,\|\, p(z_{2} \mid m_{2}, s_{2})"
        in printed
    )


def test_a_silent_residual_has_no_rate_whatever_the_prior():
    """Δm = 0, Δs = 1: the group costs nothing. An absolute posterior with the same head pays for a prior that moved."""
    for posterior, silent in (("residual", True), ("absolute", False)):
        model, x = stirred(replace(SMALL, posterior=posterior))
        with torch.no_grad():
            head = model.encode.factors[-1].net.net.head
            head.weight.zero_()
            head.bias.zero_()
        assert (model.rates(x, seed=0)[1] < 1e-9) == silent


def test_the_lower_group_hears_both_directions():
    model, x = stirred(SMALL)
    lower = model.encode.factors[-1]
    z_1 = torch.randn(4, 2, dtype=torch.float64)
    d, h = model.prior.factors[1].net(z_1), model.encode.factors[0].net(x)[1]
    m, s = model.prior.factors[2].net(d)
    base = lower.net(m, s, d, h)["loc"]
    assert not torch.allclose(base, lower.net(m, s, d, h.flip(0))["loc"])
    assert not torch.allclose(base, lower.net(m, s, d.flip(0), h)["loc"])


def test_the_bound_closes_in_on_the_integral():
    """One latent per group: the integral over both on a grid."""
    model, x = stirred(replace(SMALL, latents=(1, 1), pixels=3), by=0.05)
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    z_1, unit = torch.cartesian_prod(axis, axis).split(1, -1)
    _, down, moments, _ = model.prior.factors
    with torch.no_grad():
        d_1 = down.net(z_1)
        m, s = moments.net(d_1)
        last, pixels = model.decode.factors
        logits = pixels.net(last.net(d_1, m + s * unit))[:, None]
        log_x = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
    log_z = -0.5 * (z_1**2 + unit**2) - math.log(2 * math.pi)
    exact = (log_x + log_z).logsumexp(0) + 2 * math.log(24 / 400)
    found = model.bound(20_000, seed=0, chunk=5000, x=x)
    torch.testing.assert_close(found, exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("preset", SYSTEM.presets)
def test_every_preset_takes_a_step_that_lowers_its_loss(preset):
    sizes = SYSTEM.sizes(preset)
    model, x = SYSTEM.build(sizes), torch.rand(8, sizes.pixels).round()
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-4)
    ones = dict.fromkeys(model.coefficients, 1.0)
    before = model.loss(x=x, seed=0, **ones).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(x=x, seed=0, **ones).value < before
    assert len(model.rates(x)) == len(sizes.latents)


def test_the_weight_of_a_group_follows_its_rate_per_latent():
    """Appendix A: γ_l ∝ KL_l / Z_l, L in sum, of the rates themselves and not of what was paid for them."""
    model, x = stirred(SMALL)
    symbols = model.symbols
    out = model.loss(x=x, seed=0, **BETAS)
    rate_1, rate_2 = model.rates(x, seed=0)
    for symbol in symbols.values():
        symbol.observe(out)
    share_1, share_2 = (rate_1 + 0.01) / 2, (rate_2 + 0.01) / 3
    half = SMALL.warm_up // 2
    assert float(symbols["beta_1"](half)) == pytest.approx(share_1 / (share_1 + share_2))  # β = ½, L = 2
    assert float(symbols["beta_2"](half)) == pytest.approx(share_2 / (share_1 + share_2))
    assert symbols["beta_1"](SMALL.warm_up) == symbols["beta_2"](SMALL.warm_up) == 1.0
    again = model.symbols["beta_1"]
    again.load_state_dict(symbols["beta_1"].state_dict())
    assert float(again(half)) == float(symbols["beta_1"](half))
    assert {s(half) for s in build(replace(SMALL, balanced=False)).symbols.values()} == {0.5}
    assert set(build(replace(SMALL, warm_up=0)).symbols.values()) == {1.0}


def test_a_signal_neither_fades_nor_explodes_on_its_way_down():
    """Ten groups: the features below the ninth are of the size of the latents, not tenths or tens of it."""
    model = build(replace(tiny(), latents=(8,) * 10))
    with torch.no_grad():
        state = model.prior.sample(sample_shape=(200,))
    assert 0.3 < float(state["d_1"].std()) <= float(state["d_9"].std()) < 3


def test_scales_stay_within_bounds():
    scale = bounded(torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6]))
    assert scale[2] == 1.0
    assert scale[0] == pytest.approx(math.exp(-5))
    assert scale[-1] == pytest.approx(math.exp(5))


def test_what_it_offers():
    model = build(ladder())
    drawn = model.generate(3, seed=0)
    assert [tuple(drawn[f"z_{n}"].shape) for n in range(1, 6)] == [(3, 4), (3, 8), (3, 16), (3, 32), (3, 64)]
    assert drawn["x"].shape == (3, 784)
    assert model.reconstruct(x=drawn["x"])["x"].shape == (3, 784)
    assert all(model.symbols[f"beta_{n}"](0) == 0.0 for n in range(1, 6))


@pytest.mark.parametrize("wrong", [{"posterior": "residuum"}, {"latents": (8,)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match="residual" if "posterior" in wrong else "plain VAE"):
        replace(SMALL, **wrong)
