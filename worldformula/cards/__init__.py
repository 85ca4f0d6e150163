"""Cards: one TOML file per claim, with the command that measures it and the numbers that stand beside it.

A card says what is claimed, what the measurement must reach (`threshold`), what costs nothing to reach (`floor`:
random, a mean, a mixture), what cannot be passed (`ceiling`), and what the paper printed (`published`). Numbers that do
not exist are left out of the file and printed as a dash. `worldformula.cards.run.reproduce` measures a card.
How it decides, by every seed or by the interval of their mean, is said in `worldformula.cards.condition`.

>>> card = load("vae_digits")
>>> card.metric, card.direction, card.floor
('iwae', 'lower', 17.4)
>>> card.passes(16.6), card.passes(17.4), card.passes(float("nan"))
(True, False, False)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from typing import Any

from worldformula.cards.condition import LEAST_SEEDS, Condition
from worldformula.errors import CardError, CatalogueError, near


@dataclass(frozen=True, kw_only=True)
class Card(Condition):
    """One claim and how it is measured; its own condition comes first, and all further ones must hold too.

    Attributes:
        name: the name of the file, as in ``worldformula reproduce NAME``.
        system: the system of the catalogue that is measured.
        claim: one sentence that the measurement can refute.
        command: the command line that measures it.
        measure: ``"package.module:function"``; called with a seed, returns numbers by name.
        budget_minutes: processor time for all seeds together.
        metric, direction, threshold, verdict: see `Condition`; floor, ceiling and published value are of this number.
        seeds: the seeds of the measurement; no pilot that chose the threshold used them.
        unit: of the metric: ``"nats per image"``.
        floor: what a method without learning, or a far simpler one, reaches.
        ceiling: what cannot be passed.
        published: the value of the paper, on the same data, otherwise left out.
        conditions: of further numbers, ``conditions = [{metric = "kl_1", direction = "higher", threshold = 0.3}]``.
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
    seeds: tuple[int, ...]
    unit: str = ""
    floor: float | None = None
    ceiling: float | None = None
    published: float | None = None
    conditions: tuple[Condition, ...] = ()
    also: tuple[str, ...] = ()
    threads: int = 1
    notes: str = ""

    def covers(self, system: str) -> bool:
        """Whether it measures a system of the catalogue."""
        return system in (self.system, *self.also)

    @property
    def all_conditions(self) -> tuple[Condition, ...]:
        """Its own and the further ones."""
        return (self, *self.conditions)

    def holds(self, rows: Sequence[Mapping[str, float]]) -> bool:
        """Whether all conditions hold for the measured numbers, one mapping a seed."""
        return all(c.judge([row[c.metric] for row in rows]).passed for c in self.all_conditions)


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
    card = Card(**{key: _checked(name, key, str(known[key].type), value) for key, value in given.items()})
    _check_values(name, card)
    return card


def _checked(card: str, key: str, declared: str, value: Any) -> Any:
    """The value of one field in its declared type (annotations are strings here)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if declared == "int" and type(value) is int:
        return value
    if declared == "str" and isinstance(value, str):
        return value
    if declared.startswith("float") and number:
        return float(value)
    if declared == "tuple[Condition, ...]":
        return _conditions(card, value)
    kinds = {"tuple[int, ...]": int, "tuple[str, ...]": str}
    if declared in kinds and isinstance(value, list) and all(type(v) is kinds[declared] for v in value):
        return tuple(value)
    words = {"str": "text", "int": "a whole number"}
    words |= {"tuple[int, ...]": "a list of whole numbers", "tuple[str, ...]": "a list of texts"}
    expected = words.get(declared, "a number")
    raise CardError(f"card {card}: {key} = {value!r}, expected {expected}.")


def _conditions(card: str, value: Any) -> tuple[Condition, ...]:
    """The further conditions of a card, from a list of tables."""
    known = {f.name: str(f.type) for f in fields(Condition)}
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise CardError(f"card {card}: conditions = {value!r}, expected a list of tables with {', '.join(known)}.")
    for one in value:
        unlike = (one.keys() - known.keys()) or (known.keys() - {"verdict"} - one.keys())
        if unlike:
            raise CardError(f"card {card}: conditions have {', '.join(known)}; look at {', '.join(sorted(unlike))}.")
    return tuple(Condition(**{k: _checked(card, k, known[k], v) for k, v in one.items()}) for one in value)


def _check_values(name: str, card: Card) -> None:
    """What types cannot say."""
    averaged = any(condition.verdict == "interval" for condition in card.all_conditions)
    rules = {message: ok for condition in card.all_conditions for message, ok in condition.problems().items()} | {
        f"name = {card.name!r}, expected the name of the file": card.name == name,
        f"measure = {card.measure!r}, expected 'package.module:function'": card.measure.count(":") == 1,
        "seeds = [], expected at least one": bool(card.seeds),
        "a seed stands twice in seeds": len(set(card.seeds)) == len(card.seeds),
        f"verdict = 'interval' expects {LEAST_SEEDS} seeds or more, got {len(card.seeds)}": not averaged
        or len(card.seeds) >= LEAST_SEEDS,
        f"threads = {card.threads}, expected at least 1": card.threads > 0,
        f"budget_minutes = {card.budget_minutes}, expected a positive number": card.budget_minutes > 0,
        f"floor = {card.floor} already passes the threshold {card.threshold}": card.floor is None
        or not card.passes(card.floor),
        f"ceiling = {card.ceiling} does not reach the threshold {card.threshold}": card.ceiling is None
        or card.passes(card.ceiling),
    }
    for message, holds in rules.items():
        if not holds:
            raise CardError(f"card {name}: {message}.")
