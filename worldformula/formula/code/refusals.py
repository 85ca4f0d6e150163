"""Calls that are refused: variables that a formula does not have, or lacks, and starts that are no whole state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from worldformula.errors import MissingInputError, UnknownVariableError, near, table
from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.plan.variables import CALL_OPTIONS
from worldformula.formula.syntax.names import Variable


def refuse(plan: Plan, given: Mapping[str, Any]) -> NoReturn:
    """Unknown and missing variables, with the table *variable | declared by | needed by*."""
    declared = {op.variable.key: op.factor for op in plan.ops if op.kind in ("draw", "noise") and op.variable}
    rows = [
        (k, declared.get(k, "data"), _needed_by(plan, op), "given" if k in given else "missing")
        for k, op in plan.inputs.items()
    ]
    shown = table(("variable", "declared by", "needed by", "got"), rows) if rows else "  it reads no data at all"
    missing = [k for k in plan.inputs if k not in given]
    before = _steps_before(plan, missing)
    for name in given:
        if name not in plan.inputs:
            known = [*plan.inputs, *(o for o in CALL_OPTIONS if o != "present")]
            stepped = any(v.at(0).key == name for v in before.values())
            hint = _no_sum(before) if stepped else near(name, known)
            said = f"the formula has no input {name!r}.{hint}\n{shown}"
            raise UnknownVariableError(said + (_write_sum(before) if stepped else ""))
    hints = {k: near(k, [key for key in plan.samples if key != k], 0.6) for k in missing if k not in before}
    also = "".join(
        f"\n{k}:{hint} It is drawn inside an E; a term that reads it belongs there."
        for k, hint in hints.items()
        if hint
    )
    also += "".join(
        f"\n{k}: {declared[k]} draws it for an operator alone, whose draws other terms and later steps do not see; "
        f"write E over the factors around the operator"
        for k in missing
        if k in declared
    )
    need = f"the formula needs {', '.join(missing)}{'.' if before else ';'}"
    need += _no_sum(before) if before else f" pass {', '.join(k + '=...' for k in missing)}"
    raise MissingInputError(f"{need}\n{shown}{_write_sum(before)}{also}")


def _steps_before(plan: Plan, missing: Iterable[str]) -> dict[str, Variable]:
    """The missing inputs that are values of another step of an index which nothing sums over, such as h_{t-1}."""
    read = {c.identifier: c for op in plan.ops if op.factor is not None for c in op.factor.conditions if c.offset < 0}
    read |= {v.identifier: v for op in plan.inputs.values() if (v := op.variable) is not None and v.offset < 0}
    return {key: read[key] for key in missing if key in read and read[key].index is not None}


def _no_sum(before: Mapping[str, Variable]) -> str:
    """That a Sum over time is missing, as far as one can tell."""
    index = next(iter(before.values())).index
    one = len(before) == 1
    what = "is of an earlier step" if one else "are of an earlier step"
    return f" {' and '.join(map(str, before.values()))} {what}, and no Sum goes over {index}"


def _write_sum(before: Mapping[str, Variable]) -> str:
    if not before:
        return ""
    index = next(iter(before.values())).index
    alone = ", ".join(f"{key}=..." for key in before)
    return f"\nwrite Sum('{index}', ...) around what belongs to a step; for one step alone, pass {alone}"


def _needed_by(plan: Plan, op: Op) -> str:
    direct = [o for o in plan.ops if op.name in o.reads]
    through = [o for s in direct if s.kind == "shift" for o in plan.ops if s.name in o.reads]
    readers = (
        ["the formula"] if op.kind == "symbol" else [str(o.factor) for o in (*direct, *through) if o.factor is not None]
    )
    return ", ".join(dict.fromkeys(readers)) or ("reset" if op.kind == "flags" else "-")


def refuse_start(plan: Plan, start: Mapping[str, Any]) -> NoReturn:
    """A start that is not a whole state."""
    known = ", ".join(plan.starts) or "nothing"
    for key in start:
        if key not in plan.starts:
            hint = near(key, plan.starts)
            raise UnknownVariableError(f"start: no variable {key!r} is carried; these are: {known}.{hint}")
    rows = [(key, "carried", "given" if key in start else "missing") for key in plan.carries]
    rows += [(key, "last value of the series", "given" if key in start else "missing") for key in plan.shifts]
    rows += [(key, "memory", "given" if key in start else "missing") for key in plan.memories]
    rows += [(key, "number of the step", "missing") for key in (plan.counter,) if key and key not in start]
    raise MissingInputError(
        "start: expected all that goes from step to step\n"
        + table(("variable", "declared", "got"), rows)
        + "\npass the whole out.last of the call before, or no start= for zeros"
    )
