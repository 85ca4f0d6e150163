"""How far the noise of a single seed is from the threshold of its card: the passage of docs/results.md about deciding.

``python -m benchmarks.margins`` prints it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from worldformula import cards
from worldformula.cards import results
from worldformula.cards.condition import Condition
from worldformula.metrics.interval import mean, student

LEVEL = 0.95
INTRODUCTION = """\
A card passes if every seed reaches its threshold, or, with `verdict = "interval"`, if the whole 95 % interval of the
mean over seeds does: a difference between two trainings is claimed of the mean of paired seeds, since a single pair may
have the wrong sign. For each number: the deviation of one seed, and how many such deviations lie between mean and
threshold. *Asked* is how many are needed for another seed to pass with 95 %, as Student's t foretells it from so few,
3.4 for three. What lies nearer is within the noise: it passed, and another seed may not. Counts of statements that all
seeds fulfil say nothing of this; the numbers behind them are in [the recorded rows](../worldformula/cards/results).
Printed by `python -m benchmarks.margins`."""


@dataclass(frozen=True)
class Margin:
    """One condition of a card on the values that were recorded.

    Attributes:
        name: of the card, and of the number where it is a further one.
        condition: what is asked.
        values: of the seeds.
    """

    name: str
    condition: Condition
    values: tuple[float, ...]

    @property
    def distance(self) -> float:
        """From the mean to the threshold, in deviations of one seed; negative on the wrong side."""
        found = mean(self.values)
        sign = 1.0 if self.condition.direction == "higher" else -1.0
        away = sign * (found.value - self.condition.threshold)
        return away / found.deviation if found.deviation else math.copysign(math.inf, away)

    @property
    def asked(self) -> float:
        """The distance at which a further seed passes with 95 %, as Student's t foretells it from so few."""
        n = len(self.values)
        return student(n - 1, LEVEL) * math.sqrt(1 + 1 / n)

    @property
    def reading(self) -> str:
        """What the two say together."""
        passed = self.condition.judge(self.values).passed
        if self.condition.verdict == "interval":
            return "decided by its interval" + ("" if passed else ": FAIL")
        if not passed:
            return "FAIL"
        if math.isinf(self.distance):
            return "all seeds alike: hides its noise"
        return "stands" if self.distance >= self.asked else "**within the noise**"


def margins() -> list[Margin]:
    """Of every card with two recorded seeds or more, nearest to its threshold first."""
    found = []
    for card in map(cards.load, cards.names()):
        result = results.latest(card)
        if result is None or len(result.rows) < 2:
            continue
        for condition in card.all_conditions:
            values = tuple(row[condition.metric] for row in result.rows.values())
            name = f"`{card.name}`" if condition is card else f"`{card.name}`, {condition.metric}"
            found.append(Margin(name, condition, values))
    return sorted(found, key=lambda margin: margin.distance)


def passage() -> list[str]:
    """In Markdown."""
    lines = [
        "## How cards decide, and how near it was",
        "",
        *INTRODUCTION.split("\n"),
        "",
        "| card | seeds | mean | deviation of one | needed | distance, in deviations | asked | reading |",
        "|" + "---|" * 8,
    ]
    for margin in margins():
        found, condition = mean(margin.values), margin.condition
        distance = "–" if math.isinf(margin.distance) else f"{margin.distance:.1f}"
        asked = "–" if condition.verdict == "interval" else f"{margin.asked:.1f}"
        interval = f" ({found.low:.3g} to {found.high:.3g})" if condition.verdict == "interval" else ""
        lines.append(
            f"| {margin.name} | {found.count} | {found.value:.4g}{interval} | {found.deviation:.2g} | "
            f"{condition.sign} {condition.threshold:g} | {distance} | {asked} | {margin.reading} |"
        )
    return lines


if __name__ == "__main__":
    print(*passage(), sep="\n")
