"""A mixture of logistic distributions, discretised to integer levels 0 … L-1: PixelCNN++ (Salimans et al., 1701.05517).

On the scale where the levels lie evenly from -1 to 1, with h = 1/(L-1) half their distance, level v stands for the
interval x_v ± h, and the outermost levels reach to ∓∞, so that the probabilities add up to 1:

    P(v) = Σ_k π_k·(σ((x_v + h - loc_k)/s_k) - σ((x_v - h - loc_k)/s_k)),     x_v = 2v/(L-1) - 1

The difference is computed as ``log σ(a) + log σ(-b) + log(1 - e^{b-a})``, which is exact in the tails too; the paper's
code switches to the density there. Its colour channels predict one another, which is not part of this family: the
elements of an event are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import ConfigError, HeadError
from worldformula.families.base import (
    NOTHING,
    Family,
    Parameter,
    Params,
    Shape,
    draw_class,
    require_same,
    split_head,
    total,
    uniform,
    wide,
    widen,
)
from worldformula.families.domains import LOGITS, Domain, levels_of, told
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class DiscretisedLogisticFamily(Family):
    """Parameters ``logits``, ``loc`` and ``log_scale``, each of shape ``(*batch, *event, components)``.

    loc and scale are on the scale where the ``levels`` reach from -1 to 1; log_scale is kept above ``min_log_scale``.
    A value is a level 0 … levels-1, of an integer or floating type (images: ``(255 * x).round()``); a sample is one, of
    the noise's type, without a gradient. `entropy`, `kl` and `mean` are exact sums over all levels, which cost as much
    as ``levels`` densities.
    """

    components: int = 10
    levels: int = 256
    min_log_scale: float = -7.0

    name: ClassVar[str] = "discretised_logistic"
    symbol: ClassVar[Sign] = Sign("DLogistic", r"\mathrm{DLogistic}")
    parameters: ClassVar[tuple[str, ...]] = ("logits", "loc", "log_scale")
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    default_rank: ClassVar[int] = 1
    class_axes: ClassVar[int] = 1
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"logits": LOGITS})
    defining: ClassVar[tuple[str, ...]] = ("levels",)

    def check_settings(self) -> None:
        """As every family."""
        if self.components < 1 or self.levels < 2:
            got = f"components={self.components}, levels={self.levels}"
            raise ConfigError(f"discretised_logistic: expected at least 1 component and 2 levels, got {got}.")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event, 3·components]``, or flat."""
        return split_head(self.name, head, (*(shape or ()), self.components), names)

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Normalised logits; loc as it is; log_scale from ``min_log_scale`` up."""
        return tuple(self._constrained(name, piece) for name, piece in zip(names, pieces, strict=True))

    def _constrained(self, name: str, value: Tensor) -> Tensor:
        if name == "logits":
            return wide(value).log_softmax(-1)
        return value.clamp_min(self.min_log_scale) if name == "log_scale" else value

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """Tensors as a head's; a number holds for all components."""
        if isinstance(value, Tensor):
            return self._constrained(name, value)
        return -math.log(self.components) if name == "logits" else value

    def _fill(self, params: Params, shape: Shape | None) -> Params:
        tensors = [p for p in params if isinstance(p, Tensor)]
        if not tensors:
            raise HeadError(
                "discretised_logistic: expected at least one parameter as a tensor or a network, got numbers"
            )
        whole = tuple(torch.broadcast_shapes(*(p.shape for p in tensors), (*(shape or ()), self.components)))  # type: ignore[no-untyped-call]
        return tuple(p.expand(whole) if isinstance(p, Tensor) else tensors[0].new_full(whole, p) for p in params)

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """An error: there is no standard distribution."""
        raise HeadError(
            "discretised_logistic: there is no standard distribution. Give a network, or logits=, loc= and log_scale=."
        )

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape)·3·components."""
        return math.prod(shape) * self.components * sum(name not in fixed for name in self.parameters)

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """Two numbers for each element: one draws the component, one its logistic."""
        return (*batch, *shape, 2)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1)."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The level nearest to a logistic sample of one drawn component. No gradient."""
        logits, loc, log_scale = (wide(p.detach()) for p in params if isinstance(p, Tensor))
        index = draw_class(logits.exp(), noise[..., 0]).unsqueeze(-1)
        leading = (*index.shape[:-1], logits.shape[-1])
        loc, log_scale = (p.expand(leading).gather(-1, index).squeeze(-1) for p in (loc, log_scale))
        u = noise[..., 1]
        logistic = torch.logit(u, eps=torch.finfo(u.dtype).eps)
        return self._level(loc + log_scale.exp() * logistic).to(noise.dtype)

    def _level(self, x: Tensor) -> Tensor:
        """The level whose interval holds x."""
        return ((x + 1.0) * (0.5 * (self.levels - 1))).round().clamp(0, self.levels - 1)

    def mode(self, params: Params) -> Parameter:
        """The most probable of the levels at the components' centres: the mode, unless components flow together."""
        _, loc, _ = params
        assert isinstance(loc, Tensor)
        candidates = self._level(loc)
        each = torch.stack([self.log_prob(params, level, 0) for level in candidates.unbind(-1)], -1)
        return candidates.gather(-1, each.argmax(-1, keepdim=True)).squeeze(-1)

    def mean(self, params: Params) -> Parameter:
        """Σ v·P(v)."""
        return self._over_levels(params, lambda level, log_p: level * log_p.exp())

    def variance(self, params: Params) -> Parameter:
        """Σ (v - mean)²·P(v)."""
        mean = self._over_levels(params, lambda level, log_p: level * log_p.exp())
        return self._over_levels(params, lambda level, log_p: (level - mean).square() * log_p.exp())

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """log P(value), summed over the last ``rank`` axes. Levels are not checked to lie in 0 … levels-1."""
        logits, loc, log_scale = (p for p in widen(params) if isinstance(p, Tensor))
        require_same(self, "the value", value.shape, logits.shape[:-1])
        return total(self._log_prob(logits, loc, log_scale, value.to(loc.dtype)), rank)

    def _log_prob(self, logits: Tensor, loc: Tensor, log_scale: Tensor, level: Tensor) -> Tensor:
        half = 1.0 / (self.levels - 1)
        centre = (2.0 * half * level - 1.0).unsqueeze(-1) - loc
        rate = (-log_scale).exp()
        below_top = F.logsigmoid((centre + half) * rate)
        above_bottom = F.logsigmoid((half - centre) * rate)
        bottom, top = (level < 0.5).unsqueeze(-1), (level > self.levels - 1.5).unsqueeze(-1)
        inside = torch.log(-torch.expm1(-2.0 * half * rate))
        each = torch.where(top, 0.0, below_top) + torch.where(bottom, 0.0, above_bottom)
        return (logits + each + torch.where(top | bottom, 0.0, inside)).logsumexp(-1)

    def _over_levels(self, params: Params, term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Σ over all levels of ``term(level, log P(level))``, for each element."""
        logits, loc, log_scale = (p for p in widen(params) if isinstance(p, Tensor))
        levels = torch.arange(self.levels, dtype=loc.dtype, device=loc.device)
        levels = levels.view(-1, *(1,) * (loc.ndim - 1)).expand(-1, *loc.shape[:-1])
        return term(levels, self._log_prob(logits, loc, log_scale, levels)).sum(0)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """A level that there is not."""
        fault = told(levels_of(self.levels), value, missing=True)
        return None if fault is None else f"discretised_logistic: expected a value {fault}"

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """-Σ P·log P over the levels and the last ``rank`` axes."""
        return total(self._over_levels(params, lambda _, log_p: -log_p.exp() * log_p), rank)

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """Σ Q·(log Q - log P) over the levels and the last ``rank`` axes, for the same number of levels."""
        logits, loc, log_scale = (p for p in widen(p_params) if isinstance(p, Tensor))
        q_shape = (p.shape[:-1] for p in q_params if isinstance(p, Tensor))
        require_same(self, "q", next(q_shape), loc.shape[:-1])
        return total(
            self._over_levels(
                q_params, lambda level, log_q: log_q.exp() * (log_q - self._log_prob(logits, loc, log_scale, level))
            ),
            rank,
        )


discretised_logistic = DiscretisedLogisticFamily()
