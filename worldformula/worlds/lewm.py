r"""LeWorldModel: latents that predict the next one, and are kept from collapsing by SIGReg alone (arXiv:2603.19312).

    z_t = e(x_t)                                         z_t [N, D]   the latent state
    \hat z_t = z_{t-1} + f(z_{t-3:t-1}, a_{t-3:t-1})     what the last three latents and actions lead to

    mean_t [ ‖\hat z_t − z_t‖²/D + λ S[z_t] ]            S: SIGReg of the batch at each step

Two terms, one weight: no stopped gradient, no slow copy, no action that is read back. Nothing but S forbids latents
that tell of what stands still alone, as VICReg does not (worldformula/cards/no_collapse).

Deviations           authors' code                   here                            why
encoder              ViT-tiny, its token → MLP       nets/pictures, `paper` too      a CPU
                     with a batch norm               no batch norm                   a row's latent is its own
pictures             as they are                     less their mean, by their       see worlds/jepa
                                                     deviation
predictor            attention, actions by AdaLN     a perceptron of all three       its depth is not tied to three
\hat z_t             what the network says           added to z_{t-1}                begins as a copy, learns sooner
S                    of 1024 directions, times N     without N; `tiny` of 32          a weight for any batch
weight of S          λ = 0.09 at a batch of 128      0.09 · 128                      the same at that batch
frames               every fifth                     every one                       the environment decides
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, E, Mean, SIGReg, Value, clamp, norm2
from worldformula.nets.observed import Encoder
from worldformula.nets.window import WindowMLP
from worldformula.world import World
from worldformula.world.observations import Names

HISTORY = 3


@dataclass(frozen=True)
class LeWMConfig:
    """Widths and the weight of the world model."""

    latent: int = 192
    """D, the latent state z."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Channels of the convolutions, each of which halves the picture."""
    units: int = 512
    """The hidden layers of the networks of numbers."""
    layers: int = 6
    """Hidden layers of the predictor."""
    normality: float = 0.09 * 128
    """λ N, weight of S without its factor N."""
    directions: int = 1024
    """M, along which S is taken."""

    def __post_init__(self) -> None:
        sizes = (self.latent, self.units, self.layers, self.directions, *self.channels)
        if min(sizes) < 1 or not self.channels or self.normality < 0:
            raise ConfigError(f"expected sizes ≥ 1, some channels and normality ≥ 0, got {self}")


def paper() -> LeWMConfig:
    """The authors' latent, history and weight, with other networks."""
    return LeWMConfig()


def tiny() -> LeWMConfig:
    """For pictures of 33 pixels on one CPU core in minutes, with a step size of 3e-3."""
    return LeWMConfig(32, (8, 16, 32), units=128, layers=2, directions=32)


# ------------------------------------------------------------------------------------------------------------- networks


class Plus(nn.Module):
    """A latent and the step from it: ``[N, D]``."""

    def forward(self, step: Tensor, z: Tensor) -> Tensor:
        """``[N, D]`` twice."""
        return z + step


# -------------------------------------------------------------------------------------------------------------- formula


def build(config: LeWMConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int]) -> World:
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …"""
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    D, (pictures, numbers) = config.latent, names.sizes(observations)
    past = ", ".join(Names.at(word, f"t-{HISTORY}:t-1") for word in ("z", *widths))
    network = WindowMLP(D + sum(widths.values()), D, HISTORY, config.units, config.layers)
    nn.init.zeros_(network.head.weight)  # at the start nothing moves
    seen = ", ".join(Names.at(word) for word in names.all.values())
    sight = Encoder(D, config.channels, config.units, pictures, numbers, standard=True)
    embed = Deterministic(f"z_t = e({seen})", sight, shape=D)
    core = Deterministic(f"h_t = f({past})", network, shape=D)
    ahead = Deterministic("z_t = plus(h_t, z_{t-1})", Plus(), shape=D)
    led = Deterministic(r"\hat z_t = plus(h_t, z_{t-1})", Plus(), shape=D)
    z = Value("z_t", shape=D)
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been predicted
    step = later * norm2(Value(r"\hat z_t", shape=D) - z) / D
    if config.normality:
        step = step + config.normality * SIGReg(z, directions=config.directions, scaled=False, by_step=True)
    loss = Mean("t", E(embed * core * led, step), reset="first").mean()
    return World(
        prior=core * ahead, posterior=core * embed, heads=[], loss=loss, observations=names.all, embeddings=["z"]
    )


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
    name="lewm",
    kind="worlds",
    paper="LeWorldModel 2026, arXiv:2603.19312; Balestriero & LeCun 2025, arXiv:2511.08544",
    bibtex="""@article{balestriero2025lejepa, title={LeJEPA: Provable and scalable self-supervised learning without the
  heuristics}, author={Balestriero, Randall and LeCun, Yann}, journal={arXiv:2511.08544}, year={2025}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="A joint-embedding world from two terms: the next latent, and how normal latents are (SIGReg).",
)

if __name__ == "__main__":
    _demo()
