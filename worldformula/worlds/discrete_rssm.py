"""RSSM with categorical latents and KL balancing, the world model of Dreamer v2 (Hafner et al. 2021, arXiv:2010.02193).

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    h_t [N, D]         recurrent state, a gated cell with a layer norm
    z_t ~ q(z_t | h_t, e_t)               z_t [N, 32, 32]    one-hot groups, straight-through gradients
    z_t ~ p(z_t | h_t)                    the prior that imagines
    p(x_t | h_t, z_t), p(r_t | ...)       Normals of unit variance;  p(c_t | ...)  the continuation γ(1 − terminal)

    loss = k [ α max(f, mean_{B,T} KL(sg q ‖ p)) + (1 − α) max(f, mean_{B,T} KL(q ‖ sg p)) ]
           − mean_{B,T} [ log p(x_t) + log p(r_t) + s log p(c_t) ]

α is the balance, 0.8: the prior is drawn to the posterior faster than the posterior to the prior. f are free nats.

Deviations       paper              official code         here                 why
several images   –                  one decoder, split    one decoder each     heads by name
α = ½            –                  free nats of a step   of the mean          one rule
Gaussian latent  an ablation        ``discrete: False``   gaussian_rssm        another file
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import KL, Bernoulli, Deterministic, E, Factor, Joint, Mean, Normal, OneHot, log, maximum, sg
from worldformula.nets.plain import Core, Plain
from worldformula.world import MASK, World
from worldformula.world.observations import Names, Observed


@dataclass(frozen=True)
class DiscreteRSSMConfig:
    """Widths and loss weights of the world model; the defaults are those of the authors' code."""

    deter: int = 1024
    """The recurrent state h."""
    hidden: int = 1024
    """Hidden layers of core, prior and posterior."""
    groups: int = 32
    """Variables of the latent state z."""
    classes: int = 32
    """Classes of each."""
    depth: int = 48
    """Channels of the first stage of the images' networks."""
    units: int = 400
    """Hidden layers of the heads of numbers."""
    layers: int = 4
    """How many of them there are."""
    balance: float = 0.8
    """α, the share of the divergence that the prior learns by."""
    free_nats: float = 0.0
    """KL, averaged over batch and time, that costs nothing."""
    divergence: float = 1.0
    """Weight of the divergences."""
    reward: float = 1.0
    """Weight of −log p(r_t)."""
    proceed: float = 1.0
    """Weight of −log p(c_t), the continuation; 0 predicts none."""

    def __post_init__(self) -> None:
        widths = (self.deter, self.hidden, self.groups, self.classes, self.depth, self.units, self.layers)
        if min(widths) < 1:
            raise ConfigError(f"expected widths, groups, classes and layers ≥ 1, got {', '.join(map(str, widths))}")
        if not 0 <= self.balance <= 1 or min(self.free_nats, self.divergence, self.reward, self.proceed) < 0:
            raise ConfigError(
                "expected balance in [0, 1], and free_nats, divergence, reward and proceed ≥ 0, got "
                f"{self.balance}, {self.free_nats}, {self.divergence}, {self.reward} and {self.proceed}"
            )

    @property
    def stoch(self) -> int:
        """Width of the flattened latent state z."""
        return self.groups * self.classes

    @property
    def seen_layers(self) -> int:
        """Hidden layers of networks of observed numbers."""
        return self.layers


def paper() -> DiscreteRSSMConfig:
    """The paper's for Atari."""
    return DiscreteRSSMConfig(deter=600, hidden=600, divergence=0.1, proceed=5.0)


def official() -> DiscreteRSSMConfig:
    """The default of the authors' code."""
    return DiscreteRSSMConfig()


def control() -> DiscreteRSSMConfig:
    """The authors' for control from pixels."""
    return DiscreteRSSMConfig(deter=200, hidden=200, free_nats=1.0, proceed=0.0)


def tiny() -> DiscreteRSSMConfig:
    """For 32-pixel images on two CPU cores."""
    return DiscreteRSSMConfig(
        deter=96, hidden=96, groups=16, classes=8, depth=8, units=96, layers=2, free_nats=0.1, proceed=0.0
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- formula


def build(
    config: DiscreteRSSMConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int],
    masks: Mapping[str, str] | None = None,
) -> World:  # fmt: skip
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …

    Observations that are one-hots are numbers like others, with unit variance. ``masks``: of which actions it predicts
    what is allowed, and the variable of each mask, ``{"a": "M"}``.
    """
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    D, S, latent = config.deter, config.stoch, (config.groups, config.classes)
    seen = Observed.of(
        config, observations, names, given="h_t,z_t", inputs=D + S, images=nn.ELU, vectors=nn.ELU
    )  # fmt: skip
    acted = ", ".join(Names.at(word, "t-1") for word in widths)
    gru = Core(D, S, sum(widths.values()), config.hidden, "norm")
    core = Deterministic(f"h_t = f(h_{{t-1}}, z_{{t-1}}, {acted})", gru, shape=D)
    prior = OneHot("p(z_t|h_t)", Plain(D, S, config.hidden, 1), shape=latent)
    post = OneHot("q(z_t|h_t,e_t)", Plain(D + seen.width, S, config.hidden, 1), shape=latent)

    def head(width: int = 1) -> Plain:
        return Plain(D + S, width, config.units, config.layers)

    reward = Normal("p(r_t|h_t,z_t)", head(), shape=(), scale=1.0)
    allowed = {
        action: Bernoulli(f"p({Names.at(word)}|h_t,z_t)", head(widths[action]), shape=widths[action])
        for action, word in (masks or {}).items()
    }
    heads: list[Factor] = [*seen.heads, reward, *allowed.values()]
    told = [*map(log, seen.scored), log(reward) if config.reward == 1 else config.reward * log(reward)]
    error = -sum((*told[1:], *map(log, allowed.values())), told[0])
    if config.proceed:
        heads.append(Bernoulli("p(c_t|h_t,z_t)", head(), shape=()))
        error = error - (log(heads[-1]) if config.proceed == 1 else config.proceed * log(heads[-1]))
    draws = Joint.of(seen.embed, core, post)
    dyn, rep = (
        maximum(Mean("t", E(draws, kl, samples=1), reset="first").mean(), config.free_nats)
        for kl in (KL(sg(post), prior), KL(post, sg(prior)))
    )
    balanced = config.balance * dyn + round(1 - config.balance, 12) * rep
    weighed = balanced if config.divergence == 1 else config.divergence * balanced
    loss = weighed + Mean("t", E(draws, error, samples=1), reset="first").mean()
    roles = {"reward": "r"} | ({"continue": "c"} if config.proceed else {})
    return World(
        prior=core * prior, posterior=draws, heads=heads, loss=loss,
        roles=roles | {MASK + action: f.variable.key for action, f in allowed.items()}, observations=names.all,
    )  # fmt: skip


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
    name="discrete_rssm",
    kind="worlds",
    paper="Hafner, Lillicrap, Norouzi & Ba 2021, ICLR; arXiv:2010.02193",
    bibtex="""@inproceedings{hafner2021dreamerv2, title={Mastering {Atari} with discrete world models},
  author={Hafner, Danijar and Lillicrap, Timothy and Norouzi, Mohammad and Ba, Jimmy}, booktitle={ICLR},
  year={2021}}""",
    presets={"paper": paper, "official": official, "control": control, "tiny": tiny},
    build=build,
    summary="Recurrent state-space model with categorical latents and KL balancing, the world model of Dreamer v2.",
)

if __name__ == "__main__":
    _demo()
