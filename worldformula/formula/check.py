"""Checks at construction: duplicates, cycles, gradients that would be missing, divergences without a closed form."""

from __future__ import annotations

from worldformula.errors import (
    CycleError,
    DuplicateVariableError,
    FormulaError,
    GradientError,
    NoClosedFormError,
    table,
)
from worldformula.families.base import kl_pair
from worldformula.formula.nodes import Product, Use


def check_product(uses: Product) -> Product:
    """Refuse two factors for one variable, and factors that need each other; returns ``uses`` as written."""
    declared: dict[object, Use] = {}
    for use in uses:
        variable = use.factor.variable
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


def draw_order(uses: Product) -> list[Use]:
    """Causes before effects; among the ready ones the written order. Raises CycleError where there is none."""
    waiting, order = list(uses), list[Use]()
    declared = {u.factor.variable for u in uses}
    done: set[object] = set()
    while waiting:
        ready = next((u for u in waiting if all(c in done or c not in declared for c in u.factor.conditions)), None)
        if ready is None:
            rows = [
                (u.factor.variable, u.factor, ", ".join(str(c) for c in u.factor.conditions if c in declared))
                for u in waiting
            ]
            raise CycleError(
                "these factors need each other at the same step\n"
                + table(("variable", "declared by", "needs"), rows)
                + "\nbreak the cycle with an earlier step, e.g. a condition at t-1"
            )
        waiting.remove(ready)
        order.append(ready)
        done.add(ready.factor.variable)
    return order


def check_gradient(q: Product, gradient: str | None) -> None:
    """Every sampled factor has a reparametrised sample, or ``gradient`` names an estimator that the family has."""
    for use in q:
        family = use.factor.family
        if family is None or (gradient is None and family.reparametrised):
            continue
        names = ", ".join(f"gradient={g!r}" for g in family.gradients)
        if gradient is None:
            raise GradientError(
                f"E over {use.factor}: a {family.name} sample is not reparametrised, so its gradient would be silently "
                f"missing\n"
                + table(("variable", "declared by", "got"), [(use.factor.variable, use.factor, "no gradient=")])
                + f"\nchoose an estimator: E(q, f, {names or 'of a reparametrised family instead'})"
            )
        if not family.reparametrised and gradient not in family.gradients:
            raise GradientError(f"E over {use.factor}: {family.name} has {names}, got gradient={gradient!r}")


def check_divergence(q: Use, p: Use) -> None:
    """Both factors declare the same variable, with shapes that agree, and a closed form exists."""
    left, right = q.factor, p.factor
    rows = [(f.variable, f, f.shape if f.shape is not None else "undeclared") for f in (left, right)]
    shown = table(("variable", "declared by", "shape"), rows)
    if left.variable != right.variable:
        raise FormulaError(f"KL({left} ‖ {right}): expected two factors of one variable\n{shown}")
    if left.family is None or right.family is None:
        raise NoClosedFormError(f"KL({left} ‖ {right}): a deterministic or data factor has no density\n{shown}")
    if kl_pair(left.family, right.family) is None:
        raise NoClosedFormError(
            f"KL({left} ‖ {right}): no closed form for {left.family.name} ‖ {right.family.name}\n{shown}"
            f"\nestimate it on the sample: E(q, log(q) - log(p))"
        )
    if left.shape is not None and right.shape is not None and left.shape != right.shape:
        raise FormulaError(f"KL({left} ‖ {right}): expected equal event shapes\n{shown}")
