"""Whether two lists of numbers are in the same order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.errors import ShapeError


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two lists ``[N]``: Pearson's of their ranks, where equal numbers share a mean one.

    NaN where one of them holds a single number.

    Raises:
        ShapeError: they are no lists of one length of at least 2.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.ndim != 1 or left.shape != right.shape or len(left) < 2:
        raise ShapeError(
            f"expected two lists of one length, at least 2, got {list(left.shape)} and {list(right.shape)}"
        )
    one, two = (ranks - ranks.mean() for ranks in (_ranks(left), _ranks(right)))
    size = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / size if size else float("nan")


def _ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1 up."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks
