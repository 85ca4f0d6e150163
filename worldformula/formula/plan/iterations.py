"""Iterations that are not time: the steps of a canvas (DRAW), the fast clock under a slow one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from worldformula.errors import FormulaError, ShapeError, TimeError, table
from worldformula.formula import runtime
from worldformula.formula.plan.arithmetic import binary
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.estimates import Steps
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.variables import is_index, read
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Node, OverSteps, Value, factors, walk
from worldformula.formula.syntax.starts import begins, zeroth
from worldformula.formula.syntax.text import text


def over_steps(draft: Draft, node: OverSteps, scope: Scope) -> Steps:
    """The iterations 1 … n, written out one after the other; the last values stay readable as ``c_L``."""
    if node.index in scope.place or node.index == scope.index:
        raise TimeError(f"{text(node)}: {node.index!r} is the index of a sum around it; choose another letter")
    if any(is_index(v, node.index) for v in drawn(node.body)):
        raise FormulaError(
            f"{text(node)}: a factor declares {node.index}, which is the number of the iteration\n"
            f"call the variable otherwise"
        )
    _refuse_numbered(draft, node)
    _refuse_around(draft, node, scope)
    total: Ref | None = None
    draft.counts[node.index] = node.steps
    around = {a for name in scope.values.values() for a in draft.ops[name].axes}
    read_later = {c.at(0) for c, _ in lagged(node.body, node.index)}
    previous = dict(_first_values(draft, node, scope))
    for place in range(1, node.steps + 1):
        here = replace(scope.part(), place={**scope.place, node.index: place}, values={**scope.values, **previous})
        _forget(draft, node.index)
        value = yield node.body, here
        total = value if total is None else binary(draft, "+", total, value)
        done = {v: n for v, n in draft.iterated.items() if v.index == node.index}
        if place < node.steps:
            for variable in read_later & done.keys():
                draft.refuse_lost(done[variable], variable, around)
        previous = _older(previous, done, place)
    last = {v: n for v, n in draft.iterated.items() if v.index == node.index}
    _forget(draft, node.index)
    draft.iterated |= {replace(v, index=node.index.upper()): n for v, n in last.items()}
    assert total is not None
    if node.how == "mean":
        total = binary(draft, "/", total, node.steps)
    return draft.term(node, total, scope)


def _older(previous: Mapping[Variable, str], done: Mapping[Variable, str], place: int) -> dict[Variable, str]:
    """What the next iteration reads of earlier ones; of data, which have an entry for each, those before the first."""
    older = {v.at(v.offset - 1): n for v, n in previous.items() if v.at(0) in done}
    before = {v: n for v, n in previous.items() if v.at(0) not in done and place + 1 + v.offset <= 0}
    return before | older | {v.at(-1): n for v, n in done.items()}


def _refuse_numbered(draft: Draft, node: OverSteps) -> None:
    """The draws of the iterations are ``z_1``, ``z_2``, … in the samples, so nothing else is called so."""
    for variable in (v for v in drawn(node.body) if v.index == node.index):
        for place in range(1, node.steps + 1):
            if (other := draft.written.get(f"{variable.key}_{place}")) is not None:
                raise FormulaError(
                    f"{text(node)}: {variable} of iteration {place} is {other} in the samples, and another variable "
                    f"is called so\nrename one of them, e.g. {other.base}'"
                )


def _refuse_around(draft: Draft, node: OverSteps, scope: Scope) -> None:
    """What is drawn around a sum over iterations is drawn once: not the z_l of each."""
    for variable in (v for v in scope.values if v.index == node.index):
        if draft.ops[scope.values[variable]].kind in ("draw", "support"):
            raise TimeError(
                f"{text(node)}: {variable} is drawn around the sum, once for all iterations {node.index}\nput the E "
                f"inside the sum, Sum({node.index!r}, E(...), steps={node.steps}), or name it without the index"
            )


def _forget(draft: Draft, index: str) -> None:
    for variable in [v for v in draft.iterated if v.index == index]:
        del draft.iterated[variable]


def _first_values(draft: Draft, node: OverSteps, scope: Scope) -> Iterator[tuple[Variable, str]]:
    """What the first iterations read of those before: z_0 where it is drawn or computed around here, and zeros."""
    for condition, by in lagged(node.body, node.index):
        if condition in scope.values:
            continue
        start = next((v for v in scope.values if zeroth(v) and begins(v) == condition.key), None)
        if start is not None:
            _same_shape(draft, condition, start)
            yield condition.at(-1), scope.values[start]
            if condition.offset == -1:
                continue
        else:
            draft.zeroed[condition.key] = condition.at(-1)
        shape = draft.shapes.get(condition.key)
        if shape is None:
            raise TimeError(
                f"{by} reads {condition}, which begins with zeros, so its size must be known: "
                f"declare shape= on the factor of {condition.at(0)}"
            )
        like = _like(draft, node, scope)
        if like is None:
            raise TimeError(f"{text(node)}: nothing tells the batch of {condition}; read some data before")
        source = draft.ops[like]
        known = source.variable or (source.factor.variable if source.factor else None)
        rank = draft.ranks.get(known.key, 1) + (known.key in draft.inner) if known else 1
        zeros = draft.add(condition.identifier, Op("", "call", (like, rank, *shape), target=runtime.zeros))
        for offset in range(condition.offset, 0 if start is None else -1):
            yield condition.at(offset), zeros


def _same_shape(draft: Draft, condition: Variable, start: Variable) -> None:
    """What stands before the first iteration has the event shape of the iterations."""
    known = [(v, draft.shapes[v.key]) for v in (condition.at(0), start) if v.key in draft.shapes]
    if len({shape for _, shape in known}) > 1:
        raise ShapeError(
            f"{condition} of the first iteration is {start}, which has another event shape\n"
            + table(("variable", "declared"), known)
            + "\ndeclare the same shape= on both"
        )


def _like(draft: Draft, node: OverSteps, scope: Scope) -> str | None:
    """Some value with the batch axes of this place: what is drawn here, or data that the iterations read."""
    value = next((n for n in scope.values.values() if not draft.shared(n)), None)
    if value is not None:
        return value
    own = drawn(node.body)
    conditions = [(c, f) for f in factors(node.body) for c in f.conditions if c not in own and not c.span]
    for condition, factor in sorted(conditions, key=lambda pair: node.index in (pair[0].index, pair[0].inner)):
        if condition.at(0) in own and condition.index == node.index:
            continue
        if condition.inner == node.index:
            draft.inner[condition.key] = node.steps
            condition = replace(condition, inner=None)
        if condition.index == node.index:
            draft.inner[condition.key] = node.steps
            condition = replace(condition, index=None, offset=0)
        return read(draft, condition, scope, factor)
    return None


def lagged(node: Node, index: str) -> Iterator[tuple[Variable, object]]:
    """What is read of earlier steps of an index inside a node, and who reads it."""
    for factor in factors(node):
        yield from ((c, factor) for c in factor.conditions if c.offset < 0 and c.index == index)
    for n in walk(node):
        if isinstance(n, Value) and n.variable.offset < 0 and n.variable.index == index:
            yield n.variable, text(n)


def drawn(node: Node) -> set[Variable]:
    """The variables that the expectations inside a node draw or compute (not the data)."""
    return {
        v for n in walk(node) if isinstance(n, Expectation) for u in n.q if not u.factor.observed
        for v in u.factor.variables
    }  # fmt: skip
