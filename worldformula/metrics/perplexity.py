"""How surprising words are: exp of the mean negative log-probability of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.errors import ShapeError

LEAST = 1e-8  # a word is never less probable: its surprise stays finite


def perplexity(probabilities: ArrayLike, words: ArrayLike, counted: ArrayLike | None = None) -> float:
    """exp(mean −log p(word)), in the number of equally probable words that would surprise as much.

    Args:
        probabilities: ``[..., V]``, of each word at each place; they sum to 1.
        words: ``[...]``, the number of the word that came.
        counted: ``[...]`` bool, which places count; all by default.

    Raises:
        ShapeError: other shapes, or no place counts.

    >>> round(perplexity([[0.5, 0.5], [0.25, 0.75]], [0, 0]), 6)
    2.828427
    """
    p, said = np.asarray(probabilities, np.float64), np.asarray(words, np.int64)
    mask: NDArray[np.bool_] = np.ones(said.shape, bool) if counted is None else np.asarray(counted, bool)
    if p.shape[:-1] != said.shape or mask.shape != said.shape or not mask.any():
        raise ShapeError(
            f"perplexity expects probabilities [..., V], words [...] and some of them counted, got {list(p.shape)}, "
            f"{list(said.shape)} and {int(mask.sum())} of {list(mask.shape)} counted"
        )
    of = np.take_along_axis(p, said[..., None], -1)[..., 0]
    return float(np.exp(-np.log(np.maximum(of[mask], LEAST)).mean()))
