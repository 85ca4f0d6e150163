"""The online queue of DreamerV3's authors: every row is served once while it is new, before any is drawn at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


class Online:
    """Which sequences were served. All streams have as many rows, so that a count says it: every stream's first, every
    stream's second, … from row ``begun`` on. Where sequences have another length than before, the count begins anew
    behind what was served.
    """

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._begun, self._length, self._served = 0, 0, 0

    def take(self, most: int, length: int, count: int, held: int) -> NDArray[np.int64]:
        """Streams and first rows of the oldest sequences that were not served yet, ``[2, up to most]``.

        ``count`` rows were added to each stream, and so many of them are ``held``.
        """
        if self._length not in (0, length):
            self._begun, self._served = self._begun + -(-self._served // self._streams) * self._length, 0
        self._length = length
        gone = max(0, count - held - self._begun)
        self._served = max(self._served, -(-gone // length) * self._streams)
        ready = (count - self._begun) // length * self._streams
        found = np.arange(self._served, max(self._served, min(self._served + most, ready)))
        self._served += len(found)
        turn, stream = np.divmod(found, self._streams)
        return np.stack([stream, self._begun + turn * length])

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"begun": self._begun, "length": self._length, "served": self._served}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes back to a checkpoint."""
        self._begun, self._length, self._served = (int(state[key]) for key in ("begun", "length", "served"))
