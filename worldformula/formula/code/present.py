"""The flags of the rows that have an input, as ``present=`` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, UnknownVariableError, near, table
from worldformula.formula.plan.plan import Plan


def check_present(plan: Plan, flags: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse what is no dict of flags, and flags that do not fit."""
    if not isinstance(flags, Mapping):
        raise FormulaError(f"expected present= as flags by variable, e.g. present={{'x': flags}}, got {flags!r}")
    for key in flags:
        check_flags(plan, key, flags[key], inputs.get(key))


def check_flags(plan: Plan, key: str, flags: Any, data: Any) -> None:
    """``present=`` has one flag for each row of an input, and for each of its steps where it is read step by step.

    A whole series has one flag a row, and so has data whose event axes nobody declares.
    """
    if key not in plan.inputs:
        hint = near(key, plan.inputs)
        raise UnknownVariableError(f"present: the formula has no input {key!r}.{hint} It has {', '.join(plan.inputs)}.")
    if not isinstance(data, Tensor):
        return  # `check` tells what is wrong with it
    op, rank = plan.inputs[key], plan.ranks.get(key)
    if plan.series(op):
        axes = 1 + op.step
    else:
        axes = min(1, data.ndim - 1) if rank is None else data.ndim - rank - (key in plan.inner)
    if isinstance(flags, Tensor) and flags.shape == data.shape[:axes]:
        return
    got = list(flags.shape) if isinstance(flags, Tensor) else type(flags).__name__
    raise ShapeError(
        f"present: expected one flag for each row of {key}{' and each of its steps' if op.step else ''}\n"
        + table(("variable", "its shape", "flags", "got"), [(key, list(data.shape), list(data.shape[:axes]), got)])
    )
