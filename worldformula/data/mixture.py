"""Which sequences a replay draws: all alike, the newest, or those that a world knows least about (Curious Replay).

    priority of a row    c·β^v + (|L| + ε)^α,  v times trained on, L the world's loss there at the last time
    recency of a start   1 / (1 + age)^e,  age in rows; the newest start has age 0

A sequence is drawn in proportion to the priority of its first row. Curious Replay: Kauvar, Doyle, Zhou & Haber 2023,
arXiv:2306.15934; what was never trained on has a priority of its own. Recency is that of the replay of DreamerV3's
authors. Both are shares of a batch, and what is left is drawn as ever. A draw by priority looks at every row that is
held: milliseconds for a million.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.errors import ConfigError


@dataclass(frozen=True)
class Mixture:
    """Shares of the sequences of a batch, and the numbers of both rules; the defaults are those of the authors."""

    priority: float = 0.0
    """Share of the sequences drawn by the priority of Curious Replay; 1 is the paper."""
    recent: float = 0.0
    """Share of the sequences drawn by recency."""
    c: float = 1e4
    """Weight c of what was seldom trained on."""
    beta: float = 0.7
    """Base β of its decay."""
    alpha: float = 0.7
    """Exponent α of the loss."""
    epsilon: float = 0.01
    """What is added to the loss, ε."""
    fresh: float = 1e5
    """Priority of a row that was never trained on."""
    exponent: float = 1.0
    """Exponent e of recency: more of it prefers the newest more."""

    def __post_init__(self) -> None:
        if min(self.priority, self.recent) < 0 or self.priority + self.recent > 1:
            raise ConfigError(
                f"expected shares priority and recent ≥ 0, at most 1 together, got {self.priority} and {self.recent}"
            )
        if not 0 <= self.beta <= 1 or min(self.c, self.alpha, self.exponent) < 0 or min(self.epsilon, self.fresh) <= 0:
            raise ConfigError(
                "expected beta in [0, 1], c, alpha and exponent ≥ 0, epsilon and fresh > 0, got "
                f"{self.beta}, {self.c}, {self.alpha}, {self.exponent}, {self.epsilon} and {self.fresh}"
            )


class Priorities:
    """The priorities of the rows of a ring, ``[streams, length]``, and how often each was trained on."""

    def __init__(self, streams: int, length: int, mixture: Mixture) -> None:
        self.mixture = mixture
        self.value = np.full((streams, length), mixture.fresh)
        self.visits = np.zeros((streams, length), np.int32)

    def forget(self, positions: NDArray[np.int64] | int | slice) -> None:
        """New rows lie there."""
        self.value[:, positions], self.visits[:, positions] = self.mixture.fresh, 0

    def reviewed(self, stream: NDArray[np.int64], position: NDArray[np.int64], loss: NDArray[Any]) -> None:
        """Rows ``[M]`` were trained on, with these losses; of those that are named twice, the last loss counts."""
        own = self.mixture
        np.add.at(self.visits, (stream, position), 1)
        rarely = own.c * own.beta ** self.visits[stream, position].astype(np.float64)
        self.value[stream, position] = rarely + (np.abs(loss.astype(np.float64)) + own.epsilon) ** own.alpha

    def draw(self, rng: np.random.Generator, num: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Streams and numbers among ``positions`` ``[P]`` in the ring, ``[2, num]``, in proportion to priorities."""
        summed = self.value[:, positions].ravel().cumsum()
        found = summed.searchsorted(rng.random(num) * summed[-1], side="right")
        return np.stack(np.divmod(np.minimum(found, len(summed) - 1), len(positions)))

    def state(self) -> dict[str, NDArray[Any]]:
        """For a checkpoint."""
        return {"value": self.value.copy(), "visits": self.visits.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to a checkpoint."""
        self.value = np.array(state["value"], np.float64)
        self.visits = np.array(state["visits"], np.int32)


def newest(rng: np.random.Generator, num: int, streams: int, starts: int, exponent: float) -> NDArray[np.int64]:
    """Streams and starts ``[2, num]`` among ``starts`` of each stream, the last of which is the newest, by recency."""
    summed = (1.0 / np.arange(1, starts + 1, dtype=np.float64) ** exponent).cumsum()
    age = np.minimum(summed.searchsorted(rng.random(num) * summed[-1], side="right"), starts - 1)
    return np.stack([rng.integers(streams, size=num), starts - 1 - age])
