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
from worldformula.cards.condition import shown
from worldformula.errors import CardError, ConfigError

FOLDER = "results"


@dataclass(frozen=True)
class Result:
    """What was measured last for a card.

    Attributes:
        card: the card as it is now; its threshold decides.
        rows: what was measured, by seed.
        seconds: for all seeds together.
        date: ``"2026-11-20 14:05 UTC"``.
        machine: the processor, and the accelerator where one was there.
    """

    card: Card
    rows: Mapping[int, Mapping[str, float]]
    seconds: float
    date: str
    machine: str

    @property
    def values(self) -> dict[int, float]:
        """Those of the metric of the card, by seed."""
        return {seed: row[self.card.metric] for seed, row in self.rows.items()}

    @property
    def passed(self) -> bool:
        """Whether the conditions of the card hold."""
        return self.card.holds(list(self.rows.values()))

    def __str__(self) -> str:
        decided = shown(self.card, list(self.values.values()), self.card.unit)
        other = "" if set(self.rows) == set(self.card.seeds) else ", before the card had other seeds"
        return f"{'PASS' if self.passed else 'FAIL'} {self.card.name}: {decided}, {self.date[:10]}{other}"


def latest(card: Card) -> Result | None:
    """What was recorded for a card; None where nothing was, or not all that the card asks for now.

    Raises:
        CardError: the file is damaged.
    """
    file = resources.files("worldformula.cards").joinpath(FOLDER, f"{card.name}.json")
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rows = {int(row["seed"]): {k: float(v) for k, v in row["metrics"].items()} for row in found["rows"]}
        asked = {condition.metric for condition in card.all_conditions}
        if any(asked - row.keys() for row in rows.values()):
            return None
        parts = [found["machine"]["processor"], found["machine"]["accelerator"]]
        return Result(card, rows, float(found["seconds"]), found["date"], ", ".join(filter(None, parts)))
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
