"""Particle filters: the weights that go from step to step, and the particles that are drawn anew by them.

A filter carries its weights, ``log_weight``, whose mean is 1. At the beginning of a step its particles are drawn anew
by those of the step before, where these are unlike, or where ``ess=`` asks for it; the new ones weigh 1 each. So a
restart, which makes all weights 1, resamples nothing, and what a call goes on from is what the last step has drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from worldformula.errors import FormulaError, GradientError, TimeError, table
from worldformula.formula import baselines, filtering, runtime
from worldformula.formula.factors.independent import Uniform
from worldformula.formula.plan.arithmetic import binary, unary
from worldformula.formula.plan.densities import value_of
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Use
from worldformula.formula.syntax.resample import Resample
from worldformula.formula.syntax.text import text


@dataclass(frozen=True)
class Filter:
    """What resampling one set of particles takes, as operations of a step.

    weights: those that go on, by the key of their carry. left: those of the particles at hand; None where they are all
    1. score: the log-probability of the ancestors, where its gradient is kept.
    """

    key: str
    left: str | None
    score: str | None


def write_filter(draft: Draft, index: str, axis: int, resample: Resample) -> None:
    """The weights that come from the step before, and by them the ancestors of this step's particles."""
    weight, uniform = (_free(draft, name, index) for name in ("log_weight", "resampling"))
    for variable in (weight, uniform):
        draft.shapes[variable.key], draft.ranks[variable.key] = (), 0
        draft.written[variable.key] = variable
    draft.carried.add(weight)
    draft.declared.add(weight)
    draft.through[weight] = (axis,)
    before = draft.add(f"{weight.key}_prev", Op("", "carry", variable=weight.at(-1), step=True, axes=(axis,)))
    points = Uniform(f"p({uniform})", shape=())
    many = axis if resample.how == "multinomial" else None
    (drawn,) = value_of(draft, Use(points), Scope(index=index), axis=many)
    settings = (("how", resample.how), ("ess", resample.ess))
    lead = Op("", "call", (before, drawn), target=filtering.ancestors, options=settings)
    draft.ancestors[axis] = ancestors = draft.add("ancestor", lead)
    left = score = None
    if resample.ess is not None:
        kept = Op("", "call", (before,), target=filtering.weights_left, options=(("ess", resample.ess),))
        left = draft.add("log_weight_left", kept)
    if resample.gradient is not None:
        of = Op("", "call", (before, ancestors), target=filtering.log_ancestors)
        score = draft.add("log_drawn", Op("", "samples", (draft.add("log_ancestor", of),), how="sum", axis=axis))
        score = draft.add("log_drawn_so_far", Op("", "running", (score,), step=True))
    draft.filters[axis] = Filter(weight.key, left, score)


def _free(draft: Draft, name: str, index: str) -> Variable:
    """A variable of a name that nothing in the formula has."""
    number, free = 1, name
    while free in draft.written or free in draft.shapes:
        number += 1
        free = f"{name}_{number}"
    return Variable(name, subscript=None if number == 1 else str(number), index=index)


def weighted(draft: Draft, node: Expectation, value: Ref, axis: int | None) -> Ref:
    """log Σ_k W_{t-1}^k w_t^k of the log-weights of a step, and the weights that go on from it."""
    if axis is None:  # one particle
        return value
    if axis not in draft.filters:
        refuse_place(node)
    known = draft.filters[axis]
    if not isinstance(value, str) or draft.ops[value].axes != (axis,):
        _refuse_weights(draft, node, value, axis)
    if (counts := draft.flags_of_time) is not None:
        here = Op("", "call", (value, counts, 0), target=runtime.filled)
        value = draft.add("weight_here", here)
    total = value if known.left is None else binary(draft, "+", known.left, value)
    mean = draft.add("log_mean", Op("", "samples", (total,), how="logmeanexp", axis=axis))
    drawn_by: tuple[Ref, Ref] = (total, mean)
    if known.left is None and known.score is None:  # all that the weights do is to draw, which has no gradient
        drawn_by = unary(draft, "detach", total), unary(draft, "detach", mean)
    new = draft.add(known.key, Op("", "call", drawn_by, how="known", target=filtering.carried_weights))
    if draft.carries.setdefault(known.key, new) != new:
        raise TimeError(
            f"{text(node)}: the same particles are weighted in two ways, and resampled by one\n"
            f"write one ratio in both, or leave resample= out of one that is no filter of its own"
        )
    draft.samples[known.key] = new
    if known.score is None:
        return mean
    centred = binary(draft, "-", known.score, unary(draft, "detach", known.score))
    signal = draft.add("signal", Op("", "call", (unary(draft, "detach", mean),), target=baselines.signal))
    return binary(draft, "+", mean, binary(draft, "*", signal, centred))


def _refuse_weights(draft: Draft, node: Expectation, value: Ref, axis: int) -> NoReturn:
    """Say what the weights of a filter depend on besides its particles, or that they depend on none."""
    others = {a for a in draft.ops[value].axes if a != axis} if isinstance(value, str) else set()
    drawn = [draft.ops[name] for name in draft.samples.values()]
    own = [use.factor for use in node.q]
    several = [op.factor for op in drawn if others & {*op.axes} and op.factor is not None and op.factor not in own]
    if not several:
        raise FormulaError(
            f"{text(node)}: the weights of a filter are those of its particles, one for each, and what stands inside "
            f"depends on none of them\nwrite ratio(p, q) of the factors that the particles are drawn from"
        )
    names = ", ".join(str(factor.variable) for factor in several)
    raise FormulaError(
        f"{text(node)}: the particles are filtered once, and {names}, which they depend on, has several values in the "
        f"E around the sum, by samples= or gradient='exact'\n"
        + table(("variable", "declared by"), [(factor.variable, factor) for factor in several])
        + f"\ntake one draw of {names} around the filter: leave samples= out of E({several[0]}, Sum(...)), whose mean "
        f"over calls is the same,\nor give the call every row as often as there should be draws"
    )


def check_log(draft: Draft, node: Expectation, scope: Scope) -> None:
    """What log E of particles cannot be: doubly reparametrised, or a step of trajectories that are not resampled."""
    if node.resample is not None and scope.index is None:
        refuse_place(node)
    if id(node) not in draft.particles:
        return
    if node.gradient == "dreg":
        raise GradientError(
            f"log({text(node)}): gradient='dreg' is not known of particles that go from step to step\n"
            f"write sg(q) in the ratio, ratio(p, sg(q)): sticking the landing, or leave gradient= out"
        )
    if node.gradient == "score":
        raise GradientError(
            f"log({text(node)}): gradient='score' is not known of particles that go from step to step\n"
            f"draw by a family such as OneHot, or without a gradient, E(sg(q), ...), which leaves that of the weights"
        )
    if scope.index is not None and id(node) not in draft.paths and node.resample is None:
        raise TimeError(
            f"log({text(node)}): later steps read what is drawn, and the sum over {scope.index!r} of logarithms of "
            f"means bounds nothing unless the particles are resampled\nwrite resample='systematic' in E, a particle "
            f"filter (FIVO), or the bound of whole trajectories, "
            f"log(E(q, exp(Sum({scope.index!r}, log(p) - log(q))), samples={node.samples}))"
        )


def refuse_mean(node: Expectation) -> None:
    """Refuse to resample where nothing says by which weights."""
    if node.resample is not None:
        refuse_place(node)


def refuse_place(node: Expectation) -> NoReturn:
    """Say where resampling belongs."""
    raise FormulaError(
        f"{text(node)}: resample= is of the weights of a particle filter\n"
        f"write Sum('t', log(E(q, ratio(p, q), samples=K, resample='systematic')))"
    )
