"""The Bernoulli distribution over events of independent 0/1 axes, with parameter ``logits`` = log p/(1-p).

    log p(x) = x·log σ(l) + (1-x)·log σ(-l),   summed over the event

The value may be any number in [0, 1]: on grey levels this is the usual binary cross-entropy, which is not a density.
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
    require_same,
    total,
    uniform,
    widen,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import UNIT, Domain
from worldformula.families.special import as_logits, sigmoid
from worldformula.families.tensors import divergence, floating, patterns
from worldformula.families.writing import Sign, SourceLines


@dataclass(frozen=True)
class BernoulliFamily(Family):
    """Bernoulli with one logit for each axis element; ``probs`` is accepted by name (clamped by one epsilon).

    Samples are floats 0 or 1 without a gradient; `straight_through` gives them the gradient of the probabilities.
    """

    temperature: float = 1.0

    name: ClassVar[str] = "bernoulli"
    symbol: ClassVar[Sign] = Sign("Bernoulli", r"\mathrm{Bernoulli}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    gradients: ClassVar[tuple[str, ...]] = ("straight-through", "gumbel", "score")
    biased: ClassVar[tuple[str, ...]] = ("straight-through", "gumbel")
    default_rank: ClassVar[int] = 1
    values: ClassVar[Domain | None] = UNIT
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"probs": UNIT})
    reference: ClassVar[str] = "torch.distributions:Bernoulli"

    def check_settings(self) -> None:
        """As every family."""
        if not self.temperature > 0.0:
            raise ConfigError(f"bernoulli: the temperature must be positive, got {self.temperature}.")

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` into logits, a tensor clamped by one epsilon from 0 and 1; infinite logits into the largest finite.

        Done here, where parameters are given by name, and not in the density of a head: it would cost a round through
        every pixel, and the infinite logit of a network is a fault that its NaN should show.
        """
        return as_logits(self, name, value)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """logits 0, a fair coin, as a number."""
        return {"logits": 0.0}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """0 or 1 in the logits' dtype: noise < p. No gradient."""
        probs = self.mean(params)
        return (noise < probs).to(probs.dtype if isinstance(probs, Tensor) else noise.dtype)

    def straight_through(self, params: Params, noise: Tensor) -> Tensor:
        """A sample whose gradient is that of the probabilities (Bengio et al., arXiv 1308.3432): biased."""
        probs = self.mean(params)
        if not isinstance(probs, Tensor):
            return self.sample(params, noise)
        # The bracket is exactly zero, so the sample stays exactly 0 or 1.
        return (noise < probs).to(probs.dtype) + (probs - probs.detach())

    def gumbel(self, params: Params, noise: Tensor) -> Tensor:
        """The same sample with the gradient of its relaxation at ``temperature`` (Jang et al., 1611.01144): biased."""
        (logits,) = params
        if not isinstance(logits, Tensor):
            return self.sample(params, noise)
        u = noise.clamp(torch.finfo(noise.dtype).tiny, 1.0 - torch.finfo(noise.dtype).eps)
        soft = torch.sigmoid((logits + torch.log1p(-u) - u.log()) / self.temperature)
        return self.sample(params, noise).detach() + (soft - soft.detach())

    def support_size(self, shape: Shape | None) -> int | None:
        """2 to the number of entries."""
        size = None if shape is None else 2 ** math.prod(shape)
        return size if size is not None and size <= FEW else None

    def support(self, shape: Shape) -> Tensor:
        """All patterns of 0 and 1."""
        return patterns(2, math.prod(shape)).to(torch.get_default_dtype()).reshape(-1, *shape)

    def mode(self, params: Params) -> Parameter:
        """1 where p > ½, else 0."""
        (logits,) = params
        return (logits > 0.0).to(logits.dtype) if isinstance(logits, Tensor) else float(logits > 0.0)

    def mean(self, params: Params) -> Parameter:
        """p = σ(logits)."""
        return sigmoid(params[0])

    def variance(self, params: Params) -> Parameter:
        """p·(1 - p)."""
        return sigmoid(params[0]) * sigmoid(-params[0])

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Minus the binary cross-entropy of a value in [0, 1], summed over the last ``rank`` axes."""
        (logits,) = widen(params)
        if isinstance(logits, Tensor):
            require_same(self, "the value", value.shape, logits.shape)
            return -_cross_entropy(logits, floating(value, logits), rank)
        value = floating(value, logits)
        return -_cross_entropy(torch.full_like(value, logits), value, rank)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ -p·log p - (1-p)·log(1-p), over the last ``rank`` axes."""
        (logits,) = widen(params)
        if isinstance(logits, Tensor):
            return _cross_entropy(logits, logits.sigmoid(), rank)
        return _constant_entropy(logits) * math.prod(require_event(self, shape))

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_bernoulli`."""
        return kl_bernoulli(q_params, p_params, rank, shape)

    def source_lines(self) -> SourceLines:
        """The cross-entropy with logits; samples have no gradient and stay with the methods."""
        given = "widened({name}_logits), matched({value}, {name}_logits)"
        entropy = f'F.binary_cross_entropy_with_logits({given}, reduction="none")'
        return SourceLines(
            params=("{name}_logits = {head}",),
            undeclared=("{name}_logits = {head}",),
            sample=None,
            mode="({name}_logits > 0).to({name}_logits.dtype)",
            log_prob=f"-{entropy}.sum(-1)",
            kl=None,
            kl_standard=None,
        )


bernoulli = BernoulliFamily()


@register_kl(BernoulliFamily, BernoulliFamily)
def kl_bernoulli(q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
    """KL between Bernoullis, cross-entropy less entropy, summed over the last ``rank`` axes."""
    (q,), (p,) = widen(q_params), widen(p_params)
    if isinstance(q, Tensor):
        if isinstance(p, Tensor):
            require_same(bernoulli, "q", q.shape, p.shape)
        probs = q.sigmoid()
        other = p if isinstance(p, Tensor) else torch.full_like(q, p)
        return divergence(total(_each(other, probs) - _each(q, probs), rank))
    if isinstance(p, Tensor):
        return divergence(total(_each(p, torch.full_like(p, sigmoid(q))) - _constant_entropy(q), rank))
    each = sigmoid(q) * _softplus(-p) + sigmoid(-q) * _softplus(p) - _constant_entropy(q)
    return each * math.prod(require_event(bernoulli, shape))


def _cross_entropy(logits: Tensor, target: Tensor, rank: int) -> Tensor:
    return total(_each(logits, target), rank)


def _each(logits: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of every element."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _softplus(logit: float) -> float:
    return max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))


def _constant_entropy(logit: float) -> float:
    return sigmoid(logit) * _softplus(-logit) + sigmoid(-logit) * _softplus(logit)
