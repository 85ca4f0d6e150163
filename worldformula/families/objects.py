"""torch's distribution objects as a parameter: how one follows batch and time, and its sample for given noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from worldformula.errors import FormulaError
from worldformula.families.base import Opaque, Shape
from worldformula.families.tensors import with_axes

TWINS = ({"probs", "logits"}, {"rate", "scale"}, {"scale_tril", "covariance_matrix", "precision_matrix"})
Arguments = dict[str, Tensor]


class Wrapper(Opaque):
    """A distribution object as a parameter. Over time it is one object for each step, unless it can be rebuilt as one.

    ``parts`` are the distributions: one with batch ``[B, ...]``, or T of them, which stand for a batch ``[B·T, ...]``.
    """

    def __init__(self, *parts: Distribution) -> None:
        self.parts = parts

    @property
    def distribution(self) -> Distribution:
        """The object; one for each step counts as their list."""
        if len(self.parts) > 1:
            raise FormulaError(f"wrapped: {len(self.parts)} distributions, one for each step; read .parts")
        return self.parts[0]

    @property
    def whole(self) -> Shape:
        """Batch and event shape of a value together."""
        batch, event = tuple(self.parts[0].batch_shape), tuple(self.parts[0].event_shape)
        if len(self.parts) > 1:
            batch = (batch[0] * len(self.parts), *batch[1:])
        return batch + event

    def each(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """``function(distribution, values)``: for every step with that step's rows, put together again."""
        if len(self.parts) == 1:
            return function(self.parts[0], *values)
        T = len(self.parts)
        rows = [value.unflatten(0, (-1, T)).unbind(1) for value in values]  # type: ignore[no-untyped-call]
        return torch.stack([function(p, *row) for p, *row in zip(self.parts, *rows, strict=True)], 1).flatten(0, 1)

    def rebuilt(self, change: Callable[[Tensor], Tensor]) -> Wrapper | None:
        """The same distribution with all its arguments changed; None where its class is unknown."""
        found = [take_apart(p) for p in self.parts]
        if any(f is None for f in found):
            return None
        known = [f for f in found if f is not None]
        return Wrapper(*(build({k: change(v) for k, v in arguments.items()}) for arguments, build in known))

    def expand(self, batch: Shape) -> Wrapper:
        """Seen with the batch axes ``batch``."""
        return Wrapper(self.distribution.expand(torch.Size(batch)))

    def detach(self) -> Wrapper:
        """The same distribution without gradient to its arguments."""
        found = self.rebuilt(torch.Tensor.detach)
        if found is None:
            raise FormulaError(
                f"wrapped: sg of a {type(self.parts[0]).__name__} is not possible: its arguments are not at hand. Use "
                f"Flow for a flow, or sg of the expression that reads it."
            )
        return found

    def repeat(self, T: int, lead: int = 0) -> Wrapper:
        """Batch ``[B]`` into ``[B·T]``."""
        found = self.rebuilt(lambda x: x.repeat_interleave(T, lead))
        if found is None and lead:
            raise FormulaError(
                f"wrapped: several draws of what a {type(self.parts[0]).__name__} reads are not possible over time: "
                f"its arguments are not at hand. Give the batch more rows instead."
            )
        return found or Wrapper(*self.parts * T)

    def steps(self, B: int, lead: int = 0) -> Sequence[Wrapper]:
        """Batch ``[B·T]`` into T of ``[B]``."""
        if len(self.parts) > 1:
            return [Wrapper(part) for part in self.parts]
        found = take_apart(self.distribution)
        if found is None:
            raise FormulaError(
                f"wrapped: a {type(self.parts[0]).__name__} of all steps cannot be cut into single steps."
            )
        arguments, build = found
        cut = {
            k: v.unflatten(lead, (B, -1)).unbind(lead + 1)  # type: ignore[no-untyped-call]
            for k, v in arguments.items()
        }
        T = len(next(iter(cut.values())))
        return [Wrapper(build({k: v[t] for k, v in cut.items()})) for t in range(T)]

    def along(self, *sizes: int) -> Wrapper:
        """Sample axes in front of the batch: one size per axis, 0 for an axis that is there already."""
        new = [size for size in sizes if size]
        if not new:
            return self
        if len(self.parts) > 1:
            raise FormulaError(
                f"wrapped: several draws of a {type(self.parts[0]).__name__} over time are not possible: its arguments "
                f"are not at hand. Give the batch more rows instead."
            )
        if not any(sizes[len(new) :]):  # all in front
            return self.expand((*new, *self.distribution.batch_shape))
        found = self.rebuilt(lambda x: with_axes(x, sizes))
        if found is None:
            raise FormulaError(f"wrapped: a {type(self.parts[0]).__name__} cannot be seen with another sample axis.")
        return found

    def unfold(self, *sizes: int) -> Wrapper:
        """Batch ``[K·B]`` into ``[K, B]``."""
        found = self.rebuilt(lambda x: x.unflatten(0, sizes))  # type: ignore[no-untyped-call]
        if found is None:
            raise FormulaError(
                f"wrapped: several draws of what a {type(self.parts[0]).__name__} reads are not possible: its "
                f"arguments are not at hand. Give the batch more rows instead."
            )
        return found

    def stack(self, values: Sequence[Opaque], lead: int = 0) -> Wrapper:
        """T of batch ``[B]`` into one of ``[B·T]``: one object where its arguments are known, else one a step."""
        parts = [cast(Wrapper, value).distribution for value in values]
        found = [take_apart(part) for part in parts]
        known = [f for f in found if f is not None]
        if len(known) < len(found) or len({type(part) for part in parts}) > 1:
            return Wrapper(*parts)
        (first, build), rest = known[0], [arguments for arguments, _ in known]
        return Wrapper(build({k: torch.stack([a[k] for a in rest], lead + 1).flatten(lead, lead + 1) for k in first}))


def take_apart(distribution: Distribution) -> tuple[Arguments, Callable[[Arguments], Distribution]] | None:
    """The tensors that a distribution was built from, each with its batch axes, and how to build it from such."""
    kind = type(distribution)
    if isinstance(distribution, Independent):
        inner = take_apart(distribution.base_dist)
        axes = distribution.reinterpreted_batch_ndims
        if inner is None:
            return None
        build = inner[1]
        return inner[0], lambda arguments: Independent(build(arguments), axes, validate_args=False)  # type: ignore[no-untyped-call]
    held = {name: value for name in kind.arg_constraints if isinstance(value := vars(distribution).get(name), Tensor)}  # type: ignore[attr-defined]
    for twins in TWINS:  # a lazy property keeps its twin beside what was given; for others both are arguments
        given = [name for name in held if name in twins]
        if len(given) > 1 and kind.__name__ != "Laplace":
            held = {name: value for name, value in held.items() if name not in given[1:]}
    if not held or kind.__module__.partition(".")[0] != "torch":
        return None
    return held, lambda arguments: kind(**arguments, validate_args=False)


def draw(distribution: Distribution, noise: Tensor) -> Tensor:
    """The sample of a distribution that belongs to this standard normal noise; `wrapped` has the table."""
    if isinstance(distribution, Independent):
        return draw(distribution.base_dist, noise)
    if isinstance(distribution, TransformedDistribution):
        x = draw(distribution.base_dist, noise)
        for transform in distribution.transforms:
            x = transform(x)
        return x
    if isinstance(distribution, Normal):
        return distribution.loc + distribution.scale * noise
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        return distribution.loc + (distribution.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    bijection, base = getattr(distribution, "transform", None), getattr(distribution, "base", None)
    if bijection is not None and isinstance(base, Distribution):  # zuko's NormalizingFlow
        return cast(Tensor, bijection.inv(draw(base, noise)))
    try:
        u = torch.special.ndtr(noise)
        info = torch.finfo(u.dtype)
        return distribution.icdf(u.clamp(info.tiny, 1.0 - info.eps))  # type: ignore[no-untyped-call]
    except NotImplementedError:
        name = type(distribution).__name__
        raise FormulaError(
            f"wrapped: {name} has no icdf, so its sample is not a function of given noise. Use our own family of that "
            f"name where there is one, or a flow."
        ) from None
