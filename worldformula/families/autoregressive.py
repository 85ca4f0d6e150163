"""An autoregressive distribution: one factor over the whole x, whose network reads x itself and may not look ahead.

    log p(x|c) = Σ_d log p(x_d | x_<d, c)

(Bengio and Bengio 1999; Germain et al. 2015, arXiv 1502.03509; van den Oord et al. 2016, 1601.06759.) The network is
called as ``net(x)`` or ``net(x, context)`` and gives the parameters of all D conditionals at once, those of x_d a
function of the elements before it alone, in whatever order. Masks guarantee it; see `worldformula.nets.masked`.

A sample is the fixed point of x ← sample(net(x), noise), reached after at most D rounds in any order: each round
settles at least one further element (Song et al. 2021, arXiv 2002.03629).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, HeadError, ShapeError
from worldformula.families.base import NOTHING, Family, Opaque, Parameter, Params, Shape
from worldformula.families.tensors import with_ones
from worldformula.families.writing import Sign


class CausalHead(NamedTuple):
    """What the network of such a factor returns: the causal network itself, and its context ``[*batch, C]`` or None."""

    net: nn.Module
    context: Tensor | None

    def unfold(self, *sizes: int) -> CausalHead:
        """A context ``[K·B, C]`` as ``[K, B, C]``."""
        return self._replace(context=None if self.context is None else torch.unflatten(self.context, 0, sizes))


class Causal(Opaque):
    """The causal network as a parameter, for events of ``shape``; all rows share it."""

    def __init__(self, net: nn.Module, shape: Shape, stopped: bool = False) -> None:
        self.net, self.shape, self.stopped = net, shape, stopped

    def detach(self) -> Causal:
        """The same network, without gradient to its weights."""
        return Causal(self.net, self.shape, stopped=True)

    def head(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The head of all conditionals, ``[*batch, ...]``; the network sees one batch axis."""
        batch = tuple(x.shape[: x.ndim - len(self.shape)])
        rows = [x.reshape(-1, *self.shape)]
        if context is not None:
            rows.append(context.expand((*batch, context.shape[-1])).reshape(-1, context.shape[-1]))
        if self.stopped:
            weights = {name: weight.detach() for name, weight in self.net.named_parameters()}
            found = torch.func.functional_call(self.net, weights, tuple(rows))
        else:
            found = self.net(*rows)
        return cast(Tensor, found.reshape(*batch, *found.shape[1:]))


@dataclass(frozen=True)
class AutoregressiveFamily(Family):
    """A chain of conditionals of the family ``base``; its parameters are the causal network and the context.

    The head is a `CausalHead`, and the event shape must be declared. Samples are reparametrised where the base's are.
    """

    base: Family

    name: ClassVar[str] = "autoregressive"
    symbol: ClassVar[Sign] = Sign("AR", r"\mathrm{AR}")
    parameters: ClassVar[tuple[str, ...]] = ("net", "context")
    joint: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.base.of_elements:
            raise FormulaError(
                f"autoregressive: expected a base of independent elements, such as Bernoulli, Categorical or Normal, "
                f"got {self.base.name}"
            )
        settings = {  # of the class in other families; here they follow from the base
            "reparametrised": self.base.reparametrised,
            "estimator": self.base.estimator,
            "gradients": self.base.gradients,
            "biased": self.base.biased,
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def params(
        self, head: object = None, shape: Shape | None = None, fixed: Mapping[str, Parameter] = NOTHING
    ) -> Params:
        """Network and context, from a `CausalHead`."""
        if not isinstance(head, CausalHead) or shape is None or fixed:
            raise HeadError(
                f"autoregressive: expected a CausalHead and a declared shape, got {type(head).__name__}, {shape}."
            )
        return cast(Params, (Causal(head.net, shape), head.context))

    def constants(self, shape: Shape) -> dict[str, Parameter]:
        """An error: without a network the elements are independent."""
        raise HeadError("autoregressive: expected a causal network, such as worldformula.nets.masked.MaskedMLP.")

    def axes(self, name: str, rank: int) -> int:
        """The context has one axis of its own."""
        return 1

    def shapes(self, params: Params, rank: int) -> tuple[Shape, Shape]:
        """Batch shape of the context, and the event's."""
        net, context = _parts(params)
        return () if context is None else tuple(context.shape[:-1]), net.shape

    def expand(self, params: Params, batch: Shape, rank: int) -> Params:
        """The context seen with the batch axes ``batch``."""
        net, context = _parts(params)
        return cast(Params, (net, None if context is None else context.expand((*batch, context.shape[-1]))))

    def conditionals(self, params: Params, value: Tensor) -> Params:
        """The base's parameters of every element, given the elements before it."""
        net, context = _parts(params)
        lead, head = self.base.leading(net.shape) if net.shape else (), net.head(value, context)
        if all(size == 1 for size in lead):
            head = with_ones(head, lead, value.ndim - len(net.shape))
        return self.base.params(head, net.shape)

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
        """Element after element, D rounds of the network."""
        shape = _parts(params)[0].shape
        batch = noise.shape[: noise.ndim - len(self.base.noise_shape((), shape))]
        start = noise.new_zeros((*batch, *shape))
        return self._settle(params, start, lambda conditionals: self.base.sample(conditionals, noise))

    def mode(self, params: Params) -> Parameter:
        """The greedy value: the mode of every conditional given the modes before it."""
        net, context = _parts(params)
        like = next(net.net.parameters()) if context is None else context
        start = like.new_zeros((*(() if context is None else context.shape[:-1]), *net.shape))
        return self._settle(params, start, lambda conditionals: cast(Tensor, self.base.mode(conditionals)))

    def _settle(self, params: Params, x: Tensor, draw: Callable[[Params], Tensor]) -> Tensor:
        for _ in range(math.prod(_parts(params)[0].shape)):
            x = draw(self.conditionals(params, x))
        return x

    def mean(self, params: Params) -> Parameter:
        """An error: there is no closed form."""
        raise FormulaError("autoregressive: the mean has no closed form. Average samples, or take the mode.")

    def wrong_value(self, value: Tensor, rank: int, params: Params | None = None) -> str | None:
        """As of the base."""
        return self.base.wrong_value(value, rank)

    # ----------------------------------------------------------------------------------------------------- densities

    def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
        """Σ_d log p(x_d|x_<d), exactly, in one round of the network."""
        shape = _parts(params)[0].shape
        if rank != len(shape) or tuple(value.shape[value.ndim - rank :]) != shape:
            raise ShapeError(f"autoregressive: expected a value [..., {list(shape)}], got {list(value.shape)}.")
        return self.base.log_prob(self.conditionals(params, value), value, rank)


def _parts(params: Params) -> tuple[Causal, Tensor | None]:
    return cast(tuple[Causal, Tensor | None], params)
