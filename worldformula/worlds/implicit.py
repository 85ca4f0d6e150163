r"""The implicit world model of TD-MPC2: it predicts its own latents and rewards, and nothing that is seen.

    z_t = e(x_t)                              z_t [N, 512]    latent state, 64 points on simplices of 8 (SimNorm)
    \hat z_t = d(\hat z_{t-1}, a_{t-1})       the same along a rollout that begins with z_1
    l_t = R(\hat z_{t-1}, a_{t-1})            l_t [N, 101]    logits of the reward that is arrived with
    s_t = symlog(r_t),  p(s_t|l_t)            two-hot on a linear grid from −10 to 10;  r_t = symexp(Σ_k p_k b_k)

    mean_{t = 2 … H+1} ρ^{t−2} ( 20 ‖\hat z_t − sg z_t‖²/512 − 0.1 log p(s_t|l_t) )       [ − log p(c_t|\hat z_t) ]

A rollout begins anew where an episode does. Nothing is drawn: what follows from a state is one state.

Deviations           authors' code                   here                            why
sequences            within one episode              may cross an end: a new         as the replay is
                                                     rollout begins there
pictures             7, 5, 3, 3 kernels, 3 frames,   nets/strided, no shift; frames  one encoder of pictures for all
                     random shift of 3 pixels        by ``env.stack``                worlds
several observations one                             side by side                    as the other worlds

Hansen, Su & Wang 2024 (arXiv:2310.16828).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import (
    Bernoulli,
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Mean,
    TwoHot,
    Value,
    clamp,
    log,
    norm2,
    sg,
)
from worldformula.nets.normed import Normed, Regressed, symlog
from worldformula.nets.parts import begun
from worldformula.nets.strided import StridedEncoder
from worldformula.world import World
from worldformula.world.observations import Names, square


@dataclass(frozen=True)
class ImplicitConfig:
    """Widths and loss weights of the world model; the defaults are those of 5M parameters."""

    latent: int = 512
    """The latent state z."""
    simplex: int = 8
    """Numbers of z that sum to 1."""
    encoder: int = 256
    """Hidden layers of the encoder."""
    encoder_layers: int = 1
    """How many of them there are."""
    depth: int = 32
    """Channels of the first stage of pictures."""
    units: int = 512
    """The two hidden layers of dynamics and reward."""
    bins: int = 101
    """Bins of the reward."""
    reach: float = 10.0
    """They stand between −reach and reach, of the symlog."""
    rho: float = 0.5
    """ρ, what a step later weighs."""
    consistency: float = 20.0
    """Weight of the squared distance to the encoded latent."""
    reward: float = 0.1
    """Weight of −log p(s_t|l_t)."""
    episodic: bool = False
    """Whether it predicts ends: −log p(c_t|z_t), with weight 1."""

    def __post_init__(self) -> None:
        widths = (self.latent, self.simplex, self.encoder, self.depth, self.units)
        if min(widths) < 1 or self.encoder_layers < 0 or self.latent % self.simplex:
            raise ConfigError(
                "expected latent, simplex, encoder, depth and units ≥ 1, encoder_layers ≥ 0 and a latent of "
                f"whole simplices, got {', '.join(map(str, widths))} and {self.encoder_layers}"
            )
        if self.bins < 2 or self.reach <= 0 or not 0 < self.rho <= 1 or min(self.consistency, self.reward) <= 0:
            raise ConfigError(
                "expected bins ≥ 2, reach > 0, rho in (0, 1] and weights > 0, got "
                f"{self.bins}, {self.reach}, {self.rho}, {self.consistency} and {self.reward}"
            )


def paper() -> ImplicitConfig:
    """The paper's default, of the size that it calls 5M."""
    return ImplicitConfig()


def size1m() -> ImplicitConfig:
    """The authors' 1M."""
    return ImplicitConfig(latent=128, units=384)


def tiny() -> ImplicitConfig:
    """For numbers on one CPU core in minutes."""
    return ImplicitConfig(latent=64, encoder=64, depth=8, units=64, bins=51)


# ------------------------------------------------------------------------------------------------------------- networks


class Encoder(nn.Module):
    """All observations of a step to the latent ``[N, latent]``: pictures first, their features beside the numbers."""

    def __init__(self, config: ImplicitConfig, pictures: Mapping[str, tuple[int, ...]], numbers: int) -> None:
        super().__init__()
        self.count = len(pictures)
        channels = sum(shape[-1] for shape in pictures.values())
        self.sight = StridedEncoder(square(pictures), channels, config.depth) if pictures else None
        inputs, hidden = (self.sight.width if self.sight else 0) + numbers, (config.encoder,) * config.encoder_layers
        self.net = Normed(inputs, config.latent, hidden, simplices=config.simplex)

    def forward(self, *observations: Tensor) -> Tensor:
        """Images ``[N, H, W, C]``, then vectors ``[N, n]``."""
        seen = [self.sight(*observations[: self.count])] if self.sight is not None else []
        found: Tensor = self.net(*seen, *observations[self.count :])
        return found


# -------------------------------------------------------------------------------------------------------------- formula


def build(
    config: ImplicitConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int]
) -> World:
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …"""
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    L, hidden, moved = config.latent, (config.units,) * 2, sum(widths.values())
    pictures = {key: tuple(observations[key]) for key in names.images}
    numbers = sum(math.prod(observations[key]) for key in names.vectors)
    seen = ", ".join(Names.at(word) for word in names.all.values())
    acted = ", ".join(Names.at(word, "t-1") for word in widths)
    dynamics = Normed(L + moved, L, hidden, simplices=config.simplex)
    rewarding = Normed(L + moved, config.bins, hidden, silent=True)

    embed = Deterministic(f"z_t = e({seen})", Encoder(config, pictures, numbers), shape=L)
    core = Deterministic(f"z_t = d(z_{{t-1}}, {acted})", dynamics, shape=L)
    logits = Deterministic(f"l_t = R(z_{{t-1}}, {acted})", rewarding, shape=config.bins)
    reward = Deterministic("r_t = symexp(l_t)", Regressed(config.bins, config.reach), shape=())
    heads: list[Factor] = [reward]
    if config.episodic:
        heads.append(Bernoulli("p(c_t|z_t)", Normed(L, 1, hidden), shape=()))
    roles = {"reward": "r"} | ({"continue": "c"} if config.episodic else {})
    loss = _loss(config, embed, logits, dynamics, acted, heads[1:])
    return World(
        prior=core * logits, posterior=embed * logits, heads=heads, loss=loss, roles=roles, observations=names.all
    )


def _loss(
    config: ImplicitConfig, embed: Factor, logits: Factor, dynamics: nn.Module, acted: str, ends: list[Factor]
) -> Expression:
    """Consistency, reward and ends along rollouts from the first row of every sequence."""
    L = config.latent
    led = Deterministic(rf"y_t = d(\hat z_{{t-1}}, {acted})", dynamics, shape=L)
    rolled = Deterministic(r"\hat z_t = begun(y_t, z_t, t)", begun, shape=L)
    squashed = Deterministic("s_t = symlog(r_t)", symlog, shape=())
    regressed = TwoHot(
        "p(s_t|l_t)", nn.Identity(), bins=config.bins, low=-config.reach, high=config.reach, spacing="linear"
    )
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been predicted
    far = config.consistency * norm2(Value(r"\hat z_t", shape=L) - sg(Value("z_t", shape=L))) / L
    step = later * config.rho ** (Value("t") - 2) * (far - config.reward * log(regressed))
    for end in ends:
        step = step - later * log(end.rename(z=r"\hat z"))
    draws = Joint.of(embed, led, rolled, logits.rename(z=r"\hat z"), squashed)
    return Mean("t", E(draws, step), reset="first", burn_in=1).mean()


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random numbers."""
    world = build(tiny(), {"body": (5,)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 4
    batch: dict[str, Any] = {"x": torch.rand(B, T, 5), "a": torch.rand(B, T, 2), "r": torch.rand(B, T)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="implicit",
    kind="worlds",
    paper="Hansen, Su & Wang 2024, ICLR; arXiv:2310.16828",
    bibtex="""@inproceedings{hansen2024tdmpc2, title={{TD-MPC2}: Scalable, robust world models for continuous control},
  author={Hansen, Nicklas and Su, Hao and Wang, Xiaolong}, booktitle={ICLR}, year={2024}}""",
    presets={"paper": paper, "official": paper, "size1m": size1m, "tiny": tiny},
    build=build,
    summary="Latents on simplices that predict themselves and rewards, nothing that is seen: TD-MPC2's world model.",
)

if __name__ == "__main__":
    _demo()
