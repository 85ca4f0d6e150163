"""RSSM with Gaussian latents, the world model of PlaNet and of Dreamer v1 (Hafner et al. 2019, arXiv:1811.04551).

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    h_t [N, 200]    recurrent state     authors' code: belief, deter
    z_t ~ q(z_t | h_t, e_t)               z_t [N, 30]     what it saw         authors' code: sample, stoch
    z_t ~ p(z_t | h_t)                    the prior that imagines             deviations softplus(·) + 0.1
    p(x_t | h_t, z_t), p(r_t | ...)       observation and reward, Normals of unit variance

    PlaNet        mean_{B,T} [ max(0, KL(q ‖ p) − 3) − log p(x_t) − 10 log p(r_t) ]
    Dreamer v1    max(3, mean_{B,T} KL(q ‖ p)) − mean_{B,T} [ log p(x_t) + log p(r_t) ]
    overshooting  + w mean_{2 ≤ d ≤ D} mean_{B,T} max(0, KL(sg q ‖ p_d) − 3),  p_d: the prior, d steps unseen

Free nats of a step hold for each step by itself; those of the mean leave it to the world where to spend them. PlaNet's
ablations: ``state="ssm"`` has no recurrent state, h_t = f(z_{t-1}, a_{t-1}) and p(x_t|z_t); ``"deterministic"`` draws
nothing.

Deviations           paper               official code             here                     why
colours              5 bits, noise       the same                  the same; v1 8 bits      as each of them
overshooting         D to 50             off by default            off; first steps: from   defined for every row
                                                                   zeros, and after resets
deterministic        a GRU alone         z = mean, no divergence   z = mean, KL of unit     the prior would learn
                                                                   variances                nothing
vectors              none                none                      dense, unit variance     the same agents on sensors
several images       none                none                      one decoder each         heads by name
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Mean,
    Normal,
    log,
    maximum,
    sg,
)
from worldformula.nets.loc_scale import LocScale
from worldformula.nets.plain import Cell, Core, Plain
from worldformula.world import World
from worldformula.world.observations import Names, Observed

FLOOR = 0.1  # of the deviations of prior and posterior


@dataclass(frozen=True)
class GaussianRSSMConfig:
    """Widths and loss weights of the world model; the defaults are PlaNet's."""

    deter: int = 200
    """The recurrent state h."""
    stoch: int = 30
    """The latent state z."""
    hidden: int = 200
    """Hidden layers of core, prior and posterior."""
    depth: int = 32
    """Channels of the first stage of the images' networks."""
    units: int = 300
    """Hidden layers of the heads of numbers."""
    reward_layers: int = 3
    """Hidden layers of the reward."""
    seen_layers: int = 3
    """Hidden layers of networks of observed numbers."""
    activation: Literal["relu", "elu"] = "relu"
    """Of everything but images, which have relu."""
    cell: Cell = "block"
    """The recurrent cell: block, PlaNet's; keras, Dreamer v1's."""
    state: Literal["rssm", "ssm", "deterministic"] = "rssm"
    """What a state is: the RSSM, or one of PlaNet's ablations."""
    bits: int = 5
    """Bits of a colour, with noise of one step of them; 0 reads pictures as they are."""
    free_nats: float = 3.0
    """KL that costs nothing."""
    free: Literal["step", "mean"] = "step"
    """Whether free nats are those of every step (PlaNet), or of the mean over batch and time (Dreamer v1)."""
    reward: float = 10.0
    """Weight of −log p(r_t)."""
    proceed: float = 0.0
    """Weight of −log p(c_t), the continuation; 0 predicts none."""
    overshooting: int = 0
    """D, the steps that the prior is rolled on unseen; 0 or 1 is none."""
    overshooting_weight: float = 1.0
    """Weight of their divergences, against the posterior at the same step."""

    def __post_init__(self) -> None:
        widths = (self.deter, self.stoch, self.hidden, self.depth, self.units)
        if min(widths) < 1 or min(self.reward_layers, self.seen_layers) < 1:
            raise ConfigError(
                "expected deter, stoch, hidden, depth, units and layers ≥ 1, got "
                f"{', '.join(map(str, widths))}, {self.reward_layers} and {self.seen_layers}"
            )
        if min(self.free_nats, self.reward, self.proceed, self.overshooting, self.overshooting_weight) < 0:
            raise ConfigError("expected free_nats, reward, proceed, overshooting and its weight ≥ 0")
        words = {"state": ("rssm", "ssm", "deterministic"), "free": ("step", "mean"), "activation": ("relu", "elu")}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"expected {name} of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.bits <= 8:
            raise ConfigError(f"expected bits between 0 and 8, got {self.bits}")
        if self.overshooting > 1 and (self.state, self.free) != ("rssm", "step"):
            raise ConfigError(
                f"overshooting={self.overshooting} rolls the prior of an RSSM, with free nats of a step; got "
                f"state={self.state!r} and free={self.free!r}"
            )


def paper() -> GaussianRSSMConfig:
    """PlaNet's, as its code has it by default: without overshooting."""
    return GaussianRSSMConfig()


def overshooting() -> GaussianRSSMConfig:
    """PlaNet's with latent overshooting, D = 50."""
    return GaussianRSSMConfig(overshooting=50)


def dreamer() -> GaussianRSSMConfig:
    """Dreamer v1's (arXiv:1912.01603)."""
    return GaussianRSSMConfig(
        units=400, reward_layers=2, activation="elu", cell="keras", bits=0, free="mean", reward=1.0
    )  # fmt: skip


def tiny() -> GaussianRSSMConfig:
    """For 32-pixel images on two CPU cores."""
    return GaussianRSSMConfig(deter=96, stoch=16, hidden=96, depth=8, units=96, reward_layers=2, free_nats=1.0)


# ------------------------------------------------------------------------------------------------------------- networks


def gaussian(inputs: int, config: GaussianRSSMConfig) -> LocScale:
    """The network of prior and posterior: one hidden layer, mean and softplus(·) + 0.1."""
    return LocScale(Plain(inputs, 2 * config.stoch, config.hidden, 1, ACTIVATIONS[config.activation]), floor=FLOOR)


class Middle(nn.Module):
    """The mean of a network of mean and deviation."""

    def __init__(self, net: LocScale) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the network reads."""
        found: torch.Tensor = self.net(*inputs)["loc"]
        return found


class Believed(nn.Module):
    """The prior's mean and deviation side by side, ``[N, 2 stoch]``: the belief of a model without recurrent state."""

    def __init__(self, net: LocScale) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """z_{t-1} and the actions."""
        return torch.cat(tuple(self.net(*inputs).values()), -1)


class Apart(nn.Module):
    """Such a belief as mean and deviation again."""

    def forward(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
        """``[N, 2 stoch]``."""
        loc, scale = h.chunk(2, -1)
        return {"loc": loc, "scale": scale}


ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU}


# -------------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True)
class _States:
    """What leads from a state to the next: prior, posterior, what of them the loss reads, and what heads read."""

    core: Factor
    prior: Factor
    post: Factor
    further: Joint
    divergence: Expression
    given: str
    features: int


def _states(config: GaussianRSSMConfig, acted: str, actions: int, seen: int) -> _States:
    """RSSM, or one of its ablations; ``seen`` is the width of e_t."""
    Z, D = config.stoch, config.deter
    if config.state == "ssm":
        core: Factor = Deterministic(
            f"h_t = f(z_{{t-1}}, {acted})", Believed(gaussian(Z + actions, config)), shape=2 * Z
        )
        prior: Factor = Normal("p(z_t|h_t)", Apart(), shape=Z)
        post: Factor = Normal("q(z_t|h_t,e_t)", gaussian(2 * Z + seen, config), shape=Z)
        return _States(core, prior, post, Joint(), KL(post, prior), "z_t", Z)
    act = ACTIVATIONS[config.activation]
    core = Deterministic(
        f"h_t = f(h_{{t-1}}, z_{{t-1}}, {acted})", Core(D, Z, actions, config.hidden, config.cell, act), shape=D
    )
    before, after = gaussian(D, config), gaussian(D + seen, config)
    if config.state == "rssm":
        prior, post = Normal("p(z_t|h_t)", before, shape=Z), Normal("q(z_t|h_t,e_t)", after, shape=Z)
        return _States(core, prior, post, Joint(), KL(post, prior), "h_t,z_t", D + Z)
    prior = Deterministic("z_t = p(h_t)", Middle(before), shape=Z)
    post = Deterministic("z_t = q(h_t, e_t)", Middle(after), shape=Z)
    means = [Normal(f"{name}(\\hat z_t|{mean}_t)", nn.Identity(), shape=Z, scale=1.0) for name, mean in ("qz", "pm")]
    return _States(core, prior, post, Joint() * prior.rename(z="m"), KL(*means), "h_t,z_t", D + Z)


def overshot(config: GaussianRSSMConfig, core: Factor, prior: Factor, post: Factor) -> tuple[Joint, list[Expression]]:
    """The prior rolled on for 2 to D steps from the posterior: what is drawn, and KL(sg q ‖ p_d) at each distance."""
    draws, found = Joint() * prior.rename(z="z_1"), list[Expression]()
    for d in range(2, config.overshooting + 1):
        h, z, h_prev, z_prev = f"h_{d}", f"z_{d}", "h" if d == 2 else f"h_{d - 1}", f"z_{d - 1}"
        draws = draws * core.rename(h=h, h_prev=h_prev, z_prev=z_prev)
        found.append(KL(sg(post), prior.rename(h=h)))
        if d < config.overshooting:
            draws = draws * prior.rename(h=h, z=z)
    return draws, found


def build(
    config: GaussianRSSMConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int]
) -> World:
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …

    Observations that are one-hots are numbers like others, with unit variance.
    """
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    act, inputs = ACTIVATIONS[config.activation], config.stoch + (0 if config.state == "ssm" else config.deter)
    seen = Observed.of(
        config, observations, names, given="z_t" if config.state == "ssm" else "h_t,z_t", inputs=inputs,
        images=nn.ReLU, vectors=act, bits=config.bits,
    )  # fmt: skip
    acted = ", ".join(Names.at(word, "t-1") for word in widths)
    own = _states(config, acted, sum(widths.values()), seen.width)
    head = partial(Plain, own.features, 1, config.units, activation=act)
    reward = Normal(f"p(r_t|{own.given})", head(layers=config.reward_layers), shape=(), scale=1.0)
    heads: list[Factor] = [*seen.heads, reward]
    error = -sum((log(f) for f in seen.scored[1:]), log(seen.scored[0]))
    error = error - (log(reward) if config.reward == 1 else config.reward * log(reward))
    if config.proceed:
        heads.append(Bernoulli(f"p(c_t|{own.given})", head(layers=3), shape=()))
        error = error - (log(heads[-1]) if config.proceed == 1 else config.proceed * log(heads[-1]))
    filtering = Joint.of(*seen.before, seen.embed, own.core, own.post)
    roles = {"reward": "r"} | ({"continue": "c"} if config.proceed else {})
    return World(
        prior=own.core * own.prior, posterior=filtering, heads=heads, loss=_loss(config, own, filtering, error),
        roles=roles, observations=names.all,
    )  # fmt: skip


def _loss(config: GaussianRSSMConfig, own: _States, filtering: Joint, error: Expression) -> Expression:
    """Divergence and error, with free nats of a step or of the mean, and what overshooting adds."""
    draws = filtering * own.further
    if config.free == "mean":
        nats = Mean("t", E(draws, own.divergence, samples=1), reset="first").mean()
        return maximum(nats, config.free_nats) + Mean("t", E(draws, error, samples=1), reset="first").mean()
    step = maximum(own.divergence - config.free_nats, 0) + error
    if config.overshooting > 1:
        further, found = overshot(config, own.core, own.prior, own.post)
        held = [maximum(divergence - config.free_nats, 0) for divergence in found]
        draws = draws * further
        step = step + config.overshooting_weight / len(held) * sum(held[1:], held[0])
    return Mean("t", E(draws, step), reset="first").mean()


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random images."""
    world = build(tiny(), {"image": (32, 32, 3)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 8
    batch: dict[str, Any] = {"x": torch.rand(B, T, 32, 32, 3), "a": torch.rand(B, T, 2), "r": torch.rand(B, T)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="gaussian_rssm",
    kind="worlds",
    paper="Hafner, Lillicrap, Fischer, Villegas, Ha, Lee & Davidson 2019, ICML; arXiv:1811.04551",
    bibtex="""@inproceedings{hafner2019planet, title={Learning latent dynamics for planning from pixels},
  author={Hafner, Danijar and Lillicrap, Timothy and Fischer, Ian and Villegas, Ruben and Ha, David and Lee, Honglak
  and Davidson, James}, booktitle={ICML}, year={2019}}""",
    presets={"paper": paper, "overshooting": overshooting, "dreamer": dreamer, "tiny": tiny},
    build=build,
    summary="Recurrent state-space model with Gaussian latents, the world model of PlaNet and of Dreamer v1.",
)

if __name__ == "__main__":
    _demo()
