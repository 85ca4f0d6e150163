"""Open-loop prediction error against horizon, beside the error of predicting no change.

A model that has seen ``context`` frames predicts the following ones from the true actions alone. Its error at horizon k
means something only beside persistence: the last context frame, repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class OpenLoop:
    """Mean squared errors on pixels in [0, 1], by horizon: entry k − 1 belongs to k steps after the last context frame.

    Attributes:
        model: mean over sequences, ``[K]``.
        model_error: its standard error over sequences, ``[K]``; NaN for a single sequence.
        persistence: of the last context frame, repeated, ``[K]``.
        context: frames that the model had seen.
        sequences: how many sequences the means are over.
    """

    model: tuple[float, ...]
    model_error: tuple[float, ...]
    persistence: tuple[float, ...]
    context: int
    sequences: int

    @property
    def horizon(self) -> int:
        """The longest horizon K."""
        return len(self.model)

    def ratio(self, k: int) -> float:
        """Error of the model over error of persistence at horizon k; below 1 is better than predicting no change.

        Raises:
            ConfigError: the sequences are not that long.
        """
        if not 1 <= k <= self.horizon:
            raise ConfigError(f"expected a horizon from 1 to {self.horizon}, got {k}")
        model, still = self.model[k - 1], self.persistence[k - 1]
        return model / still if still else float("inf") if model else 1.0


def open_loop_error(truth: NDArray[Any], dream: NDArray[Any], context: int) -> OpenLoop:
    """Errors of a dream against the truth.

    Args:
        truth: frames as they were, uint8 (0–255) or floats (0–1), ``[B, T, …]``.
        dream: predicted frames, same shape and range; the first ``context`` of them are not compared.
        context: frames that the model had seen, at least 1 and fewer than T.

    Raises:
        ShapeError: the shapes or dtypes differ, or there are no sequences.
        ConfigError: no frame is left to predict, or there is no context frame.
    """
    if truth.shape != dream.shape or truth.dtype != dream.dtype or truth.ndim < 3 or not len(truth):
        raise ShapeError(
            "expected truth and dream of one shape [B, T, …] and one dtype with B ≥ 1, got "
            f"truth {truth.shape} {truth.dtype} and dream {dream.shape} {dream.dtype}"
        )
    if not 1 <= context < truth.shape[1]:
        raise ConfigError(f"expected 1 ≤ context < T = {truth.shape[1]} frames, got {context}")
    target = truth[:, context:]
    model = _squared(dream[:, context:], target)
    still = _squared(np.broadcast_to(truth[:, context - 1 : context], target.shape), target)
    count = len(truth)
    spread = model.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.full(model.shape[1], np.nan)
    return OpenLoop(
        tuple(model.mean(0).tolist()), tuple(spread.tolist()), tuple(still.mean(0).tolist()), context, count
    )


def _squared(guess: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """Mean squared error of every frame, ``[B, K]``."""
    scale = 255.0 if np.issubdtype(target.dtype, np.integer) else 1.0
    difference = (guess.astype(np.float64) - target.astype(np.float64)) / scale
    return np.square(difference).mean(axis=tuple(range(2, difference.ndim)))
