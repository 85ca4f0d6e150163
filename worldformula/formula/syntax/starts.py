"""What the names of a start mean: ``z_0`` begins z, and ``x_1`` and ``x_{1:2}`` are first rows of the series x."""

from __future__ import annotations

from dataclasses import replace

from worldformula.formula.syntax.names import Variable


def begins(start: Variable) -> str:
    """The key of what begins with a start: ``z`` of ``z_0``, and ``z_m1``, an older step, of itself."""
    return _without(start, "0").key


def zeroth(variable: Variable) -> bool:
    """Whether a variable has the number 0, as what stands before a first step: ``z_0``, not ``z_10``."""
    known = variable.subscript or ""
    return variable.index is None and not variable.several and known.endswith("0") and not known[-2:-1].isdigit()


def series(row: Variable, index: str) -> Variable | None:
    """The step of the series whose first rows these may be, x_t for ``x_1`` and ``x_{1:2}``; None for other names."""
    if row.first:
        return replace(row.now, index=index)
    named = row.index is None and not row.several and (row.subscript or "").endswith("1")
    return replace(_without(row, "1"), index=index) if named else None


def _without(variable: Variable, digit: str) -> Variable:
    """The same variable without this end of its subscript."""
    known = variable.subscript or ""
    return replace(variable, subscript=known[:-1] or None) if known.endswith(digit) else variable
