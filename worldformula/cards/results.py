"""The last measured result of every card, which the package ships: ``cards/results/NAME.json``.

``worldformula reproduce NAME --record`` writes them, in a checkout of the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from worldformula.cards import Card
from worldformula.errors import CardError, ConfigError

FOLDER = "results"


@dataclass(frozen=True)
class Result:
    """What was measured last for a card.

    Attributes:
        card: the card as it is now; its threshold decides.
        values: of its metric, by seed.
        seconds: for all seeds together.
        date: ``"2026-11-20 14:05 UTC"``.
        machine: the processor, and the accelerator where one was there.
    """

    card: Card
    values: Mapping[int, float]
    seconds: float
    date: str
    machine: str

    @property
    def passed(self) -> bool:
        """Whether every seed reaches the threshold of the card."""
        return all(map(self.card.passes, self.values.values()))

    @property
    def worst(self) -> float:
        """The value that decides, see `Card.worst`."""
        return self.card.worst(self.values.values())

    def __str__(self) -> str:
        sign = "≤" if self.card.direction == "lower" else "≥"
        unit = f" {self.card.unit}" if self.card.unit else ""
        return (
            f"{'PASS' if self.passed else 'FAIL'} {self.card.name}: {self.card.metric} {self.worst:.4g}{unit} "
            f"(worst of {len(self.values)}, needed {sign} {self.card.threshold:.4g}), {self.date[:10]}"
        )


def latest(card: Card) -> Result | None:
    """What was recorded for a card; None where nothing was, or another metric.

    Raises:
        CardError: the file is damaged.
    """
    file = resources.files("worldformula.cards").joinpath(FOLDER, f"{card.name}.json")
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["card"]["metric"] != card.metric:
            return None
        values = {int(row["seed"]): float(row["metrics"][card.metric]) for row in found["rows"]}
        parts = [found["machine"]["processor"], found["machine"]["accelerator"]]
        return Result(card, values, float(found["seconds"]), found["date"], ", ".join(filter(None, parts)))
    except (ValueError, KeyError, TypeError) as error:
        raise CardError(
            f"the result of {card.name} cannot be read: {error!r}. Measure again: {card.command}"
        ) from error


def place(name: str) -> Path:
    """Where the result of a card is recorded: in the package of a source checkout.

    Raises:
        ConfigError: the package is installed, not checked out.
    """
    package = Path(str(resources.files("worldformula")))
    if not (package.parent / "pyproject.toml").is_file():
        raise ConfigError(
            "--record writes into a checkout of the source, and this package is installed; use --json FILE"
        )
    return package / "cards" / FOLDER / f"{name}.json"
