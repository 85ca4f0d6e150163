"""What a kind of operation is: how it is evaluated and written, and what it does to its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from worldformula.families.base import Family
from worldformula.formula.plan.plan import Op
from worldformula.formula.syntax.factor import Factor

ARITHMETIC = frozenset(
    {"binary", "negative", "detach", "batch", "over", "function", "event", "lift", "samples"}
)  # what may stand inside another's line


@dataclass(frozen=True)
class Rule:
    """One kind of operation.

    evaluate: its value, of the machine, the operation, and the values of its arguments.
    write: its right-hand side, of the writer and the operation.
    arity: the least and the greatest number of arguments that are other operations.
    level: whether it exists once per call, in steps only, or both.
    loose: whether what it writes needs brackets as an operand.
    inside: the kinds of readers in whose line it may stand, where there is only one.
    """

    evaluate: Callable[[Any, Op, list[Any]], Any]
    write: Callable[[Any, Op], str]
    arity: tuple[int, int | None] = (1, 1)
    level: Literal["once", "step", "any"] = "any"
    loose: Callable[[Op], bool] = lambda _: False
    inside: frozenset[str] = frozenset()


def factor_of(op: Op) -> Factor:
    """The factor of an operation that has one."""
    assert op.factor is not None
    return op.factor


def family_of(op: Op) -> Family:
    """The family of the factor of an operation."""
    assert op.factor is not None
    assert op.factor.family is not None
    return op.factor.family


def literal(value: Any) -> str:
    """Numbers as emitted code writes them: the repr of what is infinite is no Python."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return "torch.nan" if math.isnan(value) else "torch.inf" if value > 0 else "-torch.inf"
    return repr(value)


def led(shown: str, op: Op) -> str:
    """An argument, and behind it the number of sample axes where there are any."""
    return f"{shown}, {len(op.axes)}" if op.axes else shown


NONE: tuple[int, int | None] = (0, 0)
MANY: tuple[int, int | None] = (1, None)
