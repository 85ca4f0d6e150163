"""How far the noise of a single seed is from the threshold of its card: the passage of docs/results.md about deciding.

``python -m benchmarks.margins`` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

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
3.4 for three. What lies nearer is within the noise: it passed, and another seed may not. A count of statements that all
seeds fulfil says nothing of this, nor does a value that all of them have; where the numbers behind a count were
recorded, its statements stand one by one. Printed by `python -m benchmarks.margins`."""

Row = Mapping[str, float]


@dataclass(frozen=True)
class Statement:
    """One of those that a card counts: a number of a row, and what it must reach."""

    name: str
    of: Callable[[Row], float]
    sign: str
    threshold: float

    @property
    def condition(self) -> Condition:
        """Asked of every seed, as the count is."""
        return Condition(
            metric=self.name, direction="lower" if self.sign == "≤" else "higher", threshold=self.threshold
        )


def _one(name: str) -> Callable[[Row], float]:
    return lambda row: row[name]


def _less(one: str, other: str) -> Callable[[Row], float]:
    return lambda row: row[one] - row[other]


def _share(one: str, other: str) -> Callable[[Row], float]:
    return lambda row: row[one] / max(row[other], 1e-9)


def _apart(one: str, other: str) -> Callable[[Row], float]:
    return lambda row: abs(row[one] - row[other])


def _falling(*names: str) -> Callable[[Row], float]:
    return lambda row: min(row[a] - row[b] for a, b in pairwise(names))


SWEEP = [f"rate_{beta}" for beta in ("0", "1e-05", "0.001", "0.01", "0.1", "1")]
COUNTED: Mapping[str, tuple[Statement, ...]] = {
    "cgan_digits": (
        Statement("fd - fd_mixture", _less("fd", "fd_mixture"), "≤", 0.0),
        Statement("accuracy", _one("accuracy"), "≥", 0.95),
        Statement("variance", _one("variance"), "≥", 0.6),
    ),
    "configured": (
        Statement("reached_avoid / reached_go", _share("reached_avoid", "reached_go"), "≥", 0.7),
        Statement("reached_spare / reached_go", _share("reached_spare", "reached_go"), "≥", 0.7),
        Statement("crossed_avoid / crossed_go", _share("crossed_avoid", "crossed_go"), "≤", 0.25),
        Statement("spent_spare / spent_go", _share("spent_spare", "spent_go"), "≤", 0.7),
        Statement("untouched", _one("untouched"), "≥", 1.0),
    ),
    "mmd_vae_digits": (
        Statement("mmd_wae / mmd_ae", _share("mmd_wae", "mmd_ae"), "≤", 0.1),
        Statement("mmd_wae / mmd_start", _share("mmd_wae", "mmd_start"), "≤", 0.5),
        Statement("nats_wae - nats_vae", _less("nats_wae", "nats_vae"), "≤", 2.0),
    ),
    "transport_plane": (
        Statement("fm_1", _one("fm_1"), "≥", 0.8),
        Statement("optimal_1", _one("optimal_1"), "≤", 0.15),
        Statement("shortcut_1", _one("shortcut_1"), "≤", 0.15),
        Statement("midpoint_4", _one("midpoint_4"), "≤", 0.12),
        Statement("nll from exact", _apart("nll", "exact"), "≤", 0.05),
        Statement("nll from nll_half", _apart("nll", "nll_half"), "≤", 0.02),
    ),
    "vib_sweep": (
        Statement("least fall of rate", _falling(*SWEEP), "≥", 0.0),
        Statement("attacked_0.01 - attacked_0", _less("attacked_0.01", "attacked_0"), "≥", 0.1),
        Statement("nll_0.01 - nll_0", _less("nll_0.01", "nll_0"), "≤", 0.0),
        Statement("accuracy_1", _one("accuracy_1"), "≤", 0.3),
    ),
    "world_models": (
        Statement("part", _one("part"), "≥", 0.6),
        Statement("score_z / score", _share("score_z", "score"), "≤", 0.75),
        Statement("score_untrained", _one("score_untrained"), "≤", 118.0),
    ),
}
"""Of cards that give a seed one number for several statements, by the numbers that were recorded beside it."""


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
            rows = result.rows.values()
            if condition is card and card.name in COUNTED:
                found += [
                    Margin(f"`{card.name}`, {one.name}", one.condition, tuple(map(one.of, rows)))
                    for one in COUNTED[card.name]
                ]
                continue
            values = tuple(row[condition.metric] for row in rows)
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
