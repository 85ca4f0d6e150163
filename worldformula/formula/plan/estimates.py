"""Expectations: one draw, K draws or every value on a sample axis, and the gradients of their estimators.

Rules are generators: they yield what stands inside, with its scope, and are sent its value; see `lower`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from worldformula.errors import FormulaError, GradientError
from worldformula.formula import runtime
from worldformula.formula.plan import resampling
from worldformula.formula.plan.arithmetic import binary, function, unary
from worldformula.formula.plan.densities import draw, log_density, params, samples_axis
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.check import draw_order, estimator
from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Function,
    Integral,
    Log,
    Named,
    Negative,
    Node,
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
        node.body, Binary | Negative | OverTime | OverSteps | Expectation | Named
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
    return draft.term(node, function(draft, "exp", binary(draft, "-", left, right)), scope)


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
    value = yield from _alone(draft, node.body, inside)
    value = yield from _score(draft, node, value, inside, axis)
    for use in reversed(_enumerated(node)):
        logq = _share(draft, use, node, inside)
        weighted = binary(draft, "*", function(draft, "exp", logq), value)
        value = _without(draft, "sum", weighted, _own_axis(draft, inside, use))
    return _without(draft, "mean", value, axis)


def log_expectation(draft: Draft, node: Expectation, scope: Scope) -> Steps:
    """log E, by log-sum-exp over the samples or the values, whichever the expectation has."""
    resampling.check_log(draft, node, scope)
    if node.gradient == "score":
        raise GradientError(f"log({text(node)}): the score estimator is one of E, not of log E\nuse another gradient=")
    inside, axis = _enter(draft, node, scope)
    dreg = node.gradient == "dreg"
    held = scope.held | {id(u.factor) for u in node.q} if dreg else scope.held
    value = yield from _alone(draft, node.body, replace(inside, held=held), log=True)
    for use in reversed(_enumerated(node)):
        logq = _share(draft, use, node, inside)
        value = _without(draft, "logsumexp", binary(draft, "+", value, logq), _own_axis(draft, inside, use))
    if dreg and axis is not None and isinstance(value, str):
        draws = [inside.values[u.factor.variable] for u in node.q if u.factor.family is not None]
        return draft.add("bound", Op("", "samples", (value, *draws), how="dreg", axis=axis))
    if node.resample is not None:
        return resampling.weighted(draft, node, value, axis)
    return _without(draft, "logmeanexp", value, axis)


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
            return binary(draft, "-", left, (yield from log(draft, q, scope)))
        case Function("exp", inner):
            return (yield inner, scope)
    return function(draft, "log", (yield body, scope))


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
    return draft.add(how, Op("", "samples", (value,), how=how, axis=axis, rank=draft.rank(value)))


def _score(draft: Draft, node: Expectation, value: Ref, scope: Scope, axis: int | None) -> Steps:
    """value + (log q − sg log q)·sg(value − baseline): the value itself, with the score-function gradient."""
    scored = [u for u in node.q if estimator(u.factor, node.q, node.gradient) == "score"]
    if not scored:
        return value
    surrogate, signal = value, value
    if isinstance(node.baseline, Node):
        signal = binary(draft, "-", value, (yield from _alone(draft, node.baseline, scope)))
    elif node.baseline is not None and isinstance(value, str):
        if axis not in draft.ops[value].axes:
            return value  # every sample has this value, so what the others have is all of it
        others = Op("", "call", (value, draft.ops[value].axes.index(axis)), target=runtime.leave_one_out)
        signal = binary(draft, "-", value, draft.add("others", others))
    for use in scored:
        logq = log_density(draft, (use,), scope)
        if isinstance(logq, str) and axis is None:
            scope.leaves.append(logq)
        centred = binary(draft, "-", logq, unary(draft, "detach", logq))
        surrogate = binary(draft, "+", surrogate, binary(draft, "*", centred, unary(draft, "detach", signal)))
    return surrogate
