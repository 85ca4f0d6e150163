"""The relaxed Bernoulli or binary Concrete distribution on (0, 1) (Maddison et al. 2017, arXiv 1611.00712, appendix B).

    x = σ((logits + log u - log(1-u))/τ),   u uniform
    log p(x) = log τ + d - 2·softplus(d) - log x - log(1-x),   d = logits - τ·(log x - log(1-x))

Its samples are close to 0 and 1 for small temperatures τ, and differentiable. The density is that of the relaxed
variable: a hard 0 or 1 is scored by Bernoulli, whose probability P(x > ½) is the same, σ(logits).
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

from worldformula.errors import ConfigError, FormulaError, HeadError
from worldformula.families.base import (
    Family,
    Parameter,
    Params,
    Shape,
    require_same,
    total,
    uniform,
    wide,
    widen,
)
from worldformula.families.domains import UNIT, Domain
from worldformula.families.special import log
from worldformula.families.tensors import floating
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class RelaxedBernoulliFamily(Family):
    """Relaxed Bernoulli with parameter ``logits`` and the ``temperature`` τ; ``probs`` is accepted by name."""

    temperature: float = 1.0

    name: ClassVar[str] = "relaxed_bernoulli"
    symbol: ClassVar[Sign] = Sign("RelaxedBernoulli", r"\mathrm{BinConcrete}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "reparametrised"
    gradients: ClassVar[tuple[str, ...]] = ("reparametrised",)
    default_rank: ClassVar[int] = 1
    values: ClassVar[Domain | None] = UNIT
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"probs": UNIT})

    def check_settings(self) -> None:
        """As every family."""
        if not self.temperature > 0.0:
            raise ConfigError(f"relaxed_bernoulli: the temperature must be positive, got {self.temperature}.")

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` into logits; a tensor is clamped by one epsilon from 0 and 1."""
        if name != "probs":
            return value
        if isinstance(value, Tensor):
            value = wide(value)
            return torch.logit(value, eps=torch.finfo(value.dtype).eps)
        if not 0.0 < value < 1.0:
            raise HeadError(f"relaxed_bernoulli: probs as a number must lie strictly between 0 and 1, got {value}.")
        return math.log(value) - math.log1p(-value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """logits 0, as a number."""
        return {"logits": 0.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Logistic noise log u - log(1-u), always finite."""
        u = uniform(shape, dtype, device, generator)
        noise = torch.logit(u, eps=torch.finfo(u.dtype).eps)
        return noise if dtype is None else noise.to(dtype)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """σ((logits + noise)/τ)."""
        return ((params[0] + noise) / self.temperature).sigmoid()

    def mode(self, params: Params) -> Parameter:
        """σ(logits/τ), the median: the density itself may be highest at 0 and at 1."""
        (logits,) = params
        if isinstance(logits, Tensor):
            return (logits / self.temperature).sigmoid()
        score = -logits / self.temperature
        return 1.0 / (1.0 + (score.exp() if isinstance(score, Tensor) else math.exp(score)))

    def mean(self, params: Params) -> Parameter:
        """An error: there is no closed form."""
        raise FormulaError("relaxed_bernoulli: the mean has no closed form. Average samples, or take the mode.")

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The relaxed density of values in (0, 1), summed over the last ``rank`` axes; 0 and 1 are moved inside."""
        (logits,) = widen(params)
        if isinstance(logits, Tensor):
            require_same(self, "the value", value.shape, logits.shape)
        value = floating(value, logits)
        info = torch.finfo(value.dtype)
        value = value.clamp(info.tiny, 1.0 - info.eps)
        log_x, log_rest = value.log(), torch.log1p(-value)
        d = logits - self.temperature * (log_x - log_rest)
        return total(log(self.temperature) + d - 2.0 * F.softplus(d) - log_x - log_rest, rank)


relaxed_bernoulli = RelaxedBernoulliFamily()
