"""The one-hot categorical distribution: a vector of K entries, one of them 1, over the last axis of an event.

An event ``(G, K)`` is G independent groups of K classes, as in DreamerV2 and V3 (Hafner et al., arXiv 2010.02193,
2301.04104). ``unimix`` mixes that much of the uniform distribution into the probabilities (DreamerV3: 0.01); sample,
density, KL and entropy all use the mixture. Samples carry the straight-through gradient of the mixed probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

from worldformula.errors import ConfigError, FormulaError, HeadError
from worldformula.families.base import (
    FEW,
    Family,
    Parameter,
    Params,
    Shape,
    log_mix,
    log_probs,
    require_event,
    require_same,
    total,
    uniform,
    wide,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import LOGITS, SHARES, WEIGHTS, Domain
from worldformula.families.tensors import divergence, mixes, patterns
from worldformula.families.writing import Sign
from worldformula.gradients import transformed

MANY = 1 << 14
"""Numbers from which on comparisons of all take less time than the search for the largest of each row."""


@dataclass(frozen=True)
class OneHotFamily(Family):
    """One-hot with parameter ``logits``: the log of the mixed, normalised probabilities over the last axis."""

    unimix: float = 0.0
    temperature: float = 1.0

    name: ClassVar[str] = "one_hot"
    symbol: ClassVar[Sign] = Sign("OneHot", r"\mathrm{OneHot}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    reparametrised: ClassVar[bool] = True
    estimator: ClassVar[str | None] = "straight-through"
    gradients: ClassVar[tuple[str, ...]] = ("straight-through", "gumbel", "score")
    biased: ClassVar[tuple[str, ...]] = ("straight-through", "gumbel")
    default_rank: ClassVar[int] = 1
    values: ClassVar[Domain | None] = SHARES
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"logits": LOGITS, "probs": WEIGHTS})
    reference: ClassVar[str] = "torch.distributions:OneHotCategorical"

    def check_settings(self) -> None:
        """As every family."""
        if not 0.0 <= self.unimix < 1.0:
            raise ConfigError(f"one_hot: unimix is a share of probability in [0, 1), got {self.unimix}.")
        if not self.temperature > 0.0:
            raise ConfigError(f"one_hot: the temperature must be positive, got {self.temperature}.")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """As every family; the last axis of an event are the classes, so it cannot be ``()``."""
        if shape == ():
            raise HeadError("one_hot: an event needs a class axis. Declare shape=K or shape=(G, K), not ().")
        return super().split(head, shape, names)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Normalised log-probabilities, mixed by ``unimix``."""
        return (log_mix(pieces[0], self.unimix),)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` or ``logits`` into normalised log-probabilities; a number is the uniform distribution."""
        if isinstance(value, Tensor):
            return log_mix(log_probs(value) if name == "probs" else value, self.unimix)
        if not shape:
            raise HeadError(f"one_hot: {name} as one number is the uniform distribution; declare shape=K for it.")
        return -math.log(shape[-1])

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """The uniform distribution: logits -log K, as a number."""
        if not shape:
            raise HeadError("one_hot: an event needs a class axis. Declare shape=K or shape=(G, K), not ().")
        return {"logits": -math.log(shape[-1])}

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Gumbel noise: the largest of logits + noise is a sample of the classes. Always finite."""
        u = uniform(shape, dtype, device, generator)
        # In place: over the steps of a dream this is a large tensor.
        noise = u.clamp_min_(torch.finfo(u.dtype).tiny).log_().neg_().log_().neg_()
        return noise if dtype is None else noise.to(dtype)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The one-hot of argmax(logits + noise), exactly 0 and 1, in the noise's dtype; gradient of the probs."""
        (logits,) = params
        if not (isinstance(logits, Tensor) and torch.is_grad_enabled()):
            return _one_hot(logits + noise if isinstance(logits, Tensor) else noise, noise.dtype)
        hard = _one_hot(logits.detach() + noise, noise.dtype)
        probs = logits.exp()
        # The bracket is exactly zero, so the sample stays exactly one-hot.
        return hard + (probs - probs.detach()).to(noise.dtype)

    def gumbel(self, params: Params, noise: Tensor) -> Tensor:
        """The same sample with the gradient of its relaxation at ``temperature`` (Jang et al., 1611.01144): biased."""
        (logits,) = params
        hard = self.sample((logits.detach() if isinstance(logits, Tensor) else logits,), noise)
        if not isinstance(logits, Tensor):
            return hard
        soft = ((logits + noise) / self.temperature).softmax(-1)
        return hard + (soft - soft.detach()).to(noise.dtype)

    def support_size(self, shape: Shape | None) -> int | None:
        """Classes to the number of groups."""
        size = shape[-1] ** math.prod(shape[:-1]) if shape else None
        return size if size is not None and size <= FEW else None

    def support(self, shape: Shape) -> Tensor:
        """All choices of one class for each group."""
        groups, classes = math.prod(shape[:-1]), shape[-1]
        chosen = torch.nn.functional.one_hot(patterns(classes, groups), classes)
        return chosen.to(torch.get_default_dtype()).reshape(-1, *shape)

    def mode(self, params: Params) -> Parameter:
        """The one-hot of the most probable class."""
        (logits,) = params
        if isinstance(logits, Tensor):
            return _one_hot(logits, logits.dtype)
        raise FormulaError("one_hot: the uniform distribution has no mode. Sample it, or give it logits.")

    def mean(self, params: Params) -> Parameter:
        """The (mixed) probabilities."""
        (logits,) = params
        return logits.exp() if isinstance(logits, Tensor) else math.exp(logits)

    def variance(self, params: Params) -> Parameter:
        """p·(1 - p) of the (mixed) probabilities."""
        mean = self.mean(params)
        return mean * (1.0 - mean)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ value·logits over the last ``rank`` axes, classes included: an event ``(G, K)`` has rank 2.

        A value may be shares that sum to 1 (a smoothed label): this is then the usual cross-entropy, and no density.
        """
        (logits,) = params
        if isinstance(logits, Tensor):
            require_same(self, "the value", value.shape, logits.shape)
            return total(wide(logits) * value, rank)
        return total(wide(value), rank) * logits

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """-Σ p·log p over the last ``rank`` axes, classes included."""
        (logits,) = params
        if isinstance(logits, Tensor):
            logits = wide(logits)
            return -total(logits.exp() * logits, rank)
        return -logits * math.prod(require_event(self, shape)[:-1])

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_one_hot`; of two families of one-hots it is p's that is asked."""
        return kl_one_hot(q_params, p_params, rank, shape, everywhere=mixes(self.unimix))


one_hot = OneHotFamily()


@register_kl(OneHotFamily, OneHotFamily)
def kl_one_hot(
    q_params: Params, p_params: Params, rank: int, shape: Shape | None = None, *, everywhere: bool = False
) -> Parameter:
    """KL between one-hots, summed over the last ``rank`` axes, classes and groups: ``(G, K)`` has rank 2.

    ``everywhere``: p is known to be nowhere 0, so that no sum can be ∞.
    """
    (q,), (p,) = q_params, p_params
    if isinstance(q, Tensor):
        q = wide(q)
        if isinstance(p, Tensor):
            require_same(one_hot, "q", q.shape, p.shape)
            p = wide(p)
        found = total(q.exp() * (q - p), rank)
        return divergence(found) if isinstance(p, Tensor) and not everywhere else found
    if isinstance(p, Tensor):
        return divergence(total((q - wide(p)) * math.exp(q), rank))
    return (q - p) * math.prod(require_event(one_hot, shape)[:-1])


def _one_hot(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """1 at the first of the largest scores; a NaN counts as the largest."""
    if is_compiling():  # comparisons are made for many rows at once, an argmax row by row
        place = torch.arange(scores.shape[-1], device=scores.device)
        largest = (scores == scores.amax(-1, keepdim=True)) | scores.isnan()
        first = torch.where(largest, place, scores.shape[-1]).amin(-1, keepdim=True)
        return (place == first).to(dtype)
    if scores.device.type == "cpu" and scores.numel() >= MANY and not transformed():  # an argmax goes row by row
        top = scores.amax(-1, keepdim=True)
        largest = scores == top
        if int(largest.count_nonzero()) == top.numel() and not bool(top.isnan().any()):  # no tie, no NaN
            return largest.to(dtype)
    index = scores.argmax(-1, keepdim=True)
    return torch.scatter(torch.zeros_like(scores, dtype=dtype), -1, index, 1.0)
