"""Parameters and heads that are no tensors: how they follow the batch and the time of a formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldformula.errors import HeadError


class Opaque(ABC):
    """A parameter that is no tensor, such as a distribution object: how it follows the batch and the time of a formula.

    The defaults are those of an object that all rows share, such as the network of a flow.
    """

    @abstractmethod
    def detach(self) -> Opaque:
        """The same parameter without gradient."""

    def repeat(self, T: int, lead: int = 0) -> Opaque:
        """Batch ``[B]`` into ``[B·T]``: each row T times; here and below, ``lead`` sample axes come before it."""
        return self

    def steps(self, B: int, lead: int = 0) -> Sequence[Opaque] | None:
        """Batch ``[B·T]`` into T of ``[B]``; None where the object has no batch axes."""
        return None

    def along(self, *sizes: int) -> Opaque:
        """Sample axes in front of the batch: one size per axis, 0 for an axis that is there already."""
        return self

    def unfold(self, *sizes: int) -> Opaque:
        """Batch ``[K·B]`` into ``[K, B]``; the last size may be −1."""
        return self

    def stack(self, values: Sequence[Opaque], lead: int = 0) -> Opaque:
        """T of batch ``[B]``, of which this is the first, into one of ``[B·T]``."""
        return self


class ByName(ABC):
    """Parameters by name, as a network returned them, on their way to another batch. Their family knows which have a
    batch, and which none, as a learnt scale: sizes tell nothing, since K·B may be the size of an event.
    """

    @abstractmethod
    def read(self, axes: Callable[[str], int]) -> dict[str, Any]:
        """The parameters in their batch; ``axes`` says how many of the axes of a name are not batch axes."""


@dataclass(frozen=True)
class Folded(ByName):
    """Of a batch ``[K·B]``, which becomes ``[K, B]``."""

    head: Mapping[str, Any]
    sizes: tuple[int, ...]

    def read(self, axes: Callable[[str], int]) -> dict[str, Any]:
        """Parameters without a batch stay as they are."""
        return {
            name: torch.unflatten(value, 0, self.sizes)
            if isinstance(value, Tensor) and value.ndim > axes(name)
            else value
            for name, value in self.head.items()
        }


@dataclass(frozen=True)
class Stacked(ByName):
    """Of T steps with the batch ``[B]``, which become ``[B·T]``; ``lead`` sample axes come before."""

    heads: Sequence[Mapping[str, Any] | ByName]
    lead: int

    def read(self, axes: Callable[[str], int]) -> dict[str, Any]:
        """Parameters without a batch may differ from step to step, as the mean of a batch does: all rows share them."""
        rows = [head.read(axes) if isinstance(head, ByName) else head for head in self.heads]
        lead, own = self.lead, {n: axes(n) for n, v in rows[0].items() if isinstance(v, Tensor)}
        sizes = [rows[0][n].shape[lead] for n, rank in own.items() if rows[0][n].ndim > rank]
        if own and not sizes:
            raise HeadError(
                f"none of {', '.join(own)} has a batch axis. Let the network expand one of them to its rows."
            )
        found = dict(rows[0])
        for name, rank in own.items():
            steps = [row[name] for row in rows]
            if steps[0].ndim > rank:
                found[name] = torch.stack(steps, lead + 1).flatten(lead, lead + 1)
            else:
                series = torch.stack([step[(None,) * (rank - step.ndim)] for step in steps])
                found[name] = series.expand(sizes[0], *series.shape).flatten(0, 1)
        return found


@runtime_checkable
class Unfoldable(Protocol):
    """A head that is no tensor, such as that of a flow, and knows its batch axis."""

    def unfold(self, *sizes: int) -> Any:
        """Batch ``[K·B]`` into ``[K, B]``."""
