"""Success of episodes: a share with its interval, so that 18 of 20 is not read as 90 %."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from worldformula.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """How many of how many, and Wilson's interval of the probability behind it (Wilson 1927, JASA 22)."""

    hits: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.count

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}, {self.hits} of {self.count})"


def wilson(hits: int, count: int, level: float = 0.95) -> Share:
    """The share of ``hits`` in ``count`` episodes.

    Raises:
        ConfigError: no episode, more hits than episodes, or a level outside (0, 1).
    """
    if not 0 <= hits <= count or count < 1 or not 0 < level < 1:
        raise ConfigError(f"expected 0 ≤ hits ≤ count, count ≥ 1 and level in (0, 1), got {hits}, {count} and {level}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p, wide = hits / count, z * z / count
    middle = (p + wide / 2) / (1 + wide)
    half = z / (1 + wide) * math.sqrt(p * (1 - p) / count + wide / (4 * count))
    low = 0.0 if hits == 0 else max(0.0, middle - half)  # exactly: rounding leaves 1e-17 beside it
    return Share(hits, count, low, 1.0 if hits == count else min(1.0, middle + half))
