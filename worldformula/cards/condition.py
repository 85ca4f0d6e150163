"""What a card asks of the numbers that its seeds measured, and how it decides.

``every``     each seed reaches the threshold: for values whose noise is small beside their distance from it
``interval``  the whole 95 % interval of the mean over seeds does (`worldformula.metrics.interval`): for the difference
              of two trainings that share a seed, of which a single one may well have the wrong sign

>>> gain = Condition(metric="gain", direction="higher", threshold=0.0, verdict="interval")
>>> found = gain.judge([0.3, -0.1, 0.4, 0.2, 0.3])
>>> found.passed, round(found.value, 3), round(found.end, 3)
(False, 0.22, -0.019)
>>> gain.judge([0.3, -0.1, 0.4, 0.2, 0.3, 0.2]).passed
True
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worldformula.metrics.interval import mean

DIRECTIONS = ("lower", "higher")
VERDICTS = ("every", "interval")
LEAST_SEEDS = 5
"""Of an interval: below, its width is mostly the quantile of Student's t, and hardly what was measured."""


@dataclass(frozen=True)
class Judgement:
    """What was decided.

    Attributes:
        passed: whether the condition holds.
        value: the worst value of ``every``, the mean of ``interval``.
        end: what must reach the threshold: the worst value again, or the end of the interval that lies nearer to it.
        count: how many values.
    """

    passed: bool
    value: float
    end: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A threshold for one of the measured numbers.

    Attributes:
        metric: the name of the number.
        direction: ``"lower"`` or ``"higher"`` is better.
        threshold: what must be reached.
        verdict: ``"every"`` or ``"interval"``, see the head of the file.
    """

    metric: str
    direction: str
    threshold: float
    verdict: str = "every"

    def passes(self, value: float) -> bool:
        """Whether one value reaches the threshold; NaN and infinity never do."""
        if not math.isfinite(value):
            return False
        return value <= self.threshold if self.direction == "lower" else value >= self.threshold

    def worst(self, values: Iterable[float]) -> float:
        """One that is not finite, else the farthest on the wrong side."""
        found = list(values)
        broken = [value for value in found if not math.isfinite(value)]
        return broken[0] if broken else max(found) if self.direction == "lower" else min(found)

    def judge(self, values: Sequence[float]) -> Judgement:
        """Decides; an interval of fewer than `LEAST_SEEDS` values never passes."""
        if self.verdict == "every":
            worst = self.worst(values)
            return Judgement(self.passes(worst), worst, worst, len(values))
        if len(values) < LEAST_SEEDS:
            middle = math.fsum(values) / len(values) if values else math.nan
            return Judgement(False, middle, math.nan, len(values))
        found = mean(values)
        end = found.high if self.direction == "lower" else found.low
        return Judgement(self.passes(end), found.value, end, len(values))

    @property
    def sign(self) -> str:
        """``≤`` or ``≥``."""
        return "≤" if self.direction == "lower" else "≥"

    def problems(self) -> dict[str, bool]:
        """What types cannot say: a message, and whether it holds."""
        verdicts = " or ".join(map(repr, VERDICTS))
        return {
            f"direction = {self.direction!r}, expected 'lower' or 'higher'": self.direction in DIRECTIONS,
            f"verdict = {self.verdict!r}, expected {verdicts}": self.verdict in VERDICTS,
            f"threshold = {self.threshold}, expected a finite number": math.isfinite(self.threshold),
        }


def shown(condition: Condition, values: Sequence[float], unit: str = "") -> str:
    """What decides, ``gain 0.22 nats (mean of 6, 95 % interval from 0.04, needed ≥ 0)``, or the worst of ``every``."""
    found = condition.judge(values)
    unit = f" {unit}" if unit else ""
    needed = f"needed {condition.sign} {condition.threshold:.4g}"
    if condition.verdict == "every":
        return f"{condition.metric} {found.value:.4g}{unit} (worst of {found.count}, {needed})"
    way = "up to" if condition.direction == "lower" else "from"
    interval = "too few for an interval" if found.count < LEAST_SEEDS else f"95 % interval {way} {found.end:.4g}"
    return f"{condition.metric} {found.value:.4g}{unit} (mean of {found.count}, {interval}, {needed})"
