"""Student's t distribution with ``df`` degrees of freedom, independent over the axes of an event.

    log p(x) = log Γ((df+1)/2) - log Γ(df/2) - ½·log(π·df) - log scale - (df+1)/2·log(1 + z²/df),  z = (x - loc)/scale
    H        = (df+1)/2·(ψ((df+1)/2) - ψ(df/2)) + ½·log df + log B(df/2, ½) + log scale

each summed over the event. Samples follow Bailey's polar form, ``√(df·(U^(-2/df) - 1))·cos 2πV`` (*Mathematics of
Computation* 62, 1994): exact, and differentiable in df as well. Its tails bear outliers that a Normal does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.base import Family, Parameter, Params, Shape, total, uniform
from worldformula.families.domains import POSITIVE, REAL, Domain
from worldformula.families.special import (
    digamma,
    dtype_of,
    inside,
    log,
    log_beta,
    positive,
    precise,
    precise_value,
    require_floor,
    require_positive,
    rounded,
    summed,
)
from worldformula.families.writing import Sign

FAR = 1e6


@dataclass(frozen=True)
class StudentTFamily(Family):
    """Student's t with parameters ``df``, ``loc`` and ``scale``.

    Of a head, df = softplus(·) + ``min_df`` and scale = softplus(·) + ``min_scale``. The least df of 1 keeps the mean
    in existence; a variance needs 2. Noise is two uniform numbers for each element, on one further axis.
    """

    min_df: float = 1.0
    min_scale: float = 0.0

    name: ClassVar[str] = "student_t"
    symbol: ClassVar[Sign] = Sign("StudentT", r"\mathrm{St}")
    parameters: ClassVar[tuple[str, ...]] = ("df", "loc", "scale")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    values: ClassVar[Domain | None] = REAL
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"df": POSITIVE, "scale": POSITIVE})
    reference: ClassVar[str] = "torch.distributions:StudentT"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_df", self.min_df)
        require_floor(self, "min_scale", self.min_scale)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) plus its minimum for df and scale; loc as it is."""
        floors = {"df": self.min_df, "scale": self.min_scale}
        return tuple(positive(p, floors[n]) if n in floors else p for n, p in zip(names, pieces, strict=True))

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """df and scale that are numbers must be positive."""
        return value if name == "loc" else require_positive(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """loc 0, scale 1 and, as there is no standard for it, df 4, as numbers."""
        return {"df": 4.0, "loc": 0.0, "scale": 1.0}

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """Two numbers for each element."""
        return (*batch, *shape, 2)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """loc + scale·t, in the parameters' dtype; finite: the far tails of a small df end at its largest number."""
        df, loc, scale = params
        u, v = (x for x in precise(inside(noise).unbind(-1)) if isinstance(x, Tensor))
        (freedom,) = precise((df,))
        y = -2.0 * u.log() / freedom
        dtype = dtype_of(params, noise)
        most = torch.finfo(dtype).max
        # By its logarithm: the square of the radius overflows long before the radius, for a small df.
        radius = (0.5 * (log(freedom) + y + torch.log(-torch.expm1(-y)))).clamp_max(math.log(most)).exp()
        t = (radius * (2.0 * math.pi * v).cos()).clamp(-most, most).to(dtype)
        return torch.as_tensor(loc + scale * t).clamp(-most, most)

    def mode(self, params: Params) -> Parameter:
        """loc."""
        return params[1]

    def mean(self, params: Params) -> Parameter:
        """loc; where df is at most 1 there is none: NaN in a tensor, an error for a number."""
        df, loc, _ = params
        if isinstance(df, Tensor):
            return torch.where(df > 1.0, loc, math.nan)
        if df <= 1.0:
            raise FormulaError(f"student_t: there is no mean for df={df}, at most 1. Use the mode.")
        return loc

    def variance(self, params: Params) -> Parameter:
        """scale²·df/(df - 2), ∞ up to df = 2; where df is at most 1 there is none, as there is no mean."""
        df, _, scale = params
        if isinstance(df, Tensor):
            finite = torch.where(df > 2.0, df, 3.0)
            return torch.where(
                df > 2.0, scale * scale * finite / (finite - 2.0), torch.where(df > 1.0, math.inf, math.nan)
            )
        if df <= 1.0:
            raise FormulaError(f"student_t: there is no variance for df={df}, at most 1, as there is no mean.")
        factor = df / (df - 2.0) if df > 2.0 else math.inf
        return scale * scale * factor

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density, summed over the last ``rank`` axes."""
        df, loc, scale = precise(params)
        t = (precise_value(self, params, value) - loc) / (scale * df**0.5)
        far = t.abs() > FAR  # where t² would overflow
        tail = torch.where(far, 2.0 * torch.where(far, t.abs(), 1.0).log(), torch.where(far, 0.0, t).square().log1p())
        constant = log_beta(0.5, 0.5 * df) + 0.5 * log(df) + log(scale)
        return rounded(total(-constant - 0.5 * (df + 1.0) * tail, rank), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, summed over the last ``rank`` axes."""
        wide = df, _, scale = precise(params)
        half = 0.5 * (df + 1.0)
        spread = half * (digamma(half) - digamma(0.5 * df))
        each = spread + 0.5 * log(df) + log_beta(0.5 * df, 0.5) + log(scale)
        return rounded(summed(self, each, wide, rank, shape), *params)


student_t = StudentTFamily()
