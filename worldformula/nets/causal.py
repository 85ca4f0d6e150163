"""Networks over a past: what a history in a header, ``p(z_t|z_{<t}, a_{<t})``, asks of its network.

One network is read in two ways that give the same numbers: the whole series at once, masked, which is how it trains;
or position after position with a cache, which is how it filters and dreams. `worldformula.testing.check_causal` is
their equality as a law.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from worldformula.errors import CheckpointError, ShapeError


class Memory:
    """What a causal network keeps of its past: the last value alone, a row for each sequence.

    It is a value: a step returns a new one and leaves the old one as it was, so that two futures may begin at one past.
    It may be written in place where nobody can tell.
    """

    def select(self, rows: Tensor) -> Self:
        """The memories of some rows, by their numbers."""
        raise NotImplementedError

    def repeat(self, times: int) -> Self:
        """Every row ``times`` times, one behind the other, as `Tensor.repeat_interleave` repeats the rest of a state.
        Candidates may share what they have in common.
        """
        raise NotImplementedError

    def detach(self) -> Self:
        """The same without gradient."""
        raise NotImplementedError

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: tensors, numbers, and tuples of them, by name."""
        raise CheckpointError(f"{type(self).__name__} cannot be stored: write stored() and restored(kept, device)")

    def restored(self, kept: Mapping[str, Any], device: torch.device) -> Self:
        """A memory of the same network, whatever this one holds, with what `stored` returned."""
        raise NotImplementedError

    def __getitem__(self, at: Any) -> NoReturn:
        raise ShapeError(
            "a memory has its last value only, so it cannot be cut over time\n"
            "take the last state by states.last(), and some of its rows by states.last().select(rows)"
        )


def stored(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state, tensors and memories by name, as a checkpoint holds it."""
    return {key: value.stored() if isinstance(value, Memory) else value for key, value in state.items()}


def restored(kept: Mapping[str, Any], fresh: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What `stored` returned, as a state again. ``fresh`` is any state of the same kind, which knows its memories."""
    return {
        key: fresh[key].restored(value, device) if isinstance(value, Mapping) else value.to(device)
        for key, value in kept.items()
    }


@runtime_checkable
class Causal(Protocol):
    """A network whose position t sees the positions up to t, and none before the last ``reset``.

    context: how many positions it sees, its own included; None for all. A window in a header, ``z_{t-3:t}``, says this
    number: 4.
    """

    context: int | None

    def __call__(self, *series: Tensor, reset: Tensor | None = None) -> Tensor:
        """The whole at once: series ``[B, T, ...]`` in header order and flags ``[B, T]``, true where a sequence begins
        anew, to ``[B, T, ...]``.
        """
        ...

    def step(self, cache: Any, *x: Tensor, reset: Tensor | None = None) -> tuple[Any, Tensor]:
        """The next n ≥ 1 positions ``[B, n, ...]`` behind what the cache holds: the new cache, and ``[B, n, ...]``."""
        ...

    def cache(
        self, batch: int, length: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Memory:
        """The memory before the first position, with room for ``length`` of them; it grows where more come."""
        ...


def begins(reset: Tensor | None, before: Tensor, first: int, count: int) -> Tensor:
    """Where the sequence that each position belongs to begins: ``[B, n]`` for flags ``[B, n]``.

    before: ``[B]``, where it begins that the cache holds. first: the number of the first of the ``count`` positions.
    """
    if reset is None:
        return before.unsqueeze(1).expand(-1, count)
    places = torch.arange(first, first + count, device=before.device)
    starts = torch.where(reset, places, before.unsqueeze(1))
    return starts.cummax(1).values


def joined(series: tuple[Tensor, ...], width: int, who: str) -> Tensor:
    """Series ``[B, T, ...]`` of numbers side by side, ``[B, T, width]``."""
    x = torch.cat([s.reshape(*s.shape[:2], -1) for s in series], -1)
    if x.shape[-1] != width:
        raise ShapeError(f"{who}: expected series of {width} numbers a position, got {[list(s.shape) for s in series]}")
    return x
