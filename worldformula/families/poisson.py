"""The Poisson distribution of counts 0, 1, 2, …, independent over the axes of an event.

    log p(x) = x·log λ - λ - log x!
    KL(q‖p)  = λ_q·log(λ_q/λ_p) + λ_p - λ_q = λ_q·(d - log(1 + d)),   d = (λ_p - λ_q)/λ_q

each summed over the event. A sample inverts the distribution function at one uniform number; it has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_same,
    shape_of,
    total,
    uniform,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import COUNT, FINITE_FROM_0, Domain
from worldformula.families.special import (
    dtype_of,
    log,
    log1p_less,
    poisson_quantile,
    positive,
    precise,
    precise_value,
    require_floor,
    require_positive,
    rounded,
    summed,
)
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class PoissonFamily(Family):
    """Poisson with parameter ``rate`` = λ; of a head, softplus(·) + ``min_rate``. Counts are floats."""

    min_rate: float = 0.0

    name: ClassVar[str] = "poisson"
    symbol: ClassVar[Sign] = Sign("Poisson", r"\mathrm{Poisson}")
    parameters: ClassVar[tuple[str, ...]] = ("rate",)
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    values: ClassVar[Domain | None] = COUNT
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"rate": FINITE_FROM_0})
    reference: ClassVar[str] = "torch.distributions:Poisson"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_rate", self.min_rate)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_rate."""
        return (positive(pieces[0], self.min_rate),)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A number must be positive."""
        return require_positive(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """rate 1, as a number."""
        return {"rate": 1.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The least count whose distribution function exceeds the noise, in the parameters' dtype. No gradient."""
        (rate,) = params
        rate = rate if isinstance(rate, Tensor) else torch.full_like(noise, rate)
        return poisson_quantile(rate, noise).to(dtype_of(params, noise))

    def mode(self, params: Params) -> Parameter:
        """λ rounded down."""
        (rate,) = params
        return rate.floor() if isinstance(rate, Tensor) else float(math.floor(rate))

    def mean(self, params: Params) -> Parameter:
        """λ."""
        return params[0]

    def variance(self, params: Params) -> Parameter:
        """λ."""
        return params[0]

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ value·log λ - λ - log value!, over the last ``rank`` axes."""
        (rate,) = precise(params)
        x = precise_value(self, params, value)
        none = x == 0.0  # nothing counted has a finite probability at rate 0, too
        logs = torch.where(none, 0.0, x * log(torch.where(none, torch.ones_like(x), rate)))
        return rounded(total(logs - rate - (x + 1.0).lgamma(), rank), value, *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_poisson`."""
        return kl_poisson(q_params, p_params, rank, shape)


poisson = PoissonFamily()


@register_kl(PoissonFamily, PoissonFamily)
def kl_poisson(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Poissons in nats, summed over the last ``rank`` axes."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(poisson, "q", shape_of(q_params), shape_of(p_params))
    (q,), (p,) = precise(q_params), precise(p_params)
    if isinstance(q, Tensor) or isinstance(p, Tensor):
        like = q if isinstance(q, Tensor) else p
        assert isinstance(like, Tensor)
        a, b = torch.broadcast_tensors(*(torch.as_tensor(x).to(like) for x in (q, p)))  # type: ignore[no-untyped-call]
        none = a == 0.0  # 0·log 0 is 0
        some, other = torch.where(none, 1.0, a), torch.where(none, 1.0, b)
        near = (other - some).abs() < 0.5 * some
        small = log1p_less(torch.where(near, (other - some) / some, 0.0))
        each: Parameter = torch.where(near, -some * small, some * (some.log() - other.log()) + (other - some))
        each = torch.where(none, b, each)
    else:
        each = q * (math.log(q) - math.log(p)) + (p - q)
    return rounded(summed(poisson, each, (q, p), rank, shape), *q_params, *p_params)
