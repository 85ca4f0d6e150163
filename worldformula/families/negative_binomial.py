"""The negative binomial distribution of counts, a Poisson whose rate is Gamma distributed: overdispersed counts.

    log p(x) = log Γ(r + x) - log Γ(r) - log x! + r·log σ(-l) + x·log σ(l),   mean r·e^l

summed over the event; r is ``total_count`` (any positive number) and l are the ``logits`` of a success. A sample takes
two uniform numbers, one for the Gamma rate and one for the Poisson count; it has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.families.base import Family, Parameter, Params, Shape, total, uniform, widen
from worldformula.families.domains import COUNT, POSITIVE, UNIT, Domain
from worldformula.families.special import (
    as_logits,
    dtype_of,
    exp,
    log_beta,
    log_gamma_quantile,
    poisson_quantile,
    positive,
    precise,
    precise_value,
    relu,
    require_floor,
    require_positive,
    rounded,
)
from worldformula.families.tensors import finite
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class NegativeBinomialFamily(Family):
    """Negative binomial with parameters ``total_count`` and ``logits`` (or ``probs``, of a success). Counts are floats.

    Of a head, total_count = softplus(·) + ``min_count``: towards 0 all mass falls on the count 0. Noise is two uniform
    numbers for each element, on one further axis.
    """

    min_count: float = 0.01

    name: ClassVar[str] = "negative_binomial"
    symbol: ClassVar[Sign] = Sign("NegativeBinomial", r"\mathrm{NB}")
    parameters: ClassVar[tuple[str, ...]] = ("total_count", "logits")
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    values: ClassVar[Domain | None] = COUNT
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"total_count": POSITIVE, "probs": UNIT})
    reference: ClassVar[str] = "torch.distributions:NegativeBinomial"

    def check_settings(self) -> None:
        """As every family."""
        require_floor(self, "min_count", self.min_count)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """softplus(·) + min_count for total_count; logits as they are."""
        return (positive(pieces[0], self.min_count), *pieces[1:]) if names[0] == "total_count" else pieces

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` into logits, a tensor clamped by one epsilon; a total_count that is a number must be positive."""
        return require_positive(self, name, value) if name == "total_count" else as_logits(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """total_count 1, logits 0, as numbers: the failures before the first head of a fair coin."""
        return {"total_count": 1.0, "logits": 0.0}

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
        """A Poisson count at a Gamma(total_count) rate times e^logits, in the parameters' dtype. No gradient."""
        count, logits = (p.detach() if isinstance(p, Tensor) else p for p in widen(params))
        first, second = noise.unbind(-1)
        rate = (log_gamma_quantile(count, first) + logits).exp()
        return poisson_quantile(rate, second).to(dtype_of(params, noise))

    def mode(self, params: Params) -> Parameter:
        """(total_count - 1)·e^logits rounded down, or 0 where total_count < 1."""
        mode = relu(params[0] - 1.0) * exp(params[1])
        return mode.floor() if isinstance(mode, Tensor) else float(math.floor(mode))

    def mean(self, params: Params) -> Parameter:
        """total_count·e^logits."""
        return params[0] * exp(params[1])

    def variance(self, params: Params) -> Parameter:
        """total_count·e^logits·(1 + e^logits)."""
        odds = exp(params[1])
        return params[0] * odds * (1.0 + odds)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-probability of counts, summed over the last ``rank`` axes."""
        count, logits = precise(params)
        x = precise_value(self, params, value)
        logits = finite(logits) if isinstance(logits, Tensor) else torch.full_like(x, logits)
        ways = -log_beta(count, x + 1.0) - torch.log(count + x)
        return rounded(total(ways + count * F.logsigmoid(-logits) + x * F.logsigmoid(logits), rank), value, *params)


negative_binomial = NegativeBinomialFamily()
