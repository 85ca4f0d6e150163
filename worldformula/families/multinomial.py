"""The multinomial distribution: how often each of K classes came up in ``total_count`` = n draws; counts sum to n.

    log p(x) = log n! - Σ_k log x_k! + Σ_k x_k·logits_k,   logits normalised, so that Σ exp logits = 1
    KL(q‖p)  = n·Σ_k q_k·(log q_k - log p_k)

over the last axis of an event, which holds the classes, and summed over its other axes. The entropy is the finite sum
``-log n! + n·H(probs) + Σ_k E log x_k!`` with x_k binomial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from worldformula.errors import ConfigError, FormulaError, HeadError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    draw_class,
    log_mix,
    log_probs,
    require_event,
    require_same,
    total,
    uniform,
    wide,
)
from worldformula.families.domains import LOGITS, WEIGHTS, Domain, counts_of, told
from worldformula.families.special import dtype_of, precise, precise_value, rounded
from worldformula.families.tensors import divergence
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class MultinomialFamily(Family):
    """Multinomial counts of ``total_count`` draws, with parameter ``logits``: normalised log-probabilities.

    An event ``(G, K)`` is G independent count vectors. Counts are floats without a gradient. Noise is one uniform
    number for each draw, in the place of the class axis.
    """

    total_count: int = 1

    name: ClassVar[str] = "multinomial"
    symbol: ClassVar[Sign] = Sign("Multinomial", r"\mathrm{Mult}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    joint: ClassVar[int | None] = 1
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"logits": LOGITS, "probs": WEIGHTS})
    defining: ClassVar[tuple[str, ...]] = ("total_count",)
    reference: ClassVar[str] = "torch.distributions:Multinomial"

    def check_settings(self) -> None:
        """As every family."""
        if self.total_count < 1:
            raise ConfigError(f"multinomial: total_count must be a number of at least 1, got {self.total_count!r}.")

    def params(
        self, head: Tensor | Mapping[str, Parameter] | None, shape: Shape | None = None,
        fixed: Mapping[str, Parameter] = NOTHING,
    ) -> Params:  # fmt: skip
        """As every family; the last axis of an event are the classes, so it cannot be ``()``."""
        if shape == ():
            raise HeadError("multinomial: an event needs a class axis. Declare shape=K or shape=(G, K), not ().")
        return super().params(head, shape, fixed)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Normalised log-probabilities."""
        return (log_mix(pieces[0], 0.0),)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` or ``logits`` into normalised log-probabilities; a number is the uniform distribution."""
        if isinstance(value, Tensor):
            return log_mix(log_probs(value) if name == "probs" else value, 0.0)
        if not shape:
            raise HeadError(f"multinomial: {name} as one number is the uniform distribution; declare shape=K for it.")
        return -math.log(shape[-1])

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """The uniform distribution: logits -log K, as a number."""
        return {"logits": -math.log(shape[-1])}

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """One number for each draw."""
        return (*batch, *shape[:-1], self.total_count)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """Counts that sum to total_count, in the parameters' dtype: each number draws one class. No gradient."""
        (logits,) = params
        if isinstance(logits, Tensor):
            k, index = logits.shape[-1], draw_class(logits.detach().exp().unsqueeze(-2), noise)
        else:
            k = round(math.exp(-logits))
            index = (noise * k).long()
        ones = torch.ones_like(noise, dtype=dtype_of(params, noise))
        zeros = ones.new_zeros((*noise.shape[:-1], k))
        return torch.scatter_add(zeros, -1, index, ones)

    def mode(self, params: Params) -> Parameter:
        """Counts near n·probs that sum to n: rounded down, the rest given to the largest remainders.

        For one draw this is the most probable class; for more it may be one draw off the most probable counts.
        """
        (logits,) = params
        if not isinstance(logits, Tensor):
            raise FormulaError("multinomial: the uniform distribution has no mode. Sample it, or give it logits.")
        wanted = wide(logits).exp() * self.total_count
        low = wanted.floor()
        rank = (wanted - low).argsort(-1, descending=True).argsort(-1)
        return (low + (rank < self.total_count - low.sum(-1, keepdim=True))).to(logits.dtype)

    def mean(self, params: Params) -> Parameter:
        """n·probs."""
        (logits,) = params
        return (logits.exp() if isinstance(logits, Tensor) else math.exp(logits)) * self.total_count

    def variance(self, params: Params) -> Parameter:
        """n·probs·(1 - probs)."""
        (logits,) = params
        probs = logits.exp() if isinstance(logits, Tensor) else math.exp(logits)
        return probs * (1.0 - probs) * self.total_count

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-probability of counts that sum to n, summed over the last ``rank`` axes, classes included."""
        if rank == 0:
            raise FormulaError("multinomial: counts have a probability together: rank must be at least 1, got 0.")
        (logits,) = params
        x = precise_value(self, params, value)
        logits = _normal_logits(params)
        each = (x * logits - (x + 1.0).lgamma()).sum(-1)
        return rounded(total(each + math.lgamma(self.total_count + 1.0), rank - 1), value, *params)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """Counts that do not sum to ``total_count``, or are none."""
        fault = told(counts_of(self.total_count), value, missing=True)
        return None if fault is None else f"multinomial: expected a value {fault}"

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """The entropy, a finite sum of K·(n + 1) terms, summed over the last ``rank`` axes, classes included."""
        n, (logits,) = self.total_count, params
        factorials = [math.lgamma(x + 1.0) for x in range(n + 1)]
        choose = [factorials[n] - factorials[x] - factorials[n - x] for x in range(n + 1)]
        if not isinstance(logits, Tensor):
            *rest, k = require_event(self, shape)
            miss = math.log1p(-1.0 / k) if k > 1 else -math.inf
            terms = [math.exp(choose[x] + x * logits + (n - x) * miss) * factorials[x] for x in range(n)]
            last = math.exp(n * logits) * factorials[n]
            return (k * (math.fsum(terms) + last) - factorials[n] - n * logits) * math.prod(rest)
        logits = _normal_logits(params)
        assert isinstance(logits, Tensor)
        probs = logits.exp()
        each = -n * probs * logits
        miss_log = torch.log1p(-probs.clamp_max(1.0 - torch.finfo(probs.dtype).eps))
        for x in range(2, n + 1):  # log 0! and log 1! are 0
            each = each + (x * logits + (n - x) * miss_log + choose[x]).exp() * factorials[x]
        return rounded(total(each.sum(-1) - factorials[n], rank - 1), *params)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """n times the KL of one draw, summed over the last ``rank`` axes, classes included."""
        (q,), (p,) = q_params, p_params
        if isinstance(q, Tensor) and isinstance(p, Tensor):
            require_same(self, "q", q.shape, p.shape)
        q, p = (wide(x) if isinstance(x, Tensor) else x for x in (q, p))
        if isinstance(q, Tensor):
            found = total(q.exp() * (q - p), rank)
            return (divergence(found) if isinstance(p, Tensor) else found) * self.total_count
        if isinstance(p, Tensor):
            return divergence(total((q - p) * math.exp(q), rank)) * self.total_count
        return (q - p) * self.total_count * math.prod(require_event(self, shape)[:-1])


multinomial = MultinomialFamily()


def _normal_logits(params: Params) -> Parameter:
    """The logits in float64, normalised once more: n draws multiply what float32 leaves of a sum that is not 1."""
    (logits,) = precise(params)
    return logits.log_softmax(-1) if isinstance(logits, Tensor) else logits
