"""The two-hot distribution of DreamerV3 (Hafner et al., arXiv 2301.04104) for one real number per element.

``bins`` numbers stand on a symexp grid, ``b_k = symexp(low + k·step)`` with ``symexp(y) = sign(y)·(e^|y| - 1)``: fine
around zero, coarse far out. The head gives one logit for each. A value x between two *real-space* neighbours weighs

    w_{k+1} = (x - b_k)/(b_{k+1} - b_k),  w_k = 1 - w_{k+1},     log p(x) = Σ_k w_k·log softmax(logits)_k

so ``-log_prob`` is the cross-entropy, which at zero logits is log(bins). The mean is Σ_k p_k·b_k; for the symmetric
grid it pairs mirrored bins, so it is exactly 0 at zero logits although the outer bins are ±5e8.

With ``spacing="linear"`` the bins are ``low + k·step`` themselves: of values that a formula has taken the symlog of, as
TD-MPC2 does (arXiv 2310.16828).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.compiler import is_compiling

from worldformula.errors import ConfigError, FormulaError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    affine,
    draw_class,
    log_probs,
    require_event,
    require_same,
    split_head,
    total,
    uniform,
    wide,
)
from worldformula.families.domains import LOGITS, REAL, WEIGHTS, Domain
from worldformula.families.special import precise, rounded
from worldformula.families.tensors import is_number
from worldformula.families.writing import Sign
from worldformula.gradients import by_steps, gradients_of, in_parts, parts, transformed


@dataclass(frozen=True)
class TwoHotFamily(Family):
    """Two-hot with parameter ``logits`` of shape ``(*batch, *event, bins)``, not normalised.

    ``low`` and ``high`` are the ends of the grid before symexp, or of a linear one. Values beyond the outer bins count
    as the outer bin. A sample is the value of one drawn bin and carries no gradient.
    """

    bins: int = 255
    low: float = -20.0
    high: float = 20.0
    spacing: Literal["symexp", "linear"] = "symexp"

    name: ClassVar[str] = "two_hot"
    symbol: ClassVar[Sign] = Sign("TwoHot", r"\mathrm{TwoHot}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    default_rank: ClassVar[int] = 0
    class_axes: ClassVar[int] = 1
    values: ClassVar[Domain | None] = REAL
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"logits": LOGITS, "probs": WEIGHTS})
    defining: ClassVar[tuple[str, ...]] = ("bins", "low", "high", "spacing")

    def check_settings(self) -> None:
        """As every family."""
        if self.bins < 2 or not self.low < self.high or not math.isfinite(self.high - self.low):
            got = f"{self.bins} bins from {self.low} to {self.high}"
            raise ConfigError(f"two_hot: expected at least 2 bins and low < high, both finite, got {got}.")
        if self.spacing not in ("symexp", "linear"):
            raise ConfigError(f"two_hot: expected spacing as 'symexp' or 'linear', got {self.spacing!r}.")

    @property
    def step(self) -> Parameter:
        """Distance of neighbouring bins before symexp."""
        return (self.high - self.low) / (self.bins - 1)

    @property
    def _centre(self) -> Parameter:
        return 0.5 * (self.low + self.high)

    @property
    def _offset(self) -> float:
        """½ for an even number of bins, where the centre lies between two of them."""
        return 0.0 if self.bins % 2 else 0.5

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event, bins]``, or flat."""
        return split_head(self.name, head, (*(shape or ()), self.bins), names)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` into logits; a number is the uniform distribution over the bins."""
        if isinstance(value, Tensor):
            return log_probs(value) if name == "probs" else value
        return -math.log(self.bins)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """The uniform distribution over the bins, as a number."""
        return {"logits": -math.log(self.bins)}

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape)·bins."""
        return 0 if fixed else math.prod(shape) * self.bins

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1), without an axis of bins."""
        return uniform(shape, dtype, device, generator)

    def value_of(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The real number of a bin, ``index`` counted from 0: ``symexp(low + index·step)``, or that without symexp."""
        return self._value(affine(index.to(dtype), 1.0, -float(self.bins // 2)))

    def _value(self, centred: Tensor) -> Tensor:
        """Bins counted from the centre, so that the middle one is exactly 0 and the others mirror each other."""
        y = affine(affine(centred, 1.0, self._offset), self.step, self._centre)
        return y if self.spacing == "linear" else torch.copysign(torch.expm1(y.abs()), y)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The real number of one drawn bin, float32 at least. No gradient."""
        (logits,) = params
        if isinstance(logits, Tensor):
            index = draw_class(wide(logits.detach()).softmax(-1), noise)
        else:
            index = (noise * self.bins).long()
        return self.value_of(index, noise.dtype)

    def mode(self, params: Params) -> Parameter:
        """The real number of the most probable bin."""
        (logits,) = params
        if isinstance(logits, Tensor):
            return self.value_of(logits.argmax(-1), wide(logits).dtype)
        raise FormulaError("two_hot: the uniform distribution has no mode. Use its mean, or give it logits.")

    def mean(self, params: Params) -> Parameter:
        """Σ p·b in float32 at least; for a symmetric grid Σ (p_{+k} - p_{-k})·b_k over the upper half."""
        (logits,) = params
        if not isinstance(logits, Tensor):
            return 0.0 if is_number(self._centre, 0.0) else self._constant_mean()
        rows = wide(logits).reshape(-1, self.bins)
        return in_parts(self._mean, rows).reshape(logits.shape[:-1])

    def variance(self, params: Params) -> Parameter:
        """Σ p·(b - mean)²."""
        (logits,) = precise(params)
        one = not isinstance(logits, Tensor)
        logits = torch.zeros(self.bins, dtype=torch.float64) if one else logits
        assert isinstance(logits, Tensor)
        values, probs = self.value_of(torch.arange(self.bins, device=logits.device), logits.dtype), logits.softmax(-1)
        mean = (probs * values).sum(-1, keepdim=True)
        found = (probs * (values - mean).square()).sum(-1)
        return float(found) if one and not self.asked else rounded(found, *params)

    def _mean(self, logits: Tensor) -> Tensor:
        probs, half = logits.softmax(-1), self.bins // 2
        if self.spacing == "linear" or not is_number(self._centre, 0.0):
            return (probs * self.value_of(torch.arange(self.bins, device=probs.device), probs.dtype)).sum(-1)
        upper = torch.linspace(
            self.high - (half - 1) * self.step, self.high, half, dtype=probs.dtype, device=probs.device
        ).expm1()
        return ((probs[..., self.bins - half :] - probs[..., :half].flip(-1)) * upper).sum(-1)

    def _constant_mean(self) -> Parameter:
        if self.spacing == "linear":
            return self._centre
        if isinstance(self._centre, Tensor):
            return self.value_of(torch.arange(self.bins, device=self._centre.device), wide(self._centre).dtype).mean()
        grid = [float(self.low + k * self.step) for k in range(self.bins)]
        return sum(math.copysign(math.expm1(abs(y)), y) for y in grid) / self.bins

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Minus the cross-entropy to the two-hot value, summed over the last ``rank`` axes of the value."""
        (logits,) = params
        if not isinstance(logits, Tensor):
            return total(torch.full(value.shape, logits, device=value.device), rank)
        require_same(self, "the value", value.shape, logits.shape[:-1])
        logits = wide(logits)
        index, weight = self.neighbours(value.to(logits.dtype))
        if is_compiling():
            logs = logits.log_softmax(-1)
            # Compiled, a sum over all bins is one pass over the logits, and so is its gradient; picking two of them
            # would be several. Numbers of one type are compared for many bins at once.
            place = torch.arange(self.bins, dtype=logs.dtype, device=logs.device)
            below, weight = index.to(logs.dtype).unsqueeze(-1), weight.unsqueeze(-1)
            shares = torch.where(place == below, logs * (1 - weight), 0.0)
            return total(torch.where(place == below + 1, logs * weight, shares).sum(-1), rank)
        if transformed():
            return total(_between(logits, torch.stack((index, index + 1), -1), weight), rank)
        rows, pair = logits.reshape(-1, self.bins), torch.stack((index, index + 1), -1).reshape(-1, 2)
        found: Tensor = _Between.apply(rows, pair, weight.reshape(-1))  # type: ignore[no-untyped-call]
        return total(found.reshape(value.shape), rank)

    def neighbours(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the bin below each value, and the weight of the bin above it; the bin below has the rest.

        The weight of NaN is NaN, and so is its density.
        """
        place = value if self.spacing == "linear" else torch.copysign(torch.log1p(value.abs()), value)
        half = self.bins // 2
        below = affine(place, 1.0 / self.step, -self._offset - self._centre / self.step).floor()
        below = below.clamp(-half, self.bins - half - 2)
        lower, upper = self._value(below), self._value(below + 1.0)
        return (below + half).nan_to_num(0.0).long(), ((value - lower) / (upper - lower)).clamp(0.0, 1.0)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Entropy of the distribution over the bins."""
        (logits,) = params
        if isinstance(logits, Tensor):
            logs = wide(logits).log_softmax(-1)
            return -total(logs.exp() * logs, rank + 1)
        return -logits * math.prod(require_event(self, shape))

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """KL of the distributions over the bins, which are the same for q and p."""
        (q,), (p,) = q_params, p_params
        if isinstance(q, Tensor) and isinstance(p, Tensor):
            require_same(self, "q", q.shape, p.shape)
        q = wide(q).log_softmax(-1) if isinstance(q, Tensor) else q
        p = wide(p).log_softmax(-1) if isinstance(p, Tensor) else p
        if isinstance(q, Tensor):
            return total(q.exp() * (q - p), rank + 1)
        if isinstance(p, Tensor):
            return total((q - p) * math.exp(q), rank + 1)
        return (q - p) * math.prod(require_event(self, shape))


def _picked(logits: Tensor, pair: Tensor) -> Tensor:
    """The log-probabilities of two of the bins."""
    return logits.log_softmax(-1).gather(-1, pair)


def _between(logits: Tensor, pair: Tensor, weight: Tensor) -> Tensor:
    """The mean of two log-probabilities, of which the second has this weight."""
    both = _picked(logits, pair)
    return torch.lerp(both[..., 0], both[..., 1], weight)


class _Between(torch.autograd.Function):
    """`_between` of rows ``[N, bins]``, ``[N, 2]`` and ``[N]``: it keeps no log-probability but those two, and its
    gradient by the logits, two shares less the probabilities, is written once.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, pair: Tensor, weight: Tensor) -> Tensor:
        """``[N]``."""
        both = in_parts(_picked, logits, pair)
        ctx.save_for_backward(logits, pair, weight, both)
        return torch.lerp(both[:, 0], both[:, 1], weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the logits, and of the weight, as that of a value that is learnt."""
        logits, pair, weight, both = ctx.saved_tensors
        if by_steps(gradient):
            return gradients_of(_between, (logits, pair, weight), gradient, ctx.needs_input_grad)
        found, below = torch.empty_like(logits), gradient * (1 - weight)
        shares = torch.stack((below, gradient - below), -1)
        for of, row, g, two, share in parts(found, logits, gradient.unsqueeze(-1), pair, shares):
            torch.softmax(row, -1, out=of).mul_(-g).scatter_add_(-1, two, share)
        return found, None, gradient * (both[:, 1] - both[:, 0])


two_hot = TwoHotFamily()
