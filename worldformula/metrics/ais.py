"""log Z of a restricted Boltzmann machine: by enumeration where it is small, else by annealed importance sampling.

p(v, h) = exp(vᵀ W h + bᵀ v + cᵀ h) / Z over binary v and h (Salakhutdinov and Murray 2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

from worldformula.errors import ConfigError, ShapeError

MOST = 20  # binary units that are enumerated: a million states


@dataclass(frozen=True)
class Estimate:
    """A log partition function with its error.

    Attributes:
        log_z: log of the mean weight of all chains, nats.
        error: standard error of the mean weight over the mean weight; above about .3 distrust the value.
    """

    log_z: float
    error: float


@dataclass(frozen=True)
class RBM:
    """The parameters: ``weight [V, H]``, ``visible [V]`` (b) and ``hidden [H]`` (c).

    Raises:
        ShapeError: sizes that do not belong together.
    """

    weight: Tensor
    visible: Tensor
    hidden: Tensor

    def __post_init__(self) -> None:
        if self.weight.shape != (*self.visible.shape, *self.hidden.shape) or self.weight.ndim != 2:
            shapes = [tuple(t.shape) for t in (self.weight, self.visible, self.hidden)]
            raise ShapeError(
                f"expected weight [V, H], visible [V], hidden [H], got {shapes[0]}, {shapes[1]}, {shapes[2]}"
            )

    def log_unnormalised(self, v: Tensor) -> Tensor:
        """log Σ_h exp(vᵀ W h + bᵀ v + cᵀ h) of ``v [N, V]``: ``[N]``; minus log Z it is log p(v)."""
        return v @ self.visible + softplus(v @ self.weight + self.hidden).sum(-1)


def exact_log_z(rbm: RBM) -> float:
    """By summing over all states of the smaller layer, in float64.

    Raises:
        ConfigError: both layers have more than 20 units.
    """
    sides = rbm.weight.shape
    if min(sides) > MOST:
        raise ConfigError(f"enumeration needs a layer of at most {MOST} units, got {tuple(sides)}; use annealed_log_z")
    weight, b, c = (t.double() for t in (rbm.weight, rbm.visible, rbm.hidden))
    if sides[1] < sides[0]:
        weight, b, c = weight.T, c, b
    codes = torch.arange(2 ** len(b))
    states = ((codes[:, None] >> torch.arange(len(b))) & 1).double()
    return float(RBM(weight, b, c).log_unnormalised(states).logsumexp(0))


def annealed_log_z(
    rbm: RBM,
    *,
    temperatures: int = 1000,
    chains: int = 512,
    base: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Annealed importance sampling (Neal 2001) from independent pixels to the machine, one Gibbs step a temperature.

    Args:
        rbm: the machine.
        temperatures: β between 0, the base, and 1, the machine.
        chains: independent runs, whose spread gives the error.
        base: logits of the independent pixels ``[V]``; those of the data shorten the way. Zero if None.
        generator: of the chains; torch's own if None.

    Raises:
        ConfigError: fewer than two chains or one temperature.
    """
    if temperatures < 1 or chains < 2:
        raise ConfigError(f"expected temperatures ≥ 1 and chains ≥ 2, got {temperatures=}, {chains=}")
    weight, b, c = (t.double() for t in (rbm.weight, rbm.visible, rbm.hidden))
    start = torch.zeros_like(b) if base is None else base.double()

    def draw(logits: Tensor) -> Tensor:
        uniform = torch.rand(logits.shape, dtype=torch.float64, device=logits.device, generator=generator)
        return (uniform < logits.sigmoid()).double()

    def log_density(v: Tensor, beta: float) -> Tensor:
        """Base^(1−β) · machine^β with the hidden units summed out."""
        return v @ ((1 - beta) * start + beta * b) + softplus(beta * (v @ weight + c)).sum(-1)

    v = draw(start.expand(chains, -1))
    log_weight = torch.zeros(chains, dtype=torch.float64, device=v.device)
    steps = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).tolist()
    for before, beta in pairwise(steps):
        log_weight += log_density(v, beta) - log_density(v, before)
        h = draw(beta * (v @ weight + c))
        v = draw((1 - beta) * start + beta * (h @ weight.T + b))
    base_log_z = softplus(start).sum() + len(c) * math.log(2)
    mean = log_weight.logsumexp(0) - math.log(chains)
    relative = (log_weight - mean).exp().std() / math.sqrt(chains)
    return Estimate(float(base_log_z + mean), float(relative))
