"""The Categorical distribution over class numbers 0 … K-1 (int64), with parameter ``logits`` on one further axis.

    log p(x) = logits[x],   logits normalised, so that Σ exp logits = 1

Use `one_hot` where the sample must be a vector that a network can differentiate through.
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
    FEW,
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
    split_head,
    total,
    uniform,
    wide,
)
from worldformula.families.closed import register_kl
from worldformula.families.domains import LOGITS, WEIGHTS, Domain, levels_of, told
from worldformula.families.tensors import divergence, is_flat, mixes, patterns
from worldformula.families.writing import Sign


@dataclass(frozen=True)
class CategoricalFamily(Family):
    """Categorical with normalised log-probabilities ``logits`` of shape ``(*batch, *event, K)``.

    ``unimix`` mixes that much of the uniform distribution in. ``classes`` declares K, for a flat head over an event
    with axes and for the standard (uniform) distribution; otherwise K is whatever the head's last axis has.
    """

    unimix: float = 0.0
    classes: int | None = None

    name: ClassVar[str] = "categorical"
    symbol: ClassVar[Sign] = Sign("Categorical", r"\mathrm{Cat}")
    parameters: ClassVar[tuple[str, ...]] = ("logits",)
    alternatives: ClassVar[Mapping[str, str]] = MappingProxyType({"probs": "logits"})
    gradients: ClassVar[tuple[str, ...]] = ("score",)
    default_rank: ClassVar[int] = 0
    class_axes: ClassVar[int] = 1
    domains: ClassVar[Mapping[str, Domain]] = MappingProxyType({"logits": LOGITS, "probs": WEIGHTS})
    defining: ClassVar[tuple[str, ...]] = ("classes",)
    reference: ClassVar[str] = "torch.distributions:Categorical"

    def check_settings(self) -> None:
        """As every family."""
        if not 0.0 <= self.unimix < 1.0:
            raise ConfigError(f"categorical: unimix is a share of probability in [0, 1), got {self.unimix}.")
        if self.classes is not None and self.classes < 1:
            raise ConfigError(f"categorical: classes must be at least 1, got {self.classes}.")

    def split(self, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
        """A head ``[..., *event, K]``; with ``classes`` declared, flat as well."""
        if self.classes is not None:
            return split_head(self.name, head, (*(shape or ()), self.classes), names)
        shape = shape or ()
        if head.ndim and math.prod(shape) == 1 and is_flat(head, shape, head.shape[-1]):
            return (head.reshape((*head.shape[:-1], *shape, head.shape[-1])) if shape else head,)
        if head.ndim > len(shape) and tuple(head.shape[-1 - len(shape) : -1]) == shape:
            return (head,)
        sizes = ", ".join(map(str, (*shape, "K")))
        raise HeadError(
            f"categorical: expected a head [..., {sizes}] for the event shape {shape} and K classes, got "
            f"{list(head.shape)}. Reshape the network's output, or declare classes=K and let it end flat."
        )

    def constrain(self, pieces: tuple[Tensor, ...], names: Sequence[str], shape: Shape | None) -> tuple[Tensor, ...]:
        """Normalised log-probabilities, mixed by ``unimix``."""
        return (log_mix(pieces[0], self.unimix),)

    def convert(self, name: str, value: Parameter, shape: Shape | None) -> Parameter:
        """``probs`` or ``logits`` into normalised log-probabilities; a number is the uniform distribution."""
        if isinstance(value, Tensor):
            return log_mix(log_probs(value) if name == "probs" else value, self.unimix)
        return self.constants(shape or ())["logits"]

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """The uniform distribution over ``classes``: logits -log K, as a number."""
        if self.classes is None:
            raise HeadError(
                "categorical: the number of classes of the standard distribution is unknown. Declare classes=K, or "
                "give logits= or probs= as a tensor."
            )
        return {"logits": -math.log(self.classes)}

    def head_width(self, shape: Shape, fixed: Mapping[str, Parameter] = NOTHING) -> int | None:
        """prod(shape)·classes, or None where ``classes`` is not declared."""
        if fixed:
            return 0
        return None if self.classes is None else math.prod(shape) * self.classes

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Uniform noise in [0, 1), without a class axis: one number draws one class."""
        return uniform(shape, dtype, device, generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """Class numbers (int64), by inverting the cumulative distribution at the noise."""
        (logits,) = params
        if isinstance(logits, Tensor):
            return draw_class(logits.detach().exp(), noise)
        return (noise * round(math.exp(-logits))).long()

    def support_size(self, shape: Shape | None) -> int | None:
        """Classes to the number of entries, where ``classes`` is declared."""
        size = None if self.classes is None else self.classes ** math.prod(shape or ())
        return size if size is not None and size <= FEW else None

    def support(self, shape: Shape) -> Tensor:
        """All class numbers (int64)."""
        if self.classes is None:
            raise FormulaError("categorical: to enumerate the classes, their number must be known. Declare classes=K.")
        return patterns(self.classes, math.prod(shape)).reshape(-1, *shape)

    def mode(self, params: Params) -> Parameter:
        """The most probable class (int64)."""
        (logits,) = params
        if isinstance(logits, Tensor):
            return logits.argmax(-1)
        raise FormulaError("categorical: the uniform distribution has no mode. Sample it, or give it logits.")

    def mean(self, params: Params) -> Parameter:
        """An error: class numbers have no mean."""
        raise FormulaError("categorical: class numbers have no mean. Use the mode, or OneHot, whose mean is probs.")

    def variance(self, params: Params) -> Parameter:
        """An error: class numbers have none."""
        raise FormulaError("categorical: class numbers have no variance. Use OneHot, whose variance is that of shares.")

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """logits[value] for integers, summed over the last ``rank`` axes of the value."""
        (logits,) = params
        if value.is_floating_point():
            raise FormulaError(
                f"categorical: a value is a class number of an integer type, got {value.dtype}. Convert it by "
                f".long(), or use OneHot for vectors."
            )
        if isinstance(logits, Tensor):
            require_same(self, "the value", value.shape, logits.shape[:-1])
            index = value if value.dtype is torch.int64 else value.long()
            return total(wide(logits).gather(-1, index.unsqueeze(-1)).squeeze(-1), rank)
        return total(torch.full(value.shape, logits, device=value.device), rank)

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """A class that there is not, or a floating type."""
        if value.is_floating_point():
            return f"categorical: expected a value of an integer type, got {value.dtype}; convert it by .long()"
        logits = None if params is None else params[0]
        classes = logits.shape[-1] if isinstance(logits, Tensor) else self.classes
        fault = None if classes is None else told(levels_of(classes), value)
        return None if fault is None else f"categorical: expected a value {fault}"

    def entropy(self, params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """-Σ p·log p over the classes and the last ``rank`` axes."""
        (logits,) = params
        if isinstance(logits, Tensor):
            logits = wide(logits)
            return -total(logits.exp() * logits, rank + 1)
        return -logits * math.prod(require_event(self, shape))

    def kl(self, q_params: Params, p_params: Params, rank: int, shape: Shape | None = None) -> Parameter:
        """`kl_categorical`; of two families of classes it is p's that is asked."""
        return kl_categorical(q_params, p_params, rank, shape, everywhere=mixes(self.unimix))


categorical = CategoricalFamily()


@register_kl(CategoricalFamily, CategoricalFamily)
def kl_categorical(
    q_params: Params, p_params: Params, rank: int, shape: Shape | None = None, *, everywhere: bool = False
) -> Parameter:
    """KL between Categoricals, summed over the classes and the last ``rank`` axes of the value.

    ``everywhere``: p is known to be nowhere 0, so that no sum can be ∞.
    """
    (q,), (p,) = q_params, p_params
    if isinstance(q, Tensor):
        q = wide(q)
        if isinstance(p, Tensor):
            require_same(categorical, "q", q.shape, p.shape)
            p = wide(p)
        found = total(q.exp() * (q - p), rank + 1)
        return divergence(found) if isinstance(p, Tensor) and not everywhere else found
    if isinstance(p, Tensor):
        return divergence(total((q - wide(p)) * math.exp(q), rank + 1))
    return (q - p) * math.prod(require_event(categorical, shape))
