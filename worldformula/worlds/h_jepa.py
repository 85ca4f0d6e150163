r"""H-JEPA: joint-embedding worlds on top of one another, with longer steps and less detail (LeCun 2022, section 4.6).

    z_t = e(x_t),   z_{ℓ,t} = e_ℓ(z_{ℓ−1,t})                         latents; an upper one has fewer numbers
    u_{ℓ,t} = c_ℓ(u_{ℓ−1,t−(k−1)S'}, …, u_{ℓ−1,t−S'}, u_{ℓ−1,t})     the macro-action of k below that led here
    \hat z_{ℓ,t} = f_ℓ(\hat z_{ℓ,t−S}, u_{ℓ,t})                      S = k S' steps at once, S' is S below

    mean_t Σ_ℓ [ ‖\hat z_{ℓ,t} − z_{ℓ,t}‖²/D + α V_1[z_ℓ] + β C[z_ℓ] + λ S[z_ℓ] + δ_ℓ ‖z_{ℓ,t} − z_{ℓ,t−S}‖²/D ]

and at the lowest level, whose u_t is a_{t−1}, inverse dynamics; one level is `jepa`. Rollouts of a level run side by
side, one from each of a window's first S steps, before which nothing has been predicted. Each level imagines alone,
``world.levels["2"]``, with the macro-action u_2 as its action; `worldformula.planners.hierarchy` plans with all.

`hwm` (HWM, 2026, arXiv:2604.03208): all levels have the lowest one's latent, which learns nothing from those above.

Deviations        authors' code (H-JEPA)         here                            why
encoders          ViT-tiny; 2 layers above       nets/observed; one hidden       a CPU
macro-actions     a sequence encoder, 4 numbers  a perceptron of the chunk,      a chunk has a fixed length; bounded,
                                                 in (−1, 1)                      so that a search knows where to look
predictor         attention over 3 latents       a residual perceptron           as `jepa`
windows           every k-th latent              every step begins one           more to learn from the same data
regulariser       SIGReg, .18 with its N         `paper` the same at N = 128;    as `jepa`
                                                 `tiny` VICReg and similarity
HWM's level 2     10 steps, 8 numbers            `hwm` the same                  –
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, E, Expression, Factor, Joint, Mean, SIGReg, Value, clamp, norm2
from worldformula.nets.observed import Between, Encoder, Residual
from worldformula.nets.parts import begun
from worldformula.nets.perceptron import Perceptron
from worldformula.world import PriorDynamics, World
from worldformula.world.joint_embedding import acted, apart
from worldformula.world.observations import Names


@dataclass(frozen=True)
class HJEPAConfig:
    """Levels, widths and loss weights of the world model."""

    levels: int = 2
    """N; one is `jepa`."""
    stride: int = 4
    """k, steps of a level for one of the next."""
    latent: int = 32
    """D of the lowest level."""
    upper: int = 8
    """D of the levels above."""
    macro: int = 2
    """Numbers of a macro-action."""
    channels: tuple[int, ...] = (8, 16, 32)
    """Channels of the convolutions, each of which halves the picture."""
    units: int = 128
    """The hidden layers of the networks of numbers."""
    deviation: float = 3.98
    """α, weight of V: what keeps each number of a latent apart from a constant."""
    covariance: float = 6.92 / 31
    """β, weight of C: what keeps numbers of a latent from saying the same."""
    normality: float = 0.0
    """λ, weight of SIGReg without its factor N, at each level."""
    directions: int = 32
    """Along which SIGReg is taken."""
    similarity: float = 20.0
    """δ of the lowest level, weight of the squared step from one latent to the next."""
    slowness: float = 20.0
    """δ of the levels above, whose steps are longer."""
    inverse: float = 10.0
    """ω, weight of the squared error of the action, at the lowest level."""
    shared: bool = False
    """Whether all levels have the latent of the lowest one, as HWM's; nothing else is then asked of it above."""

    def __post_init__(self) -> None:
        sizes = (self.levels, self.latent, self.upper, self.macro, self.units, self.directions, *self.channels)
        if min(sizes) < 1 or not self.channels or self.stride < 2:
            raise ConfigError(f"expected sizes ≥ 1, some channels and a stride ≥ 2, got {self}")
        weights = (
            self.deviation, self.covariance, self.normality, self.similarity, self.slowness, self.inverse,
        )  # fmt: skip
        if min(weights) < 0:
            raise ConfigError(f"expected weights ≥ 0, got {self}")

    def size(self, level: int) -> int:
        """D of a level, from 1."""
        return self.latent if level == 1 or self.shared else self.upper

    def span(self, level: int) -> int:
        """S, steps of time of a step of a level."""
        return int(self.stride ** (level - 1))


def paper() -> HJEPAConfig:
    """The authors' widths, stride and weight of SIGReg, with other networks."""
    return HJEPAConfig(
        stride=2, latent=192, upper=192, macro=4, channels=(32, 64, 64), units=384, deviation=0.0, covariance=0.0,
        normality=0.18 * 128, directions=1024, similarity=0.0, slowness=0.0, inverse=0.0,
    )  # fmt: skip


def tiny() -> HJEPAConfig:
    """Two levels, for pictures of 33 pixels or a few numbers on one CPU core in minutes, with a step size of 3e-3."""
    return HJEPAConfig()


def three() -> HJEPAConfig:
    """Three levels, whose steps are 1, 4 and 16."""
    return replace(tiny(), levels=3)


def hwm() -> HJEPAConfig:
    """HWM's two levels: one latent, ten steps at once, eight numbers."""
    return replace(tiny(), stride=10, macro=8, shared=True)


# ------------------------------------------------------------------------------------------------------------- networks


class Chunk(nn.Module):
    """The macro-action ``[N, M]`` of a chunk, in (−1, 1): the oldest action first, ``[N, A]`` each."""

    def __init__(self, inputs: int, macro: int, units: int) -> None:
        super().__init__()
        self.net = Perceptron(inputs, macro, (units,))

    def forward(self, *actions: Tensor) -> Tensor:
        """``[N, A]``, as many as there are in a chunk."""
        found: Tensor = self.net(*actions)
        return found.tanh()


# -------------------------------------------------------------------------------------------------------------- formula


def word(letter: str, level: int) -> str:
    """The variable of a level: z, z_2, …"""
    return letter if level == 1 else f"{letter}_{level}"


def build(config: HJEPAConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int]) -> World:
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …"""
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    if taken := {"z", "u", "y"} & {*names.all.values(), *widths}:
        raise ConfigError(f"expected observations and actions of other names than {', '.join(sorted(taken))}")
    D, (pictures, numbers) = config.latent, names.sizes(observations)
    predictor = Residual(D, sum(widths.values()), config.units)
    sight = Encoder(D, config.channels, config.units, pictures, numbers, standard=True)
    seen = ", ".join(Names.at(name) for name in names.all.values())
    embeds: list[Factor] = [Deterministic(f"z_t = e({seen})", sight, shape=D)]
    priors = [_prior(config, 1, predictor, widths)]
    draws, total = _lowest(config, predictor, widths)
    for level in range(2, config.levels + 1):
        embeds.append(_above(config, level))
        own, macro = widths if level == 2 else {word("u", level - 1): config.macro}, {word("u", level): config.macro}
        network = Residual(config.size(level), config.macro, config.units)
        priors.append(_prior(config, level, network, macro))
        more, total = _upper(config, level, network, own, total)
        draws += more
    loss = Mean("t", E(Joint.of(*embeds, *draws), total), reset="first").mean()
    codes = [word("z", level) for level in range(1, 2 if config.shared else config.levels + 1)]
    if config.levels == 1:
        return World(
            prior=priors[0], posterior=embeds[0], heads=[], loss=loss, observations=names.all, embeddings=codes
        )
    levels = {str(i): PriorDynamics(prior) for i, prior in enumerate(priors, 1)}
    return World(
        posterior=Joint.of(*embeds), levels=levels, main="1", loss=loss, observations=names.all, embeddings=codes
    )


@torch.no_grad()
def macros(config: HJEPAConfig, world: World, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The macro-actions of all whole chunks of a batch ``[B, T, …]``, ``[K, macro]`` by name, u_2 of the second level:
    what searches take their bounds from.
    """
    made = world.loss(**batch).samples
    names = {level: word("u", level) for level in range(2, config.levels + 1)}
    return {name: made[name][made["t"] > config.span(level)] for level, name in names.items()}


def _prior(config: HJEPAConfig, level: int, network: nn.Module, actions: Mapping[str, int]) -> Factor:
    """What a level dreams with, one of its steps after the other."""
    z, letter = word("z", level), word("f", level)
    given = ", ".join(Names.at(name, "t-1") for name in (z, *actions))
    return Deterministic(f"{Names.at(z)} = {letter}({given})", network, shape=config.size(level))


def _above(config: HJEPAConfig, level: int) -> Factor:
    """The latent of a level from that of the one below."""
    size, here, below = config.size(level), Names.at(word("z", level)), Names.at(word("z", level - 1))
    if config.shared:
        return Deterministic(f"{here} = stop({below})", torch.detach, shape=size)
    encoder = Perceptron(config.size(level - 1), size, (config.units,))
    return Deterministic(f"{here} = {word('e', level)}({below})", encoder, shape=size)


def _lowest(config: HJEPAConfig, predictor: nn.Module, widths: Mapping[str, int]) -> tuple[list[Factor], Expression]:
    """The terms of the lowest level, those of `jepa`."""
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been predicted
    given = ", ".join(Names.at(name, "t-1") for name in widths)
    draws, step = _predicted(config, 1, predictor, given, later)
    step = _kept(config, 1, step, later)
    inverse, step = acted(step, config, "z", widths, later, lambda size: Between(config.latent, size, config.units))
    return [*draws, *inverse], step


def _upper(
    config: HJEPAConfig, level: int, network: nn.Module, below: Mapping[str, int], total: Expression
) -> tuple[list[Factor], Expression]:
    """The terms of a level above, behind those of the levels below; ``below`` are the widths of their actions."""
    S, inner, u = config.span(level), config.span(level - 1), Names.at(word("u", level))
    # What led to this step: an action is that of the step before, a macro-action is known where it ends.
    ends = [S - inner * i - (inner if level > 2 else 0) for i in range(config.stride)]
    chunk = ", ".join(Names.at(name, f"t-{end}" if end else "t") for end in ends for name in below)
    own = Chunk(config.stride * sum(below.values()), config.macro, config.units)
    later = clamp(Value("t") - S, 0, 1)
    draws, step = _predicted(config, level, network, u, later)
    return [
        Deterministic(f"{u} = {word('c', level)}({chunk})", own, shape=config.macro), *draws,
    ], total + _kept(config, level, step, later)  # fmt: skip


def _predicted(
    config: HJEPAConfig, level: int, network: nn.Module, given: str, later: Expression
) -> tuple[list[Factor], Expression]:
    r"""\hat z of a level along rollouts from the first steps of every sequence, and its squared error."""
    S, D, z, y = config.span(level), config.size(level), word("z", level), Names.at(word("y", level))
    hat, before = rf"\hat {Names.at(z)}", rf"\hat {Names.at(z, f't-{S}')}"
    starts = begun if S == 1 else functools.partial(begun, first=S)
    led = Deterministic(f"{y} = {word('f', level)}({before}, {given})", network, shape=D)
    rolled = Deterministic(f"{hat} = {word('begun', level)}({y}, {Names.at(z)}, t)", starts, shape=D)
    return [led, rolled], later * norm2(Value(hat, shape=D) - Value(Names.at(z), shape=D)) / D


def _kept(config: HJEPAConfig, level: int, step: Expression, later: Expression) -> Expression:
    """With what keeps the latent of a level from collapsing, unless it is that of the level below."""
    if config.shared and level > 1:
        return step
    D, z = config.size(level), word("z", level)
    weights = config if level == 1 else replace(config, similarity=config.slowness)
    step = apart(step, weights, z, D, later, back=config.span(level))
    if config.normality:
        normal = SIGReg(Value(Names.at(z), shape=D), directions=config.directions, scaled=False, by_step=True)
        step = step + config.normality * normal
    return step


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random numbers."""
    world = build(tiny(), {"image": (33, 33, 3)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 9
    batch: dict[str, Any] = {"x": torch.rand(B, T, 33, 33, 3), "a": torch.rand(B, T, 2)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


HOW = {"steps": 3000, "batch": 64, "lr": 3e-3, "clip": 1.0, "schedule": "cosine"}
SYSTEM = System(
    name="h_jepa",
    kind="worlds",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf; H-JEPA 2026, arXiv:2610.06805; HWM 2026, arXiv:2604.03208",
    bibtex="""@article{lecun2022path, title={A path towards autonomous machine intelligence}, author={LeCun, Yann},
  journal={OpenReview}, year={2022}}""",
    presets={"paper": paper, "tiny": tiny, "three": three, "hwm": hwm},
    fits=dict.fromkeys(("tiny", "three", "hwm"), HOW),
    build=build,
    summary="Joint-embedding worlds on top of one another: macro-actions, longer steps, less detail; and HWM.",
)

if __name__ == "__main__":
    _demo()
