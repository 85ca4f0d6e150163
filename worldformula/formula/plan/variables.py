"""Where the value of a variable comes from: what is drawn around it, the step before, an iteration, or the data."""

from __future__ import annotations

from dataclasses import replace

import torch

from worldformula.errors import FormulaError, TimeError, table
from worldformula.formula import runtime
from worldformula.formula.plan.declared import one_key
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.constants import start_of
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.spelling import greek

CALL_OPTIONS = ("seed", "generator", "noise", "start", "horizon", "deterministic", "present")


def read(draft: Draft, variable: Variable, scope: Scope, by: object) -> str:
    """The operation that holds a variable's value; ``by`` is who asks, for messages."""
    if variable.past:
        raise TimeError(f"{by} reads {variable}, a history, which is read by the network of a factor: f(z_{{<t}})")
    if variable in scope.values:
        return scope.values[variable]
    if variable in draft.rows or variable in draft.gone or variable.first:
        return _start(draft, variable, scope, by)
    if variable in draft.iterated:
        draft.refuse_lost(draft.iterated[variable], variable, _around(draft, scope))
        return draft.iterated[variable]
    if is_index(variable, scope.index):
        return _step_number(draft, variable)
    inner = variable.inner or (variable.index if variable.index != scope.index else None)
    if inner in scope.place and scope.place[str(inner)] + variable.offset > 0 >= variable.offset:
        return _item(draft, variable, str(inner), scope, by)
    if variable.span:
        if replace(variable, span=False) in draft.declared:
            return _series(draft, variable, scope, by)
        return _given(draft, variable, by, Op("", "whole", variable=variable), scope)
    bound, now = scope.bound(variable), variable.at(0)
    if bound and variable.offset:
        return _before(draft, variable, scope, by)
    if bound and now in draft.declared:
        raise TimeError(f"{by} reads {variable} outside the E that draws it; put the term inside that E")
    if not bound and variable.index is not None:
        clock = draft.time.index if draft.time is not None else None
        if variable.offset == 0 and scope.index is None and variable.index == clock:
            raise TimeError(f"{by} reads {variable} outside the Sum over {variable.index}; put the term inside it")
        if variable.offset == 0 and clock is not None and variable.index == clock.upper():
            return _last(draft, variable, clock, scope, by)
        _told_apart(draft, variable.identifier, variable, by)
        variable = Variable(variable.identifier)  # without a Sum over its index it is a variable like any other
    elif not bound:
        _told_apart(draft, variable.key, variable, by)
    return _given(draft, variable, by, Op("", "input", variable=variable, step=bound), scope)


def _start(draft: Draft, variable: Variable, scope: Scope, by: object) -> str:
    """A start, or the row that it reads: one for the call, or with resets one for every step."""
    if variable in draft.gone:
        raise gone(variable, by)
    if variable not in draft.rows:
        raise TimeError(f"{by} reads {variable}, the first rows, which a start reads: Sum(..., initial=f(x_{{1:2}}))")
    name, clock = draft.rows[variable], draft.time
    if scope.index is not None and not (draft.is_step(name) and scope.begun):
        kept = f"c_{scope.index}"
        advice = f"carry it along, {kept} = f({kept[:-1]}{{{scope.index}-1}}), which begins with c_0 = f({variable})"
        draft.refuse_resampled(name, variable, by, advice)
    if draft.is_step(name) and clock is not None and scope.index != clock.index:
        raise TimeError(
            f"{by} reads {variable}, and with reset={clock.reset!r} every sequence has one of its own\nput the term "
            f"inside the Sum over {clock.index}, times flags of the steps that begin one: "
            f"Value('{clock.reset}_{clock.index}') * ..."
        )
    if draft.is_step(name) and not scope.begun and clock is not None:
        raise TimeError(
            f"{by} reads {variable}, and with reset={clock.reset!r} a step knows only the {variable} of a sequence "
            f"that begins at it\ncount the term where one begins, Value('{clock.reset}_{clock.index}') * ..., or carry "
            f"the value along: c_{clock.index} = f(c_{{{clock.index}-1}}), which begins with c_0 = f({variable}) in "
            f"initial=, and read c_{clock.index}"
        )
    return name


def gone(variable: Variable, by: object) -> TimeError:
    """A term about the start, in a call that goes on behind it."""
    return TimeError(
        f"{by} is about {variable}, and a call with start= goes on behind the first step\nwrite the sum over time as a "
        f"formula of its own, and add what it begins with once"
    )


def is_index(variable: Variable, index: str | None) -> bool:
    """Whether a variable is the index itself, a number: ``t`` inside a sum over t."""
    return index is not None and variable == Variable(greek(index))


def iteration(variable: Variable, scope: Scope) -> float | None:
    """The number of an iteration, where that is what a variable is: ``l`` inside a sum over l with ``steps=``."""
    if variable in scope.values:
        return None
    return next((float(place) for index, place in scope.place.items() if is_index(variable, index)), None)


def _step_number(draft: Draft, variable: Variable) -> str:
    """The number of every step, one for each row: it goes on from the start, and begins at 1."""
    key = variable.key
    draft.shapes[key], draft.ranks[key] = (), 0
    draft.counter = key
    draft.samples[key] = name = draft.add(f"number_{key}", Op("", "index", variable=variable, step=True))
    return name


def _before(draft: Draft, variable: Variable, scope: Scope, by: object) -> str:
    """``z_{t-1}``: the carry of what a step declares, or data one step later. ``z_{t-k}`` is that of ``z_{t-k+1}``,
    which goes from step to step under a key of its own.
    """
    now, lag = variable.at(0), -variable.offset
    axes = draft.through.get(now, ())
    if lag < 0:
        raise TimeError(f"{by} reads {variable}, which lies ahead; the steps of a sum go forward")
    older = lag > 1
    kind, written = "carry" if now in draft.declared else "shift", variable
    if kind == "carry":
        need_shape(draft, now, by, "carries")
    source = read(draft, variable.at(1 - lag), scope.with_values({}), by) if older or kind == "shift" else None
    if older:
        assert source is not None
        now = keep_lag(draft, variable.at(0), lag - 1, source)
        variable = now.at(-1)
    if kind == "shift":
        if now.key in draft.masked:
            raise FormulaError(
                f"{by} reads {variable}, and some rows lack {now} (present=), whose flags are those of step {now.index}"
                f"\ngive the call the earlier steps as a variable of their own, with present= flags of their own"
            )
        return draft.add(written.identifier, Op("", "shift", (str(source),), variable=variable, step=True))
    draft.carried.add(now)
    begin = draft.begins.get(now.key)
    starts = (begin,) if begin is not None and draft.is_step(begin) else ()
    carry = Op("", "carry", starts, variable=variable, step=True, axes=axes)
    return draft.of_ancestors(draft.add(written.identifier, carry))


def keep_lag(draft: Draft, now: Variable, lag: int, source: str) -> Variable:
    """Let a state keep what lies so many steps before it, ``source``; the variable that it keeps it as."""
    kept = now.lag(lag)
    draft.lags[kept.key] = now.key
    draft.carries[kept.key] = source
    shape, initial = draft.shapes.get(now.key), getattr(draft.time.initial if draft.time else None, now.key, None)
    if shape is None and initial is not None and now in draft.declared:
        shape = tuple(initial.shape)
    if shape is not None:
        draft.shapes[kept.key], draft.ranks[kept.key] = shape, len(shape)
    return kept


def _told_apart(draft: Draft, key: str, variable: Variable, by: object) -> None:
    """Refuse x beside x_u where nothing sums over u and both are given: a call could not tell them apart."""
    known = draft.letters.setdefault(key, variable)
    if (known.index is None) != (variable.index is None):
        base = variable.base
        advice = f"a letter as a subscript is an index; number them, {base}_1 and {base}_2, or give them words"
        raise one_key(known, variable, by, advice)


def _item(draft: Draft, variable: Variable, inner: str, scope: Scope, by: object) -> str:
    """``x_{k,l}`` (or ``x_l``) in the iteration l: the l-th entry of the axis in front of its event."""
    whole = replace(variable, inner=None) if variable.inner else replace(variable, index=None, offset=0)
    value = read(draft, whole, scope, by)
    steps, place = draft.counts[inner], scope.place[inner] + (0 if variable.inner else variable.offset)
    draft.inner[variable.key] = steps
    rank = draft.ranks.get(variable.key, 1)
    op = Op("", "call", (value, -rank - 1, place - 1), target=torch.select)
    return draft.add(f"{variable.key}_{place}", op)


def _around(draft: Draft, scope: Scope) -> set[int]:
    """The sample axes of what is at hand."""
    paths = {axis for _, axis in scope.paths if axis is not None}
    return paths | {a for name in scope.values.values() for a in draft.ops[name].axes}


def _last(draft: Draft, variable: Variable, clock: str, scope: Scope, by: object) -> str:
    """``h_T`` outside the sum over t: the value of the last step."""
    now = replace(variable, index=clock)
    name = draft.carries.get(variable.key)
    if now not in draft.declared or name is None:
        raise TimeError(f"{by} reads {variable}, the last {now}; write the Sum that draws it before, to its left")
    draft.refuse_lost(name, variable, _around(draft, scope))
    rank = len(draft.shapes.get(variable.key, (0,)))
    return draft.add(variable.identifier + "_last", Op("", "over", (name,), how="last", variable=variable, rank=rank))


def _series(draft: Draft, variable: Variable, scope: Scope, by: object) -> str:
    """``h_{1:T}`` of what a step draws or computes: all its steps, once per call."""
    now = replace(variable, span=False)
    name = scope.values.get(now)
    if name is not None:
        draft.refuse_other_steps(name, variable, by)
    if name is None and scope.index == variable.index:
        raise TimeError(f"{by} reads {variable} outside the E that draws {now}; put the term inside that E")
    if name is None:  # to the right of the sum
        name = draft.carries.get(variable.key)
        if name is None:
            raise TimeError(
                f"{by} reads {variable}, the series of {now}; write the Sum that draws it before, to its left"
            )
        draft.refuse_lost(name, variable, _around(draft, scope))
    draft.refuse_resampled(
        name, variable, by, f"carry what is needed of it, h_{now.index} = f(h_{{{now.index}-1}}, {now})"
    )
    rank = draft.ranks.get(variable.key, 1) + 1
    return draft.add(variable.identifier, Op("", "series", (name,), variable=variable, rank=rank))


def given(draft: Draft, variable: Variable, by: object, op: Op) -> str:
    """Data, or a number, that the call is given under the variable's key, as it is given."""
    if variable.key in CALL_OPTIONS:
        raise FormulaError(f"{by}: a variable cannot be called {variable.key!r}, which is an option of the call")
    scalar = draft.scalar.setdefault(variable.key, op.kind == "symbol")
    if scalar != (op.kind == "symbol"):
        raise FormulaError(
            f"{by if isinstance(by, Factor) else 'the formula'}: {variable.key} is both a Symbol, one number for the "
            f"whole call, and a variable with a value per row\nrename one of them"
        )
    if not variable.span:
        known = draft.known.setdefault(variable.key, variable)
        if known != variable:
            raise one_key(known, variable, by)
    return draft.add(variable.identifier if variable.span else variable.key, op)


def _given(draft: Draft, variable: Variable, by: object, op: Op, scope: Scope) -> str:
    """Data, safe to compute with: what some rows lack is filled, and so is NaN in steps that do not count."""
    name = given(draft, variable, by, op)
    if variable.key in draft.masked:
        if op.kind == "whole" and variable.key in draft.stepped:
            raise FormulaError(
                f"{by} reads {variable}, which some rows lack (present=), as a whole, and others read it step by step: "
                f"one flag for each row or for each step?\ngive the whole series a name of its own"
            )
        flags = presence(draft, frozenset((variable.key,)))
        fill = Op("", "call", (name, str(flags)), target=runtime.filled, options=_inside(draft, variable))
        name = draft.add(f"{variable.key}_filled", fill)
    elif op.step and scope.index is not None and (counts := _counts(draft, variable)):
        name = draft.add(f"{variable.key}_padded", Op("", "call", (name, counts), target=runtime.padded))
    return name


def number_of(draft: Draft, name: str) -> str:
    """A value as arithmetic reads it: data that are whole numbers or flags are numbers of floating point there."""
    op = draft.ops[name]
    while op.kind == "shift" or op.target in (runtime.filled, runtime.padded, torch.select):
        op = draft.ops[op.reads[0]]
    if op.kind not in ("input", "whole", "first") or op.variable is None:
        return name
    draft.valued.add(op.variable.key)
    if draft.floats is None or op.variable.key not in draft.floats[0]:
        return name
    wide = Op("", "call", (name,), target=runtime.as_floats, options=(("dtype", draft.floats[1]),))
    return draft.add(f"{name}_number", wide)


def _inside(draft: Draft, variable: Variable) -> tuple[tuple[str, float], ...]:
    """What fills a variable where zero is outside its support."""
    return (("value", draft.fills[variable.key]),) if variable.key in draft.fills else ()


def _counts(draft: Draft, variable: Variable, *, weighs: bool = False) -> str | None:
    """The flags of the steps of a series that count, where some do not; those of a burn-in do where they ``weigh``."""
    known = draft.flags_of_time
    if weighs or not draft.burn_in:
        return known
    late = Op("", "behind", how=variable.key, options=(("burn_in", draft.burn_in),), step=True)
    name = draft.add(f"{variable.key}_behind", late)
    return name if known is None else draft.add("counted_steps", Op("", "call", (known, name), target=runtime.both))


def scored(draft: Draft, name: str, variable: Variable, *, weighs: bool = False) -> str:
    """A value at which a density is taken: data of steps that do not count are moved into the support. Those of a
    burn-in stay as they are where they ``weigh`` the particles that go on from it.
    """
    if not draft.is_data(name) or not (counts := _counts(draft, variable, weighs=weighs)):
        return name
    op = Op("", "call", (name, counts), target=runtime.filled, options=_inside(draft, variable))
    return draft.add(f"{variable.key}_counted", op)


def presence(draft: Draft, keys: frozenset[str]) -> str | None:
    """The flags of the rows that have all these inputs."""
    flags = [draft.add(f"present_{key}", Op("", "present", how=key, step=stepwise(draft, key))) for key in sorted(keys)]
    both = flags[0] if flags else None
    for flag in flags[1:]:
        both = draft.add("present", Op("", "call", (str(both), flag), target=torch.logical_and))
    return both


def stepwise(draft: Draft, key: str) -> bool:
    """Whether an input is read step by step."""
    return any(op.step and op.variable is not None and op.variable.key == key for op in draft.of_kind.get("input", ()))


def need_shape(draft: Draft, variable: Variable, by: object, how: str) -> None:
    """What is carried starts from zeros of a known shape; noise is drawn for all steps before the first."""
    initial = start_of(draft.time.initial, variable.key) if draft.time and how == "carries" else None
    if variable.key not in draft.shapes and initial is None:
        what = f"{variable.at(-1)} from step to step" if how == "carries" else f"{variable} at every step"
        raise TimeError(
            f"{by} {how} {what}, so its size must be known before the first step\n"
            + table(("variable", "declared by", "shape"), [(variable, by, "undeclared")])
            + f"\ndeclare it on the factor of {variable}, e.g. shape=16"
        )
