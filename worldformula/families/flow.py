"""A normalising flow: the distribution of ``x = f⁻¹(u|c)``, u from a base distribution and f an invertible network.

    log p(x|c) = log p_base(f(x|c)) + log |det ∂f/∂x|

(Rezende and Mohamed, *Variational Inference with Normalizing Flows*, arXiv 1505.05770; Papamakarios et al. 2021,
1912.02762.) Two kinds of network f are understood:

    ours, such as RealNVP     f(x, context) -> (u, log_det),   f.inverse(u, context) -> x
    zuko's LazyTransform      t = f(context),   t.call_and_ladj(x) -> (u, log_det),   t.inv(u) -> x

Both see vectors: the event axes of a value are flattened into one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, HeadError, ShapeError
from worldformula.families.base import NOTHING, Family, Opaque, Parameter, Params, Shape, require_same, wide
from worldformula.families.writing import Sign


class Invertible(nn.Module):
    """One call for both kinds of network, so that its weights can be replaced for the whole of it."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, context: Tensor | None, inverse: bool) -> Any:
        """``(u, log_det)`` of x, or x of u where ``inverse``: vectors ``[*batch, D]``."""
        network: Any = self.transform
        if hasattr(network, "inverse"):
            return network.inverse(x, context) if inverse else network(x, context)
        made = network(context)
        return made.inv(x) if inverse else made.call_and_ladj(x)


@dataclass(frozen=True)
class FlowHead:
    """What the network of a flow returns: the bijection, its context ``[*batch, C]`` or None, the base's parameters."""

    bijection: Invertible
    context: Tensor | None
    base: Params

    def unfold(self, *sizes: int) -> FlowHead:
        """A context ``[K·B, C]`` as ``[K, B, C]``, and the base's parameters with it."""
        base = tuple(torch.unflatten(p, 0, sizes) if isinstance(p, Tensor) else p for p in self.base)
        context = None if self.context is None else torch.unflatten(self.context, 0, sizes)
        return FlowHead(self.bijection, context, base)


class Bijection(Opaque):
    """The invertible network as a parameter, for events of ``shape``; all rows share it."""

    def __init__(self, call: Invertible, shape: Shape, stopped: bool = False) -> None:
        self.call, self.shape, self.stopped = call, shape, stopped

    def detach(self) -> Bijection:
        """The same network, without gradient to its weights."""
        return Bijection(self.call, self.shape, stopped=True)

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> Any:
        if not self.stopped:
            return self.call(x, context, inverse)
        weights = {name: weight.detach() for name, weight in self.call.named_parameters()}
        return torch.func.functional_call(self.call, weights, (x, context, inverse))

    def _rows(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, Shape]:
        """x as vectors, the context with its batch axes, and these."""
        batch = tuple(x.shape[: x.ndim - len(self.shape)])
        if context is not None:
            context = context.expand((*batch, context.shape[-1]))
        return x.reshape((*batch, math.prod(self.shape))), context, batch

    def to_base(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """u and log |det ∂u/∂x|."""
        rows, context, batch = self._rows(x, context)
        u, log_det = self._run(rows, context, False)
        return u.reshape(x.shape), log_det.reshape((*batch, -1)).sum(-1)

    def to_value(self, u: Tensor, context: Tensor | None) -> Tensor:
        """x of u."""
        rows, context, _ = self._rows(u, context)
        return cast(Tensor, self._run(rows, context, True).reshape(u.shape))


@dataclass(frozen=True)
class FlowFamily(Family):
    """A flow over the family ``base``; its parameters are the bijection, the context, and those of the base.

    The head is a `FlowHead`, and the event shape must be declared. Samples are reparametrised where the base's are.
    """

    base: Family

    name: ClassVar[str] = "flow"
    symbol: ClassVar[Sign] = Sign("Flow", r"\mathrm{Flow}")
    parameters: ClassVar[tuple[str, ...]] = ("bijection", "context")
    joint: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = {  # of the class in other families; here they follow from the base
            "parameters": ("bijection", "context", *self.base.parameters),
            "reparametrised": self.base.reparametrised,
            "estimator": self.base.estimator,
            "gradients": self.base.gradients,
            "biased": self.base.biased,
            "default_rank": self.base.default_rank,
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def params(
        self, head: object = None, shape: Shape | None = None, fixed: Mapping[str, Parameter] = NOTHING
    ) -> Params:
        """Bijection, context and the base's parameters, from a `FlowHead`."""
        if not isinstance(head, FlowHead) or shape is None or len(fixed):  # bool(fixed) is True under torch.compile
            raise HeadError(f"flow: expected a FlowHead and a declared shape, got {type(head).__name__}, {shape}.")
        return cast(Params, (Bijection(head.bijection, shape), head.context, *head.base))

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """An error: a flow without a network is its base."""
        raise HeadError("flow: expected an invertible network, such as RealNVP or a transform of zuko.")

    def axes(self, name: str, rank: int) -> int:
        """The context has one axis of its own; the base's parameters have theirs."""
        return 1 if name in ("bijection", "context") else self.base.axes(name, rank)

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """Batch shape of context and base, and the event's."""
        bijection, context, base = parts_of(params)
        batch = self.base.shapes(base, rank)[0] if context is None else tuple(context.shape[:-1])
        return batch, bijection.shape

    def expand(self, params: Params, batch: Shape, rank: int) -> Params:
        """Context and base seen with the batch axes ``batch``."""
        bijection, context, base = parts_of(params)
        context = None if context is None else context.expand((*batch, context.shape[-1]))
        return cast(Params, (bijection, context, *self.base.expand(base, batch, rank)))

    # ------------------------------------------------------------------------------------------------------ sampling

    def noise_shape(self, batch: Shape, shape: Shape, params: Params | None = None) -> Shape:
        """That of the base."""
        return self.base.noise_shape(batch, shape)

    def noise(
        self, shape: Shape, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Noise of the base."""
        return self.base.noise(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """f⁻¹ of a sample of the base."""
        bijection, context, base = parts_of(params)
        return bijection.to_value(self.base.sample(base, noise), context)

    def mode(self, params: Params) -> Parameter:
        """f⁻¹ of the base's mode, the deterministic value of a flow: its own mode has no closed form."""
        bijection, context, base = parts_of(params)
        mode = self.base.mode(base)
        if not isinstance(mode, Tensor):
            like = next(bijection.call.parameters()) if context is None else context
            mode = like.new_full((*(() if context is None else context.shape[:-1]), *bijection.shape), mode)
        return bijection.to_value(mode, context)

    def mean(self, params: Params) -> Parameter:
        """An error: there is no closed form."""
        raise FormulaError("flow: the mean has no closed form. Average samples, or take the mode.")

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """log p_base(f(value)) + log |det|, over the whole event, which has ``rank`` axes."""
        bijection, context, base = parts_of(params)
        if rank != len(bijection.shape) or tuple(value.shape[value.ndim - rank :]) != bijection.shape:
            raise ShapeError(f"flow: expected a value [..., {list(bijection.shape)}], got {list(value.shape)}.")
        batch = tuple(value.shape[: value.ndim - rank])
        if context is not None:
            require_same(self, "the batch of the value", batch, context.shape[:-1])
        u, log_det = bijection.to_base(wide(value), context)
        own = self.base.shapes(base, rank)[0]
        return self.base.log_prob(base if own == batch else self.base.expand(base, batch, rank), u, rank) + log_det


def parts_of(params: Params) -> tuple[Bijection, Tensor | None, Params]:
    """Bijection, context and the base's parameters."""
    bijection, context, *base = cast(Any, params)
    return bijection, context, tuple(base)
