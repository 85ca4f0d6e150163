"""Sums and means over time, and over iterations that are not time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.joint import Joint, as_uses
from worldformula.formula.plan.clock import check_begin, check_clock, check_older
from worldformula.formula.syntax.check import check_product
from worldformula.formula.syntax.constants import Constants
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import whole_number
from worldformula.formula.syntax.nodes import Group, OverRows, OverSteps, OverTime, Product, Use, of_numbers
from worldformula.formula.syntax.spelling import by_keyword, keyword, normal
from worldformula.formula.syntax.starts import begins

Initial = Mapping[str, Tensor | Factor | Joint] | Factor | Joint


def _over_time(
    how: Any,
    index: str,
    step: Expression,
    reset: str | None,
    initial: Initial | None,
    mask: str | None,
    burn_in: int,
    until: str | None,
    steps: int | None,
) -> Expression:
    index, step = _checked(index, step)
    reset, mask, until = (keyword(name) if isinstance(name, str) else name for name in (reset, mask, until))
    if steps is not None:
        _check_steps(index, steps, reset=reset, initial=initial, mask=mask, burn_in=burn_in, until=until)
        return Expression(OverSteps(how, index, int(steps), step.node))
    values, begin = _first_values(index, initial)
    if isinstance(values, Mapping):
        values = by_keyword(values)
    check_clock(index, step.node, reset, values, mask, burn_in, until)
    known = values if isinstance(values, Mapping) else {}
    check_begin(index, step.node, begin, known)
    check_older(index, step.node, known, begin)
    start = Constants(values) if values else None
    return Expression(OverTime(how, index, step.node, reset, start, mask, int(burn_in), until, begin))


def _checked(index: Any, step: Any) -> tuple[str, Expression]:
    """The index as in the names that have it, and what is summed."""
    if not isinstance(index, str):
        raise FormulaError(f"expected Sum('t', expression), got {type(index).__name__} as the index")
    if not isinstance(step, Expression):
        raise FormulaError(f"expected Sum('t', expression), got {type(step).__name__}")
    return normal(index), step


def _check_steps(index: str, steps: Any, **clock: object) -> None:
    """A number of iterations, and nothing beside it that belongs to time."""
    if (whole_number(steps) or 0) < 1:
        raise FormulaError(f"steps=: expected a positive number of iterations, got {steps!r}")
    given = [name for name, value in clock.items() if value is not None and not (name == "burn_in" and value == 0)]
    if given:
        advice = {
            "initial": f"the first iteration reads a variable of subscript 0 that is drawn or computed around the sum: "
            f"E(q(z_0|x), Sum({index!r}, ..., steps={steps}))",
            "reset": "iterations begin once a call; leave it out",
        }
        raise FormulaError(
            f"Sum over {index}: {given[0]}= belongs to a sum over time, and steps={steps} makes this one a sum over "
            f"iterations\n{advice.get(given[0], 'leave it out; all iterations count')}"
        )


def _over_rows(index: str, step: Expression, rows: Any, steps: Any, **clock: object) -> Expression:
    """A sum over the rows of the data, all of which the call gives, or so many of which it gives some."""
    taken = [*(["steps"] if steps is not None else []), *(name for name, value in clock.items() if value)]
    if taken:
        raise FormulaError(
            f"Sum over {index}: rows= makes this a sum over the rows of the data, and {taken[0]}= belongs to a sum "
            f"over steps\nput one Sum inside the other: Sum({index!r}, Sum('t', ...), rows='all')"
        )
    if isinstance(rows, Expression) and of_numbers(rows.node):
        return Expression(OverRows(index, rows.node, step.node))
    if rows != "all" and (whole_number(rows) or 0) < 1:
        raise FormulaError(
            f"Sum over {index}: expected rows='all', where the call gives all rows, or the number of rows of which it "
            f"gives some, rows=1000 or rows=Symbol('N'), got {rows!r}"
        )
    return Expression(OverRows(index, None if rows == "all" else whole_number(rows), step.node))


def _first_values(index: str, initial: Any) -> tuple[Any, Product]:
    """What ``initial=`` gives as values, and the factors that draw or compute the rest."""
    if isinstance(initial, Factor | Joint | Use):
        return None, _begin(index, initial)
    if not isinstance(initial, Mapping):
        return initial, ()
    begin = {name: _begin(index, value) for name, value in initial.items() if isinstance(value, Factor | Joint | Use)}
    for name, uses in begin.items():
        if name not in (own := [begins(v) for use in uses for v in use.factor.variables]):
            raise FormulaError(
                f"Sum over {index}: initial={{{name!r}: ...}} is a factor of {', '.join(own)}; expected one of {name}_0"
            )
    uses = tuple(use for each in begin.values() for use in each)
    return {name: value for name, value in initial.items() if name not in begin}, check_product(uses)


def _begin(index: str, value: Factor | Joint | Use) -> Product:
    if isinstance(value, Joint) and value.hidden:
        raise FormulaError(f"Sum over {index}: initial= {value} is a marginal; give the product, whose draws are made")
    return check_product(as_uses(value))


def Sum(
    index: str,
    step: Expression,
    *,
    reset: str | None = None,
    initial: Initial | None = None,
    mask: str | None = None,
    burn_in: int = 0,
    until: str | None = None,
    steps: int | None = None,
    rows: Literal["all"] | int | Expression | None = None,
) -> Expression:
    """Σ_t step over the time axis of the series ``[B, T, ...]``, or over iterations 1 … ``steps`` that are not time.

    Args:
        index: the letter of the subscript: ``"t"``.
        step: what is summed.
        reset: names the series of flags ``[B, T]`` that restart the carry (and zero the shifted series) where set.
        initial: the carry's first value by variable (a tensor or ``nn.Parameter`` of the event shape, without batch
            axes), or a factor or product that draws or computes it: p(z_0), z_0 = e(x_1) of the row at which a sequence
            begins, f(x_{1:2}) of its first rows; zeros otherwise.
        mask: names the series of flags ``[B, T]`` of the steps that count, such as those of sequences of unequal
            length. The carry passes through the others.
        burn_in: so many first steps run, but do not count.
        until: names the series of flags ``[B, T]`` of the step that ends its sequence: those behind it do not count.
        steps: iterations instead of time (DRAW): written out in the emitted code. A ``ModuleList`` as the network of a
            factor with this index holds one network per iteration; ``c_L`` right of the sum is the last ``c_l``.
        rows: the rows of the data instead (a plate), one number for the call: ``"all"`` where it gives all of them;
            else how many there are, a number or a `Symbol`, where it gives a batch of B, whose sum is scaled by
            rows / B, an unbiased estimate if the batch is drawn at random.

    Raises UnknownVariableError for a variable that nothing carries, and ShapeError.
    """
    if rows is not None:
        index, step = _checked(index, step)
        clock = {"reset": reset, "initial": initial, "mask": mask, "burn_in": burn_in, "until": until}
        return _over_rows(index, step, rows, steps, **clock)
    return _over_time("sum", index, step, reset, initial, mask, burn_in, until, steps)


def Mean(
    index: str,
    step: Expression,
    *,
    reset: str | None = None,
    initial: Initial | None = None,
    mask: str | None = None,
    burn_in: int = 0,
    until: str | None = None,
    steps: int | None = None,
) -> Expression:
    """The mean over time of ``step``, of the steps that count; arguments as in :func:`Sum`."""
    return _over_time("mean", index, step, reset, initial, mask, burn_in, until, steps)


def together(**formulas: Expression) -> Expression:
    """Several formulas as one: ``out.value`` is a dict, and what they share is drawn and computed once.

    ``together(d=d_loss, g=g_loss)`` makes the fakes of a game once for both players.
    """
    for name, formula in formulas.items():
        if not isinstance(formula, Expression):
            raise FormulaError(f"together: expected an expression as {name}=, got {type(formula).__name__}")
    if not formulas:
        raise FormulaError("together: expected formulas by name, e.g. together(d=d_loss, g=g_loss)")
    return Expression(Group(tuple(formulas), tuple(f.node for f in formulas.values())))
