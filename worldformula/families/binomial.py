"""The binomial distribution: how many of ``total_count`` = n independent trials succeed.

    log p(x) = log C(n, x) + x·log σ(l) + (n - x)·log σ(-l),   mean n·σ(l)
    KL(q‖p)  = n·KL of the trials

summed over the event; l are the ``logits`` of a success. A sample counts n uniform numbers and has no gradient; the
n + 1 values can be summed over, ``E(q, ..., gradient="exact")``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.families.base import (
    FEW,
    Family,
    Parameter,
    Params,
    Shape,
    require_event,
    total,
    uniform,
)
from worldformula.families.bernoulli import kl_bernoulli
from worldformula.families.domains import UNIT, Domain, levels_of, told
from worldformula.families.special import as_logits, dtype_of, precise, precise_value, rounded, sigmoid
from worldformula.families.tensors import finite, patterns
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class BinomialFamily(Family):
    """Binomial counts of ``total_count`` trials, with parameter ``logits`` (or ``probs``). Counts are floats.

    Noise is one uniform number for each trial, on one further axis.
    """

    total_count: int = 1

    name: ClassVar[str] = "binomial"
    symbol: ClassVar[Sign] = Sign("Binomial", r"\mathrm{Bin}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"probs": UNIT})
    defining: ClassVar[tuple[str, ...]] = ("total_count",)
    reference: ClassVar[str] = "torch.distributions:Binomial"

    def check_settings(self) -> None:
        """As every family."""
        if self.total_count < 1:
            raise ConfigError(f"binomial: total_count must be a number of at least 1, got {self.total_count!r}.")

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` into logits, a tensor clamped by one epsilon; infinite logits into the largest finite."""
        return as_logits(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """logits 0, fair coins, as a number."""
        return {"logits": 0.0}

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """One number for each trial."""
        return (*batch, *shape, self.total_count)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """How many numbers are below p, in the logits' dtype. No gradient."""
        (logits,) = params
        probs = torch.sigmoid(logits.detach().unsqueeze(-1) if isinstance(logits, Tensor) else noise.new_tensor(logits))
        return (noise < probs).to(dtype_of(params, noise)).sum(-1)

    def support_size(self, shape: Shape | None) -> int | None:
        """n + 1 to the number of entries."""
        size = None if shape is None else (self.total_count + 1) ** math.prod(shape)
        return size if size is not None and size <= FEW else None

    def support(self, shape: Shape) -> Tensor:
        """All counts."""
        return patterns(self.total_count + 1, math.prod(shape)).to(torch.get_default_dtype()).reshape(-1, *shape)

    def mode(self, params: Params) -> Parameter:
        """(n + 1)·p rounded down, n at most."""
        (logits,) = params
        if isinstance(logits, Tensor):
            return ((self.total_count + 1) * logits.sigmoid()).floor().clamp(max=self.total_count)
        return float(min(math.floor((self.total_count + 1) * sigmoid(logits)), self.total_count))

    def mean(self, params: Params) -> Parameter:
        """n·p."""
        return self.total_count * sigmoid(params[0])

    def variance(self, params: Params) -> Parameter:
        """n·p·(1 - p)."""
        return self.total_count * sigmoid(params[0]) * sigmoid(-params[0])

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-probability of counts from 0 to n, summed over the last ``rank`` axes."""
        (logits,), n = precise(params), self.total_count
        x = precise_value(self, params, value)
        logits = finite(logits) if isinstance(logits, Tensor) else torch.full_like(x, logits)
        ways = math.lgamma(n + 1.0) - (x + 1.0).lgamma() - (n - x + 1.0).lgamma()
        return rounded(total(ways + x * F.logsigmoid(logits) + (n - x) * F.logsigmoid(-logits), rank), value, *params)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """Counts above ``total_count``, or none."""
        fault = told(levels_of(self.total_count + 1), value, missing=True)
        return None if fault is None else f"binomial: expected a value {fault}"

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """-Σ p log p over all n + 1 counts, summed over the last ``rank`` axes."""
        (logits,) = precise(params)
        one = not isinstance(logits, Tensor)
        values = torch.as_tensor(logits, dtype=torch.float64 if one else None).unsqueeze(-1)
        counts = torch.arange(self.total_count + 1, dtype=values.dtype, device=values.device)
        logs = self.log_prob(
            (values.expand(*values.shape[:-1], len(counts)),), counts.expand(*values.shape[:-1], -1), 0
        )
        each = -(logs.exp() * logs).sum(-1)
        return float(each) * math.prod(require_event(self, shape)) if one else rounded(total(each, rank), *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """n times that of the trials."""
        return kl_bernoulli(q_params, p_params, rank, shape) * self.total_count


binomial = BinomialFamily()
