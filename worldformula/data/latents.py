"""Columns that are written again after they were stored, and yet can go back to a checkpoint.

A world model that begins a sequence where it is cut out of an episode needs the state before it. DreamerV3 keeps the
latents of every row in its replay, and replaces them by those of the latest update (Hafner et al. 2025, appendix).

A run that is killed must find them as its checkpoint left them, and the older of the two last checkpoints may be the
good one. So every row has three places in the file. Which one counts is a byte; what either checkpoint counts on is not
written to, and at least one of three is free. A log of changes would do too, but grows with the replay between two
checkpoints, in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.data.ring import Ring, Spec
from worldformula.errors import ReplayError

PREFIX = "latent/"
PLACES = 3
Index = tuple[NDArray[np.int64], NDArray[np.int64]]


def stored(latents: Mapping[str, tuple[int, ...]], in_files: bool) -> Spec:
    """The columns of a ring that hold these latents: float32, name -> shape."""
    places = PLACES if in_files else 1
    return {PREFIX + name: ((places, *shape), np.float32) for name, shape in latents.items()}


class Latents:
    """The latents in the columns of a ring.

    ring: has the columns of `stored`. names: of the latents.
    """

    def __init__(self, ring: Ring, names: tuple[str, ...]) -> None:
        self.ring, self.names = ring, names
        self._now = np.zeros((ring.streams, ring.length), np.uint8)
        self._kept: tuple[NDArray[np.uint8], ...] = ()  # the places at the last two checkpoints

    def put(self, index: Index, values: Mapping[str, NDArray[Any]]) -> None:
        """Store ``[..., *shape]`` at streams and positions ``[...]``; of rows that are named twice, the last counts.

        Raises:
            ReplayError: other names.
        """
        if values.keys() != set(self.names):
            raise ReplayError(f"expected the latents {sorted(self.names)}, got {sorted(values)}")
        if self.ring.in_files:
            place = self._now[index]
            kept = [found[index] for found in self._kept]
            taken = np.any([place == found for found in kept], axis=0) if kept else np.zeros(place.shape, bool)
            free = np.full(place.shape, 255, np.uint8)
            for candidate in reversed(range(PLACES)):
                usable = np.all([found != candidate for found in kept], axis=0) if kept else True
                free = np.where(usable, np.uint8(candidate), free)
            self._now[index] = np.where(taken, free, place)
        for name in self.names:
            self.ring.columns[PREFIX + name][(*index, self._now[index])] = values[name]

    def get(self, index: Index) -> dict[str, NDArray[Any]]:
        """The latents at streams and positions ``[...]``: ``[..., *shape]`` each."""
        place = self._now[index]
        return {name: self.ring.columns[PREFIX + name][(*index, place)] for name in self.names}

    def checkpointed(self) -> None:
        """A checkpoint with the present `state` is safe: keep what it counts on, and what the one before did."""
        if self.ring.in_files:
            self._kept = (*self._kept, self._now.copy())[-2:]

    def state(self) -> dict[str, NDArray[np.uint8]]:
        """The place of every row, now and at the last checkpoint."""
        return {"now": self._now, "before": self._kept[-1] if self._kept else self._now}

    def restore(self, state: Mapping[str, NDArray[np.uint8]]) -> None:
        """Goes back to a checkpoint."""
        self._now = np.array(state["now"], np.uint8)
        self._kept = (np.array(state["before"], np.uint8), self._now.copy()) if self.ring.in_files else ()
