"""Parameters and heads that are no tensors: how they follow the batch and the time of a formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


class Opaque(ABC):
    """A parameter that is no tensor, such as a distribution object: how it follows the batch and the time of a formula.

    The defaults are those of an object that all rows share, such as the network of a flow.
    """

    @abstractmethod
    def detach(self) -> Opaque:
        """The same parameter without gradient."""

    def repeat(self, T: int) -> Opaque:
        """Batch ``[B]`` into ``[B·T]``: each row T times."""
        return self

    def steps(self, B: int) -> Sequence[Opaque] | None:
        """Batch ``[B·T]`` into T of ``[B]``; None where the object has no batch axes."""
        return None

    def along(self, *sizes: int) -> Opaque:
        """Sample axes in front of the batch: one size per axis, 0 for an axis that is there already."""
        return self

    def unfold(self, *sizes: int) -> Opaque:
        """Batch ``[K·B]`` into ``[K, B]``; the last size may be −1."""
        return self

    def stack(self, values: Sequence[Opaque]) -> Opaque:
        """T of batch ``[B]``, of which this is the first, into one of ``[B·T]``."""
        return self


@dataclass(frozen=True)
class Folded:
    """Parameters by name that a network returned for a batch ``[K·B]``. Its family knows which have that batch, and
    which none, as a learnt scale: sizes tell nothing, since K·B may be the size of an event.
    """

    head: Mapping[str, Any]
    sizes: tuple[int, ...]

    def unfold(self, axes: Callable[[str], int]) -> dict[str, Any]:
        """Batch ``[K·B]`` into ``[K, B]`` where there is one; ``axes`` says how many axes of a name are none."""
        return {
            name: torch.unflatten(value, 0, self.sizes)
            if isinstance(value, Tensor) and value.ndim > axes(name)
            else value
            for name, value in self.head.items()
        }


@runtime_checkable
class Unfoldable(Protocol):
    """A head that is no tensor, such as that of a flow, and knows its batch axis."""

    def unfold(self, *sizes: int) -> Any:
        """Batch ``[K·B]`` into ``[K, B]``."""
