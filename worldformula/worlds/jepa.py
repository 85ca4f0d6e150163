r"""Joint-embedding world model: it predicts its own latents, and nothing that is seen (LeCun 2022, section 4.4).

    z_t = e(x_t)                               z_t [N, D]   the latent state
    \hat z_t = f(\hat z_{t-1}, a_{t-1})        the same along a rollout that begins with z_1
    \hat a_t = g(z_{t-1}, z_t)                 the action between two latents, read from the first and the step

    mean_t [ ‖\hat z_t − z_t‖²/D + α V_1[z_t] + β C[z_t] + δ ‖z_t − z_{t-1}‖²/D + ω ‖\hat a_t − a_{t-1}‖²/A ]

Where an episode begins there is no step, and only V and C count. These are variance and covariance of VICReg over the
batch at each step: without both, everything is predicted best by a constant. With inverse dynamics (ω) and similarity
over time (δ) this is PLDM (Sobal et al. 2025, arXiv:2502.14819): what varies slowly and says nothing of the action
would be enough for V and C alone. `vicreg` has neither.

Deviations           authors' code (PLDM)            here                            why
encoder              Impala, 512                     nets/pictures                   a CPU
pictures             x                               less its mean, by its deviation see below
predictor            GRU, shared layer norm          a residual perceptron           no hidden state but z
C                    divided by D(D − 1)             by D; β is smaller by D − 1     as VICReg's paper
inverse dynamics     reads z_{t-1} and z_t           z_{t-1} and z_t − z_{t-1}       see below
weights δ, ω         0.742, 1.07                     `tiny`: 20, 10                  see below; updates are hundreds
deviation over time  a further V, weight .245        none                            δ pulls the other way
several observations one                             side by side                    as the other worlds

What moves is a few pixels of a picture, and a step of it is little beside all that differs between pictures. Reading
two latents of pictures as they are, inverse dynamics learns nothing in hundreds of updates, and the position fades
from the latent while V, C and the copy ratio look well: watch the term of the action. With a small δ latents curl:
numbers that turn fast with the position count as different, and how far latents are apart says nothing of what is
farther than a third of the picture. Figures: worldformula/cards/no_collapse.toml.

`autoencoder` is what is compared with: latents from which pictures are decoded, and which predict themselves; V, C and
the terms of the action have no weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import (
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Mean,
    Normal,
    Value,
    clamp,
    log,
    norm2,
)
from worldformula.nets.observed import Between, Encoder, Residual
from worldformula.nets.parts import begun
from worldformula.nets.pictures import PictureDecoder
from worldformula.world import World
from worldformula.world.joint_embedding import acted, apart
from worldformula.world.observations import Names


@dataclass(frozen=True)
class JEPAConfig:
    """Widths and loss weights of the world model; the weights are PLDM's of two rooms."""

    latent: int = 512
    """D, the latent state z."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Channels of the convolutions, each of which halves the picture."""
    units: int = 512
    """The hidden layers of the networks of numbers."""
    deviation: float = 3.98
    """α, weight of V: what keeps each number of z apart from a constant."""
    covariance: float = 6.92 / 511
    """β, weight of C: what keeps numbers of z from saying the same."""
    similarity: float = 0.742
    """δ, weight of the squared step from one latent to the next."""
    inverse: float = 1.07
    """ω, weight of the squared error of the action."""
    reconstruction: float = 0.0
    """λ, weight of the squared error of pictures that are decoded from z, summed over pixels; 0 has no decoder."""

    def __post_init__(self) -> None:
        if min(self.latent, self.units, *self.channels, 1) < 1 or not self.channels:
            raise ConfigError(
                f"expected latent, units and channels ≥ 1, got {self.latent}, {self.units} and {self.channels}"
            )
        weights = (self.deviation, self.covariance, self.similarity, self.inverse, self.reconstruction)
        if min(weights) < 0:
            raise ConfigError(
                "expected deviation, covariance, similarity, inverse and reconstruction ≥ 0, got "
                f"{', '.join(map(str, weights))}"
            )


def paper() -> JEPAConfig:
    """PLDM's of two rooms."""
    return JEPAConfig()


def vicreg() -> JEPAConfig:
    """Variance and covariance alone."""
    return JEPAConfig(similarity=0.0, inverse=0.0)


def tiny() -> JEPAConfig:
    """For pictures of 33 pixels on one CPU core in a minute, with a step size of 3e-3."""
    return JEPAConfig(latent=32, channels=(8, 16, 32), units=128, covariance=6.92 / 31, similarity=20.0, inverse=10.0)


def autoencoder() -> JEPAConfig:
    """As `tiny`, with a decoder in the place of all that keeps latents from collapsing."""
    return replace(tiny(), deviation=0.0, covariance=0.0, similarity=0.0, inverse=0.0, reconstruction=1.0)


# ------------------------------------------------------------------------------------------------------------- networks


class Decoder(nn.Module):
    """The latent ``[N, D]`` to a picture ``[N, H, W, C]``."""

    def __init__(self, config: JEPAConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.net = PictureDecoder(config.latent, (shape[0], shape[1], shape[2]), config.channels)

    def forward(self, z: Tensor) -> Tensor:
        """``[N, D]``."""
        found: Tensor = self.net(z)
        return found.reshape(-1, *self.shape)


# -------------------------------------------------------------------------------------------------------------- formula


def build(config: JEPAConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int]) -> World:
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …"""
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    D, (pictures, numbers) = config.latent, names.sizes(observations)
    seen = ", ".join(Names.at(word) for word in names.all.values())
    acted = ", ".join(Names.at(word, "t-1") for word in widths)
    predictor = Residual(D, sum(widths.values()), config.units)
    sight = Encoder(D, config.channels, config.units, pictures, numbers, standard=True)
    embed = Deterministic(f"z_t = e({seen})", sight, shape=D)
    core = Deterministic(f"z_t = f(z_{{t-1}}, {acted})", predictor, shape=D)
    heads = _decoders(config, names, dict(zip(names.images, pictures, strict=True)))
    loss = _loss(config, embed, predictor, heads, widths)
    codes = () if config.reconstruction else ("z",)
    return World(prior=core, posterior=embed, heads=heads, loss=loss, observations=names.all, embeddings=codes)


def _decoders(config: JEPAConfig, names: Names, pictures: Mapping[str, tuple[int, ...]]) -> dict[str, Factor]:
    """p(x_t|z_t) of every picture, by the name of its observation."""
    if not config.reconstruction:
        return {}
    if not pictures:
        raise ConfigError("expected pictures where reconstruction > 0: of numbers there is no decoder here")
    return {
        key: Normal(
            f"p({Names.at(names.all[key])}|z_t)", Decoder(config, shape), shape=shape, scale=math.sqrt(0.5)
        )  # −log p is the squared error and a constant
        for key, shape in pictures.items()
    }


def _loss(
    config: JEPAConfig, embed: Factor, predictor: nn.Module, decoders: Mapping[str, Factor], widths: Mapping[str, int]
) -> Expression:
    """Prediction along rollouts from the first row of every sequence, and what keeps latents from collapsing."""
    D, given = config.latent, ", ".join(Names.at(word, "t-1") for word in widths)
    led = Deterministic(rf"y_t = f(\hat z_{{t-1}}, {given})", predictor, shape=D)
    rolled = Deterministic(r"\hat z_t = begun(y_t, z_t, t)", begun, shape=D)
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been predicted
    step = later * norm2(Value(r"\hat z_t", shape=D) - Value("z_t", shape=D)) / D
    step = apart(step, config, "z", D, later)
    inverse, step = acted(step, config, "z", widths, later, lambda size: Between(D, size, config.units))
    for decoder in decoders.values():
        step = step - config.reconstruction * log(decoder)
    return Mean("t", E(Joint.of(embed, led, rolled, *inverse), step), reset="first").mean()


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random numbers."""
    world = build(tiny(), {"image": (33, 33, 3)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 5
    batch: dict[str, Any] = {"x": torch.rand(B, T, 33, 33, 3), "a": torch.rand(B, T, 2)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="jepa",
    kind="worlds",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf; Sobal et al. 2025, arXiv:2502.14819",
    bibtex="""@article{sobal2025pldm, title={Learning from reward-free offline data: A case for planning with latent
  dynamics models}, author={Sobal, Vlad and Zhang, Wancong and Cho, Kyunghyun and Balestriero, Randall and
  Rudner, Tim G. J. and LeCun, Yann}, journal={arXiv:2502.14819}, year={2025}}""",
    presets={"paper": paper, "vicreg": vicreg, "tiny": tiny, "autoencoder": autoencoder},
    build=build,
    summary="A joint-embedding world: it predicts its own latents, which VICReg keeps apart; with PLDM's terms.",
)

if __name__ == "__main__":
    _demo()
