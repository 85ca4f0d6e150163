"""The MDN-RNN: its loss and its dreams by hand, the paper's parameter count, and what a temperature does."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.nn import functional as F

from worldformula.errors import ConfigError, FormulaError
from worldformula.formula import Deterministic
from worldformula.testing import check_world
from worldformula.worlds.mdn_rnn import Sizes, build, car_racing, tempered

B, T = 3, 6
SMALL = Sizes(latent=2, actions=3, hidden=5, components=4)


def made(sizes=SMALL):
    torch.manual_seed(0)
    return build(sizes)


def batch(sizes=SMALL, dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    found = {
        "mu": torch.randn(B, T, sizes.latent, generator=draw),
        "sigma": torch.rand(B, T, sizes.latent, generator=draw) + 0.1,
        "a": F.one_hot(torch.randint(3, (B, T), generator=draw), 3)[..., : sizes.actions],
        "l": torch.ones(B, T),
        "r": torch.randn(B, T, generator=draw),
    }
    found["l"][1, 2] = 0.0
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 3] = True
    return {k: v.to(dtype) for k, v in found.items()} | {"first": first}


def read(world, data):
    """What the loss reads of a batch."""
    return {key: data[key] for key in world.loss.program.inputs if key in data}


def stepped(world, h, c, z, a):
    """One step of the LSTM, its four gates one by one."""
    layer = dict(world.named_modules())["lstm"].gates
    keep, write, show, new = (torch.cat((z, a, h), -1) @ layer.weight.T + layer.bias).chunk(4, -1)
    c = torch.sigmoid(keep + 1) * c + torch.sigmoid(write) * torch.tanh(new)
    return torch.sigmoid(show) * torch.tanh(c), c


def mixture(world, h, sizes=SMALL, tau=1.0):
    """torch's own mixture of each number of a code, whose head has K logits, then K pairs of mean and raw scale."""
    layer = dict(world.named_modules())["p_z_given_h"]
    head = (h @ layer.weight.T + layer.bias).unflatten(-1, (sizes.latent, 3 * sizes.components))
    logits, (loc, raw) = head[..., : sizes.components], head[..., sizes.components :].unflatten(-1, (-1, 2)).unbind(-1)
    parts = Normal(loc, F.softplus(raw) * math.sqrt(tau))
    return Independent(MixtureSameFamily(Categorical(logits=logits / tau), parts), 1)


@pytest.mark.parametrize(
    "sizes", [SMALL, dataclasses.replace(SMALL, reward=True), dataclasses.replace(SMALL, lives=False)]
)
def test_the_loss_by_hand(sizes):
    """Step after step, a reset at its place, the end of an episode ten times, the reward of unit variance."""
    world, data = made(sizes).double(), batch(sizes, torch.double)
    out = world.loss(**read(world, data), seed=0)
    z, nets, total = out.samples["z"], dict(world.named_modules()), torch.zeros((), dtype=torch.double)
    for row in range(B):
        h = c = torch.zeros(1, 5, dtype=torch.double)
        before = torch.zeros(1, 2, dtype=torch.double), torch.zeros(1, 3, dtype=torch.double)
        for t in range(T):
            if data["first"][row, t]:
                h, c, before = torch.zeros_like(h), torch.zeros_like(c), (before[0] * 0, before[1] * 0)
            h, c = stepped(world, h, c, *before)
            here = z[row, t][None]
            total -= mixture(world, h).log_prob(here).sum()
            if sizes.lives:
                logit, lives = nets["p_l_given_h"].layer(h).squeeze(), data["l"][row, t]
                weight = 10.0 if lives == 0 else 1.0
                total += weight * F.binary_cross_entropy_with_logits(logit, lives)
            if sizes.reward:
                mean = nets["p_r_given_h_z"].layer(torch.cat((h, here), -1)).squeeze()
                total -= Normal(mean, 1.0).log_prob(data["r"][row, t])
            before = here, data["a"][row, t][None]
    torch.testing.assert_close(out.value, total / (B * T))


def test_codes_are_drawn_anew_from_their_moments():
    world, data = made(), batch()
    draws = torch.stack([world.loss(**read(world, data), seed=s).samples["z"] for s in range(400)])
    assert (draws[0] != draws[1]).all()
    assert ((draws.mean(0) - data["mu"]).abs() < 5 * data["sigma"] / math.sqrt(400)).all()
    torch.testing.assert_close(draws.std(0), data["sigma"], rtol=0.25, atol=0.0)


def test_code_is_interpreter_in_value_and_gradient():
    world = made().double()
    data = read(world, batch(dtype=torch.double))
    noise = world.loss.noise(**data)
    values = [run(**data, noise=noise).value for run in (world.loss, world.loss.interpret)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*[torch.autograd.grad(v, list(world.parameters())) for v in values])


@pytest.mark.parametrize(
    "sizes", [SMALL, dataclasses.replace(SMALL, reward=True), dataclasses.replace(SMALL, lives=False)]
)
def test_laws(sizes):
    check_world(made(sizes), batch(sizes))


def test_the_paper_counts_422_368_weights_for_car_racing():
    """LSTM: 4 · 256 · (32 + 3 + 256) and a bias of each gate; mixture: 256 · 480 and 480."""
    assert sum(p.numel() for p in build(car_racing()).parameters()) == 422_368


def test_at_temperature_one_a_tempered_dream_is_the_worlds_own():
    world, data = made(), batch()
    start, acts = world.filter(data, seed=0).at(1), data["a"]
    own = world.imagine(start, actions=acts, seed=3)
    hot = tempered(world).imagine(start, actions=acts, seed=3, tau=1.0)
    for key, value in own.items():
        torch.testing.assert_close(hot[key], value)
    assert {id(p) for p in tempered(world).parameters()} <= {id(p) for p in world.parameters()}


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_draws_of_a_dream_are_those_of_the_tempered_mixture(tau):
    """Mean and variance of the next code against torch's mixture with logits / τ and scales · √τ."""
    world = made()
    with torch.no_grad():
        dict(world.named_modules())["p_z_given_h"].weight.mul_(4)
        start = world.filter(batch(), seed=0).at(1).select(torch.tensor([0]))
        h, _ = stepped(world, start["h"], start["c"], start["z"], torch.eye(3)[:1])
        want, many = mixture(world, h, tau=tau), 20_000
        found = tempered(world).imagine(
            start.repeat(many), actions=torch.eye(3)[:1].expand(many, 1, 3), seed=0, tau=tau
        )["z"][:, 1]
    spread = want.variance[0].sqrt()
    assert ((found.mean(0) - want.mean[0]).abs() < 5 * spread / math.sqrt(many)).all()
    torch.testing.assert_close(found.std(0), spread, rtol=0.05, atol=0.0)


def test_the_entropy_of_a_dream_grows_with_the_temperature():
    world, data = made(), batch()
    start = world.filter(data, seed=0).at(1)
    policy = Deterministic("a_t = C(z_t,h_t)", lambda z, h: torch.zeros(len(z), 3), shape=3)
    spreads = [
        tempered(world).imagine(start.repeat(300), policy, horizon=4, seed=0, tau=tau)["z"].std()
        for tau in (0.1, 1.0, 4.0)
    ]
    assert spreads == sorted(spreads)
    with pytest.raises(FormulaError, match="tau"):
        tempered(world).imagine(start, policy, horizon=2)


@pytest.mark.parametrize("wrong", [{"components": 0}, {"ending": 0.0}, {"hidden": 0}])
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="expected latent, actions, hidden and components"):
        dataclasses.replace(SMALL, **wrong)
