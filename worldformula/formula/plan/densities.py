"""Networks, parameters, draws and log-densities of factors, as operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from worldformula.errors import DuplicateVariableError, FormulaError, ShapeError, TimeError
from worldformula.formula import runtime
from worldformula.formula.factors.condition import refuse_held_rows
from worldformula.formula.factors.experts import Experts
from worldformula.formula.plan.arithmetic import binary, refuse_mixed
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.histories import history, refuse_absent
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.plan.variables import given, gone, iteration, need_shape, presence, read, scored
from worldformula.formula.syntax.check import check_rows, draw_order, estimator
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Integral, OverTime, Product, Use
from worldformula.formula.syntax.numbers import check_numbers

# ------------------------------------------------------------------------------------------------ networks, parameters


def net(draft: Draft, factor: Factor, scope: Scope) -> str | None:
    """What a factor's network returns for its conditions."""
    if factor.net is None:
        return None
    if draft.time is not None:
        refuse_held_rows(factor, draft.time.index)
    wish = factor.variable.key if factor.family is None else f"head_{factor.header.letter}_{factor.variable.key}"
    if any(c.past for c in factor.conditions):
        return draft.add(wish, history(draft, factor, scope))
    conditions = tuple(_condition(draft, c, scope, factor) for c in factor.conditions)
    refuse_absent(draft, factor, conditions, scope)
    conditions = _seen_by_rows(draft, factor, conditions)
    place = scope.place.get(str(factor.variable.index)) if isinstance(factor.net, nn.ModuleList) else None
    series = any(c.span for c in factor.conditions)
    op = Op("", "net", conditions, factor, how="" if place is None else str(place - 1))
    if not series:
        return draft.add(wish, op)
    _refuse_mixed(draft, factor, conditions)
    name = draft.add(wish + "_series", op)
    return name if len(factor.variables) > 1 else _unrolled(draft, wish, name, factor, scope)


def _seen_by_rows(draft: Draft, factor: Factor, conditions: tuple[Ref, ...]) -> tuple[Ref, ...]:
    """The values of conditions, those that all rows share with the batch axes of the others."""
    rows = [(c, ref) for c, ref in zip(factor.conditions, conditions, strict=True) if draft.of_row(ref)]
    if factor.shared and rows:
        read = rows[0][0]
        raise FormulaError(
            f"{factor} is shared by all rows of a call (shared=True), and it reads {read}, which each row has of its "
            f"own\nlet it read shared variables alone, or leave shared=True out: each row then has its own "
            f"{factor.variable}"
        )
    if not rows:
        return conditions
    like = next((r for r in rows if not draft.is_step(r[1])), rows[0]) if draft.time is None else rows[0]
    rank = draft.ranks.get(like[0].key, len(draft.shapes.get(like[0].key, (0,))))
    return tuple(draft.by_row(str(ref), str(like[1]), rank) if draft.common(ref) else ref for ref in conditions)


def _condition(draft: Draft, variable: Variable, scope: Scope, factor: Factor) -> Ref:
    """The value of a condition, or the number of an iteration."""
    place = iteration(variable, scope)
    return read(draft, variable, scope, factor) if place is None else place


def _unrolled(draft: Draft, wish: str, series: str, factor: Factor, scope: Scope) -> str:
    """The entry of this step in what a network made of whole series; one value per sequence stays as it is."""
    return draft.add(wish, Op("", "unroll", (series,), step=True)) if scope.bound(factor.variable) else series


def _refuse_mixed(draft: Draft, factor: Factor, conditions: tuple[Ref, ...]) -> None:
    """A network of whole series runs once per call, so it cannot read the value of one step."""
    for condition, name in zip(factor.conditions, conditions, strict=True):
        if not condition.span and draft.is_step(name):
            whole = replace(condition, offset=0, span=True)
            raise TimeError(
                f"{factor} reads a whole series and {condition}, the value of one step; write {whole} for all its "
                f"steps, or two factors: one that reads the series, and one that reads its result at {condition.index}"
            )


def params(draft: Draft, use: Use, scope: Scope) -> str:
    """The parameters of a factor, detached where it was written ``sg(q)``."""
    factor = use.factor
    if any(factor is start for start in draft.gone.values()):
        raise gone(factor.variable, factor)
    letter = factor.header.identifier.split("_given_")[0]
    if isinstance(factor, Experts):
        name = draft.add(letter, _combined(draft, factor, scope))
    else:
        if draft.time is not None:
            check_rows(factor, draft.time.index)
        head = net(draft, factor, scope)
        asked = (given(draft, v, factor, Op("", "symbol", variable=v)) for v in factor.symbols)
        name = draft.add(letter, Op("", "params", (*(() if head is None else (head,)), *asked), factor))
        if factor.symbols:
            draft.checks[name] = partial(check_numbers, factor), draft.ops[name].args[-len(factor.symbols) :]
    stopped = use.stopped or id(factor) in scope.held
    return stop(draft, name) if stopped else name


def stop(draft: Draft, name: str) -> str:
    """A value, or parameters, without gradient."""
    return draft.add(f"sg_{name}", Op("", "stop", (name,)))


def _combined(draft: Draft, factor: Experts, scope: Scope) -> Op:
    """The parameters of a product or mixture of experts, each taken where its conditions are present."""
    known = tuple(params(draft, Use(part), scope.as_expert()) for part in factor.parts)
    flags = [presence(draft, draft.absent(ref)) for ref in known]
    how = ",".join(str(i) for i, flag in enumerate(flags) if flag is not None)
    return Op("", "combine", (*known, *(f for f in flags if f is not None)), factor, how=how)


def widened(draft: Draft, name: str, use: Use, like: str, of: Use | None = None) -> str:
    """Parameters without batch axes, seen with those of ``like``; plain numbers need none.

    ``of``: whose parameters ``like`` are, where it is no value; those of another family have other axes of their own.
    """
    if draft.common(name) and draft.of_row(like) and not use.factor.constant:
        return by_row(draft, name, use.factor, like, of)
    if use.factor.constant or not use.factor.unbatched:
        return name
    unlike = of is not None and type(of.factor.family) is not type(use.factor.family)
    return draft.add(f"{name}_wide", Op("", "wide", (name, like), use.factor, of.factor if of and unlike else None))


def by_row(draft: Draft, name: str, factor: Factor, like: str, of: Use | None = None) -> str:
    """Parameters that all rows share, seen with the batch axes of a value, of noise, or of other parameters."""
    axes = draft.axes_of(Op("", "", (name, like)))
    unlike = of is not None and type(of.factor.family) is not type(factor.family)
    op = Op("", "by_row", (draft.along(name, axes), like), factor, of.factor if of and unlike else None, axes=axes)
    return draft.add(f"{name}_rows", op)


# --------------------------------------------------------------------------------------------------------------- draws


def value_of(
    draft: Draft, use: Use, scope: Scope, how: str = "", axis: int | None = None, start: OverTime | None = None
) -> tuple[str, ...]:
    """The draw of a factor under these conditions (shared), its network's outputs, or the data itself.

    ``how`` is the estimator of the draw's gradient where it is not the family's own; ``axis`` that of K draws.
    ``start``: the sum that begins with it, which draws at every step where there are resets.
    """
    factor = use.factor
    if factor.family is None:
        return _computed(draft, use, scope)
    known, variable = params(draft, use, scope), factor.variable
    step = draft.is_step(known) or scope.bound(variable) or (start is not None and start.reset is not None)
    if step:
        need_shape(draft, variable, factor, "draws")
    size, component = None, None
    if how == "stratified":
        component = draft.axis((id(factor), draft.alike[known]), factor.family.components)  # type: ignore[attr-defined]
    if how == "exact":
        size = factor.family.support_size(draft.shapes.get(variable.key))
        assert size is not None
        axis = draft.axis((id(factor), draft.alike[known]), size)
    own = {a for a in (axis, component) if a is not None}
    axes = tuple(sorted({*draft.ops[known].axes, *own}, reverse=True))
    again = tuple(scope.place.values()) if variable.index in scope.place else ()
    site = "start" if start is not None else ""
    rowed = draft.common(known) and not factor.shared
    drawn = axes if not size else draft.ops[known].axes if rowed else ()
    noise = Op("", "noise", factor=factor, variable=variable, how=site, step=step, axes=drawn)
    if size and not factor.unbatched and not rowed:
        return (draft.add(variable.key, Op("", "support", (known,), factor, step=step, axes=axes)),)
    source = draft.add(f"noise_{variable.key}", noise, (id(factor), draft.alike[known], again))
    if rowed and not size:
        need_event(draft, factor)
        known = by_row(draft, known, factor, source)
    kind = "support" if size else "draw"
    return (draft.add(variable.key, Op("", kind, (known, source), factor, how="" if size else how, axes=axes)),)


def need_event(draft: Draft, factor: Factor) -> None:
    """Rows whose distribution only shared variables tell: the noise of all rows says how many, and needs an event."""
    if factor.variable.key not in draft.shapes:
        raise ShapeError(
            f"{factor} reads shared variables alone, and each row draws its own {factor.variable}, so its event shape "
            f"must be declared\nwrite shape= on it, e.g. shape=16"
        )


def _computed(draft: Draft, use: Use, scope: Scope) -> tuple[str, ...]:
    """What a deterministic factor's network returns, one value for each of its variables, or the data itself."""
    factor = use.factor
    value = net(draft, factor, scope)
    first = read(draft, factor.variable, scope, factor) if value is None else value
    names: tuple[str, ...] = (first,)
    if value is not None and len(factor.variables) > 1:
        items = [Op("", "item", (value,), factor, variable=v, how=str(i)) for i, v in enumerate(factor.variables)]
        series = any(c.span for c in factor.conditions)
        names = tuple(draft.add(op.variable.key + "_series" * series, op) for op in items if op.variable)
        if series:
            names = tuple(
                _unrolled(draft, v.key, n, factor, scope) for v, n in zip(factor.variables, names, strict=True)
            )
    return tuple(stop(draft, n) for n in names) if use.stopped else names


def draw(draft: Draft, node: Expectation, scope: Scope, axis: int | None = None) -> Scope:
    """Draw every factor of the expectation, causes first; returns the scope inside."""
    values = dict(scope.values)
    for use in draw_order(node.q):
        how = estimator(use.factor, node.q, node.gradient)
        here = scope.with_values(values)
        if any(v.key in draft.elsewhere for v in use.factor.variables):
            here = replace(here, begun=False)  # other steps read it than those at which a sequence begins
        names = value_of(draft, use, here, how, axis)
        for variable, name in zip(use.factor.variables, names, strict=True):
            if scope.private:
                values[variable] = name
            else:
                _bind(draft, variable, name, use, values, scope)
    for variable in node.q.hidden if isinstance(node.q, Integral) else ():
        values.pop(variable)
    return scope.with_values(values)


def side(draft: Draft, uses: Product, scope: Scope, samples: int | None = None, gradient: str | None = None) -> Scope:
    """Draw a product for a comparison: the scope with its values, which later steps and other terms do not see."""
    own = {v for u in uses for v in u.factor.variables}
    inside = {v: name for v, name in scope.values.items() if v not in own}
    axis = None if samples is None else samples_axis(draft, uses, inside, scope, samples)
    for use in draw_order(uses):
        how = estimator(use.factor, uses, gradient)
        names = value_of(draft, use, scope.with_values(inside), how, axis)
        inside.update(zip(use.factor.variables, names, strict=True))
    return scope.with_values(inside)


def samples_axis(draft: Draft, uses: Product, values: Mapping[Variable, str], scope: Scope, samples: int) -> int | None:
    """The axis of K draws of a product; None where nothing random is drawn."""
    random = [u.factor for u in uses if u.factor.family is not None]
    if not random:
        return None
    outer = tuple(values[v] for f in random for v in f.conditions if v in values)
    return draft.axis((tuple(id(f) for f in random), outer, tuple(scope.place.items())), samples)


def _bind(draft: Draft, variable: Variable, name: str, use: Use, values: dict[Variable, str], scope: Scope) -> None:
    """Give a variable its value in a scope, for the samples of the result, and for the next step."""
    if values.get(variable, name) != name:
        raise DuplicateVariableError(
            f"two factors declare {variable} in nested expectations; the inner is {use.factor}\n"
            f"rename one of them, e.g. {variable.base}'"
        )
    if draft.rows.get(variable, name) != name:
        raise DuplicateVariableError(
            f"{use.factor} draws {variable}, and initial= draws the one that the sum begins with\n"
            f"leave out the E over it: terms beside the Sum read the {variable} of initial="
        )
    values[variable] = name
    place = scope.place.get(str(variable.index))
    key = variable.key if place is None else f"{variable.key}_{place}"
    if draft.samples.get(key, name) != name:
        key = name  # drawn again: z_2, or a longer name where another variable is called so
        while draft.samples.get(key, name) != name or key in draft.written:
            key += "_"
    draft.samples[key] = name
    if place is not None:
        draft.iterated[variable] = name
    if scope.bound(variable) and draft.carries.setdefault(variable.key, name) != name and variable in draft.carried:
        first = draft.ops[draft.carries[variable.key]]
        same = (first.factor, first.axes) == (draft.ops[name].factor, draft.ops[name].axes)
        if same and draft.alike[first.name] != draft.alike[name]:
            raise TimeError(
                f"{use.factor} stands in two sums over {scope.index} in which other steps count, and reads data that "
                f"one of them may leave out\nwrite one Sum, and weights of the steps inside it, Value('valid_t') * ..."
            )
        raise TimeError(
            f"two factors draw {variable} in one step, so which one is carried to the next is ambiguous; "
            f"the second is {use.factor}"
        )


# ------------------------------------------------------------------------------------------------------------ densities


def log_density(draft: Draft, p: Product, scope: Scope, *, event: bool = False) -> Ref:
    """Σ log p of the factors of a product; of one factor element by element where ``event``."""
    total: Ref | None = None
    for use in p:
        factor = use.factor
        value = read(draft, factor.variable, scope, factor)
        value = scored(draft, value, factor.variable, weighs=scope.weighs)
        if factor.shared and draft.of_row(value):
            raise FormulaError(
                f"log {factor}: {factor.variable} is shared by all rows of a call, and here it has a value for each row"
                f"\ngive what computes it shared variables alone to read"
            )
        known = widened(draft, params(draft, use, scope), use, value)
        wish = f"log_{factor.header.letter}_{factor.variable.key}"
        elements: tuple[tuple[str, int], ...] = ()
        rank = 0
        if event and factor.family is not None and factor.family.joint is not None:
            elements = (("elements", factor.family.joint),)
            rank = max(draft.ranks.get(factor.variable.key, factor.rank) - factor.family.joint, 0)
        term = draft.add(wish, Op("", "logp", (known, value), factor, options=elements, rank=rank))
        if (flags := presence(draft, draft.absent(value))) is not None:
            term = draft.add(f"{wish}_here", Op("", "call", (term, flags, rank), target=runtime.filled, rank=rank))
        if rank and (shape := draft.shapes.get(factor.variable.key)) is not None:
            draft.events[term] = shape[:rank]
        draft.labels.setdefault(term, f"log {factor}")
        if len(p) > 1:
            scope.leaves.append(term)
        if total is not None:
            refuse_mixed(draft, "+", total, term)
        total = term if total is None else binary(draft, "+", total, term)
    assert total is not None
    return total


def divergence(draft: Draft, q: Use, p: Use, scope: Scope) -> str:
    """KL(q ‖ p) in closed form; a side without batch axes takes those of the other."""
    left, right = params(draft, q, scope), params(draft, p, scope)
    if draft.of_row(left) or not (q.factor.unbatched or draft.of_row(right)):
        right = widened(draft, right, p, left, q)
    elif not p.factor.unbatched:
        left = widened(draft, left, q, right, p)
    op = Op("", "kl", (left, right), q.factor, p.factor)
    return draft.add(f"kl_{q.factor.variable.key}", op, id(p.factor.origin))
