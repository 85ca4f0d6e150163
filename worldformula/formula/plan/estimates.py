"""Expectations: one draw, K draws or every value on a sample axis, and the gradients of their estimators.

Rules are generators: they yield what stands inside, with its scope, and are sent its value; see `lower`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial, reduce

from worldformula.errors import FormulaError, GradientError
from worldformula.formula import baselines
from worldformula.formula.plan import possible, resampling
from worldformula.formula.plan.arithmetic import WISHES, binary, expected, function, over_batch, refuse_mixed, unary
from worldformula.formula.plan.arithmetic import logarithm as logarithm_of
from worldformula.formula.plan.densities import draw, log_density, params, samples_axis
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.check import draw_order, estimator
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Function,
    Integral,
    Log,
    Named,
    Negative,
    Node,
    OverRows,
    OverSteps,
    OverTime,
    Product,
    Ratio,
    Use,
)
from worldformula.formula.syntax.text import text

Steps = Generator[tuple[Node, Scope], Ref, Ref]


def expectation(draft: Draft, node: Expectation, scope: Scope) -> Steps:
    """Draw, then the body at the draws. One of a single thing is a term of its own, as is one with a surrogate."""
    sampled = bool(_enumerated(node)) if _once(draft, node) else is_sampled(node)
    whole = sampled or node.gradient == "score" or not isinstance(
        node.body, Binary | Negative | OverTime | OverSteps | OverRows | Expectation | Named
    )  # fmt: skip
    outer, scope = scope, scope.part() if whole else scope
    if sampled:
        value = yield from _sampled(draft, node, scope)
    else:
        inside = _drawn(draft, node, scope)
        value = yield node.body, inside
        value = yield from _score(draft, node, value, inside, None)
    return draft.term(node, value, outer) if whole else value


def logarithm(draft: Draft, node: Function, scope: Scope) -> Steps:
    """log E of samples or values, as one log-sum-exp."""
    assert isinstance(node.body, Expectation)
    value = yield from log_expectation(draft, node.body, scope)
    return draft.term(node, value, scope)


def log(draft: Draft, p: Product, scope: Scope) -> Steps:
    """Σ log p of the factors of a product; of a marginal, the log of the sum over all hidden values."""
    if not isinstance(p, Integral):
        return log_density(draft, p, scope)
    hidden = tuple(u for u in p if u.factor.variable in p.hidden)
    rest = tuple(u for u in p if u.factor.variable not in p.hidden)
    return (yield from log_expectation(draft, Expectation(hidden, Ratio(rest, ()), "exact"), scope))


def ratio(draft: Draft, node: Ratio, scope: Scope) -> Steps:
    """p / q, by the logarithms of both."""
    left = yield from log(draft, node.p, scope)
    right = yield from log(draft, node.q, scope)
    refuse_mixed(draft, "-", left, right)
    difference = possible.of_function(draft, scope, "exp", binary(draft, "-", left, right))
    return draft.term(node, function(draft, "exp", difference), scope)


def logs(draft: Draft, node: Log, scope: Scope) -> Steps:
    """A log-density as a term."""
    if node.event:
        return draft.term(node, log_density(draft, node.p, scope, event=True), scope)
    return draft.term(node, (yield from log(draft, node.p, scope)), scope)


def is_sampled(node: Expectation) -> bool:
    """Whether the draws have an axis of their own."""
    return node.samples is not None or any(u.factor.family is not None for u in _enumerated(node))


def _once(draft: Draft, node: Expectation) -> bool:
    """Whether one sample of every step is asked for: it has no axis, as later steps read it."""
    return node.samples == 1 and (draft.time is not None or id(node) in draft.paths)


def _enumerated(node: Expectation) -> list[Use]:
    """The uses whose factors take every value (or component) in turn, in the order in which they are drawn."""
    return [u for u in draw_order(node.q) if estimator(u.factor, node.q, node.gradient) in ("exact", "stratified")]


def _sampled(draft: Draft, node: Expectation, scope: Scope) -> Steps:
    """The mean of the body over the samples, or its sum weighted by the probabilities of the values."""
    if node.gradient == "dreg":
        raise GradientError(f"{text(node)}: gradient='dreg' is of log E: write log(E(q, ratio(p, q), samples=K, ...))")
    resampling.refuse_mean(node)
    inside, axis = _enter(draft, node, scope)
    value = yield from _alone(draft, node.body, inside.summed(_shares(draft, node, inside)))
    return _mean(draft, node, (yield from _score(draft, node, value, inside, axis)), inside, axis)


def _mean(draft: Draft, node: Expectation, value: Ref, inside: Scope, axis: int | None) -> Ref:
    """The mean of a value over the samples, or its sum weighted by the probabilities of the values."""
    uses = _enumerated(node)[::-1]
    shares = [_share(draft, use, node, inside) for use in uses]
    if shares:  # joined first: what one variable makes impossible may be ∞ and −∞ over the values of another
        share = reduce(lambda left, right: binary(draft, "+", left, right), shares)
        value = expected(draft, "expected", share, value, _own_axis(draft, inside, uses[0]))
    for use in uses[1:]:
        value = _without(draft, "sum", value, _own_axis(draft, inside, use))
    return _without(draft, "mean", value, axis)


def log_expectation(draft: Draft, node: Expectation, scope: Scope) -> Steps:
    """log E, by log-sum-exp over the samples or the values, whichever the expectation has."""
    resampling.check_log(draft, node, scope)
    inside, axis = _enter(draft, node, scope)
    dreg = node.gradient == "dreg"
    held = scope.held | {id(u.factor) for u in node.q} if dreg else scope.held
    weighs = scope.weighs or node.resample is not None
    within = replace(inside, held=held, weighs=weighs).summed(_shares(draft, node, inside), log=True)
    direct = isinstance(node.body, Ratio) or (isinstance(node.body, Function) and node.body.name == "exp")
    if not (direct or dreg or weighs):
        body = yield from _alone(draft, node.body, within)
        value = logarithm_of(draft, body)
        if value is None:  # no density, and it may be 0 or less, where its mean has a logarithm
            bound = function(draft, "log", _mean(draft, node, body, inside, axis))
            return (yield from _score(draft, node, bound, inside, axis, weights=body, how=baselines.log_of_others))
    else:
        value = yield from _alone(draft, node.body, within, log=True)
    for use in reversed(_enumerated(node)):
        logq = _share(draft, use, node, inside)
        value = expected(draft, "log_expected", logq, value, _own_axis(draft, inside, use))
    if dreg and axis is not None and isinstance(value, str):
        draws = [inside.values[u.factor.variable] for u in node.q if u.factor.family is not None]
        if draft.of_row(value) and any(map(draft.common, draws)):
            raise GradientError(
                f"log({text(node)}): gradient='dreg' weights the draws of {node.q[0].factor.variable}, which all rows "
                f"share, and each row has weights of its own\nsum over the rows inside, Sum('n', ..., rows='all')"
            )
        return draft.add("bound", Op("", "samples", (value, *draws), how="dreg", axis=axis))
    if node.resample is not None:
        return resampling.weighted(draft, node, value, axis)
    bound = _without(draft, "logmeanexp", value, axis)
    return (yield from _score(draft, node, bound, inside, axis, weights=value))


def _enter(draft: Draft, node: Expectation, scope: Scope) -> tuple[Scope, int | None]:
    """Draw; returns the scope inside and the axis of K samples."""
    axis = None
    if node.samples is not None and not _once(draft, node):
        axis = draft.particles.get(id(node))
        axis = samples_axis(draft, node.q, scope.values, scope, node.samples) if axis is None else axis
        if axis is None:
            raise FormulaError(f"{text(node)}: nothing random is drawn here, so samples= has no meaning")
    return _drawn(draft, node, scope, axis), axis


def _drawn(draft: Draft, node: Expectation, scope: Scope, axis: int | None = None) -> Scope:
    """Draw; what belongs to the steps of a sum inside is drawn there."""
    later = draft.paths.get(id(node))
    if later is None:
        return draw(draft, node, scope, axis)
    inside = draw(draft, replace(node, q=tuple(u for u in node.q if u not in later)), scope, axis)
    return replace(inside, paths=(*inside.paths, (replace(node, q=later), axis)))


def _alone(draft: Draft, body: Node, scope: Scope, *, log: bool = False) -> Steps:
    """The body, its leaves checked among themselves; its log where ``log``."""
    inside = scope.reduced()
    value = yield from _log_of(draft, body, inside) if log else _lowered(body, inside)
    draft.check_alike(inside.leaves)
    return value


def _lowered(body: Node, scope: Scope) -> Steps:
    return (yield body, scope)


def _log_of(draft: Draft, body: Node, scope: Scope) -> Steps:
    """The logarithm of a node, without exponentials where it is made of densities."""
    match body:
        case Ratio(p, ()):
            return (yield from log(draft, p, scope))
        case Ratio(p, q):
            left = yield from log(draft, p, scope)
            right = yield from log(draft, q, scope)
            refuse_mixed(draft, "-", left, right)
            return binary(draft, "-", left, right)
        case Function("exp", inner):
            return (yield inner, scope)
    return function(draft, "log", (yield body, scope))


def _shares(draft: Draft, node: Expectation, scope: Scope) -> dict[int, Callable[[], Ref]]:
    """What makes the shares of the values of an exact expectation, by their axis, where its body asks for them."""
    if id(node) in draft.paths:
        return {}
    uses = _enumerated(node)[::-1]
    return {_own_axis(draft, scope, use): partial(_share, draft, use, node, scope) for use in uses}


def _own_axis(draft: Draft, scope: Scope, use: Use) -> int:
    """The axis of the values of an enumerated variable: the newest."""
    return draft.ops[scope.values[use.factor.variable]].axes[0]


def _share(draft: Draft, use: Use, node: Expectation, scope: Scope) -> Ref:
    """log of the probability of every value, or of the weight of every component, along its axis."""
    if estimator(use.factor, node.q, node.gradient) == "exact":
        return log_density(draft, (use,), scope)
    known = params(draft, use, scope)
    axes = (_own_axis(draft, scope, use), *draft.ops[known].axes)
    return draft.add(f"shares_{use.factor.variable.key}", Op("", "shares", (known,), axes=axes))


def _without(draft: Draft, how: str, value: Ref, axis: int | None) -> Ref:
    """A value without one of its sample axes; one that does not depend on it stays."""
    if axis is None or not isinstance(value, str) or axis not in draft.ops[value].axes:
        return value
    return draft.add(WISHES.get(how, how), Op("", "samples", (value,), how=how, axis=axis, rank=draft.rank(value)))


def _score(
    draft: Draft,
    node: Expectation,
    value: Ref,
    scope: Scope,
    axis: int | None,
    weights: Ref | None = None,
    how: Callable[..., object] = baselines.log_leave_one_out,
) -> Steps:
    """value + (log q − sg log q)·sg(value − baseline): the value itself, with the score-function gradient.

    Of log E, the value is that of all draws and so is its signal: the log q of the draws are summed, and what the
    others have is what the log would be without the ``weights`` of a draw: their logarithms, unless ``how`` takes
    themselves.
    """
    scored = [u for u in node.q if estimator(u.factor, node.q, node.gradient) == "score"]
    every = weights is not None
    if not scored:
        return value
    surrogate, signal, each = value, value, weights if every else value
    of_all = scope.index is None and draft.of_all(value)
    of_rows = scope.index is not None or (draft.of_row(value) and not draft.of_all(value))
    _check_statistics(draft, node, value, scope)
    if isinstance(node.baseline, Node):
        known = yield from _alone(draft, node.baseline, scope)
        draws = {u.factor: scope[u.factor.variable] for u in scored}
        _check_baseline(draft, node.baseline, known, draws, of_rows=of_rows)
        signal = binary(draft, "-", value, known)
    elif node.baseline is not None and isinstance(each, str):
        if axis not in draft.ops[each].axes:
            return value  # every sample has this value, so what the others have is all of it
        own = how if every else baselines.leave_one_out
        others = Op("", "call", (each, draft.ops[each].axes.index(axis)), target=own)
        signal = binary(draft, "-", value, draft.add("others", others))
    for use in scored:
        logq = log_density(draft, (use,), scope)
        if draft.of_row(logq) and of_all:
            axes = frozenset(draft.ops[str(logq)].axes)
            logq = over_batch(draft, "sum", logq, axes)
        if isinstance(logq, str) and axis is None:
            scope.leaves.append(logq)
        centred = binary(draft, "-", logq, unary(draft, "detach", logq))
        known = unary(draft, "detach", signal)
        if isinstance(known, str):
            result = "shared" if draft.shared(known) else ""
            known = draft.add("signal", Op("", "call", (known,), target=baselines.signal, how=result))
        term = binary(draft, "*", centred, known)
        surrogate = binary(draft, "+", surrogate, _without(draft, "sum", term, axis) if every else term)
    return surrogate


def _check_statistics(draft: Draft, node: Expectation, value: Ref, scope: Scope) -> None:
    """Refuse the score of statistics of all rows and steps, which every row of a step would take for its own."""
    if scope.index is not None and isinstance(value, str):
        made_of = draft.leading_to({value})
        if any(op.over_batch and draft.facts[op.name].scored for op in made_of):
            raise GradientError(
                f"{text(node)}: a statistic of all rows, of draws with gradient='score', has one signal for all of "
                f"them, and inside the Sum over {scope.index} each row of a step has its own\nuse "
                f"gradient='straight-through', or a family such as OneHot"
            )


def _check_baseline(draft: Draft, node: Node, known: Ref, scored: Mapping[Factor, str], *, of_rows: bool) -> None:
    """Refuse a baseline that the draw tells, as E[∇log q · b] is 0 where b is known before it alone, and one of each
    row beside one number for the call, which it would make one for each row.
    """
    made_of = {draft.alike[op.name] for op in draft.leading_to({str(known)})}
    factor = next((f for f, draw in scored.items() if draft.alike[draw] in made_of), None)
    if factor is not None:
        raise GradientError(
            f"E over {factor}: the baseline {text(node)} is made of {factor.variable}, the draw that it is a baseline "
            f"of, and its mean would not drop out of the gradient\nwrite an expression of what is known before the "
            f"draw, such as Value('v') of a factor around this E, or baseline='leave-one-out' with samples=K"
        )
    if draft.of_row(known) and not draft.of_all(known) and not of_rows:
        raise FormulaError(
            f"the baseline {text(node)} is one number for each row, and what it is a baseline of is one number for the "
            f"whole call\nwrite one number for the call, ({text(node)}).sum() or a Symbol"
        )
