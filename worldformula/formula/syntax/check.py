"""Checks at construction: duplicates, cycles, gradients that would be missing, divergences without a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from worldformula.errors import (
    CycleError,
    DuplicateVariableError,
    FormulaError,
    GradientError,
    NoClosedFormError,
    OneDrawError,
    ShapeError,
    SharedDrawError,
    UnnormalisedError,
    table,
)
from worldformula.families.base import Family
from worldformula.families.closed import kl_pair
from worldformula.formula.syntax.drawn import drawn, drawn_factors, draws, one_draw, scored_draw
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import whole_number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Integral,
    Negative,
    Node,
    Number,
    Operator,
    OverTime,
    Product,
    Use,
    Value,
    walk,
)
from worldformula.formula.syntax.text import text


class Checked(NamedTuple):
    """A product that passed, and what the next factor is held against: who declares what, and what is needed."""

    uses: Product = ()
    declared: Mapping[Variable, Use] = MappingProxyType({})
    needed: frozenset[Variable] = frozenset()

    def times(self, uses: Product) -> Checked:
        """The product times more factors. What passed is not walked again, unless the new ones may close a cycle."""
        declared, needed = dict(self.declared), set[Variable]()
        for use in uses:
            check_normalised(use.factor)
            needed.update(c.now for c in use.factor.conditions)
            for variable in use.factor.variables:
                if variable in declared:
                    _refuse_twice(variable, declared[variable].factor, use.factor)
                declared[variable] = use
        found = Checked((*self.uses, *uses), declared, self.needed | needed)
        new = [variable for use in uses for variable in use.factor.variables]
        if not needed.isdisjoint(declared) and not found.needed.isdisjoint(new):
            draw_order(found.uses)
        return found


def check_product(uses: Product) -> Product:
    """Refuse two factors for one variable, and factors that need each other; returns ``uses`` as written."""
    Checked().times(uses)
    return uses


def _refuse_twice(variable: Variable, first: Factor, second: Factor) -> NoReturn:
    raise DuplicateVariableError(
        f"two factors declare {variable}: {first} and {second}\n"
        + table(("variable", "declared by", "got"), [(variable, first, second)])
        + f"\nrename one of them, e.g. {variable.base}', or leave one out of the product"
    )


def check_elements(uses: Product) -> None:
    """Refuse a density element by element of a product, and of a factor whose elements have one density together."""
    if len(uses) > 1 or isinstance(uses, Integral):
        raise FormulaError(
            f"log({' '.join(str(u.factor) for u in uses)}, event=True): expected one factor; elements of different "
            f"events do not pair up\nwrite the sum of the factors' own, log(p, event=True) + log(q, event=True)"
        )
    factor = uses[0].factor
    family = factor.family
    if family is not None and family.joint is None:
        raise FormulaError(
            f"log({factor}, event=True): a {family.name} has one density for the whole event, and none for each element"
            f"\nwrite log({factor.header.letter}), or a factor of independent elements such as Normal"
        )


def check_rows(factor: Factor, index: str) -> None:
    """Refuse a parameter that is given for each row of the batch, of a factor of the steps: before and after the loop
    rows and steps share one axis.
    """
    family, constants = factor.family, factor.constants
    stepped = any(v.index == index for v in (*factor.variables, *factor.conditions))
    if family is None or constants is None or not stepped:
        return
    for name in constants.names:
        shape = constants.value(name).shape
        learnt = name == "head"  # a head is flat, or has the axes of an event
        axes = max(factor.rank, 1) if learnt else family.axes(family.alternatives.get(name, name), factor.rank)
        if len(shape) > axes and shape[: len(shape) - axes].numel() > 1:
            what, written = ("what is learnt", "") if learnt else (f"{name}=", f", {{{name!r}: ...}}")
            raise FormulaError(
                f"{factor}: {what} has more axes than an event, {list(shape)}, and inside the Sum over {index} a "
                f"parameter is one for all rows and steps\nlet a network return it{written}, and read it as a "
                f"condition: of each row, p(x_{index}|s) called with s=..., or of each of its steps, "
                f"p(x_{index}|s_{index})"
            )


def check_normalised(factor: Factor) -> None:
    """Refuse a Gibbs factor where a density or a draw is needed: its normalising constant is unknown."""
    if factor.unnormalised:
        raise UnnormalisedError(
            f"{factor}: exp(-energy) is not normalised, so its log-density is unknown and it has no direct draw\n"
            f"write ContrastiveDivergence(p) or ScoreMatching(p, noise=0.1) to learn it, Energy(p) for its energy, and "
            f"p.sample(start, steps=...) for a chain"
        )


def draw_order(uses: Product) -> list[Use]:
    """Causes before effects; among the ready ones the written order. Raises CycleError where there is none."""
    declared = {v for u in uses for v in u.factor.variables}
    needs = [{c.now for c in u.factor.conditions if c.now in declared} for u in uses]
    readers: dict[Variable, list[int]] = {}
    for place, needed in enumerate(needs):
        for variable in needed:
            readers.setdefault(variable, []).append(place)
    ready = [place for place, needed in enumerate(needs) if not needed]  # in order, so a heap
    order = list[int]()
    while ready:
        order.append(heappop(ready))
        for variable in uses[order[-1]].factor.variables:
            for place in readers.pop(variable, ()):
                needs[place].discard(variable)
                if not needs[place]:
                    heappush(ready, place)
    if len(order) < len(uses):
        rows = [
            (u.factor.variable, u.factor, ", ".join(str(c) for c in u.factor.conditions if c.now in declared))
            for place, u in enumerate(uses)
            if needs[place]
        ]
        raise CycleError(
            "these factors need each other at the same step\n"
            + table(("variable", "declared by", "needs"), rows)
            + "\nbreak the cycle with an earlier step, e.g. a condition at t-1"
        )
    return [uses[place] for place in order]


def check_gradient(q: Product, gradient: str | None, samples: int | None = None) -> None:
    """Every sampled factor has a reparametrised sample, or ``gradient`` names an estimator that the family has."""
    drawn = [(use.factor, use.factor.family) for use in q if use.factor.family is not None]
    stopped = {id(use.factor) for use in q if use.stopped}
    for factor, family in drawn:
        alone = not factor.conditions and not list(factor.parameters())
        if gradient is None and (alone or id(factor) in stopped):
            continue  # nothing that a gradient could reach
        offers = _offers(factor)
        names = " or ".join(f"gradient={g!r}" for g in offers)
        row = (factor.variable, factor, "no gradient=" if gradient is None else f"gradient={gradient!r}")
        shown = table(("variable", "declared by", "got"), [row])
        if gradient is None and not family.reparametrised:
            raise GradientError(
                f"E over {factor}: a {family.name} sample is not reparametrised, so its gradient would be silently "
                f"missing\n{shown}\nchoose an estimator: E(q, f, {names})"
            )
        needed = not pathwise(family) or all(pathwise(f) for _, f in drawn)
        if gradient is not None and needed and gradient not in offers:
            write = "leave gradient= out: the sample is reparametrised" if family.reparametrised else f"write {names}"
            raise GradientError(
                f"E over {factor}: a {family.name} factor has {names}, got gradient={gradient!r}\n{shown}\n{write}"
            )
    if gradient == "dreg" and samples is None:
        raise GradientError("gradient='dreg' weights several samples: write log(E(q, ratio(p, q), samples=K, ...))")
    if samples is not None and (whole_number(samples) or 0) < 1:
        raise FormulaError(f"E: expected samples= as a positive integer, got {samples!r}")


def _offers(factor: Factor) -> tuple[str, ...]:
    """The estimators that a factor's family has and that it can have here: few values to enumerate, or a density."""
    family = factor.family
    assert family is not None
    exact = () if family.support_size(factor.shape) is None else ("exact",)
    doubly = ("dreg",) if family.reparametrised and not family.biased else ()
    return (*family.gradients, *(g for g in ("score", *exact, *doubly) if g not in family.gradients))


def estimator(factor: Factor, q: Product, gradient: str | None) -> str:
    """The estimator of one factor's draw inside E over ``q``, or nothing where it is the family's own.

    A sample with an exact pathwise gradient keeps it beside others that need the score function.
    """
    family = factor.family
    if family is None or gradient is None or gradient == family.estimator:
        return ""
    if gradient == "exact":
        return "exact" if family.support_size(factor.shape) is not None else ""
    if gradient == "score":
        others = [u.factor.family for u in q if u.factor.family is not None]
        return "" if pathwise(family) and not all(map(pathwise, others)) else "score"
    return gradient if gradient in family.gradients else ""


def pathwise(family: Family) -> bool:
    """Whether the gradient of an expectation goes exactly through the samples."""
    return family.reparametrised and family.estimator not in family.biased


def scored(family: Family) -> str:
    """The argument that an E over such a factor cannot do without, for messages."""
    return "" if pathwise(family) else ", gradient='score'"


NONLINEAR = {"*": "product", "/": "ratio", "max": "maximum", "min": "minimum"}


def check_independence(op: str, left: Node, right: Node) -> None:
    """Refuse a product, ratio, maximum or minimum of two expectations that share a draw, E[f]·E[g] is not E[f·g], and
    what is not linear in an expectation that one draw estimates.
    """
    if op == "^" and not (isinstance(right, Number) and right.value == 1):
        check_function("power", left)
    if op not in NONLINEAR:
        return
    theirs = drawn(right, _at_random)
    if not theirs.isdisjoint(drawn(left, _at_random)):
        shared = next(f for n in walk(left) for f in _at_random(n) if f in theirs)
        raise SharedDrawError(
            f"the {NONLINEAR[op]} of two expectations over {shared} needs two independent draws,\n"
            f"and inside one expression a factor draws once\n"
            + table(
                ("variable", "declared by", "drawn in"),
                [(shared.variable, shared, text(node)) for node in (left, right)],
            )
            + "\nwrite E(q, f) * E(q.fresh(), g) for independent draws, or E(q, f * g) for the expectation of f * g"
        )
    if op in ("max", "min"):
        check_function(NONLINEAR[op], left)
    if op in ("max", "min", "/"):
        check_function(NONLINEAR[op] if op != "/" else "inverse", right)


def _at_random(node: Node) -> list[Factor]:
    """What a node itself draws at random: of what takes every value in turn, two sums are two numbers."""
    if isinstance(node, Operator) and node.sets:
        return []
    exact = {id(u.factor) for u in node.q if enumerated(u.factor, node)} if isinstance(node, Expectation) else set()
    return [factor for factor in draws(node) if id(factor) not in exact]


def enumerated(factor: Factor, node: Expectation) -> bool:
    """Whether an expectation takes every value of a factor's variable in turn."""
    return estimator(factor, node.q, node.gradient) == "exact"


def check_exponent(exponent: Any) -> Any:
    """An exponent is a number, or made of numbers and of variables without an index: ``gamma ** (t - 1)``.

    Returns it as written.
    """
    node = getattr(exponent, "node", None)
    if isinstance(node, Node):
        leaves = [n for n in walk(node) if not isinstance(n, Binary | Negative)]
        values = [n.variable for n in leaves if isinstance(n, Value)]
        if all(isinstance(n, Number | Value) for n in leaves) and all(v.index is None for v in values):
            return exponent
        raise FormulaError(
            f"expected an exponent of numbers, symbols and the index, such as Value('t') - 1, got {text(node)}\n"
            f"write exp(... * log(...)) for other powers"
        )
    if not isinstance(exponent, Real) or isinstance(exponent, bool):
        raise FormulaError(f"expected a number as the exponent, got {type(exponent).__name__} {exponent!r}")
    return exponent


def check_function(name: str, body: Node) -> None:
    """Refuse a function that is not linear of an expectation that one draw estimates: E[g(f)] is not g(E[f])."""
    estimate = one_draw(body, _drawn_once)
    if estimate is None:
        _check_score(name, body)
        return
    factors = list({id(f): f for f in drawn_factors(estimate)}.values())
    advice = (
        f"write E(q, g(f)) for the expectation of the {name}, E(q, f) * E(q.fresh(), f) for a square,\n"
        f"or E(q, f, samples=K) for the {name} of a mean"
    )
    if isinstance(estimate, OverTime):  # the start of a sum, which is drawn in it
        advice = (
            f"leave initial= out, and let the E around the sum draw what it begins with:\n"
            f"E({draws(estimate)[0]} * q, {name}(Sum({estimate.index!r}, ...)), samples=K)"
        )
    raise OneDrawError(
        f"the {name} of an expectation, which one draw estimates: E[g(f)] is not g(E[f])\n"
        + table(("variable", "declared by", "drawn once in"), [(f.variable, f, text(estimate)) for f in factors])
        + f"\n{advice}"
    )


def _check_score(name: str, body: Node) -> None:
    """Refuse what is not linear of an expectation by the score function: its signal is f, not what is made of E[f].

    The log of an expectation itself has a signal of its own; see `plan.estimates.log_expectation`.
    """
    asked = body.body if name == "log" and isinstance(body, Expectation) else body
    found = scored_draw(asked, _by_score)
    if found is not None:
        assert isinstance(found, Expectation)
        others = " or ".join(f"gradient={g!r}" for g in _others(found))
        raise GradientError(
            f"the {name} of {text(found)}: the score function has the gradient of E[f], not of the {name} of its "
            f"estimate\nwrite log(E(q, f, gradient='score', samples=K)) where that log is meant, sg(E(...)) where no "
            f"gradient is{', or ' + others if others else ''}"
        )


def _by_score(node: Expectation) -> bool:
    """Whether the gradient of an expectation has a term of the score function: of its draws, or of their ancestors."""
    ancestors = node.resample is not None and node.resample.gradient == "score"
    return ancestors or any(estimator(u.factor, node.q, node.gradient) == "score" for u in node.q)


def _others(node: Expectation) -> list[str]:
    """The estimators to choose instead of the score function."""
    scored = next((u.factor for u in node.q if estimator(u.factor, node.q, node.gradient) == "score"), None)
    if scored is None:
        return []
    return [g for g in _offers(scored) if g not in ("score", "dreg")]


def _drawn_once(node: Expectation) -> bool:
    """Whether an expectation draws something random that it does not enumerate."""
    random = (u.factor for u in node.q if u.factor.family is not None)
    return any(not enumerated(f, node) for f in random)


def check_divergence(q: Use, p: Use) -> None:
    """Both factors declare the same variable, with shapes that agree, and a closed form exists."""
    left, right = q.factor, p.factor
    rows = [(f.variable, f, f.shape if f.shape is not None else "undeclared") for f in (left, right)]
    shown = table(("variable", "declared by", "shape"), rows)
    if left.variable != right.variable:
        raise FormulaError(
            f"KL({left} ‖ {right}): expected two factors of one variable\n{shown}\ngive both headers the same variable"
        )
    if left.family is None or right.family is None:
        raise NoClosedFormError(
            f"KL({left} ‖ {right}): a deterministic or data factor has no density\n{shown}"
            f"\ncompare values instead, e.g. with log of a Normal with scale=1.0"
        )
    if kl_pair(left.family, right.family) is None:
        raise NoClosedFormError(
            f"KL({left} ‖ {right}): no closed form for {left.family.name} ‖ {right.family.name}\n{shown}"
            f"\nestimate it on the sample: E(q, log(q) - log(p){scored(left.family)})"
        )
    if left.shape is not None and right.shape is not None and left.shape != right.shape:
        raise ShapeError(f"KL({left} ‖ {right}): expected equal event shapes\n{shown}\ndeclare the same shape= on both")
