"""Checks at construction: duplicates, cycles, gradients that would be missing, divergences without a closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldformula.errors import (
    CycleError,
    DuplicateVariableError,
    FormulaError,
    GradientError,
    NoClosedFormError,
    ShapeError,
    SharedDrawError,
    UnnormalisedError,
    table,
)
from worldformula.families.base import Family, kl_pair
from worldformula.formula.syntax.nodes import Node, Product, Use, drawn_factors
from worldformula.formula.syntax.text import text

if TYPE_CHECKING:
    from worldformula.formula.syntax.factor import Factor


def check_product(uses: Product) -> Product:
    """Refuse two factors for one variable, and factors that need each other; returns ``uses`` as written."""
    for use in uses:
        check_normalised(use.factor)
    declared: dict[object, Use] = {}
    for use, variable in ((u, v) for u in uses for v in u.factor.variables):
        if variable in declared:
            first = declared[variable].factor
            raise DuplicateVariableError(
                f"two factors declare {variable}: {first} and {use.factor}\n"
                + table(("variable", "declared by", "got"), [(variable, first, use.factor)])
                + f"\nrename one of them, e.g. {variable.base}', or leave one out of the product"
            )
        declared[variable] = use
    draw_order(uses)
    return uses


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
    waiting, order = list(uses), list[Use]()
    declared = {v for u in uses for v in u.factor.variables}
    done: set[object] = set()
    while waiting:
        ready = next(
            (u for u in waiting if all(c.now in done or c.now not in declared for c in u.factor.conditions)), None
        )
        if ready is None:
            rows = [
                (u.factor.variable, u.factor, ", ".join(str(c) for c in u.factor.conditions if c.now in declared))
                for u in waiting
            ]
            raise CycleError(
                "these factors need each other at the same step\n"
                + table(("variable", "declared by", "needs"), rows)
                + "\nbreak the cycle with an earlier step, e.g. a condition at t-1"
            )
        waiting.remove(ready)
        order.append(ready)
        done |= set(ready.factor.variables)
    return order


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
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
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
    """Refuse a product, ratio, maximum or minimum of two expectations that share a draw: E[f]·E[g] is not E[f·g]."""
    if op not in NONLINEAR:
        return
    ours, theirs = drawn_factors(left), drawn_factors(right)
    shared = next((f for f in ours if any(f is g for g in theirs)), None)
    if shared is not None:
        raise SharedDrawError(
            f"the {NONLINEAR[op]} of two expectations over {shared} needs two independent draws,\n"
            f"and inside one expression a factor draws once\n"
            + table(
                ("variable", "declared by", "drawn in"),
                [(shared.variable, shared, text(node)) for node in (left, right)],
            )
            + "\nwrite E(q, f) * E(q.fresh(), g) for independent draws, or E(q, f * g) for the expectation of f * g"
        )


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
