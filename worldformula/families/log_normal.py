"""The log-Normal distribution over x > 0: log x is Normal(loc, scale²); independent over the axes of an event.

    log p(x) = log N(log x; loc, scale²) - log x
    H        = loc + log scale + ½·log 2πe

each summed over the event. The KL of two log-Normals is that of the Normals.
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
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import POSITIVE, Domain
from worldformula.families.loc_scale import LocScaleFamily
from worldformula.families.special import (
    exp,
    log,
    precise,
    precise_value,
    rounded,
    summed,
)
from worldformula.families.writing import Sign

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class LogNormalFamily(LocScaleFamily):
    """Log-Normal with parameters ``loc`` and ``scale`` of log x; of a head, scale = softplus(·) + ``min_scale``."""

    name: ClassVar[str] = "log_normal"
    symbol: ClassVar[Sign] = Sign("LogNormal", r"\mathrm{LogNormal}")
    values: ClassVar[Domain | None] = POSITIVE
    reference: ClassVar[str] = "torch.distributions:LogNormal"

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Standard normal noise."""
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """exp(loc + scale·noise)."""
        loc, scale = params
        return (loc + scale * noise).exp()

    def mode(self, params: Params) -> Parameter:
        """exp(loc - scale²)."""
        loc, scale = params
        return exp(loc - scale * scale)

    def mean(self, params: Params) -> Parameter:
        """exp(loc + ½·scale²)."""
        loc, scale = params
        return exp(loc + 0.5 * scale * scale)

    def variance(self, params: Params) -> Parameter:
        """(e^(scale²) - 1)·e^(2·loc + scale²)."""
        loc, scale = params
        square = scale * scale
        return exp(2.0 * loc + square) * (square.expm1() if isinstance(square, Tensor) else math.expm1(square))

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ log N(log value; loc, scale²) - log value, over the last ``rank`` axes; -∞ where not positive."""
        loc, scale = precise(params)
        x = precise_value(self, params, value)
        outside = x <= 0.0
        log_x = torch.where(outside, 1.0, x).log()
        z = (log_x - loc) / scale
        each = 0.5 * z * z + log_x + (log(scale) + HALF_LOG_2PI)
        return rounded(-total(torch.where(outside, math.inf, each), rank), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ loc + log scale + ½·log 2πe, over the last ``rank`` axes."""
        wide = widen(params)
        return summed(self, wide[0] + log(wide[1]) + (HALF_LOG_2PI + 0.5), wide, rank, shape)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_log_normal`."""
        return kl_log_normal(q_params, p_params, rank, shape)


log_normal = LogNormalFamily()


@register_kl(LogNormalFamily, LogNormalFamily)
def kl_log_normal(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between log-Normals, that of the Normals: Σ ½·(r² + d² - 1) - log r, over the last ``rank`` axes."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(log_normal, "q", shape_of(q_params), shape_of(p_params))
    q, p = widen(q_params), widen(p_params)
    ratio, shift = q[1] / p[1], (q[0] - p[0]) / p[1]
    return summed(log_normal, 0.5 * (ratio * ratio + shift * shift - 1.0) - log(ratio), (*q, *p), rank, shape)
