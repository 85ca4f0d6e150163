"""What a call gives, and what time does with it."""

from __future__ import annotations

from typing import Any

import torch

from worldformula.formula import runtime
from worldformula.formula.filtering import running
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.rules.rule import ARITHMETIC, MANY, NONE, Rule, led
from worldformula.formula.syntax.constants import start_of


def _given(m: Any, op: Op, _: list[Any]) -> Any:
    value = m.given.get(m.plan.argument(op))
    return value[:, m.t] if op.step else value


def _write_given(w: Any, op: Op) -> str:
    return f"flat({w.argument(op)})" if op.step else str(w.argument(op))


def _noise(m: Any, op: Op, _: list[Any]) -> Any:
    noise = m.given.get(op.name)
    return noise if noise is None or not op.step else noise.select(len(op.axes) + 1, m.t)


def _write_noise(w: Any, op: Op) -> str:
    """``[B, T, ...]``; a draw outside the loop takes all steps at once."""
    return f"flat({led(op.name, op)})" if op.step and not w.sliced(op.name) else op.name


def _alive(m: Any, op: Op, _: list[Any]) -> Any:
    return runtime.alive(m.given[m.plan.arguments[op.how]])[:, m.t]


def _behind(m: Any, op: Op, _: list[Any]) -> Any:
    return runtime.behind(m.given[m.plan.arguments[op.how]], **dict(op.options))[:, m.t]


def _write_behind(w: Any, op: Op) -> str:
    return f"flat(behind({w.plan.arguments[op.how]}, {dict(op.options)['burn_in']}))"


def _carry(m: Any, op: Op, args: list[Any]) -> Any:
    key = op.variable.key if op.variable else ""
    value = m.carry[key]
    if key in m.plan.begins:
        return _begun(m, op, value, args, m.once.get(m.plan.begins[key]))
    return value if m.keep is None else runtime.restart(value, m.keep, start_of(m.plan.initial, key), len(op.axes))


def _begun(m: Any, op: Op, value: Any, starts: list[Any], once: Any) -> Any:
    """A carry that begins with what a factor says: at the first step, where none is given, and at resets."""
    start = starts[0] if starts else once
    if value is None:
        return start
    return value if m.keep is None else runtime.restart(value, m.keep, start, len(op.axes))


def _write_carry(w: Any, op: Op) -> str:
    if w.stages[op.name] == "after":  # no step of the loop reads it
        return str(w.shifted(op))
    assert op.variable is not None
    source = w.carried(w.plan.carries[op.variable.key])
    if w.keep is None:
        return str(source)
    start = f", {w.ref(op.args[0])}" if op.args else w.initial(op.variable.key)
    lead = f", lead={len(op.axes)}" if op.axes else ""
    return f"restart({source}, {w.derived(w.keep, 's')}[t]{start}{lead})"


def _running(m: Any, op: Op, args: list[Any]) -> Any:
    if not m.t:
        return args[0]
    before = m.history[op.name][-1]
    return args[0] + (before if m.keep is None else runtime.restart(before, m.keep))


def _write_running(w: Any, op: Op) -> str:
    return f"{w.callable(running)}({w.ref(op.args[0])}, B, T{f', {w.keep}' if w.keep else ''})"


def _first(m: Any, op: Op, _: list[Any]) -> Any:
    rows, series = dict(op.options)["rows"], m.given[m.plan.argument(op)]
    return series[:, :rows] if rows else series[:, 0]


def _write_first(w: Any, op: Op) -> str:
    rows = dict(op.options)["rows"]
    return f"{w.argument(op)}[:, {f':{rows}' if rows else 0}]"


def _index(m: Any, op: Op, _: list[Any]) -> Any:
    before = m.history[op.name][-1] if m.t else m.given[f"start_{m.plan.counter}"]
    return (before if m.keep is None else runtime.restart(before, m.keep)) + 1


def _write_index(w: Any, op: Op) -> str:
    return f"counting(start_{w.plan.counter}, T{f', {w.keep}' if w.keep else ''})"


def _shift(m: Any, op: Op, args: list[Any]) -> Any:
    value = m.last[op.reads[0]].to(args[0].dtype)
    return value if m.keep is None else runtime.restart(value, m.keep)


def _write_shift(w: Any, op: Op) -> str:
    key = op.variable.key if op.variable else ""
    return f"shift({w.series(op.reads[0])}, start_{key}, {w.keep})"


def _over(m: Any, op: Op, _: list[Any]) -> Any:
    name = op.reads[0]
    if op.how == "last":
        return m.history[name][-1]
    if not m.ops[name].axes and not op.options:
        return getattr(torch.stack(m.history[name], 1), op.how)(1)
    steps = torch.stack(m.history[name], -1)
    B, T = steps.shape[-2:]
    given = {k: m.given[m.plan.arguments[v]] if isinstance(v, str) else v for k, v in op.options}
    return runtime.counted(steps.flatten(-2), B, T, op.how, **given)


def _write_over(w: Any, op: Op) -> str:
    if op.how == "last":
        lead = len(op.axes)
        last = f".select({lead + 1}, -1)" if lead else "[:, -1]"
        return f"{w.ref(op.args[0], tight=True)}.unflatten({lead}, (B, T)){last}"
    if not op.options and not w.ops[op.reads[0]].axes:
        return f"{w.ref(op.args[0], tight=True)}.unflatten(0, (B, T)).{op.how}(1)"
    known = w.plan.arguments
    given = "".join(f", {k}={known.get(v, v)}" for k, v in op.options if v)  # flags by the name of their argument
    return f"counted({w.ref(op.args[0])}, B, T, {op.how!r}{given})"


def _series(m: Any, op: Op, _: list[Any]) -> Any:
    return torch.stack(m.history[op.reads[0]], len(op.axes) + 1)


def _write_series(w: Any, op: Op) -> str:
    return f"{w.ref(op.args[0], tight=True)}.unflatten({len(op.axes)}, (B, T))"


RULES: dict[str, Rule] = {
    "input": Rule(_given, _write_given, NONE),
    "whole": Rule(_given, _write_given, NONE, "once"),
    "symbol": Rule(_given, _write_given, NONE, "once"),
    "present": Rule(_given, _write_given, NONE),
    "mask": Rule(_given, _write_given, NONE, "step"),
    "alive": Rule(_alive, lambda w, op: f"flat(alive({w.plan.arguments[op.how]}))", (1, 1), "step"),
    "behind": Rule(_behind, _write_behind, NONE, "step"),
    "noise": Rule(_noise, _write_noise, NONE),
    "flags": Rule(lambda m, op, args: m.keep, lambda w, op: f"kept({w.plan.arguments[op.how]})", NONE, "step"),
    "index": Rule(_index, _write_index, NONE, "step"),
    "carry": Rule(_carry, _write_carry, (0, 1), "step"),
    "running": Rule(_running, _write_running, (1, 1), "step"),
    "first": Rule(_first, _write_first, NONE, "once"),
    "shift": Rule(_shift, _write_shift, (1, 1), "step"),
    "repeat": Rule(
        lambda m, op, args: args[0], lambda w, op: f"repeat({w.ref(op.args[0])}, {led('T', op)})", (1, 1), "step"
    ),
    "unroll": Rule(
        lambda m, op, args: args[0].select(len(op.axes) + 1, m.t),
        lambda w, op: f"flat({led(w.ref(op.args[0]), op)})",
        (1, 1),
        "step",
    ),
    "series": Rule(_series, _write_series, (1, 1), "once"),
    "over": Rule(_over, _write_over, MANY, "once", inside=ARITHMETIC),
}
