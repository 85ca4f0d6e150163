"""Memory that two processes share, and in which neither waits for the other: a ring of rows, and the newest weights.

Both sides try a lock for the moment in which a number is exchanged, and come again later where they do not get it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.run.contract import Weights

Spec = Mapping[str, tuple[tuple[int, ...], str]]


class Exchange:
    """What has to be there before the other process begins: counts and locks.

    Args:
        context: of ``multiprocessing``.
    """

    def __init__(self, context: Any) -> None:
        self.counts = context.RawArray("q", 2)  # rows that were written, rows that were fetched
        self.slots = context.RawArray(
            "i", [0, 1, 2, 0]
        )  # of weights: the reader's, the newest, the writer's; is it new
        self.rows_lock, self.weights_lock = context.Lock(), context.Lock()


class Ring:
    """Rows from one writer to one reader, in order.

    Args:
        exchange: counts and lock.
        spec: shape and dtype of every column.
        capacity: rows that it holds.
        name: of memory that the other process has made; None makes it.
    """

    def __init__(self, exchange: Exchange, spec: Spec, capacity: int, name: str | None = None) -> None:
        self._exchange, self.capacity = exchange, capacity
        dtype = np.dtype([(key, kind, shape) for key, (shape, kind) in spec.items()])
        self._memory, self._rows = mapped(name, dtype, capacity)
        self.name = self._memory.name
        self._mine = 0  # rows that this side has written or fetched

    def put(self, row: Mapping[str, Any]) -> bool:
        """Writes a row; False where the ring is full, and nothing was written."""
        if self._mine - self._exchange.counts[1] >= self.capacity:
            return False
        place = self._mine % self.capacity
        for key, value in row.items():
            self._rows[key][place] = value
        self._mine += 1
        if self._exchange.rows_lock.acquire(block=False):  # or with the next row
            self._exchange.counts[0] = self._mine
            self._exchange.rows_lock.release()
        return True

    def take(self) -> list[dict[str, NDArray[Any]]]:
        """Fetches all rows that have arrived."""
        if not self._exchange.rows_lock.acquire(block=False):
            return []
        written = int(self._exchange.counts[0])
        self._exchange.rows_lock.release()
        names = self._rows.dtype.names or ()
        found = [
            {key: np.array(self._rows[key][number % self.capacity]) for key in names}
            for number in range(self._mine, written)
        ]
        self._mine = self._exchange.counts[1] = written
        return found

    def close(self) -> None:
        """Lets go of the memory."""
        del self._rows
        release(self._memory)


class Newest:
    """The newest weights, from one writer to one reader. Three slots: nobody ever sees half of an update.

    Args:
        exchange: slots and lock.
        layout: name, shape and dtype of every tensor.
        name: of memory that the other process has made; None makes it.
    """

    def __init__(
        self, exchange: Exchange, layout: Sequence[tuple[str, tuple[int, ...], str]], name: str | None = None
    ) -> None:
        self._exchange, self.layout = exchange, tuple(layout)
        dtype = np.dtype([(str(i), kind, shape) for i, (_, shape, kind) in enumerate(self.layout)])
        self._memory, self._slots = mapped(name, dtype, 3)
        self.name = self._memory.name
        self._written = False  # the writer's slot holds weights that were not exchanged yet

    def put(self, weights: Weights | None) -> bool:
        """Offers weights, or with None those that were refused before; False where the exchange has to be tried again.

        What was offered before and was not taken is replaced.
        """
        slots = self._exchange.slots
        if weights is not None:
            for i, (key, *_) in enumerate(self.layout):
                self._slots[str(i)][slots[2]] = weights[key].detach().cpu().numpy()
        if not self._exchange.weights_lock.acquire(block=False):
            return False
        slots[1], slots[2], slots[3] = slots[2], slots[1], 1
        self._exchange.weights_lock.release()
        return True

    def take(self) -> Weights | None:
        """The newest weights, or None where there are none since the last time."""
        slots = self._exchange.slots
        if not slots[3] or not self._exchange.weights_lock.acquire(block=False):
            return None
        slots[0], slots[1], slots[3] = slots[1], slots[0], 0
        self._exchange.weights_lock.release()
        mine = slots[0]
        return {key: torch.as_tensor(np.array(self._slots[str(i)][mine])) for i, (key, *_) in enumerate(self.layout)}

    def close(self) -> None:
        """Lets go of the memory."""
        del self._slots
        release(self._memory)


def layout_of(weights: Weights) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of every tensor."""
    return [(key, tuple(value.shape), value.detach().cpu().numpy().dtype.str) for key, value in weights.items()]


def mapped(name: str | None, dtype: np.dtype[Any], count: int) -> tuple[SharedMemory, NDArray[Any]]:
    """Memory of ``count`` records: new, or that of the other process."""
    if name is None:
        memory = SharedMemory(create=True, size=max(1, dtype.itemsize * count))
        memory.owned = True  # type: ignore[attr-defined]
    else:
        memory = SharedMemory(name)
    held: Any = memory.buf
    return memory, np.frombuffer(held, dtype, count)


def release(memory: SharedMemory) -> None:
    """Closes it; whoever made it also removes it."""
    memory.close()
    if getattr(memory, "owned", False):
        memory.unlink()
