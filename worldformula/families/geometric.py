"""The geometric distribution: how many trials fail before the first success.

    log p(x) = log σ(l) + x·log σ(-l),   mean e^-l,   entropy (softplus(-l)·σ(l) + softplus(l)·σ(-l)) / σ(l)
    KL(q‖p)  = KL of one trial / p_q

summed over the event; l are the ``logits`` of a success. Counts begin at 0, as those of torch. A sample inverts the
distribution function at one uniform number; it has no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
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
)
from worldformula.families.domains import COUNT, UNIT, Domain
from worldformula.families.special import as_logits, dtype_of, exp, precise, precise_value, rounded, summed
from worldformula.families.tensors import finite
from worldformula.families.writing import Sign

LEAST = -700.0  # logits whose e^-l is a number of float64; a tenth of it on a device without


@dataclass(frozen=True)
class GeometricFamily(Family):
    """Geometric with parameter ``logits`` (or ``probs``) of a success. Counts are floats."""

    name: ClassVar[str] = "geometric"
    symbol: ClassVar[Sign] = Sign("Geometric", r"\mathrm{Geom}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    values: ClassVar[Domain | None] = COUNT
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"probs": UNIT})
    reference: ClassVar[str] = "torch.distributions:Geometric"

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` into logits, a tensor clamped by one epsilon; infinite logits into the largest finite."""
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
        """log(1 - u) / log(1 - p) rounded down, in the logits' dtype, whose largest number bounds it. No gradient."""
        (logits,) = precise(params)
        (u,) = precise((noise,))
        assert isinstance(u, Tensor)
        fails = F.logsigmoid(-logits.detach() if isinstance(logits, Tensor) else u.new_tensor(-logits))
        dtype = dtype_of(params, noise)
        # Where p is 0 in this format, log(1 - p) is the smallest number below 0: u = 0 is still 0 failures.
        found = torch.log1p(-u) / fails.clamp(max=-torch.finfo(fails.dtype).tiny)
        return found.floor().clamp(max=torch.finfo(dtype).max).to(dtype)

    def mode(self, params: Params) -> Parameter:
        """0."""
        (logits,) = params
        return torch.zeros_like(logits) if isinstance(logits, Tensor) else 0.0

    def mean(self, params: Params) -> Parameter:
        """(1 - p)/p."""
        return exp(-params[0])

    def variance(self, params: Params) -> Parameter:
        """(1 - p)/p²."""
        mean = exp(-params[0])
        return mean * (1.0 + mean)

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """The log-probability of counts, summed over the last ``rank`` axes; -∞ below 0."""
        (logits,) = precise(params)
        x = precise_value(self, params, value)
        logits = finite(logits) if isinstance(logits, Tensor) else torch.full_like(x, logits)
        each = F.logsigmoid(logits) + x * F.logsigmoid(-logits)
        return rounded(total(each.masked_fill(x < 0, -torch.inf), rank), value, *params)

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ of -log p - (1-p)/p·log(1-p), over the last ``rank`` axes."""
        return self._cross_entropy(params, params, params, rank, shape)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ of log p_q - log p_p + (1-p_q)/p_q·(log(1-p_q) - log(1-p_p)), over the last ``rank`` axes."""
        if has_tensor(q_params) and has_tensor(p_params):
            require_same(self, "q", shape_of(q_params), shape_of(p_params))
        return self._cross_entropy(q_params, p_params, (*q_params, *p_params), rank, shape, relative=True)

    def _cross_entropy(
        self, q: Params, p: Params, like: Params, rank: int, shape: Shape | None, *, relative: bool = False
    ) -> Parameter:
        """-E_q log p; where it is ``relative``, less the entropy of q."""
        (a,), (b,) = precise(q), precise(p)
        both = [torch.as_tensor(x, dtype=torch.float64) if not isinstance(x, Tensor) else finite(x) for x in (a, b)]
        first, second = torch.broadcast_tensors(*both)  # type: ignore[no-untyped-call]
        # The mean e^-l times softplus keeps its value where both logits move up alike, this far down: no ∞·0.
        up = ((LEAST if first.dtype == torch.float64 else LEAST / 10) - first.detach()).clamp_min(0.0)
        mean = (-first - up).exp()
        each = -F.logsigmoid(second) - mean * F.logsigmoid(-second - up)
        if relative:
            each = each + F.logsigmoid(first) + mean * F.logsigmoid(-first - up)
        told: Parameter = each if has_tensor(like) else float(each)
        return rounded(summed(self, told, like, rank, shape), *like)


geometric = GeometricFamily()
