"""Learners of published agents as objectives of formulas, each against its update written out by hand.

The world is small; the noise of its dreams is given, so that the hand can use the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from worldformula import Deterministic, E, Expression, Mean, Normal, Value, World, log, sg, together
from worldformula.learners.imagination.actor_critic import Returns
from worldformula.training.objective import Minimises, Objective, Updates

B, T, H, X, Z, A = 3, 4, 5, 3, 2, 2
LAM, GAMMA, RATE = 0.9, 0.95, 0.05
SGD = partial(torch.optim.SGD, lr=RATE)
SCALE = 0.5  # of the policy


class Joined(nn.Module):
    """A linear map, bent, of its inputs side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.cat(inputs, -1)))


class Scalar(Joined):
    """The same with one number."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs).squeeze(-1)


class Nets(nn.Module):
    """All networks, the same for the formulas and for the hand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.prior, self.decoder = Joined(X, Z), Joined(Z + A, Z), Joined(Z, X)
        self.reward, self.policy, self.critic = Joined(Z, 1), Joined(Z, A), Scalar(Z)
        self.double()


class Parts:
    """The world of these networks in formulas, its dreams, and what all learners here share."""

    def __init__(self, nets: Nets) -> None:
        self.nets = nets
        self.prior = Normal("p(z_t|z_{t-1},a_{t-1})", nets.prior, scale=1.0, shape=Z)
        post = Normal("q(z_t|x_t)", nets.encoder, scale=1.0, shape=Z)
        image = Normal("p(x_t|z_t)", nets.decoder, scale=1.0, shape=X)
        self.reward = Normal("p(r_t|z_t)", nets.reward, scale=1.0, shape=())
        self.policy = Normal("π(a_t|z_t)", nets.policy, scale=SCALE, shape=A)
        step = E(post, -log(image) - log(self.reward) - log(self.prior))
        self.world = World(
            prior=self.prior, posterior=post, heads=[image, self.reward], loss=Mean("t", step, reset="first").mean()
        )
        self.values = Deterministic("V_t = critic(z_t)", nets.critic, shape=())
        self.returns = Deterministic("R_t = λ_return(r_{1:T}, c_{1:T}, V_{1:T})", Returns(LAM), shape=())

    def dreams(self, outs, batch, generator) -> dict[str, Tensor]:
        """From every state of the batch; with a graph where the term is attached, from starts without one."""
        start = {"z": outs["world"].samples["z"].detach().flatten(0, 1)}
        dream = self.world.imagine(start, self.policy, horizon=H, noise=noises())
        reward = self.nets.reward(dream["z"].flatten(0, 1)).reshape(dream["z"].shape[:2])
        return {"z": dream["z"], "a": dream["a"], "r": reward, "c": torch.full_like(reward, GAMMA)}

    def learn(self, order="simultaneous", attached=(), dream=None, steps=3, **players) -> Nets:
        def data_of(outs, batch, generator) -> dict[str, Tensor]:
            return {k: v for k, v in self.dreams(outs, batch, generator).items() if k in dream.program.inputs}

        objective = Objective(
            order, terms={"world": self.world.loss, "dream": dream}, data={"dream": data_of}, attached=attached,
            **players,
        )  # fmt: skip
        updates = Updates(objective)
        for seed in range(steps):
            updates.update(data(), seed=seed)
        return self.nets


def noises() -> dict[str, Tensor]:
    """Of a dream, in standard units."""
    torch.manual_seed(2)
    return {"a": torch.randn(B * T, H + 1, A).double(), "z": torch.randn(B * T, H, Z).double()}


def data() -> dict[str, Tensor]:
    torch.manual_seed(1)
    x, a, r = torch.randn(B, T, X).double(), torch.randn(B, T, A).double(), torch.randn(B, T).double()
    return {"x": x, "a": a, "r": r, "first": torch.zeros(B, T, dtype=torch.bool)}


class Hand:
    """The same in plain PyTorch. Only the noise of the posterior is asked of the formula."""

    def __init__(self, nets: Nets, noise: Callable[[int], Tensor]) -> None:
        self.nets, self.noise = nets, noise

    def world(self, seed: int) -> tuple[Tensor, Tensor]:
        """The loss, and the states [B, T, Z]."""
        n, rows = self.nets, data()
        z = n.encoder(rows["x"]) + self.noise(seed)
        before = torch.cat((torch.zeros(B, 1, Z).double(), z[:, :-1]), 1)
        acted = torch.cat((torch.zeros(B, 1, A).double(), rows["a"][:, :-1]), 1)
        half = 0.5 * torch.log(torch.tensor(2 * torch.pi).double())
        errors = [
            (rows["x"] - n.decoder(z), X),
            ((rows["r"] - n.reward(z)[..., 0])[..., None], 1),
            (z - n.prior(before, acted), Z),
        ]
        return sum((0.5 * e.square().sum(-1) + k * half).mean() for e, k in errors), z.detach().flatten(0, 1)

    def dream(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [N, H + 1, Z], actions, rewards."""
        noise, states, actions = noises(), [z], list[Tensor]()
        for t in range(H + 1):
            actions.append(self.nets.policy(states[-1]) + SCALE * noise["a"][:, t])
            if t < H:
                states.append(self.nets.prior(states[-1], actions[-1]) + noise["z"][:, t])
        z, a = torch.stack(states, 1), torch.stack(actions, 1)
        return z, a, self.nets.reward(z)[..., 0]

    @staticmethod
    def returns(reward: Tensor, value: Tensor) -> Tensor:
        found = [value[:, -1]]
        for t in reversed(range(H)):
            ahead = (1 - LAM) * value[:, t + 1] + LAM * found[0]
            found.insert(0, reward[:, t + 1] + GAMMA * ahead)
        return torch.stack(found, 1)

    def step(self, *pairs: tuple[Tensor, nn.ModuleList]) -> None:
        """Plain gradient steps of several losses, each on its own weights, all at the same ones."""
        groups = [list(nets.parameters()) for _, nets in pairs]
        found = [
            torch.autograd.grad(loss, own, retain_graph=True) for (loss, _), own in zip(pairs, groups, strict=True)
        ]
        with torch.no_grad():
            for own, gradients in zip(groups, found, strict=True):
                for p, g in zip(own, gradients, strict=True):
                    p -= RATE * g


@pytest.fixture
def both():
    nets = Nets()
    parts = Parts(nets)
    hand = Nets()
    hand.load_state_dict(nets.state_dict())
    probe = Parts(copy.deepcopy(nets))
    objective = Objective(
        terms={"world": probe.world.loss}, data={}, all=Minimises({"world": 1.0}, moves=[probe.world])
    )

    def noise(seed: int) -> Tensor:
        """Of the posterior: what the formula drew, less its mean."""
        out = objective.run(data(), seed=seed)["world"]
        return (out.samples["z"] - probe.nets.encoder(data()["x"])).detach()

    return parts, Hand(hand, noise)


def equal(parts: Parts, hand: Hand, still: tuple[str, ...] = ()) -> None:
    start = Nets()
    for (name, ours), theirs, before in zip(
        parts.nets.named_parameters(), hand.nets.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(ours, before) == (name.partition(".")[0] in still), f"{name} has moved, or should have"


def error(value: str) -> Expression:
    """½ (V − R)² at a step."""
    return 0.5 * (Value(value) - Value("R_t")) ** 2


def test_dreamer_v1_learns_through_its_dreams(both) -> None:
    """Hafner et al. 2020 (arXiv:1912.01603): max Σ V_λ by gradients through the world; min ½ (v − sg V_λ)²."""
    parts, hand = both
    seen = Deterministic("u_t = critic(k_t)", parts.nets.critic, shape=())
    kept = Deterministic("k_t = keep(z_t)", nn.Identity(), shape=Z)
    dream = together(
        actor=Mean("t", E(parts.values * parts.returns, -Value("R_t"))).mean(),
        critic=Mean("t", E(parts.values * sg(parts.returns) * sg(kept) * seen, error("u_t"))).mean(),
    )  # fmt: skip
    parts.learn(
        attached=("dream",), dream=dream,
        world=Minimises({"world": 1.0}, [parts.world], SGD), actor=Minimises({"actor": 1.0}, [parts.policy], SGD),
        critic=Minimises({"critic": 1.0}, [parts.nets.critic], SGD),
    )  # fmt: skip
    n = hand.nets
    for seed in range(3):
        loss, start = hand.world(seed)
        z, _, reward = hand.dream(start)
        returns = hand.returns(reward, n.critic(z))
        values = n.critic(z.detach())
        hand.step(
            (loss, nn.ModuleList([n.encoder, n.prior, n.decoder, n.reward])),
            (-returns.mean(), nn.ModuleList([n.policy])),
            (0.5 * (values - returns.detach()).square().mean(), nn.ModuleList([n.critic])),
        )  # fmt: skip
    equal(parts, hand)


def log_policy(net: nn.Module, z: Tensor, a: Tensor) -> Tensor:
    """log π(a|z), by its formula."""
    half = 0.5 * torch.log(torch.tensor(2 * torch.pi)) + torch.log(torch.tensor(SCALE))
    return (-0.5 * ((a - net(z)) / SCALE) ** 2 - half).sum(-1)


def test_dreamer_v2_moves_one_after_the_other_and_mixes_two_gradients(both) -> None:
    """Hafner et al. 2021 (arXiv:2010.02193): ρ of REINFORCE, 1 − ρ through the dream, returns of a slow critic."""
    parts, hand, rho, decay = *both, 0.3, 0.8
    slow = parts.values.slow(decay).rename(V="m")
    returns = Deterministic("R_t = λ_return(r_{1:T}, c_{1:T}, m_{1:T})", Returns(LAM), shape=())
    kept = Deterministic("k_t, b_t = keep(z_t, a_t)", Both(), shape=[Z, A])
    scored = log(parts.policy.rename(a="b", z="k"))
    gain = rho * scored * sg(Value("R_t") - Value("V_t")) + (1 - rho) * Value("R_t")
    dream = together(
        actor=Mean("t", E(parts.values * slow * returns * sg(kept), -gain)).mean(),
        critic=Mean("t", E(sg(kept) * slow * sg(returns) * parts.values.rename(z="k"), error("V_t"))).mean(),
    )  # fmt: skip
    parts.learn(
        "alternating", attached=("dream",), dream=dream,
        world=Minimises({"world": 1.0}, [parts.world], SGD), actor=Minimises({"actor": 1.0}, [parts.policy], SGD),
        critic=Minimises({"critic": 1.0}, [parts.nets.critic], SGD),
    )  # fmt: skip
    n, lazy = hand.nets, copy.deepcopy(hand.nets.critic)
    for seed in range(3):
        hand.step((hand.world(seed)[0], nn.ModuleList([n.encoder, n.prior, n.decoder, n.reward])))
        start = hand.world(seed)[1]  # the same noise at the new weights
        z, a, reward = hand.dream(start)
        found = hand.returns(reward, lazy(z))
        reinforce = log_policy(n.policy, z.detach(), a.detach()) * (found - n.critic(z)).detach()
        hand.step((-(rho * reinforce + (1 - rho) * found).mean(), nn.ModuleList([n.policy])))
        z, _, reward = hand.dream(start)  # of the policy that has moved
        missed = n.critic(z.detach()) - hand.returns(reward, lazy(z)).detach()
        hand.step((0.5 * missed.square().mean(), nn.ModuleList([n.critic])))
        with torch.no_grad():
            for s, w in zip(lazy.parameters(), n.critic.parameters(), strict=True):
                s.mul_(decay).add_(w, alpha=1 - decay)
    equal(parts, hand)


class Both(nn.Module):
    """What it is given."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return inputs


class Far(nn.Module):
    """What is worth having at the end of a dream [N, S], seen from each of its states."""

    def forward(self, value: Tensor) -> Tensor:
        steps = torch.arange(value.shape[1] - 1, -1, -1)
        return GAMMA**steps * value[:, -1:]


def test_a_critic_of_two_time_scales_learns_from_a_mixture_of_returns(both) -> None:
    """THICK Dreamer (Gumbsch et al. 2024, equation 10): ψ of the λ-return and 1 − ψ of a far-sighted one."""
    parts, hand, psi = *both, 0.7
    far = Deterministic("L_t = far(V_{1:T})", Far(), shape=())
    target = psi * Value("R_t") + (1 - psi) * Value("L_t")
    dream = Mean("t", E(parts.values * sg(parts.returns) * sg(far), 0.5 * (Value("V_t") - target) ** 2)).mean()
    parts.learn(
        dream=dream, world=Minimises({"world": 1.0}, [parts.world], SGD),
        critic=Minimises({"dream": 1.0}, [parts.nets.critic], SGD),
    )  # fmt: skip
    n = hand.nets
    for seed in range(3):
        loss, start = hand.world(seed)
        z, _, reward = hand.dream(start)
        value = n.critic(z.detach())
        distant = GAMMA ** torch.arange(H, -1, -1) * value[:, -1:]
        mixed = (psi * hand.returns(reward, value) + (1 - psi) * distant).detach()
        hand.step(
            (loss, nn.ModuleList([n.encoder, n.prior, n.decoder, n.reward])),
            (0.5 * (value - mixed).square().mean(), nn.ModuleList([n.critic])),
        )
    equal(parts, hand, still=("policy",))
