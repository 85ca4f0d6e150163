"""Cards: one TOML file per claim, with the command that measures it and the numbers that stand beside it.

A card says what is claimed, what the measurement must reach (`threshold`), what costs nothing to reach (`floor`:
random, a mean, a mixture), what cannot be passed (`ceiling`), and what the paper printed (`published`). Numbers that do
not exist are left out of the file and printed as a dash. `worldformula.cards.run.reproduce` measures a card.

>>> card = load("vae_digits")
>>> card.metric, card.direction, card.floor
('iwae', 'lower', 17.4)
>>> card.passes(16.6), card.passes(17.4), card.passes(float("nan"))
(True, False, False)
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from typing import Any

from worldformula.errors import CardError, CatalogueError, near

DIRECTIONS = ("lower", "higher")


@dataclass(frozen=True)
class Card:
    """One claim and how it is measured.

    Attributes:
        name: the name of the file, as in ``worldformula reproduce NAME``.
        system: the system of the catalogue that is measured.
        claim: one sentence that the measurement can refute.
        command: the command line that measures it.
        measure: ``"package.module:function"``; called with a seed, returns numbers by name.
        budget_minutes: processor time for all seeds together.
        metric: the name, among the measured numbers, of the one that decides.
        direction: ``"lower"`` or ``"higher"`` is better.
        threshold: what every seed must reach.
        seeds: the seeds of the measurement; no pilot that chose the threshold used them.
        unit: of the metric: ``"nats per image"``.
        floor: what a method without learning, or a far simpler one, reaches.
        ceiling: what cannot be passed.
        published: the value of the paper, on the same data, otherwise left out.
        also: further systems that the same run measures.
        threads: of torch while it measures, so that other cores change neither the sums nor, by much, the time.
        notes: where floor, ceiling and threshold come from.
    """

    name: str
    system: str
    claim: str
    command: str
    measure: str
    budget_minutes: float
    metric: str
    direction: str
    threshold: float
    seeds: tuple[int, ...]
    unit: str = ""
    floor: float | None = None
    ceiling: float | None = None
    published: float | None = None
    also: tuple[str, ...] = ()
    threads: int = 1
    notes: str = ""

    def covers(self, system: str) -> bool:
        """Whether it measures a system of the catalogue."""
        return system in (self.system, *self.also)

    def passes(self, value: float) -> bool:
        """Whether one measured value reaches the threshold; NaN and infinity never do."""
        if not math.isfinite(value):
            return False
        return value <= self.threshold if self.direction == "lower" else value >= self.threshold

    def worst(self, values: Iterable[float]) -> float:
        """The value that decides: one that is not finite, else the farthest on the wrong side."""
        found = list(values)
        broken = [value for value in found if not math.isfinite(value)]
        return broken[0] if broken else max(found) if self.direction == "lower" else min(found)


def names() -> list[str]:
    """The names of all cards, sorted."""
    files = resources.files("worldformula.cards").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load(name: str) -> Card:
    """The card of this name; raises CatalogueError with the near misses. ``vae-digits`` finds ``vae_digits``."""
    wanted, known = name.replace("-", "_").lower(), names()
    if wanted not in known:
        raise CatalogueError(f"no card is called {name!r}.{near(wanted, known)} There are: {', '.join(known)}.")
    return read(wanted, resources.files("worldformula.cards").joinpath(f"{wanted}.toml").read_text(encoding="utf-8"))


def read(name: str, text: str) -> Card:
    """A card from the text of its file; raises CardError that names the field."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"card {name}: expected TOML, but {error}.") from error
    known = {f.name: f for f in fields(Card)}
    for key in given:
        if key not in known:
            raise CardError(
                f"card {name}: no field is called {key!r}.{near(key, known)} It may have: {', '.join(known)}."
            )
    missing = [k for k, f in known.items() if f.default is MISSING and k not in given]
    if missing:
        raise CardError(f"card {name}: missing {', '.join(missing)}.")
    card = Card(**{key: _checked(name, key, known[key].type, value) for key, value in given.items()})
    _check_values(name, card)
    return card


def _checked(card: str, key: str, declared: Any, value: Any) -> Any:
    """The value of one field in its declared type (annotations are strings here)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if declared == "int" and type(value) is int:
        return value
    if declared == "str" and isinstance(value, str):
        return value
    if declared.startswith("float") and number:
        return float(value)
    kinds = {"tuple[int, ...]": int, "tuple[str, ...]": str}
    if declared in kinds and isinstance(value, list) and all(type(v) is kinds[declared] for v in value):
        return tuple(value)
    words = {"str": "text", "int": "a whole number"}
    words |= {"tuple[int, ...]": "a list of whole numbers", "tuple[str, ...]": "a list of texts"}
    expected = words.get(declared, "a number")
    raise CardError(f"card {card}: {key} = {value!r}, expected {expected}.")


def _check_values(name: str, card: Card) -> None:
    """What types cannot say."""
    rules = {
        f"name = {card.name!r}, expected the name of the file": card.name == name,
        f"direction = {card.direction!r}, expected 'lower' or 'higher'": card.direction in DIRECTIONS,
        f"measure = {card.measure!r}, expected 'package.module:function'": card.measure.count(":") == 1,
        "seeds = [], expected at least one": bool(card.seeds),
        f"threads = {card.threads}, expected at least 1": card.threads > 0,
        f"budget_minutes = {card.budget_minutes}, expected a positive number": card.budget_minutes > 0,
        f"threshold = {card.threshold}, expected a finite number": math.isfinite(card.threshold),
        f"floor = {card.floor} already passes the threshold {card.threshold}": card.floor is None
        or not card.passes(card.floor),
        f"ceiling = {card.ceiling} does not reach the threshold {card.threshold}": card.ceiling is None
        or card.passes(card.ceiling),
    }
    for message, holds in rules.items():
        if not holds:
            raise CardError(f"card {name}: {message}.")
