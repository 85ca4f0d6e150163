"""Where `fit` takes its batches from: tensors or items, shuffled in epochs, or whatever yields batches.

Tensors, arrays, items of a Dataset and functions go on exactly after a stop. A DataLoader, or another iterable, cannot:
nobody knows where it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldformula.errors import ConfigError, ShapeError, table
from worldformula.training.rows import Items, columns, is_items, row, tensor

Batch = Mapping[str, Tensor]
Data = Any  # what `readied` takes: arrays, Datasets, rows, loaders, functions

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

    The last rows of an epoch and the first of the next one share a batch; with ``short`` they do not, and the last
    batch of an epoch is as short as it comes.

    Args:
        columns: name -> ``[N, ...]``.
        batch: rows of a batch.
        seed: of the one generator of all orders.
        device: where the batches are wanted.
        short: whether an epoch ends in a short batch.
    """

    def __init__(
        self, columns: Batch, batch: int, seed: int, device: torch.device, *, short: bool = False
    ) -> None:  # fmt: skip
        self.short = short
        rows = {name: len(value) for name, value in columns.items() if value.ndim}
        if len(set(rows.values())) != 1 or len(rows) != len(columns) or not next(iter(rows.values())):
            shown = table(("variable", "got"), [(name, list(value.shape)) for name, value in columns.items()])
            raise ShapeError(f"expected tensors with one number of rows, at least 1, as their first axis\n{shown}")
        size = sum(value.numel() * value.element_size() for value in columns.values())
        self._columns = {k: v.to(device) for k, v in columns.items()} if size <= RESIDENT else dict(columns)
        self._device, self.batch, self.rows = device, batch, next(iter(rows.values()))
        self._generator = torch.Generator().manual_seed(seed)
        self._order, self._at = self._shuffle(), 0

    def _shuffle(self) -> Tensor:
        order = torch.randperm(self.rows, generator=self._generator)
        return order.to(next(iter(self._columns.values())).device)

    def take(self) -> Batch:
        """The next rows."""
        parts, wanted = [], self.batch
        while wanted:
            if self._at == self.rows:
                self._order, self._at = self._shuffle(), 0
            part = self._order[self._at : self._at + wanted]
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
            if self.short and self._at == self.rows:
                break
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
        if len(state["order"]) != self.rows:
            raise ShapeError(f"the data had {len(state['order'])} rows, and now they have {self.rows}")
        self._order, self._at = state["order"].to(self._order.device), int(state["at"])
        self._generator.set_state(state["generator"])


class Made:
    """Batches from a function, which draws from torch's generators and so goes on exactly where it was."""

    def __init__(self, make: Callable[[], Any], device: torch.device, names: Sequence[str] = ("x", "y")) -> None:
        self._make, self._device, self._names = make, device, names

    def take(self) -> Batch:
        """A new batch.

        Raises:
            ConfigError: it holds no tensors by variable, nor in the order of the names.
        """
        return {
            name: value.to(self._device, non_blocking=True) for name, value in named(self._make(), self._names).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Given(Made):
    """Batches of an iterable, such as a DataLoader, which starts again when it ends."""

    def __init__(self, batches: Iterable[Any], device: torch.device, names: Sequence[str] = ("x", "y")) -> None:
        self._batches: Iterable[Any] = batches
        self._running: Iterator[Any] = iter(batches)
        super().__init__(self._next, device, names)

    def _next(self) -> Any:
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
        raise ConfigError(
            "a fit on a DataLoader or another iterator cannot be resumed exactly, as nobody knows where it stood; give "
            "tensors, arrays, the Dataset itself, or a function without state"
        )


class Shown:
    """Items of a Dataset, shuffled as tensors are; the rest of the batch is theirs."""

    def __init__(self, items: Items, batch: int, seed: int, device: torch.device, *, short: bool = False) -> None:
        if not len(items):
            raise ConfigError("expected a Dataset of one row or more, got none")
        self._items, self._device = items, device
        self.places = Shuffled({"i": torch.arange(len(items))}, batch, seed, torch.device("cpu"), short=short)

    def take(self) -> Batch:
        """The next items, stacked."""
        found = self._items.take(self.places.take()["i"].tolist())
        return {name: value.to(self._device, non_blocking=True) for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The order of this epoch, and the place in it."""
        return self.places.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to there."""
        self.places.load_state_dict(state)


def repeated(source: Source) -> str:
    """A warning, where batches have more rows than there are and so hold each several times; else nothing."""
    own = source.places if isinstance(source, Shown) else source
    if not isinstance(own, Shuffled) or own.short or own.batch <= own.rows:
        return ""
    return (
        f"warning: a batch of {own.batch:,} rows, of {own.rows:,} to learn from, holds each of them "
        f"{own.batch / own.rows:.3g} times; with a batch of {own.rows:,} or fewer, once"
    )


def named(batch: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """A batch as tensors by variable: a dict, a tuple in the order of ``names``, or one tensor.

    Raises:
        ConfigError: it holds something else, or more than there are names.
    """
    found = row(batch, names)
    if wrong := next((k for k, v in found.items() if not isinstance(v, Tensor | np.ndarray)), None):
        raise ConfigError(
            f"expected batches as dicts of tensors by variable, {{'x': x, 'y': y}}, tuples of them, or one tensor; "
            f"got {type(batch).__name__} with {wrong} {type(found[wrong]).__name__}"
        )
    return {name: tensor(value) for name, value in found.items()}


def readied(data: Data, names: Sequence[str]) -> Any:
    """Data as `source`, `once` and `per_epoch` know them: columns of tensors, `Items`, a function or an iterable.

    Raises:
        ConfigError: data of another kind.
    """
    if isinstance(data, Items):
        return data
    if (found := columns(data, names)) is not None:
        return found
    if is_items(data):
        return Items(data, names)
    if callable(data) or (isinstance(data, Iterable) and not isinstance(data, str | bytes)):
        return data
    raise ConfigError(
        "expected data as a dict of tensors, an array, a Dataset, a DataLoader, rows, a function or an iterable, "
        f"got {type(data).__name__}"
    )


def per_epoch(data: Any, batch: int) -> int:
    """Batches of one pass over readied data.

    Raises:
        ConfigError: nobody knows how many.
    """
    if isinstance(data, Items | dict):
        rows = len(data) if isinstance(data, Items) else len(next(iter(data.values())))
        return -(-rows // batch)
    try:
        length = len(data)
    except TypeError as error:
        raise ConfigError(
            f"epochs= needs data with a length, and {type(data).__name__} has none; give steps="
        ) from error
    if not length:
        raise ConfigError("the data yield no batch; is drop_last set, and the batch larger than the data?")
    return length


def once(data: Any, batch: int, names: Sequence[str], device: torch.device) -> Iterator[Batch]:
    """One pass over readied data, in order.

    Raises:
        ConfigError: it has no end, or nothing in it.
    """
    if isinstance(data, dict):
        rows = len(next(iter(data.values())))
        parts: Iterable[Any] = ({k: v[i : i + batch] for k, v in data.items()} for i in range(0, rows, batch))
    elif isinstance(data, Items):
        parts = (data.take(range(i, min(i + batch, len(data)))) for i in range(0, len(data), batch))
    elif callable(data) or isinstance(data, Iterator):
        raise ConfigError("validation data need an end, and a start to come back to: give arrays or a DataLoader")
    else:
        parts = data
    for part in parts:
        yield {name: value.to(device) for name, value in named(part, names).items()}


def source(
    data: Data, batch: int, seed: int, device: torch.device, names: Sequence[str] = ("x", "y"), *, short: bool = False
) -> Source:
    """The source that fits the kind of data."""
    ready = readied(data, names)
    if isinstance(ready, dict):
        return Shuffled(ready, batch, seed, device, short=short)
    if isinstance(ready, Items):
        return Shown(ready, batch, seed, device, short=short)
    return Made(ready, device, names) if callable(ready) else Given(ready, device, names)
