r"""Shortcut models (Frans et al. 2024, arXiv:2410.12557): one network that knows how far its step will go.

    E ‖s_θ(x̃, τ, 1/M) − ẋ‖²                                            the finest step: flow matching
    E ‖s_θ(x̃', τ', 2d) − sg[½ (b + b')]‖²                              a step is two half as long (self-consistency)
        b = s̄(x̃', τ', d),   x̂ = x̃' + d b,   b' = s̄(x̂, τ' + d, d),   s̄ the slow copy of s_θ

    x  [B, D] numbers, or levels as in `flow_matching`       ε ~ N(0, I)       τ uniform on [0, 1]
    d  1/M, 2/M, … ½ with equal shares      τ' uniform on the multiples of 2d below 1

x in n steps, n a power of two up to M, each s_θ(x, τ, 1/n) long; n = 1 is one call of the network.

Deviations     paper                             here                     why
network        DiT                               residual MLP             8 × 8 pixels, points of the plane
rows           1 in 8 for the second term        all, of weight ¼         its gradient has less noise; four calls a row
slow copy      .999                              .98, in the plane .95    3000 updates; each doubling waits for it
labels         guidance 1.5 in the targets       none                     nothing here is guided
targets        x̂ and targets within ±4          no bound                 data of a few units
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from worldformula import (
    Categorical,
    Data,
    Deterministic,
    E,
    Expression,
    Factor,
    Flow,
    Joint,
    Normal,
    Uniform,
    Value,
    norm2,
    sg,
)
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.model import Model
from worldformula.model.density import evaluating
from worldformula.nets import transport
from worldformula.nets.transport import Dequantise, Transport, Velocity, Way

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: D. levels: of the data, 0 of numbers. finest: M, a power of two. share: weight of the second term.

    decay: of the slow copy that makes the targets. units, blocks, dropout: of the network.
    """

    features: int
    levels: int = 0
    finest: int = 128
    share: float = 0.25
    decay: float = 0.98
    units: int = 128
    blocks: int = 2
    dropout: float = 0.0


def plane() -> Sizes:
    """Points of the plane, a minute on a laptop."""
    return Sizes(features=2, finest=64, decay=0.95)


def tiny() -> Sizes:
    """8 × 8 digits with 17 levels, five minutes on a laptop."""
    return Sizes(features=64, levels=17, units=384, blocks=3, dropout=0.1)


# ---------------------------------------------------------------------------------------------------------- networks


class Step(nn.Module):
    """s_θ(x̃, τ, d): a velocity that is told which of the lengths 1/M, 2/M, … 1 its step has."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.finest, self.lengths = sizes.finest, sizes.finest.bit_length()
        self.net = Velocity(sizes.features, self.lengths, sizes.units, sizes.blocks, sizes.dropout)

    def forward(self, x: Tensor, tau: Tensor, d: Tensor) -> Tensor:
        """x̃ ``[N, D]``, τ and d ``[N, 1]``, to ``[N, D]``."""
        which = (d * self.finest).log2().round().long().squeeze(-1)
        told = nn.functional.one_hot(which, self.lengths).to(x.dtype)
        found: Tensor = self.net(x, tau, told)
        return found


class Length(nn.Module):
    """Which steps two halves make: k and u to d = 2^k/M, 2d, τ' below 1 on the multiples of 2d, and τ' + d."""

    def __init__(self, finest: int) -> None:
        super().__init__()
        self.finest = finest

    def forward(self, k: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """k ``[N]`` whole, u ``[N, 1]`` in [0, 1); each ``[N, 1]``."""
        d = torch.exp2(k.to(u.dtype))[..., None] / self.finest
        tau = (u / (2 * d)).floor() * 2 * d
        return d, 2 * d, tau, tau + d


class Finest(nn.Module):
    """s_θ(x̃, τ, 1/M): the velocity."""

    def __init__(self, net: nn.Module, finest: int) -> None:
        super().__init__()
        self.net, self.finest = net, finest

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """x̃ ``[..., D]``, τ ``[..., 1]``."""
        found: Tensor = self.net(x, tau, torch.full_like(tau, 1 / self.finest))
        return found


def moved(x: Tensor, d: Tensor, b: Tensor) -> Tensor:
    """x + d b."""
    return x + d * b


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class Shortcut(Model):
    """``loss(x=[B, D])``; ``step`` is s_θ; ``density`` that of its finest steps."""

    sizes: Sizes
    step: Factor
    density: Factor
    loss: Expression

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the sampler's settings are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int = 4,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` draws of x in ``steps`` calls of the network, a power of two up to M.

        Raises:
            ConfigError: another number of steps.
        """
        if not isinstance(steps, int) or steps < 1 or steps & (steps - 1) or steps > self.sizes.finest:
            raise ConfigError(f"expected steps to be a power of two up to {self.sizes.finest}, got {steps!r}")
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        x = torch.randn(n, self.sizes.features, device=self.device, generator=generator)
        with evaluating(self.loss):
            x = transport.integrate(lambda x, tau: self._far(x, tau, steps), x, steps, "euler")
        return {"x": Dequantise(self.sizes.levels).back(x) if self.sizes.levels else x}

    def _far(self, x: Tensor, tau: Tensor, steps: int) -> Tensor:
        found: Tensor = self.step.head(x, tau, torch.full_like(tau, 1 / steps))
        return found

    @torch.no_grad()
    def log_prob(self, **data: Tensor) -> Tensor:
        """log p of the ODE of the finest steps at numbers x, or x_1 of levels, in nats, ``[N]``."""
        with evaluating(self.density):
            return self.density.log_prob(**data)


def build(sizes: Sizes, net: nn.Module | None = None) -> Shortcut:
    """A shortcut model with new weights, or around a given network s_θ(x̃, τ, d).

    Raises:
        ConfigError: M is no power of two.
    """
    D, M = sizes.features, sizes.finest
    if not isinstance(M, int) or M < 2 or M & (M - 1):
        raise ConfigError(f"expected finest to be a power of two, at least 2, got {M!r}")
    net, way = net or Step(sizes), transport.interpolant("linear")
    x, drawn = "x", cast("Factor | Joint", Data("p_data(x)", shape=D, levels=sizes.levels or None))
    if sizes.levels:
        x = "x_1"
        drawn = drawn * Uniform("p(w)", shape=D) * Deterministic("x_1 = scale(x,w)", Dequantise(sizes.levels), shape=D)
    drawn = drawn * Normal("p(ε)", shape=D)

    s = Deterministic("v = s_θ(\\tilde x,τ,d)", net, shape=D)
    point = Deterministic(f"\\tilde x = ψ({x},ε,τ)", Way(way), shape=D)
    rate = Deterministic(f"\\dot x = rate({x},ε,τ)", Way(way, rate=True), shape=D)
    fine = Deterministic("d = finest(τ)", lambda tau: torch.full_like(tau, 1 / M), shape=1)
    flow = E(drawn * Uniform("p(τ)", shape=1) * point * rate * fine * s, norm2(Value("v") - Value("\\dot x")))

    count = M.bit_length() - 1
    lengths = Deterministic("d', d'', τ', τ'' = length(k,u)", Length(M), shape=[1, 1, 1, 1])
    slow = s.slow(sizes.decay)
    begun = point.rename(tilde_x="\\tilde x'", tau="τ'")
    first = slow.rename(v="b", tilde_x="\\tilde x'", tau="τ'", d="d'")
    there = Deterministic("\\hat x = go(\\tilde x',d',b)", moved, shape=D)
    second = slow.rename(v="b'", tilde_x="\\hat x", tau="τ''", d="d'")
    whole = s.rename(v="v'", tilde_x="\\tilde x'", tau="τ'", d="d''")
    drawn = drawn * Categorical("p(k)", probs=torch.full((count,), 1 / count), shape=()) * Uniform("p(u)", shape=1)
    halves = E(
        drawn * lengths * begun * first * there * second * whole,
        norm2(Value("v'") - sg(0.5 * Value("b") + 0.5 * Value("b'"))),
    )
    loss = (flow + sizes.share * halves).mean()
    ode = Transport(Finest(net, M), steps=M, solver="euler")
    return Shortcut(sizes, s, Flow(f"p({x})", ode, shape=D), loss)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="shortcut",
    kind="models",
    paper="Frans et al. 2024, arXiv:2410.12557",
    bibtex="""@inproceedings{frans2025shortcut,
  title     = {One Step Diffusion via Shortcut Models},
  author    = {Frans, Kevin and Hafner, Danijar and Levine, Sergey and Abbeel, Pieter},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  eprint    = {2410.12557},
}""",
    presets={"tiny": tiny, "plane": plane},
    fits={
        "tiny": {"steps": 4000, "batch": 128, "schedule": "cosine", "ema": 0.995, "clip": 1.0},
        "plane": {"steps": 3000, "batch": 256, "schedule": "cosine", "ema": 0.998},
    },
    build=build,
    data="digits-17",
    summary="A velocity that is told how far its step goes, so that one network draws in one call or in many.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(17, (128, 64))
    before = model.loss.eval()(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} per image")
