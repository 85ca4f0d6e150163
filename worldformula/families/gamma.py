"""The Gamma distribution over x > 0, with shape ``concentration`` = a and inverse scale ``rate`` = b.

    log p(x) = a·log b + (a - 1)·log x - b·x - log Γ(a)
    H        = a - log b + log Γ(a) + (1 - a)·ψ(a)
    KL(q‖p)  = a_p·log(b_q/b_p) + log Γ(a_p) - log Γ(a_q) + (a_q - a_p)·ψ(a_q) + a_q·(b_p/b_q - 1)

each summed over the event. Samples invert the distribution function at uniform noise and carry the implicit gradient
(Figurnov et al., arXiv 1805.08498).
"""

from __future__ import annotations

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
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import FINITE, FROM_0, Domain
from worldformula.families.special import (
    digamma,
    dtype_of,
    lgamma,
    log,
    log_gamma_quantile,
    positive,
    precise,
    precise_value,
    relu,
    require_floor,
    require_positive,
    rounded,
    summed,
)
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class GammaFamily(Family):
    """Gamma with parameters ``concentration`` and ``rate``.

    Of a head, concentration = softplus(·) + ``min_concentration`` (below 1 the density has a pole at 0, and towards 0
    all mass falls into it) and rate = softplus(·) + ``min_rate``.
    """

    min_concentration: float = 0.01
    min_rate: float = 0.0

    name: ClassVar[str] = "gamma"
    symbol: ClassVar[Sign] = Sign("Gamma", r"\mathrm{Gamma}")
    parameters: ClassVar[tuple[str, ...]] = ("concentration", "rate")
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    values: ClassVar[Domain | None] = FROM_0
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"concentration": FINITE, "rate": FINITE})
    reference: ClassVar[str] = "torch.distributions:Gamma"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_concentration", self.min_concentration)
        require_floor(self, "min_rate", self.min_rate)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) plus its minimum."""
        floors = {"concentration": self.min_concentration, "rate": self.min_rate}
        return tuple(positive(piece, floors[name]) for name, piece in zip(names, pieces, strict=True))

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """Numbers must be positive."""
        return require_positive(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """concentration 1, rate 1, as numbers: the exponential distribution."""
        return {"concentration": 1.0, "rate": 1.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The quantile of the noise, in the parameters' dtype, at least the smallest normal number of it."""
        concentration, rate = widen(params)
        value = (log_gamma_quantile(concentration, noise) - log(rate)).exp()
        dtype = dtype_of(params, noise)
        return value.to(dtype).clamp_min(torch.finfo(dtype).tiny)

    def mode(self, params: Params) -> Parameter:
        """(a - 1)/b, or 0 where a < 1."""
        return relu(params[0] - 1.0) / params[1]

    def mean(self, params: Params) -> Parameter:
        """a/b."""
        return params[0] / params[1]

    def variance(self, params: Params) -> Parameter:
        """a/b²."""
        return params[0] / (params[1] * params[1])

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density of positive values, summed over the last ``rank`` axes."""
        a, b = precise(params)
        x = precise_value(self, params, value)
        each = torch.xlogy(a - 1.0, x) - b * x + (a * log(b) - lgamma(a))
        return rounded(total(each, rank), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, summed over the last ``rank`` axes."""
        wide = a, b = precise(params)
        each = a - log(b) + lgamma(a) + (1.0 - a) * digamma(a)
        return rounded(summed(self, each, wide, rank, shape), *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_gamma`."""
        return kl_gamma(q_params, p_params, rank, shape)


gamma = GammaFamily()


@register_kl(GammaFamily, GammaFamily)
def kl_gamma(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Gammas in nats, summed over the last ``rank`` axes."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(gamma, "q", shape_of(q_params), shape_of(p_params))
    (a, b), (c, d) = q, p = precise(q_params), precise(p_params)
    each = c * log(b / d) + lgamma(c) - lgamma(a) + (a - c) * digamma(a) + a * (d / b - 1.0)
    return rounded(summed(gamma, each, (*q, *p), rank, shape), *q_params, *p_params)
