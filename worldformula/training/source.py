"""Where `fit` takes its batches from: tensors, shuffled in epochs, or whatever yields batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from worldformula.errors import ConfigError, ShapeError, table

Batch = Mapping[str, Tensor]
Data = Batch | Callable[[], Batch] | Iterable[Batch]

RESIDENT = 2 * 1024**3  # bytes; tensors up to this size move to the device once, larger ones batch by batch


class Source(Protocol):
    """Batches without end, and where it stands."""

    def take(self) -> Batch:
        """The next batch, on the device of the networks."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to there."""
        ...


class Shuffled:
    """Rows of tensors in epochs: every row once, in a new order each time; all batches are full.

    The last rows of an epoch and the first of the next one share a batch.

    Args:
        columns: name -> ``[N, ...]``.
        batch: rows of a batch.
        seed: of the one generator of all orders.
        device: where the batches are wanted.
    """

    def __init__(self, columns: Batch, batch: int, seed: int, device: torch.device) -> None:
        rows = {name: len(value) for name, value in columns.items() if value.ndim}
        if len(set(rows.values())) != 1 or len(rows) != len(columns) or not next(iter(rows.values())):
            shown = table(("variable", "got"), [(name, list(value.shape)) for name, value in columns.items()])
            raise ShapeError(f"expected tensors with one number of rows, at least 1, as their first axis\n{shown}")
        size = sum(value.numel() * value.element_size() for value in columns.values())
        self._columns = {k: v.to(device) for k, v in columns.items()} if size <= RESIDENT else dict(columns)
        self._device, self._batch, self._rows = device, batch, next(iter(rows.values()))
        self._generator = torch.Generator().manual_seed(seed)
        self._order, self._at = self._shuffle(), 0

    def _shuffle(self) -> Tensor:
        order = torch.randperm(self._rows, generator=self._generator)
        return order.to(next(iter(self._columns.values())).device)

    def take(self) -> Batch:
        """The next rows."""
        parts, wanted = [], self._batch
        while wanted:
            if self._at == self._rows:
                self._order, self._at = self._shuffle(), 0
            part = self._order[self._at : self._at + wanted]
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
        chosen = parts[0] if len(parts) == 1 else torch.cat(parts)
        return {name: value[chosen].to(self._device, non_blocking=True) for name, value in self._columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """The order of this epoch, the place in it, and the generator of the next ones."""
        return {"order": self._order, "at": self._at, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts `state_dict` back.

        Raises:
            ShapeError: the order is one of another number of rows.
        """
        if len(state["order"]) != self._rows:
            raise ShapeError(f"the data had {len(state['order'])} rows, and now they have {self._rows}")
        self._order, self._at = state["order"].to(self._order.device), int(state["at"])
        self._generator.set_state(state["generator"])


class Made:
    """Batches from a function, which draws from torch's generators and so goes on exactly where it was."""

    def __init__(self, make: Callable[[], Batch], device: torch.device) -> None:
        self._make, self._device = make, device

    def take(self) -> Batch:
        """A new batch.

        Raises:
            ConfigError: it is no dict of tensors by variable, such as the tuples of a ``TensorDataset``.
        """
        batch: Any = self._make()
        if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
            raise ConfigError(
                f"expected batches as dicts of tensors by variable, {{'x': x, 'y': y}}, got {type(batch).__name__}; a "
                f"DataLoader makes them of a data set whose items are dicts, or by collate_fn="
            )
        return {name: value.to(self._device, non_blocking=True) for name, value in batch.items()}

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Given(Made):
    """Batches of an iterable, such as a DataLoader, which starts again when it ends."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._batches: Iterable[Batch] = batches
        self._running: Iterator[Batch] = iter(batches)
        super().__init__(self._next, device)

    def _next(self) -> Batch:
        for fresh in (False, True):
            if fresh:
                self._running = iter(self._batches)
            for batch in self._running:
                return batch
        raise ConfigError("the iterator of the data has ended; give one without end, tensors, or a DataLoader")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refused: nobody knows where an iterator stood.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a fit on an iterator cannot be resumed exactly; give tensors, or a function without state")


def source(data: Data, batch: int, seed: int, device: torch.device) -> Source:
    """The source that fits the kind of data."""
    if isinstance(data, Mapping):
        if not data or not all(isinstance(v, Tensor) for v in data.values()):
            raise ShapeError("expected data as a dict of tensors [N, ...], e.g. {'x': torch.from_numpy(images)}")
        return Shuffled(data, batch, seed, device)
    if callable(data):
        return Made(data, device)
    if isinstance(data, Iterable):
        return Given(data, device)
    raise ConfigError(f"expected data as a dict of tensors, a function or an iterable, got {type(data).__name__}")
