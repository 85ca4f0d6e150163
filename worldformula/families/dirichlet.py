"""The Dirichlet distribution over probability vectors: the last axis of an event has K entries that sum to 1.

    log p(x) = Σ_k (a_k - 1)·log x_k - log B(a),    log B(a) = Σ_k log Γ(a_k) - log Γ(a_0),  a_0 = Σ_k a_k
    H        = log B(a) + (a_0 - K)·ψ(a_0) - Σ_k (a_k - 1)·ψ(a_k)
    KL(q‖p)  = log B(a_p) - log B(a_q) + Σ_k (a_q - a_p)_k·(ψ(a_q,k) - ψ(a_q,0))

each summed over the other axes of the event. A sample is K Gamma variables over their sum, formed as the softmax of
their logarithms, and carries their implicit gradients (Figurnov et al., arXiv 1805.08498).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import FormulaError, HeadError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    has_tensor,
    require_event,
    require_same,
    shape_of,
    total,
    uniform,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import FINITE, SHARES, Domain
from worldformula.families.special import (
    digamma,
    dtype_of,
    lgamma,
    log_gamma_quantile,
    positive,
    precise,
    precise_value,
    require_floor,
    require_positive,
    rounded,
)
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class DirichletFamily(Family):
    """Dirichlet with parameter ``concentration`` (also ``alpha``) of the event's shape, whose last axis has K entries.

    Of a head it is softplus(·) + ``min_concentration``: below 1 the density has poles at the corners, and towards 0
    all mass falls into them. One number stands for K equal ones.
    """

    min_concentration: float = 0.01

    name: ClassVar[str] = "dirichlet"
    symbol: ClassVar[Sign] = Sign("Dirichlet", r"\mathrm{Dir}")
    parameters: ClassVar[tuple[str, ...]] = ("concentration",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"alpha": "concentration"})
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    joint: ClassVar[int | None] = 1
    values: ClassVar[Domain | None] = SHARES
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"concentration": FINITE, "alpha": FINITE})
    reference: ClassVar[str] = "torch.distributions:Dirichlet"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_concentration", self.min_concentration)

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; the last axis of an event are the K entries, so it cannot be ``()``."""
        if shape == ():
            raise HeadError("dirichlet: an event is a vector of K entries. Declare shape=K or shape=(G, K), not ().")
        return super().params(head, shape, fixed)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_concentration."""
        return (positive(pieces[0], self.min_concentration),)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """A number must be positive."""
        return require_positive(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """concentration 1, as a number: uniform over the simplex."""
        return {"concentration": 1.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """Gamma variables over their sum, in the parameters' dtype; no entry is exactly 0."""
        (a,) = widen(params)
        value, dtype = log_gamma_quantile(a, noise).softmax(-1), dtype_of(params, noise)
        return value.to(dtype).clamp_min(torch.finfo(dtype).tiny)

    def mode(self, params: Params) -> Parameter:
        """(a - 1)₊ over its sum; where no entry exceeds 1, the corner of the largest."""
        (a,) = params
        if not isinstance(a, Tensor):
            raise FormulaError("dirichlet: equal concentrations given as one number have no mode. Sample it.")
        above = (a - 1.0).clamp_min(0.0)
        sum_above = above.sum(-1, keepdim=True)
        corner = torch.scatter(torch.zeros_like(a), -1, a.argmax(-1, keepdim=True), 1.0)
        return torch.where(sum_above > 0.0, above / sum_above.clamp_min(1e-30), corner)

    def mean(self, params: Params) -> Parameter:
        """a/Σa."""
        (a,) = params
        if isinstance(a, Tensor):
            return a / a.sum(-1, keepdim=True)
        raise FormulaError("dirichlet: the mean of one number is 1/K, and K is unknown here. Give a tensor.")

    def variance(self, params: Params) -> Parameter:
        """m·(1 - m)/(Σa + 1), m = a/Σa."""
        (a,) = params
        if not isinstance(a, Tensor):
            raise FormulaError("dirichlet: the variance of one number needs K, which is unknown here. Give a tensor.")
        both = a.sum(-1, keepdim=True)
        return a / both * ((both - a) / both) / (both + 1.0)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density of vectors that sum to 1, summed over the last ``rank`` axes, entries included."""
        if rank == 0:
            raise FormulaError("dirichlet: a density has the vector as a whole, so rank must be at least 1, got 0.")
        (a,) = precise(params)
        x = precise_value(self, params, value)
        each = torch.xlogy(a - 1.0, x).sum(-1) - _log_beta(a, x.shape[-1])
        return rounded(total(each, rank - 1), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, summed over the last ``rank`` axes, entries included."""
        (a,) = precise(params)
        if isinstance(a, Tensor):
            k, sum_a = a.shape[-1], a.sum(-1)
            spread = (sum_a - k) * digamma(sum_a) - ((a - 1.0) * digamma(a)).sum(-1)
            return rounded(total(torch.as_tensor(_log_beta(a, k) + spread), rank - 1), *params)
        *rest, k = require_event(self, shape)
        return (_log_beta(a, k) + k * (a - 1.0) * (digamma(k * a) - digamma(a))) * math.prod(rest)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_dirichlet`."""
        return kl_dirichlet(q_params, p_params, rank, shape)


dirichlet = DirichletFamily()


@register_kl(DirichletFamily, DirichletFamily)
def kl_dirichlet(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Dirichlets in nats, summed over the last ``rank`` axes, entries included."""
    (q,), (p,) = precise(q_params), precise(p_params)
    if isinstance(q, Tensor) and isinstance(p, Tensor):
        require_same(dirichlet, "q", q.shape, p.shape)
    if has_tensor((q, p)):
        k = shape_of((q, p))[-1]
        inner = (q - p) * (digamma(q) - digamma(q.sum(-1, keepdim=True) if isinstance(q, Tensor) else k * q))
        each = torch.as_tensor(_log_beta(p, k) - _log_beta(q, k) + torch.as_tensor(inner).sum(-1))
        return rounded(total(each, rank - 1), *q_params, *p_params)
    *rest, k = require_event(dirichlet, shape)
    inner = k * (q - p) * (digamma(q) - digamma(k * q))
    return (_log_beta(p, k) - _log_beta(q, k) + inner) * math.prod(rest)


def _log_beta(a: Parameter, k: int) -> Parameter:
    """log B of a vector of concentrations over the last axis, or of k equal ones."""
    if isinstance(a, Tensor):
        return a.lgamma().sum(-1) - a.sum(-1).lgamma()
    return k * lgamma(a) - lgamma(k * a)
