"""Games: GAN, conditional GAN, density ratio, FactorVAE and the MMD-VAE, against torch by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from worldformula.errors import ConfigError, ShapeError
from worldformula.models import cgan, density_ratio, factor_vae, gan, mmd_vae
from worldformula.nets.critic import Critic, PermuteEach
from worldformula.testing.models import check_model
from worldformula.training.fit import fit

B = 8
GAN = gan.Sizes(pixels=2, latent=3, hidden=(8,))
CGAN = cgan.Sizes(pixels=4, classes=3, latent=2, hidden=(8,))
FACTOR = factor_vae.Sizes(pixels=5, latent=3, hidden=(8,), critic=(8,), gamma=2.0)
MMD = mmd_vae.Sizes(pixels=5, latent=2, hidden=(8,), alpha=1.0, strength=10.0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def labels(n=B, classes=3):
    return torch.eye(classes)[torch.arange(n) % classes]


MODELS = {
    "gan": lambda: (gan.build(replace(GAN, penalty=0.3)), {"x": torch.randn(B, 2)}),
    "gan, minimax": lambda: (gan.build(replace(GAN, objective="minimax")), {"x": torch.randn(B, 2)}),
    "gan, wasserstein": lambda: (
        gan.build(replace(GAN, objective="wasserstein", penalty=10.0)),
        {"x": torch.randn(B, 2)},
    ),
    "cgan": lambda: (cgan.build(CGAN), {"x": torch.rand(B, 4), "y": labels()}),
    "factor_vae": lambda: (factor_vae.build(FACTOR), {"x": torch.rand(B, 5)}),
    "density_ratio": lambda: (density_ratio.build(density_ratio.Sizes(2, (8,))), {"x": torch.randn(B, 2)}),
    "mmd_vae": lambda: (mmd_vae.build(MMD), {"x": torch.rand(B, 5).bernoulli()}),
    "info_vae": lambda: (mmd_vae.build(replace(MMD, alpha=0.5)), {"x": torch.rand(B, 5).bernoulli()}),
}


def expressions(model):
    loss = model.loss
    return {n: p.loss for n, p in loss.players.items()} if hasattr(loss, "players") else {"loss": loss}


@pytest.mark.parametrize("name", MODELS)
def test_the_contract_holds(name):
    model, rows = MODELS[name]()
    check_model(model, rows)


@pytest.mark.parametrize("name", MODELS)
def test_code_equals_interpreter(name):
    model, rows = MODELS[name]()
    given = {**model.given(rows), "gamma": 2.0}
    for loss in expressions(model).values():
        data = {k: given[k] for k in loss.program.inputs}
        values = [run(**data, seed=1).value for run in (loss, loss.interpret)]
        torch.testing.assert_close(*values)
        weights = list(loss.parameters())
        ours, theirs = (torch.autograd.grad(v, weights, allow_unused=True) for v in values)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_steps_lower_what_the_first_player_minimises(name):
    model, rows = MODELS[name]()
    given = {**model.given(rows), "gamma": 2.0, "seed": 0}
    first = next(iter(expressions(model)))

    def value():
        if hasattr(model.loss, "players"):
            return model.loss.evaluate(
                {k: v for k, v in given.items() if k == "seed" or k in model.loss.inputs}, [first]
            )[first].value
        return model.loss(**{k: v for k, v in given.items() if k == "seed" or k in model.loss.program.inputs}).value

    own = model.loss.players[first].parameters() if hasattr(model.loss, "players") else list(model.loss.parameters())
    optimiser = torch.optim.Adam(own, lr=1e-3)
    before = value()
    before.backward(inputs=own)
    optimiser.step()
    assert value() < before


@pytest.mark.parametrize("module", [gan, cgan, factor_vae, density_ratio, mmd_vae])
def test_every_preset_builds(module):
    for preset in module.SYSTEM.presets:
        if preset != "paper":
            module.SYSTEM.build(module.SYSTEM.sizes(preset))


# ---------------------------------------------------------------------------------------------------------------- GAN


def test_the_game_of_a_gan_by_hand():
    model = gan.build(replace(GAN, penalty=0.6))
    x = torch.randn(B, 2)
    outs = model.loss.evaluate({"x": x, "seed": 3})
    d, g = outs["d"], outs["g"]
    torch.testing.assert_close(d.samples["tilde_x"], g.samples["tilde_x"])  # both players see the same fakes
    fake = d.samples["tilde_x"]
    judge, real = model.judge.net, x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(judge(real).sum(), real)
    wanted = softplus(-judge(x)).mean() + softplus(judge(fake)).mean() + 0.3 * slope.square().sum(-1).mean()
    torch.testing.assert_close(d.value, wanted)
    torch.testing.assert_close(g.value, softplus(-judge(fake)).mean())
    other = gan.build(replace(GAN, objective="minimax"))
    other.loss.load_state_dict(model.loss.state_dict())
    saturating = other.loss.evaluate({"x": x, "seed": 3})["g"]
    torch.testing.assert_close(saturating.value, -softplus(judge(saturating.samples["tilde_x"])).mean())


def test_the_wasserstein_game_by_hand():
    model = gan.build(replace(GAN, objective="wasserstein", penalty=10.0, every=5))
    x = torch.randn(B, 2)
    out = model.loss.evaluate({"x": x, "seed": 3})["d"]
    fake, middle, u = (out.samples[k].detach() for k in ("tilde_x", "hat_x", "u"))
    torch.testing.assert_close(middle, u[:, None] * x + (1 - u[:, None]) * fake)
    judge, at = model.judge.net, middle.clone().requires_grad_()
    (slope,) = torch.autograd.grad(judge(at).sum(), at)
    wanted = judge(fake).mean() - judge(x).mean() + 10 * (slope.norm(dim=-1) - 1).square().mean()
    torch.testing.assert_close(out.value, wanted)
    assert model.loss.turns(0) == [["d"], ["g"]]
    assert model.loss.turns(1) == [["d"]]


def test_a_gan_prints_its_equations():
    players = gan.build(replace(GAN, penalty=1.0)).loss.players
    assert players["g"].loss.latex == (
        r"\operatorname{mean}\left( \mathbb{E}_{p_{\mathrm{data}}(x),\, p(z),\, \tilde{x} = G(z),\, "
        r"\tilde{d} = D(\tilde{x})}\left[ \operatorname{softplus}\left( -\tilde{d} \right) \right] \right)"
    )
    assert r"0.5 \, \mathbb{E}_{p_{\mathrm{data}}(x)}\left[ \|\nabla_{x}\|^{2}\left[ d = D(x) \right] \right]" in (
        players["d"].loss.latex
    )


def test_a_short_game_moves_the_generator_towards_the_data():
    model = gan.build(replace(GAN, hidden=(32,), penalty=0.2))
    x = 3 + 0.1 * torch.randn(500, 2)
    before = (model.generate(200, seed=0)["x"] - 3).norm(dim=-1).mean()
    fit(model.loss, {"x": x}, steps=150, batch=64, lr=5e-3)
    assert (model.generate(200, seed=0)["x"] - 3).norm(dim=-1).mean() < 0.6 * before


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="wasserstein"):
        replace(GAN, objective="waserstein")
    with pytest.raises(ConfigError, match="penalty"):
        replace(GAN, penalty=-1.0)
    with pytest.raises(ConfigError, match="imq"):
        replace(MMD, kernel="img")
    with pytest.raises(ConfigError, match="alpha"):
        replace(MMD, alpha=1.5)


# ---------------------------------------------------------------------------------------------------------------- CGAN


def test_a_conditional_gan_draws_grey_levels_of_the_asked_class():
    model = cgan.build(CGAN)
    drawn = model.draw(labels(30), seed=0)
    assert drawn.shape == (30, 4)
    assert drawn.min() > 0
    assert drawn.max() < 1
    torch.testing.assert_close(drawn, model.draw(labels(30), seed=0))
    assert not torch.allclose(drawn, model.draw(labels(30).roll(1, 0), seed=0))


def test_a_conditional_gan_blurs_what_the_discriminator_sees_and_nothing_else():
    model, rows = MODELS["cgan"]()
    outs = model.loss.evaluate({**rows, "seed": 0})
    samples = outs["d"].samples
    for name in ("x", "tilde_x"):
        assert 0 < (samples[f"{name}_prime"] - samples[name]).std() < 0.03
    torch.testing.assert_close(samples["tilde_x"], outs["g"].samples["tilde_x"])


def test_the_game_of_a_conditional_gan_by_hand():
    model, rows = MODELS["cgan"]()
    outs = model.loss.evaluate({**rows, "seed": 0})
    samples, judge, y = outs["d"].samples, model.judge.net, rows["y"]
    real = samples["x_prime"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(judge(real, y).sum(), real)
    wanted = softplus(-judge(real, y)).mean() + softplus(judge(samples["tilde_x_prime"], y)).mean()
    torch.testing.assert_close(outs["d"].value, wanted + 0.5 * slope.square().sum(-1).mean())


# ------------------------------------------------------------------------------------------------------- density ratio


def test_a_density_ratio_learns_the_divergence_of_two_gaussians():
    model = density_ratio.build(density_ratio.Sizes(2, (32,)))
    fit(model.loss, lambda: {"x": 1 + torch.randn(256, 2)}, steps=300, batch=256, lr=1e-2)
    x = 1 + torch.randn(5000, 2)
    assert float(model.kl(x)) == pytest.approx(1.0, abs=0.15)
    slope = model.log_ratio(torch.tensor([[0.5, 0.5], [1.5, 1.5]]))
    assert (slope[1] - slope[0]).item() == pytest.approx(2.0, abs=0.5)
    wanted = torch.distributions.Normal(1.0, 1.0).log_prob(x).sum(-1)
    assert (model.log_density(x) - wanted).abs().mean() < 0.3


def test_the_reference_is_drawn_anew_and_stopped():
    model, rows = MODELS["density_ratio"]()
    assert model.loss.latex == r"\mathrm{BCE}_{d}\left[ p_{\mathrm{data}}(x) \,\|\, p(x) \right]"
    assert model.divergence.latex == (r"D_{\mathrm{KL}}^{\mathrm{adv}}\left[ p_{\mathrm{data}}(x) \,\|\, p(x) \right]")
    with torch.no_grad():
        wanted = model.judge.net(rows["x"]).mean()
    torch.testing.assert_close(model.kl(rows["x"]), wanted)


# ----------------------------------------------------------------------------------------------------------- FactorVAE


def test_the_discriminators_loss_gives_the_encoder_no_gradient_at_all():
    model, rows = MODELS["factor_vae"]()
    loss = model.loss.players["d"].loss
    value = loss(**model.given(rows), seed=0).value
    value.backward()
    for p in model.encode.parameters():
        assert p.grad is None or not p.grad.any()
    assert all(p.grad.any() for p in model.judge.parameters())


def test_the_models_loss_reaches_the_encoder_through_the_discriminator():
    model, rows = MODELS["factor_vae"]()
    value = model.correlation(x=model.given(rows)["x"], seed=0).value
    found = torch.autograd.grad(value, list(model.encode.parameters()))
    assert all(g.any() for g in found)


def test_a_players_step_moves_its_own_networks_alone():
    model, rows = MODELS["factor_vae"]()
    fit(model.loss, rows, steps=1, batch=B, inputs=model.given, symbols={"gamma": 2.0})  # all moved once: shapes fit
    before = {k: v.clone() for k, v in model.loss.state_dict().items()}
    out = model.loss.evaluate({**model.given(rows), "gamma": 2.0, "seed": 0}, ["d"])["d"]
    own = model.loss.players["d"].parameters()
    out.value.backward(inputs=own)
    torch.optim.SGD(own, lr=0.1).step()
    moved = {k for k, v in model.loss.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(name.startswith("D.") for name in moved)


def test_the_two_players_see_the_same_codes():
    model, rows = MODELS["factor_vae"]()
    given = {**model.given(rows), "gamma": 2.0, "seed": 5}
    vae = model.loss.evaluate(given, ["vae"])["vae"]
    shown = "KL^adv[∫ p_data(x) q(z|x) dx ‖ p_data(x'), q(z'|x'), p(u), z = permute(z',u)]"
    torch.testing.assert_close(vae.terms[shown], model.judge.net(vae.samples["z"]).mean())


def test_permuting_each_coordinate_breaks_the_correlation_and_keeps_the_margins():
    net = PermuteEach()
    a = torch.randn(4000)
    z = torch.stack([a, a, -a], -1)
    mixed = net(z, torch.randn(4000, 3))
    assert torch.equal(mixed.sort(0).values, z.sort(0).values)
    assert (torch.corrcoef(mixed.T) - torch.eye(3)).abs().max() < 0.06
    assert (torch.corrcoef(z.T).abs() - 1).abs().max() < 1e-4  # permuting rows alone would keep this
    with pytest.raises(ShapeError, match="PermuteEach"):
        net(z, torch.randn(4000, 2))


def test_the_total_correlation_of_correlated_gaussians_is_found():
    """TC of a pair with correlation ρ is −½ log(1 − ρ²); one permutation for both coordinates would find 0."""
    from worldformula import Data, DensityRatio, Deterministic, Normal

    rho = 0.9
    judge = Deterministic("d = D(z)", Critic(2, (64, 64), nn.SiLU), shape=())
    other = Data("q(z')") * Normal("p(u)", shape=2) * Deterministic("z = permute(z', u)", PermuteEach(), shape=2)
    ratio = DensityRatio(Data("q(z)"), other, judge)

    def pairs():
        e = torch.randn(2, 512, 2)
        z = torch.stack([e[..., 0], rho * e[..., 0] + (1 - rho**2) ** 0.5 * e[..., 1]], -1)
        return {"z": z[0], "z_prime": z[1]}

    fit(ratio.loss(), pairs, steps=600, batch=512, lr=5e-3)
    with torch.no_grad():
        found = torch.stack([torch.as_tensor(ratio.kl()(z=pairs()["z"]).value) for _ in range(20)]).mean()
    assert found.item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.12)


def test_factor_vae_splits_its_rows_into_two_batches():
    model = factor_vae.build(FACTOR)
    rows = {"x": torch.arange(7.0)[:, None].expand(7, 5)}
    given = model.given(rows)
    assert given["x"][:, 0].tolist() == [0, 1, 2]
    assert given["x_prime"][:, 0].tolist() == [3, 4, 5]
    with pytest.raises(ShapeError, match="two rows"):
        model.given({"x": torch.zeros(1, 5)})


# ------------------------------------------------------------------------------------------------------------- MMD-VAE


def test_the_loss_of_an_mmd_vae_by_hand():
    model, rows = MODELS["info_vae"]()
    out = model.loss(**rows, seed=0)
    loc, scale = model.encode.params(rows["x"])
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, 1.0))
    z = out.samples["z"]
    nats = nn.functional.binary_cross_entropy_with_logits(model.decode.net(z), rows["x"], reduction="none").sum(-1)
    gap = out.terms["MMD²{imq; scale=(0.5,1.0,2.0)}[∫ p_data(x) q(z|x) dx ‖ p(z)]"]
    torch.testing.assert_close(out.value, 0.5 * kl.sum(-1).mean() + nats.mean() + 9.5 * gap)


def test_training_draws_the_aggregate_posterior_to_the_prior():
    model = mmd_vae.build(replace(MMD, strength=200.0))
    with torch.no_grad():
        model.encode.net.head.bias.fill_(3.0)  # codes far from the prior
    x = torch.rand(200, 5).bernoulli()

    def gap():
        with torch.no_grad():
            return sum(float(model.discrepancy(x=x, seed=i).value) for i in range(10)) / 10

    before = gap()
    fit(model.loss, {"x": x}, steps=150, batch=100, lr=1e-2)
    assert gap() < 0.3 * before
