"""The table of all kinds, and those that only call a function or shape a value."""

from __future__ import annotations

from typing import Any

from worldformula.formula import runtime
from worldformula.formula.plan.plan import Method, Op
from worldformula.formula.plan.rules import arithmetic, densities, given
from worldformula.formula.plan.rules.rule import MANY, Rule, literal


def _call(m: Any, op: Op, args: list[Any]) -> Any:
    assert op.target is not None
    own = () if op.factor is None else (op.factor.net,)
    first = len(args) - len(op.keywords)
    named = dict(op.options) | dict(zip(op.keywords, args[first:], strict=True))
    target = Method(m.family(op.target.family), op.target.name) if isinstance(op.target, Method) else op.target
    return target(*own, *args[:first], **named)


def _write_call(w: Any, op: Op) -> str:
    args = [w.ref(a) for a in op.args]
    if isinstance(op.target, Method):
        return f"{w.family(op.target.family)}.{op.target.name}({', '.join(args)})"
    own = [w.network(op.factor.net)] if op.factor is not None else []
    named = [f"{key}={literal(value)}" for key, value in op.options]
    first = len(args) - len(op.keywords)
    named += [f"{key}={value}" for key, value in zip(op.keywords, args[first:], strict=True)]
    return f"{w.callable(op.target)}({', '.join([*own, *args[:first], *named])})"


def _write_along(w: Any, op: Op) -> str:
    return f"along({w.ref(op.args[0])}, {', '.join(map(str, w.plan.new_axes(op, op.reads[0])))})"


def _same(m: Any, op: Op, args: list[Any]) -> None:
    m.compare(op, args)


def _write_same(w: Any, op: Op) -> str:
    return f"one_batch({', '.join(w.ref(a) for a in op.args)})"


RULES: dict[str, Rule] = {
    **given.RULES,
    **densities.RULES,
    **arithmetic.RULES,
    "call": Rule(_call, _write_call, (0, None)),
    "along": Rule(lambda m, op, args: runtime.along(args[0], *m.plan.new_axes(op, op.reads[0])), _write_along),
    "same": Rule(_same, _write_same, MANY),
    "group": Rule(
        lambda m, op, args: dict(zip(op.how.split(), map(runtime.as_value, args), strict=True)),
        lambda w, op: (
            "{" + ", ".join(f"{k!r}: {w.result(v)}" for k, v in zip(op.how.split(), op.args, strict=True)) + "}"
        ),
        (0, None),
        "once",
    ),
}


def written_inside(op: Op, reader: Op) -> bool:
    """Whether an operation may stand in the line of its only reader."""
    return reader.kind in RULES[op.kind].inside and not (reader.kind == "samples" and reader.how == "dreg")
