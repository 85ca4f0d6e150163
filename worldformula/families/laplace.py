"""The Laplace distribution: ``Laplace(x; loc, scale)``, independent over the axes of an event.

    log p(x) = -|x - loc|/scale - log 2·scale
    H        = 1 + log 2·scale
    KL(q‖p)  = log(b_p/b_q) + (b_q·exp(-d/b_q) + d)/b_p - 1,   d = |loc_q - loc_p|,  b the scales

each summed over the event. With ``scale=1.0`` fixed, ``-log_prob`` is the absolute error plus a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.families.base import (
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_same,
    shape_of,
    total,
    uniform,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import REAL, Domain
from worldformula.families.loc_scale import LocScaleFamily
from worldformula.families.special import exp, inside, log, matching, summed
from worldformula.families.writing import Sign

LOG_2 = math.log(2.0)


@dataclass(frozen=True)
class LaplaceFamily(LocScaleFamily):
    """Laplace with parameters ``loc`` and ``scale``; of a head, scale = softplus(·) + ``min_scale``."""

    name: ClassVar[str] = "laplace"
    symbol: ClassVar[Sign] = Sign("Laplace", r"\mathrm{Laplace}")
    values: ClassVar[Domain | None] = REAL
    reference: ClassVar[str] = "torch.distributions:Laplace"

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard Laplace noise, by inverting the distribution function at a uniform number. Always finite."""
        centred = inside(uniform(shape, dtype, device, generator)) - 0.5
        noise = -torch.sign(centred) * torch.log1p(-2.0 * centred.abs())
        return noise if dtype is None else noise.to(dtype)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + scale·noise."""
        loc, scale = params
        return loc + scale * noise

    def mode(self, params: Params) -> Parameter:
        """loc."""
        return params[0]

    def mean(self, params: Params) -> Parameter:
        """loc."""
        return params[0]

    def variance(self, params: Params) -> Parameter:
        """2·scale²."""
        return 2.0 * params[1] * params[1]

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ -|value - loc|/scale - log 2·scale, over the last ``rank`` axes."""
        loc, scale = widen(params)
        value = matching(self, params, value)
        return -total((value - loc).abs() / scale + (log(scale) + LOG_2), rank)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ 1 + log 2·scale, over the last ``rank`` axes."""
        wide = widen(params)
        return summed(self, log(wide[1]) + (1.0 + LOG_2), wide, rank, shape)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_laplace`."""
        return kl_laplace(q_params, p_params, rank, shape)


laplace = LaplaceFamily()


@register_kl(LaplaceFamily, LaplaceFamily)
def kl_laplace(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Laplaces in nats, summed over the last ``rank`` axes."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(laplace, "q", shape_of(q_params), shape_of(p_params))
    q, p = widen(q_params), widen(p_params)
    shift = q[0] - p[0]
    distance = shift.abs() if isinstance(shift, Tensor) else abs(shift)
    each = log(p[1]) - log(q[1]) + (q[1] * exp(-distance / q[1]) + distance) / p[1] - 1.0
    return summed(laplace, each, (*q, *p), rank, shape)
