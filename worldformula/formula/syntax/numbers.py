"""Numbers of the call in what a factor is made of: fixed parameters, and settings of its family."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

from worldformula.errors import FormulaError, MissingInputError, table
from worldformula.families.base import Family
from worldformula.families.given import asked, check, completed, placeholder
from worldformula.formula.syntax.given import as_parameter, one_number
from worldformula.formula.syntax.names import Variable, read_variable
from worldformula.formula.syntax.spelling import by_keyword


class Numbered(Protocol):
    """What is read of a factor."""

    family: Family | None
    fixed: dict[str, Any]
    numbers: Mapping[str, Variable]
    parts: tuple[Any, ...]

    @property
    def given(self) -> Mapping[str, Any]:
        """The parameters that no network computes."""

    def family_tree(self) -> tuple[Any, ...]:
        """The factor, and those that it is made of."""


F = TypeVar("F", bound=Numbered)


def taken_out(header: str, fixed: dict[str, Any], conditions: tuple[Variable, ...], family: Any) -> dict[str, Variable]:
    """The parameters that a call gives as numbers, by their names, taken out of those that are ``fixed``.

    Raises:
        FormulaError: a condition has the name of such a number.
    """
    own = {name: found for name, value in fixed.items() if (found := placeholder(value)) is not None}
    for name in own:
        del fixed[name]
    keys = {c.key for c in conditions}
    for known in (*own.values(), *getattr(family, "asked", ())):
        if read_variable(known.name).key in keys:
            raise FormulaError(
                f"{header}: {known.name} is both a condition and the Symbol of a setting, which a call could not tell "
                f"apart\nrename one of them"
            )
    return {name: read_variable(known.name) for name, known in own.items()}


def check_bounds(low: float, high: float) -> None:
    """Refuse bounds of a clamp in the wrong order."""
    if low > high:
        raise FormulaError(f"clamp: expected a lower bound below the upper one, got {low} and {high}")


def check_power(base: float, exponent: float) -> None:
    """Refuse powers of numbers that are no real number."""
    if base < 0 and exponent % 1 != 0:
        raise FormulaError(
            f"({base}) ** {exponent} is no real number\ngive the call a base of at least 0, or a whole exponent"
        )
    if base == 0 and exponent < 0:
        raise FormulaError(f"{base} ** {exponent} divides by 0\ngive the call another base, or an exponent from 0 on")


def check_rows(number: float) -> None:
    """Refuse numbers of rows that no data have."""
    if not 1 <= number < math.inf:
        raise FormulaError(
            f"rows={number}: expected the number of rows of the data, of which the call gives some\ngive the call a "
            f"number of at least 1, or write rows='all'"
        )


def check_root(name: str, number: float) -> None:
    """Refuse the logarithm and the root of a number below 0."""
    if number < 0:
        raise FormulaError(f"{name}({number}) is no real number\ngive the call a number of at least 0")


def symbols(factor: Numbered) -> tuple[Variable, ...]:
    """The numbers that a call gives a factor itself."""
    settings = (read_variable(known.name) for known in getattr(factor.family, "asked", ()))
    return tuple(dict.fromkeys((*factor.numbers.values(), *settings)))


def places(factor: Numbered) -> tuple[tuple[str, Variable], ...]:
    """Parameters and settings by name, as ``("temperature", tau)``, with the number that a call gives for each."""
    settings = ((name, read_variable(known.name)) for name, known in asked(factor.family))
    return (*factor.numbers.items(), *settings)


def all_symbols(factor: Numbered) -> tuple[Variable, ...]:
    """The same with those of the factors that it is made of."""
    return tuple(dict.fromkeys(v for f in factor.family_tree() for v in symbols(f)))


def check_numbers(factor: Numbered, *values: Any) -> None:
    """Hold the numbers of a call, in the order of `symbols`, against what they have to be where they stand.

    Raises:
        ConfigError, FormulaError: as if the number had been written there.
    """
    named = {str(v): value for v, value in zip(symbols(factor), values, strict=True)}
    if factor.family is None:
        return
    check(factor.family, named)
    text = str(factor)
    plain = {k: v.detach().item() if isinstance(v := named[str(s)], Tensor) else v for k, s in factor.numbers.items()}
    own = {k: as_parameter(text, k, v) for k, v in plain.items()}
    if fault := factor.family.wrong_parameters({**factor.given, **own} if own else {}):
        raise FormulaError(f"{text}: {fault}")


def settled(factor: F, numbers: Mapping[str, Any]) -> F:
    """The factor with the numbers of a call, by name, in their places."""
    if not all_symbols(factor):
        return factor
    other = copy.copy(factor)
    other.__dict__["family"] = completed(factor.family, numbers)
    other.__dict__["fixed"] = {**factor.fixed, **{k: numbers[str(v)] for k, v in factor.numbers.items()}}
    other.__dict__["numbers"] = {}
    other.__dict__["parts"] = tuple(settled(part, numbers) for part in factor.parts)
    return other


def given_numbers(
    whose: object, factors: Sequence[Numbered], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a direct call gives: the numbers by name, checked, and the rest by keyword.

    Raises:
        MissingInputError: a number is missing.
    """
    wanted, values = dict.fromkeys(v for f in factors for v in all_symbols(f)), by_keyword(values)
    if missing := [v.key for v in wanted if v.key not in values]:
        rows = [(v.key, "a number of the call", "missing" if v.key in missing else "given") for v in wanted]
        raise MissingInputError(
            f"{whose} needs {', '.join(missing)}; pass {', '.join(k + '=...' for k in missing)}\n"
            + table(("variable", "declared by", "got"), rows)
        )
    numbers = {str(v): one_number(v.key, values[v.key]) for v in wanted}
    keys = {v.key for v in wanted}
    for factor in (part for f in factors for part in f.family_tree()):
        check_numbers(factor, *(numbers[str(v)] for v in symbols(factor)))
    return numbers, {k: v for k, v in values.items() if k not in keys}
