"""Arithmetic, and reductions over events, samples and the batch."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from worldformula.families.base import total
from worldformula.formula import runtime
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.rules.rule import ARITHMETIC, MANY, Rule, literal
from worldformula.formula.syntax.functions import FUNCTIONS


def _binary(m: Any, op: Op, args: list[Any]) -> Any:
    left, right = args
    match op.how:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case "^":
            return left**right
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.maximum(left, right) if op.how == "max" else torch.minimum(left, right)
    return runtime.bounded(left, **{"low" if op.how == "max" else "high": right})


def _write_binary(w: Any, op: Op) -> str:
    if op.how in ("max", "min"):
        bound = {"max": "min", "min": "max"}[op.how]  # max(x, 1) keeps x from below
        numbers = sorted((a for a in op.args if w.number(a)), key=lambda a: isinstance(a, str))
        if len(numbers) == 1:
            tensor = next(a for a in op.args if not w.number(a))
            return f"{w.ref(tensor, tight=True)}.clamp({bound}={w.ref(numbers[0])})"
        if len(numbers) == 2:  # what the call is given may be a float
            side = "low" if op.how == "max" else "high"
            return f"bounded({w.ref(numbers[1])}, {side}={w.ref(numbers[0])})"
        return f"torch.{op.how}imum({', '.join(w.ref(a) for a in op.args)})"
    left, right = op.args
    if op.how == "^":
        return f"{w.ref(left, tight=True)} ** {w.ref(right, tight=True)}"
    weak = op.how in "+-" and isinstance(right, str) and w.ops[right].how in ("*", "/")  # a + b * c needs no brackets
    return f"{w.ref(left, tight=op.how in '*/')} {op.how} {w.ref(right, tight=not weak)}"


def _function(m: Any, op: Op, args: list[Any]) -> Any:
    if op.how == "clamp":
        return runtime.bounded(args[0], *(args[1:] or dict(op.options).values()))
    return runtime.of_number(FUNCTIONS[op.how].call, args[0])


def _write_function(w: Any, op: Op) -> str:
    body, *bounds = op.args
    if op.how == "clamp":
        if bounds or w.number(body):  # what the call is given may be a float
            sides = bounds or [v for _, v in op.options]
            return f"bounded({w.ref(body)}, {', '.join('None' if v is None else w.ref(v) for v in sides)})"
        limits = ", ".join(f"{k}={literal(v)}" for k, v in op.options)
        return f"{w.ref(body, tight=True)}.clamp({limits})"
    rule = FUNCTIONS[op.how].code
    if w.number(body):
        named = rule.partition("(")[0] if rule.startswith("F.") else f"torch.{op.how}"
        return f"of_number({named}, {w.ref(body)})"
    return rule.format(w.ref(body, tight=not rule.startswith("F.")))


def _detach(m: Any, op: Op, args: list[Any]) -> Any:
    return args[0].detach() if isinstance(args[0], Tensor) else args[0]


def _write_detach(w: Any, op: Op) -> str:
    if not w.number(op.args[0]):
        return f"{w.ref(op.args[0], tight=True)}.detach()"
    shown = w.ref(op.args[0], tight=not isinstance(op.args[0], str))  # what the call is given may be a float
    return f"stop({shown})" if isinstance(op.args[0], str) else str(shown)


def _event(m: Any, op: Op, args: list[Any]) -> Any:
    return total(args[0].square() if op.how == "norm2" else args[0], dict(op.options)["rank"])


def _write_event(w: Any, op: Op) -> str:
    rank = dict(op.options)["rank"]
    axes = {0: "", 1: ".sum(-1)"}.get(rank, f".sum({tuple(range(-rank, 0))})")
    return f"{w.ref(op.args[0], tight=True)}{'.square()' if op.how == 'norm2' else ''}{axes}"


def _lift(m: Any, op: Op, args: list[Any]) -> Any:
    return args[0][(..., *(None,) * int(op.how))]


def _rows(m: Any, op: Op, args: list[Any]) -> Any:
    lead, like = len(m.ops[op.reads[0]].axes), args[1:]
    return runtime.rows(args[0], lead, *(value.shape[_batch(m, op)] for value in like))


def _write_rows(w: Any, op: Op) -> str:
    lead = len(w.ops[op.reads[0]].axes)
    if len(op.args) == 1:
        return f"rows({w.ref(op.args[0])}, {lead})"
    axes = _batch(w, op)
    shown = ":".join("" if end is None or end == 0 else str(end) for end in (axes.start, axes.stop))
    batch = f"{w.ref(op.args[1], tight=True)}.shape" + (f"[{shown}]" if shown != ":" else "")
    return f"rows({w.ref(op.args[0])}, {lead}, {batch})"


def _batch(m: Any, op: Op) -> slice:
    """Where the batch axes of what tells them are: one behind its sample axes, or over time; else all but the event."""
    like = m.ops[op.args[1]]
    if like.axes or like.step or m.plan.index is not None:
        return slice(len(like.axes), len(like.axes) + 1)
    return slice(0, -int(op.how) or None)


def _over_batch(m: Any, op: Op, args: list[Any]) -> Any:
    lead = len(m.ops[op.reads[0]].axes) if op.reads else 0
    return getattr(args[0], op.how)(*([lead] if lead else []))


def _write_over_batch(w: Any, op: Op) -> str:
    lead = len(w.ops[op.reads[0]].axes) if op.reads else 0
    return f"{w.ref(op.args[0], tight=True)}.{op.how}({lead or ''})"


def _samples(m: Any, op: Op, args: list[Any]) -> Any:
    place = m.ops[op.reads[0]].axes.index(cast(int, op.axis))
    match op.how:
        case "dreg":
            return runtime.dreg(args[0], place, *args[1:])
        case "expected" | "log_expected" | "logsumexp" | "logmeanexp":
            return getattr(runtime, op.how)(*args, place)
    return getattr(args[0], op.how)(place)


def _write_samples(w: Any, op: Op) -> str:
    place = w.ops[op.reads[0]].axes.index(op.axis)
    match op.how:
        case "dreg":
            return f"dreg({', '.join([w.ref(op.args[0]), str(place), *map(w.ref, op.args[1:])])})"
        case "expected" | "log_expected" | "logsumexp" | "logmeanexp":
            return f"{op.how}({', '.join(map(w.ref, op.args))}, {place})"
    return f"{w.ref(op.args[0], tight=True)}.{op.how}({place})"


def _loose(op: Op) -> bool:
    return op.kind == "negative" or op.how in ("+", "-", "*", "/", "^")


RULES: dict[str, Rule] = {
    "binary": Rule(_binary, _write_binary, (0, 2), loose=_loose, inside=ARITHMETIC),
    "negative": Rule(
        lambda m, op, args: -args[0],
        lambda w, op: f"-{w.ref(op.args[0], tight=True)}",
        (0, 1),
        "any",
        _loose,
        ARITHMETIC,
    ),
    "detach": Rule(_detach, _write_detach, (0, 1), inside=ARITHMETIC),
    "function": Rule(_function, _write_function, (0, 3), inside=ARITHMETIC),
    "event": Rule(_event, _write_event, (0, 1), inside=ARITHMETIC),
    "lift": Rule(
        _lift, lambda w, op: f"{w.ref(op.args[0], tight=True)}[...{', None' * int(op.how)}]", inside=ARITHMETIC
    ),
    "samples": Rule(_samples, _write_samples, MANY, loose=_loose, inside=ARITHMETIC),
    "rows": Rule(_rows, _write_rows, (1, 2), inside=frozenset({*ARITHMETIC, "net", "along"})),
    "batch": Rule(_over_batch, _write_over_batch, (0, 1), "once", inside=ARITHMETIC),
}
