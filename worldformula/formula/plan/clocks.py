"""Sums over time: the one clock of a formula, the flags of its steps, and the reduction of what they give."""

from __future__ import annotations

import keyword
from dataclasses import replace

from worldformula.errors import FormulaError, TimeError
from worldformula.formula import runtime
from worldformula.formula.plan.densities import draw
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.estimates import Steps
from worldformula.formula.plan.iterations import drawn
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.variables import CALL_OPTIONS
from worldformula.formula.syntax.nodes import (
    Binary,
    Named,
    Negative,
    Node,
    OverTime,
    StopGradient,
    Value,
    factors,
    walk,
)
from worldformula.formula.syntax.text import text


def over_time(draft: Draft, node: OverTime, scope: Scope) -> Steps:
    """The sum or mean of the steps."""
    enter_time(draft, node)
    inside = scope.at_time(node.index, f"time {node.how}")
    outer = draft.flags_of_time, draft.burn_in
    for path, axis in scope.paths:  # whole trajectories, of which each step draws its part
        if _counts_alike(path.body, node):  # else what one sum leaves out may count in another
            draft.flags_of_time, draft.burn_in = counted_steps(draft, node), node.burn_in
        own = tuple(u for u in path.q if u.factor.variable.index == node.index)
        inside = draw(draft, replace(path, q=own), inside, axis)
    draft.flags_of_time, draft.burn_in = counted_steps(draft, node), node.burn_in
    inner = yield node.body, inside
    draft.flags_of_time, draft.burn_in = outer
    draft.check_alike(inside.leaves)
    _refuse_particles(draft, node, inner, scope)
    told = counted_steps(draft, node)  # flags say how many steps there are
    if not draft.is_step(inner) and draft.number(inner) and told is not None and _indexed(node):
        inner = draft.add("every_step", Op("", "call", (told, inner), target=runtime.at_every_step))
    if not draft.is_step(inner):
        if draft.number(inner) or not any(op.step for op in draft.ops.values()):
            raise TimeError(f"Sum over {node.index!r}: {_why_not_a_step(node)}")
        inner = draft.add(f"{inner}_{node.index}", Op("", "repeat", (inner,), step=True))
    if draft.rank(inner):
        raise FormulaError(f"Sum over {node.index!r}: {text(node.body)} has event axes; write total(...) around it")
    named = {"mask": node.mask, "until": node.until}
    known = tuple(flags(draft, "mask", name) for name in named.values() if name is not None)
    counted = (("burn_in", node.burn_in), *((key, name) for key, name in named.items() if name is not None))
    options = counted if known or node.burn_in else ()
    name = draft.add(f"{node.how}_over_{node.index}", Op("", "over", (inner, *known), how=node.how, options=options))
    scope.leaves.append(name)
    draft.labels.setdefault(name, node)
    return name


def _refuse_particles(draft: Draft, node: OverTime, value: Ref, scope: Scope) -> None:
    """Refuse a sum of what has an axis of particles that no E around here takes the mean of."""
    around = {a for name in scope.values.values() for a in draft.ops[name].axes} | {a for _, a in scope.paths}
    if isinstance(value, str) and (left := set(draft.ops[value].axes) - around):
        several = ", ".join(sorted({str(v) for v, axes in draft.through.items() if left & set(axes)}))
        raise TimeError(
            f"Sum over {node.index!r}: {text(node.body)} depends on {several or 'draws'}, of which there are several "
            f"(samples=), and stands outside of the E that takes their mean\nput the term inside that E"
        )


def _why_not_a_step(node: OverTime) -> str:
    """Why what stands inside has one value for the whole call, and what to write."""
    if _indexed(node):
        return (
            f"{text(node.body)} is the same number at every step, and needs no series, so nothing tells how many "
            f"steps there are\none number for the whole call belongs outside, times their number"
        )
    return (
        f"nothing inside has the index {node.index}\n"
        f"give a variable its subscript, e.g. x_{node.index}; one number for the whole call belongs outside"
    )


def _indexed(node: OverTime) -> bool:
    """Whether a factor inside has the index of the sum."""
    return any(v.index == node.index for f in factors(node.body) for v in f.variables)


def _counts_alike(body: Node, node: OverTime) -> bool:
    """Whether all sums of a node count the steps that one of them does."""
    return all(
        (n.mask, n.until, n.burn_in) == (node.mask, node.until, node.burn_in)
        for n in walk(body)
        if isinstance(n, OverTime)
    )


def counted_steps(draft: Draft, node: OverTime) -> str | None:
    """The flags of the steps that count, where some do not: what they are given is filled before anything reads it."""
    known = [] if node.mask is None else [flags(draft, "mask", node.mask)]
    if node.until is not None:
        ends = flags(draft, "mask", node.until)
        known.append(draft.add(f"{node.until}_alive", Op("", "alive", (ends,), how=node.until, step=True)))
    if len(known) < 2:
        return known[0] if known else None
    return draft.add("counted_steps", Op("", "call", tuple(known), target=runtime.both))


def enter_time(draft: Draft, node: OverTime) -> None:
    """Begin a sum over time; all sums of one formula share one clock, one carry and one set of flags."""
    known = draft.time
    if known is not None and (known.index, known.reset) != (node.index, node.reset):
        raise TimeError(
            f"one formula has one clock: found Sum over {known.index!r} with reset={known.reset!r} and over "
            f"{node.index!r} with reset={node.reset!r}"
        )
    if known is not None and _begun(known) and _begun(node) and _begun(node) != _begun(known):
        raise TimeError(f"one formula has one initial state: two sums over {node.index!r} give initial=")
    if known is None or not _begun(known):
        draft.time = node
    draft.declared |= {v for v in drawn(node.body) if v.index == node.index}
    if node.reset is not None:
        flags(draft, "reset", node.reset)


def restarts(node: OverTime, weight: Node) -> bool:
    """Whether a weight of a step is zero where no sequence begins: the flags of the restart, or a product with them."""
    if isinstance(weight, Binary) and weight.op in ("*", "/"):
        return restarts(node, weight.left) or (weight.op == "*" and restarts(node, weight.right))
    if isinstance(weight, Negative | Named | StopGradient):
        return restarts(node, weight.body)
    flags = weight.variable if isinstance(weight, Value) else None
    return flags is not None and (flags.key, flags.index, flags.offset) == (node.reset, node.index, 0)


def _begun(node: OverTime) -> list[int]:
    """What a sum says of its first carry, by identity."""
    return [*([] if node.initial is None else [id(node.initial)]), *(id(use.factor) for use in node.begin)]


def flags(draft: Draft, what: str, name: str) -> str:
    """The series of flags [B, T] that the call is given under this name."""
    if keyword.iskeyword(name) or name in ("self", *CALL_OPTIONS):
        raise FormulaError(f"{what}=: flags cannot be called {name!r}; call them e.g. 'first'")
    kind = "flags" if what == "reset" else "mask"
    return draft.add("keep" if what == "reset" else f"{name}_mask", Op("", kind, how=name, step=True))
