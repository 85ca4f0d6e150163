"""Updates of PlaNet and of Dreamer v1 and v2, each against the same update by hand, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.agents.early import (
    CHOICE,
    COLUMNS,
    NUMBERS,
    Adam,
    Weights,
    before,
    double,
    elu,
    kl_normal,
    lambda_returns,
    normal,
    rows,
    spread,
    tensors,
)
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v1, dreamer_v2, planet
from worldformula.learners.imagination import DynamicsSettings, MixedSettings
from worldformula.worlds.discrete_rssm import DiscreteRSSMConfig
from worldformula.worlds.gaussian_rssm import GaussianRSSMConfig

STEPS, D, Z, G, K = 3, 5, 3, 2, 3
SMALL = GaussianRSSMConfig(deter=D, stoch=Z, hidden=6, depth=2, units=7, reward_layers=2, seen_layers=2, free_nats=0.3)
V1 = replace(SMALL, activation="elu", cell="keras", bits=0, free="mean", reward=1.0)


def equal(agent: ImaginationAgent, hand: Weights) -> None:
    for name, ours in agent.named_parameters():
        if ours.requires_grad:
            torch.testing.assert_close(ours, hand[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


# ----------------------------------------------------------------------------------------------- worlds, by hand


def keras_cell(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """Gates r, u and candidate n, whose reset acts behind the matrix."""
    one = x @ w["world.f.cell.weight_ih"].T + w["world.f.cell.bias_ih"]
    two = h @ w["world.f.cell.weight_hh"].T + w["world.f.cell.bias_hh"]
    (r1, u1, n1), (r2, u2, n2) = one.chunk(3, -1), two.chunk(3, -1)
    u = torch.sigmoid(u1 + u2)
    return u * h + (1 - u) * torch.tanh(n1 + torch.sigmoid(r1 + r2) * n2)


def block_cell(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """Gates r and u; the reset acts before the candidate's matrix."""
    gates = torch.cat((x, h), -1) @ w["world.f.cell.gates.weight"].T + w["world.f.cell.gates.bias"]
    r, u = torch.sigmoid(gates).chunk(2, -1)
    c = torch.cat((x, r * h), -1) @ w["world.f.cell.candidate.weight"].T + w["world.f.cell.candidate.bias"]
    return u * h + (1 - u) * torch.tanh(c)


def norm_cell(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """All gates normalised together."""
    parts = torch.cat((x, h), -1) @ w["world.f.cell.gates.weight"].T + w["world.f.cell.gates.bias"]
    centred = parts - parts.mean(-1, keepdim=True)
    parts = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    r, c, u = (parts * w["world.f.cell.norm.weight"] + w["world.f.cell.norm.bias"]).chunk(3, -1)
    u = torch.sigmoid(u - 1)
    return u * torch.tanh(torch.sigmoid(r) * c) + (1 - u) * h


class Gaussian:
    """The Gaussian RSSM by hand."""

    def __init__(self, w: Weights, cell: Any, bend: Any) -> None:
        self.w, self.cell, self.bend = w, cell, bend

    def core(self, h: Tensor, z: Tensor, a: Tensor) -> Tensor:
        return self.cell(self.w, self.w.dense("world.f.read", z, a, bend=self.bend, end=False), h)

    def prior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return spread(self.w.dense("world.p_z_given_h.net.layers", h, bend=self.bend))

    def posterior(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return spread(self.w.dense("world.q_z_given_h_e.net.layers", h, e, bend=self.bend))

    def head(self, name: str, h: Tensor, z: Tensor) -> Tensor:
        return self.w.dense(f"world.p_{name}_given_h_z.layers", h, z, bend=self.bend)

    def filtered(self, data: dict[str, Tensor], drawn: Tensor) -> tuple[Tensor, Tensor, list[Any], list[Any]]:
        """h and z ``[B, T, ...]``, posteriors and priors; ``drawn`` is what the agent drew."""
        e = self.w.dense("world.enc.vectors.layers", data["x"], bend=self.bend, end=False)
        hs, zs, posts, priors = [], [], [], []
        for t in range(e.shape[1]):
            h, z = (
                before(torch.stack(past, 1) if past else torch.zeros(len(e), 1, n).double(), data["first"], t)
                for past, n in ((hs, D), (zs, Z))
            )
            hs.append(self.core(h, z, before(data["a"], data["first"], t)))
            loc, scale = self.posterior(hs[-1], e[:, t])
            noise = ((drawn[:, t] - loc) / scale).detach()
            posts.append((loc, scale))
            priors.append(self.prior(hs[-1]))
            zs.append(loc + scale * noise)
        return torch.stack(hs, 1), torch.stack(zs, 1), posts, priors

    def errors(self, data: dict[str, Tensor], h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """−log p(x_t) and −log p(r_t), ``[B, T]``."""
        return -normal(data["x"], self.head("x", h, z)).sum(-1), -normal(data["r"], self.head("r", h, z)[..., 0])


# ------------------------------------------------------------------------------------------------------------ PlaNet


@pytest.mark.parametrize("distance", [0, 3])
def test_planet_updates_as_by_hand_with_and_without_overshooting(distance: int) -> None:
    config = planet.PlaNetConfig(
        replace(SMALL, overshooting=distance, overshooting_weight=0.7), batch=3, length=5, clip=2
    )
    agent = planet.build(config, COLUMNS, NUMBERS, seed=0)
    double(agent)
    batch, hand = rows(), Weights(agent)
    data, adam = tensors(batch), Adam(hand, hand.of("world"), 1e-3, 1e-4, 2.0)
    for seed in range(STEPS):
        out = agent.updates.update(batch, seed=seed)["world"]
        model = Gaussian(hand, block_cell, torch.relu)
        h, z, posts, priors = model.filtered(data, out.samples["z"])
        image, reward = model.errors(data, h, z)
        nats = torch.stack([kl_normal(q, p) for q, p in zip(posts, priors, strict=True)], 1)
        loss = ((nats - 0.3).clamp(min=0) + image + 10 * reward).mean()
        for d in range(2, distance + 1):
            loss = loss + 0.7 / (distance - 1) * overshot(model, data, h, z, posts, d, out.samples)
        torch.testing.assert_close(out.value, loss, rtol=1e-10, atol=1e-10)
        adam.step(adam.gradients(loss))
    equal(agent, hand)


def overshot(
    world: Gaussian, data: dict[str, Tensor], h: Tensor, z: Tensor, posts: list[Any], d: int, drawn: dict[str, Tensor]
) -> Tensor:
    """mean max(0, KL(sg q_t ‖ p_d) − free): the prior d steps from the posterior at t − d, zeros before a start."""
    found = []
    for t in range(z.shape[1]):
        # From d − 1 steps back on, each step reads that before it, which a start in between replaces by zeros.
        state = (h, z)
        for k in range(1, d + 1):
            at = t - d + k
            if at < 0:
                state = None
                continue
            first = data["first"]
            if k == 1:
                old = before(h, first, at), before(z, first, at)
            elif state is None:
                old = torch.zeros_like(h[:, 0]), torch.zeros_like(z[:, 0])
            else:
                live = (~first[:, at]).double()[:, None]
                old = state[0] * live, state[1] * live
            now = world.core(*old, before(data["a"], first, at))
            if k == d:
                q, p = posts[t], world.prior(now)
                found.append((kl_normal((q[0].detach(), q[1].detach()), p) - 0.3).clamp(min=0))
            else:
                loc, scale = world.prior(now)
                noise = ((drawn[f"z_{k}"][:, at] - loc) / scale).detach()
                state = now, loc + scale * noise
    return torch.stack(found, 1).mean()


# --------------------------------------------------------------------------------------------------------- Dreamer v1


def test_dreamer_v1_updates_world_actor_and_critic_as_by_hand() -> None:
    config = dreamer_v1.DreamerV1Config(
        V1, DynamicsSettings(0.9, 0.8), batch=3, length=5, imagine=4, imag_last=3, spread=0.4, clip=1.0,
        model_lr=1e-2, actor_lr=1e-2, critic_lr=1e-2,
    )  # fmt: skip
    agent = dreamer_v1.build(config, COLUMNS, NUMBERS, seed=0)
    dreams = double(agent)
    batch, hand = rows(), Weights(agent)
    data = tensors(batch)
    model, actor, critic = (
        Adam(hand, hand.of(prefix), 1e-2, 1e-7, 1.0) for prefix in ("world", "policy", "learner.critic")
    )
    for seed in range(STEPS):
        out = agent.updates.update(batch, seed=seed)
        world = Gaussian(hand, keras_cell, elu)
        h, z, posts, priors = world.filtered(data, out["world"].samples["z"])
        image, reward = world.errors(data, h, z)
        nats = torch.stack([kl_normal(q, p) for q, p in zip(posts, priors, strict=True)], 1)
        loss = nats.mean().clamp(min=0.3) + image.mean() + reward.mean()
        states = v1_dream(world, h[:, -3:].detach().flatten(0, 1), z[:, -3:].detach().flatten(0, 1), dreams[-1])
        alive = data["alive"][:, -3:].flatten()[:, None]
        r, v = world.head("r", *states)[..., 0], value(hand, *states)[..., 0]
        returns = lambda_returns(r, torch.full_like(r, 0.9), v, 0.8)
        weight = alive * 0.9 ** torch.arange(returns.shape[1]).double()
        actor_loss = -(weight * returns).mean()
        learnt = value(hand, *(s.detach() for s in states))[:, :-1, 0]
        critic_loss = -(weight * normal(returns.detach(), learnt)).mean()
        for got, expected in zip(agent_values(agent, out), (loss, actor_loss, critic_loss), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
        found = [(adam, adam.gradients(x)) for adam, x in ((model, loss), (actor, actor_loss), (critic, critic_loss))]
        for adam, gradients in found:  # all at the same weights
            assert any(g.abs().sum() > 0 for g in gradients)
            adam.step(gradients)
    equal(agent, hand)


def agent_values(agent: ImaginationAgent, out: dict[str, Any]) -> list[Tensor]:
    return [agent.objective.value(part, out).detach() for part in ("world", "actor", "critic")]


def value(w: Weights, h: Tensor, z: Tensor, name: str = "learner.critic.layers") -> Tensor:
    return w.dense(name, h, z)


def v1_dream(world: Gaussian, h: Tensor, z: Tensor, dreamt: Any) -> tuple[Tensor, Tensor]:
    """The imagined states, without the start, under the policy of tanh of a Normal."""
    hs, zs = [], []
    for t in range(dreamt["a"].shape[1] - 1):
        head = world.w.dense("policy.net.mlp.layers", h.detach(), z.detach())
        mean, raw = head.chunk(2, -1)
        loc = 5 * torch.tanh(mean / 5)
        scale = torch.log1p((raw + math.log(math.expm1(0.4))).exp()) + 1e-4
        noise = ((torch.atanh(dreamt["a"][:, t]) - loc) / scale).detach()
        h = world.core(h, z, torch.tanh(loc + scale * noise))
        loc, scale = world.prior(h)
        z = loc + scale * ((dreamt["z"][:, t + 1] - loc) / scale).detach()
        hs.append(h)
        zs.append(z)
    return torch.stack(hs, 1), torch.stack(zs, 1)


# --------------------------------------------------------------------------------------------------------- Dreamer v2

V2 = DiscreteRSSMConfig(
    deter=D, hidden=6, groups=G, classes=K, depth=2, units=7, layers=2, balance=0.7, free_nats=0.01, divergence=0.6,
    proceed=2.0,
)  # fmt: skip


class Discrete:
    """The discrete RSSM by hand; a draw is what the agent drew, with the gradient of its probabilities."""

    def __init__(self, w: Weights) -> None:
        self.w = w

    def core(self, h: Tensor, z: Tensor, a: Tensor) -> Tensor:
        return norm_cell(self.w, self.w.dense("world.f.read", z.flatten(-2), a, end=False), h)

    def logits(self, name: str, *given: Tensor) -> Tensor:
        return self.w.dense(f"world.{name}.layers", *given).unflatten(-1, (G, K)).log_softmax(-1)

    @staticmethod
    def draw(logits: Tensor, drawn: Tensor) -> Tensor:
        probability = logits.exp()
        return drawn.detach().round() + probability - probability.detach()

    def head(self, name: str, h: Tensor, z: Tensor) -> Tensor:
        return self.w.dense(f"world.p_{name}_given_h_z.layers", h, z.flatten(-2))

    def loss(self, data: dict[str, Tensor], drawn: Tensor, discount: float) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, h and z."""
        e = self.w.dense("world.enc.vectors.layers", data["x"], end=False)
        hs, zs, dyn, rep = [], [], [], []
        for t in range(e.shape[1]):
            h, z = (
                before(torch.stack(past, 1) if past else torch.zeros(len(e), 1, *n).double(), data["first"], t)
                for past, n in ((hs, (D,)), (zs, (G, K)))
            )
            hs.append(self.core(h, z, before(data["a"], data["first"], t)))
            q, p = self.logits("q_z_given_h_e", hs[-1], e[:, t]), self.logits("p_z_given_h", hs[-1])
            dyn.append((q.exp().detach() * (q.detach() - p)).sum((-1, -2)))
            rep.append((q.exp() * (q - p.detach())).sum((-1, -2)))
            zs.append(self.draw(q, drawn[:, t]))
        h, z = torch.stack(hs, 1), torch.stack(zs, 1)
        balanced = 0.7 * torch.stack(dyn).mean().clamp(min=0.01) + 0.3 * torch.stack(rep).mean().clamp(min=0.01)
        logit = self.head("c", h, z)[..., 0]
        c = data["alive"] * discount
        going = c * torch.nn.functional.logsigmoid(logit) + (1 - c) * torch.nn.functional.logsigmoid(-logit)
        likely = normal(data["x"], self.head("x", h, z)).sum(-1) + normal(data["r"], self.head("r", h, z)[..., 0])
        return 0.6 * balanced - (likely + 2 * going).mean(), h, z


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("choice", [False, True], ids=["numbers", "choice"])
def test_dreamer_v2_updates_the_world_first_and_then_actor_and_critic_as_by_hand(choice: bool, rho: float) -> None:
    gamma, lam, eta, every, lr, decay = 0.875, 0.8, 0.02, 2, 1e-2, 1e-3
    config = dreamer_v2.DreamerV2Config(
        V2, MixedSettings(gamma, lam, rho, eta, every), batch=3, length=5, imagine=4, imag_last=3, bounded=True,
        clip=1.0, decay=decay, model_lr=lr, actor_lr=lr, critic_lr=lr,
    )  # fmt: skip
    spec = CHOICE if choice else NUMBERS
    agent = dreamer_v2.build(config, COLUMNS, spec, seed=0)
    dreams = double(agent)
    batch, hand = rows(spec), Weights(agent)
    data = tensors(batch, choice) | {"r": torch.tanh(torch.as_tensor(batch["reward"])).double()}
    slow = {name: p.detach().clone() for name, p in hand.items() if name.startswith("learner.critic")}
    model, actor, critic = (
        Adam(hand, hand.of(prefix), lr, 1e-5, 1.0, decay) for prefix in ("world", "policy", "learner.critic")
    )
    for seed in range(STEPS):
        out = agent.updates.update(batch, seed=seed)
        loss, h, z = Discrete(hand).loss(data, out["world"].samples["z"], gamma)
        torch.testing.assert_close(out["world"].value.detach(), loss.detach(), rtol=1e-9, atol=1e-9)
        model.step(model.gradients(loss))
        world = Discrete(hand)  # has moved; the dreams start from what it had inferred before
        starts = [x[:, -3:].detach().flatten(0, 1) for x in (h, z)]
        h, z, a = v2_dream(world, *starts, dreams[-1], choice)
        old = Weights.__new__(Weights)
        dict.__init__(old, slow)
        r, u = world.head("r", h, z)[..., 0], value(old, h, z.flatten(-2))[..., 0]
        c = torch.sigmoid(world.head("c", h, z)[..., 0])
        c = torch.cat((gamma * data["alive"][:, -3:].flatten()[:, None], c[:, 1:]), 1)
        returns = lambda_returns(r, c, u, lam)
        weight = torch.cat((torch.ones_like(c[:, :1]), c[:, :-1]), 1).cumprod(1).detach()
        density, entropy = policy(hand, h.detach(), z.detach(), a.detach(), choice)
        gain = rho * density[:, :-2] * (returns[:, 1:] - u[:, :-2]).detach() + (1 - rho) * returns[:, 1:]
        actor_loss = -(weight[:, :-2] * (gain + eta * entropy[:, :-2])).mean()
        learnt = value(hand, h.detach(), z.detach().flatten(-2))[:, :-1, 0]
        critic_loss = -(weight[:, :-1] * normal(returns.detach(), learnt)).mean()
        for got, expected in zip(agent_values(agent, out)[1:], (actor_loss, critic_loss), strict=True):
            torch.testing.assert_close(got, expected.detach(), rtol=1e-9, atol=1e-9)
        found = [(adam, adam.gradients(x)) for adam, x in ((actor, actor_loss), (critic, critic_loss))]
        for adam, gradients in found:
            assert any(g.abs().sum() > 0 for g in gradients)
            adam.step(gradients)
        if (seed + 1) % every == 0:
            slow = {name: hand[name].detach().clone() for name in slow}
    equal(agent, hand)
    for name, kept in slow.items():
        ours = agent.state_dict()[name.replace("learner.critic", "learner.slow_critic.net")]
        torch.testing.assert_close(ours, kept, rtol=1e-9, atol=1e-9)


def squeezed(w: Weights, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the truncated policy."""
    mean, raw = w.dense("policy.net.mlp.layers", h, z.flatten(-2)).chunk(2, -1)
    return torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + 0.1


def v2_dream(world: Discrete, h: Tensor, z: Tensor, dreamt: Any, choice: bool) -> tuple[Tensor, Tensor, Tensor]:
    """All states and actions of a dream, the start first."""
    cdf = torch.special.ndtr
    hs, zs, acts = [h], [z], []
    for t in range(dreamt["a"].shape[1]):
        given, drawn = (hs[-1].detach(), zs[-1].detach()), dreamt["a"][:, t].detach()
        if choice:
            logits = world.w.dense("policy.net.layers", given[0], given[1].flatten(-2)).log_softmax(-1)
            acts.append(Discrete.draw(logits, drawn))
        else:
            loc, scale = squeezed(world.w, *given)
            low, high = cdf((-1 - loc) / scale), cdf((1 - loc) / scale)
            u = ((cdf((drawn - loc) / scale) - low) / (high - low)).detach()
            acts.append(loc + scale * torch.special.ndtri(low + u * (high - low)))
        if t < dreamt["a"].shape[1] - 1:
            hs.append(world.core(hs[-1], zs[-1], acts[-1]))
            zs.append(Discrete.draw(world.logits("p_z_given_h", hs[-1]), dreamt["z"][:, t + 1]))
    return torch.stack(hs, 1), torch.stack(zs, 1), torch.stack(acts, 1)


def policy(w: Weights, h: Tensor, z: Tensor, a: Tensor, choice: bool) -> tuple[Tensor, Tensor]:
    """log π and its entropy at states ``[N, S]``."""
    if choice:
        logits = w.dense("policy.net.layers", h, z.flatten(-2)).log_softmax(-1)
        return (logits * a.round()).sum(-1), -(logits.exp() * logits).sum(-1)
    loc, scale = squeezed(w, h, z)
    low, high = (-1 - loc) / scale, (1 - loc) / scale
    mass = torch.special.ndtr(high) - torch.special.ndtr(low)
    phi = [normal(x, torch.zeros_like(x)).exp() for x in (low, high)]
    entropy = normal(loc, loc, scale) * -1 + 0.5 + mass.log() + (low * phi[0] - high * phi[1]) / (2 * mass)
    return (normal(a, loc, scale) - mass.log()).sum(-1), entropy.sum(-1)
