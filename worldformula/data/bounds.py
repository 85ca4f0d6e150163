"""Where episodes begin and end in rows of experience."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bounds(first: NDArray[np.bool_], last: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The episodes in rows that are held.

    Args:
        first: ``[N, R]``, whether an episode begins at a row.
        last: ``[N, R]``, whether one ends there.
        rows: ``[R]``, the numbers of the rows.

    Returns:
        ``[E, 5]``: stream, number of the first row, number behind the last one, whether the episode's beginning is
        held, whether its end is: an episode that was abandoned ends where the next one begins.
    """
    found = []
    for stream in range(len(first)):
        begins = np.union1d([0], np.flatnonzero(first[stream])) if len(rows) else np.array([], np.int64)
        stops = np.append(begins[1:], len(rows))
        for begin, stop in zip(begins, stops, strict=True):
            ended = stop < len(rows) or last[stream, stop - 1]
            found.append((stream, rows[0] + begin, rows[0] + stop, first[stream, begin], ended))
    return np.array(found, np.int64).reshape(-1, 5)
