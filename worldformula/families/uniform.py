"""The uniform distribution on the interval [low, high], independent over the axes of an event.

    log p(x) = -log(high - low) inside, -∞ outside
    H        = log(high - low)
    KL(q‖p)  = log((high_p - low_p)/(high_q - low_q)) where q's interval lies in p's, else ∞

each summed over the event. Both ends count as inside, as rounding can put a sample on either, but not beyond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import HeadError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_same,
    shape_of,
    total,
    wide,
    widen,
)
from worldformula.families.base import uniform as uniform_noise
from worldformula.families.closed import register_kl
from worldformula.families.domains import POSITIVE, REAL, Domain, told
from worldformula.families.special import dtype_of, log, matching, positive, require_floor, summed
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class UniformFamily(Family):
    """Uniform with parameters ``low`` and ``high``.

    A head gives low and a width, softplus(·) + ``min_width``: high = low + width. (The density grows without bound as
    the width vanishes.) With one end fixed by keyword it gives the width alone, upwards or downwards from that end.
    """

    min_width: float = 1e-3

    name: ClassVar[str] = "uniform"
    symbol: ClassVar[Sign] = Sign("Uniform", r"\mathcal{U}")
    parameters: ClassVar[tuple[str, ...]] = ("low", "high")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"low": REAL, "high": REAL})
    reference: ClassVar[str] = "torch.distributions:Uniform"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_width", self.min_width)

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; raises `HeadError` where the ends are numbers and low is not below high."""
        low, high = super().params(head, shape, fixed)
        if isinstance(head, Tensor) and "low" in fixed:  # the free one of the two is a width
            return low, low + high
        if isinstance(head, Tensor) and "high" in fixed:
            return high - low, high
        if isinstance(low, float) and isinstance(high, float) and not low < high:
            raise HeadError(f"uniform: low must be less than high, got low={low} and high={high}.")
        return low, high

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """(low, low + width); of one piece, the width."""
        width = positive(pieces[-1], self.min_width)
        return (width,) if len(pieces) == 1 else (pieces[0], pieces[0] + width)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """low 0, high 1, as numbers."""
        return {"low": 0.0, "high": 1.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform_noise(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """low + (high - low)·noise, in the parameters' dtype."""
        low, high = widen(params)
        dtype = dtype_of(params, noise)
        value = (low + (high - low) * wide(noise)).to(dtype)
        inner = [p if isinstance(p, Tensor) else value.new_full((), p) for p in params]
        return torch.minimum(torch.maximum(value, inner[0]), inner[1])  # rounding may have put it beyond an end

    def mode(self, params: Params) -> Parameter:
        """The middle; every value of the interval is as probable."""
        return self.mean(params)

    def mean(self, params: Params) -> Parameter:
        """The middle."""
        return 0.5 * (params[0] + params[1])

    def variance(self, params: Params) -> Parameter:
        """(high - low)²/12."""
        width = params[1] - params[0]
        return width * width / 12.0

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ -log(high - low), over the last ``rank`` axes; -∞ where the value lies outside."""
        low, high = widen(params)
        value = matching(self, params, value)
        density = -log(high - low)
        if not isinstance(density, Tensor):
            density = torch.full_like(value, density)
        return total(torch.where((value >= low) & (value <= high), density, -math.inf), rank)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """A value outside the interval."""
        if params is None:
            return None
        low, high = widen(params)
        between = Domain("between low and high", lambda x: (x >= low) & (x <= high))
        fault = told(between, wide(value), missing=True)
        return None if fault is None else f"uniform: expected a value {fault}"

    def wrong_parameters(self, given: Mapping[str, Parameter]) -> str | None:
        """Infinite ends, and a low that is not below high."""
        low, high = given.get("low"), given.get("high")
        fault = super().wrong_parameters(given)
        if fault is None and isinstance(low, Tensor | float) and isinstance(high, Tensor | float):
            width = torch.as_tensor(high - low)
            if told(POSITIVE, width):
                fault = f"expected low= below high=, got high - low = {width.min().item():.4g}"
        return fault

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ log(high - low), over the last ``rank`` axes."""
        wide = widen(params)
        return summed(self, log(wide[1] - wide[0]), wide, rank, shape)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_uniform`."""
        return kl_uniform(q_params, p_params, rank, shape)


uniform = UniformFamily()


@register_kl(UniformFamily, UniformFamily)
def kl_uniform(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between uniforms in nats, summed over the last ``rank`` axes; ∞ where q reaches beyond p."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(uniform, "q", shape_of(q_params), shape_of(p_params))
    q, p = widen(q_params), widen(p_params)
    each: Parameter = log((p[1] - p[0]) / (q[1] - q[0]))
    outside = (q[0] < p[0]) | (q[1] > p[1])
    if isinstance(outside, Tensor):
        each = torch.where(outside, math.inf, each)
    elif outside:
        each = math.inf
    return summed(uniform, each, (*q, *p), rank, shape)
