"""A mean with its interval: what the seeds of a noisy measurement say of the seeds that were not measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldformula.errors import ConfigError

PANELS = 400  # of Simpson's rule: the quantiles are right to nine digits


@dataclass(frozen=True)
class Mean:
    """The mean of a sample and Student's interval of the expectation behind it (Student 1908, Biometrika 6).

    Attributes:
        value: the mean; NaN where a value is not finite, and so are the ends.
        low: lower end.
        high: upper end.
        count: how many values.
        deviation: of a single value, with n − 1.
    """

    value: float
    low: float
    high: float
    count: int
    deviation: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g}, {self.count} values)"


def mean(values: Sequence[float], level: float = 0.95) -> Mean:
    """The mean of independent values, of paired differences above all, and where the expectation lies.

    >>> print(mean([1.0, 2.0, 3.0, 4.0, 5.0]))
    3 (1.037 to 4.963, 5 values)

    Raises:
        ConfigError: fewer than two values, or a level outside (0, 1).
    """
    n = len(values)
    if n < 2 or not 0 < level < 1:
        raise ConfigError(f"an interval expects two values or more and a level in (0, 1), got {n} and {level}")
    if not all(map(math.isfinite, values)):
        return Mean(math.nan, math.nan, math.nan, n, math.nan)
    middle = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (n - 1))
    half = student(n - 1, 0.5 + level / 2) * deviation / math.sqrt(n)
    return Mean(middle, middle - half, middle + half, n, deviation)


@functools.cache
def student(freedom: int, share: float) -> float:
    """The quantile of Student's t above which ``1 − share`` lies, for ``share`` in (0.5, 1); by bisection."""
    low, high = 0.0, 1.0
    while _below(freedom, high) < share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(freedom, middle) < share else (low, middle)
    return (low + high) / 2


def _below(freedom: int, t: float) -> float:
    """P(T ≤ t) for t ≥ 0: with t = √ν tan φ the density is a power of a cosine, smooth enough for Simpson's rule."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    step = math.atan(t / math.sqrt(freedom)) / PANELS
    weights = (1 if k in (0, PANELS) else 4 if k % 2 else 2 for k in range(PANELS + 1))
    area = math.fsum(w * math.cos(k * step) ** (freedom - 1) for k, w in enumerate(weights)) * step / 3
    return 0.5 + scale * area
