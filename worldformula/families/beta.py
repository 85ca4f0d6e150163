"""The Beta distribution over 0 < x < 1, with ``concentration1`` = a and ``concentration0`` = b.

    log p(x) = (a - 1)·log x + (b - 1)·log(1 - x) - log B(a, b)
    H        = log B(a, b) - (a - 1)·ψ(a) - (b - 1)·ψ(b) + (a + b - 2)·ψ(a + b)
    KL(q‖p)  = log B(a', b') - log B(a, b) + (a - a')·ψ(a) + (b - b')·ψ(b) + (a' - a + b' - b)·ψ(a + b)

each summed over the event; a', b' are p's. A sample is ``G_a/(G_a + G_b)`` of two Gamma variables, formed from their
logarithms, and carries their implicit gradients (Figurnov et al., arXiv 1805.08498).
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
from worldformula.families.domains import FINITE, UNIT, Domain
from worldformula.families.special import (
    digamma,
    dtype_of,
    log_beta,
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
class BetaFamily(Family):
    """Beta with parameters ``concentration1`` (towards 1; also ``alpha``) and ``concentration0`` (also ``beta``).

    Of a head each is softplus(·) + ``min_concentration``: below 1 the density has a pole at an end, and towards 0 all
    mass falls into it. Noise is two uniform numbers for each element, on one further axis.
    """

    min_concentration: float = 0.01

    name: ClassVar[str] = "beta"
    symbol: ClassVar[Sign] = Sign("Beta", r"\mathrm{Beta}")
    parameters: ClassVar[tuple[str, ...]] = ("concentration1", "concentration0")
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"alpha": "concentration1", "beta": "concentration0"})
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    values: ClassVar[Domain | None] = UNIT
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType(
        dict.fromkeys(("concentration1", "concentration0", "alpha", "beta"), FINITE)
    )
    reference: ClassVar[str] = "torch.distributions:Beta"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_concentration", self.min_concentration)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_concentration."""
        return tuple(positive(piece, self.min_concentration) for piece in pieces)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """Numbers must be positive."""
        return require_positive(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """Both 1, as numbers: the uniform distribution."""
        return {"concentration1": 1.0, "concentration0": 1.0}

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
        """G_a/(G_a + G_b), in the parameters' dtype, strictly between 0 and 1."""
        a, b = widen(params)
        value = (log_gamma_quantile(a, noise[..., 0]) - log_gamma_quantile(b, noise[..., 1])).sigmoid()
        dtype = dtype_of(params, noise)
        info = torch.finfo(dtype)
        return value.to(dtype).clamp(info.tiny, 1.0 - 0.5 * info.eps)

    def mode(self, params: Params) -> Parameter:
        """(a - 1)/(a + b - 2), or the end with the pole; ½ where two ends tie."""
        a, b = params
        up, down = relu(a - 1.0), relu(b - 1.0)
        if isinstance(up, Tensor) or isinstance(down, Tensor):
            both = torch.as_tensor(up + down)
            return torch.where(both > 0.0, up / both.clamp_min(1e-30), 0.5 * (1.0 + torch.sign(torch.as_tensor(a - b))))
        return up / (up + down) if up + down > 0.0 else 0.5 * (1.0 + (a > b) - (a < b))

    def mean(self, params: Params) -> Parameter:
        """a/(a + b)."""
        return params[0] / (params[0] + params[1])

    def variance(self, params: Params) -> Parameter:
        """a·b/((a + b)²·(a + b + 1))."""
        a, b = params
        both = a + b
        return a / both * (b / both) / (both + 1.0)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-density of values between 0 and 1, summed over the last ``rank`` axes."""
        a, b = precise(params)
        x = precise_value(self, params, value)
        each = torch.xlogy(a - 1.0, x) + torch.special.xlog1py(b - 1.0, -x) - log_beta(a, b)
        return rounded(total(each, rank), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, summed over the last ``rank`` axes."""
        wide = a, b = precise(params)
        each = log_beta(a, b) - (a - 1.0) * digamma(a) - (b - 1.0) * digamma(b) + (a + b - 2.0) * digamma(a + b)
        return rounded(summed(self, each, wide, rank, shape), *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_beta`."""
        return kl_beta(q_params, p_params, rank, shape)


beta = BetaFamily()


@register_kl(BetaFamily, BetaFamily)
def kl_beta(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Betas in nats, summed over the last ``rank`` axes."""
    if has_tensor(q_params) and has_tensor(p_params):
        require_same(beta, "q", shape_of(q_params), shape_of(p_params))
    (a, b), (c, d) = q, p = precise(q_params), precise(p_params)
    each = log_beta(c, d) - log_beta(a, b)
    each = each + (a - c) * digamma(a) + (b - d) * digamma(b) + (c - a + d - b) * digamma(a + b)
    return rounded(summed(beta, each, (*q, *p), rank, shape), *q_params, *p_params)
