"""What the carry of a sum over time begins with, where factors say so: drawn, or computed from the first rows.

Without resets a start is made once, of the first rows ``x_1`` or ``x_{1:k}``. With resets a sequence may begin at any
step, so every step has a start of its own, made of its own row before the loop; the carry takes it where it restarts.
"""

from __future__ import annotations

from worldformula.errors import FormulaError, TimeError
from worldformula.formula.plan import densities, variables
from worldformula.formula.plan.clocks import counted_steps, enter_time
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.hoist_before import batch_dependent
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.check import draw_order
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import OverTime
from worldformula.formula.syntax.starts import begins, series


def begin(draft: Draft, node: OverTime, going: bool = False) -> None:
    """Write the starts of a sum; ``going``: of one that goes on from a given start, where only resets need them."""
    enter_time(draft, node)
    if going and node.reset is None:
        draft.gone |= {v: use.factor for use in node.begin for v in use.factor.variables}
        return
    outer = draft.flags_of_time, draft.burn_in
    draft.flags_of_time, draft.burn_in = counted_steps(draft, node), node.burn_in
    values: dict[Variable, str] = {}
    for use in draw_order(node.begin):
        factor = use.factor
        for variable in factor.variables:
            _shape_of_carry(draft, variable)
        rows = {c: name for c in factor.conditions if (name := row(draft, c, node, factor)) is not None}
        draft.rows |= rows
        axes = draft.axes_of_carry(begins(factor.variable))
        axis = axes[0] if len(axes) == 1 else None
        here = Scope(index=node.index, values={**values, **rows})
        names = densities.value_of(draft, use, here, axis=axis, start=node)
        for variable, name in zip(factor.variables, names, strict=True):
            if node.reset is not None:
                _refuse_batch(draft, name, factor)
                name = draft.repeated(name)
            name = draft.along(name, axes) if axes else name
            values[variable] = draft.begins[begins(variable)] = draft.samples[variable.key] = name
    draft.rows |= values
    draft.flags_of_time, draft.burn_in = outer


def _shape_of_carry(draft: Draft, variable: Variable) -> None:
    """A start has the event shape of what begins with it, whichever of the two declares it."""
    for key, other in ((variable.key, begins(variable)), (begins(variable), variable.key)):
        if key not in draft.shapes and other in draft.shapes:
            draft.shapes[key], draft.ranks[key] = draft.shapes[other], draft.ranks[other]


def row(draft: Draft, condition: Variable, node: OverTime, factor: Factor) -> str | None:
    """The first row that a start reads, or the first k; None for what is given once, or another start."""
    now = series(condition, node.index)
    if now is None or now.key not in draft.indexed:
        if condition.first:
            raise FormulaError(
                f"initial= {factor} reads {condition}, and the sum reads no {condition.base}_{node.index}\n"
                f"read a series of the sum, or what is given once"
            )
        _refuse_once(draft, condition, node, factor)
        return None
    if now in draft.declared:
        raise TimeError(
            f"initial= {factor} reads {condition}, which the steps make\n"
            f"read data, or another start, {now.at(0).base}_0"
        )
    if now.key in draft.masked:
        raise FormulaError(
            f"initial= {factor} reads {condition}, which some rows lack (present=), and nothing takes its place\n"
            f"begin with a factor that reads nothing, p({factor.variable})"
        )
    read = variables.read(draft, now, Scope(index=node.index), factor)
    if node.reset is not None and not condition.first:
        return read
    if node.reset is not None:
        raise TimeError(
            f"initial= {factor} reads {condition}, and a sequence that begins at reset={node.reset!r} may end, "
            f"or begin again, within {condition.window} rows\nread {now.base}_1, the row at which it begins, or pass "
            f"sequences that begin at their first row and leave reset= out"
        )
    return draft.add(f"{now.key}_first", Op("", "first", variable=now, options=(("rows", condition.window or 0),)))


def _refuse_once(draft: Draft, condition: Variable, node: OverTime, factor: Factor) -> None:
    """x_0 is given once for a row of the batch, and sequences that begin within it have another."""
    if node.reset is None or (condition.subscript or "")[-1:] != "0" or begins(condition) not in draft.indexed:
        return
    if condition not in {v for use in node.begin for v in use.factor.variables}:
        raise TimeError(
            f"initial= {factor} reads {condition}, which is given once, and with reset={node.reset!r} a sequence may "
            f"begin at any step\nread {begins(condition)}_1, the row at which it begins"
        )


def _refuse_batch(draft: Draft, name: str, factor: Factor) -> None:
    """Starts at resets are made of all rows at once, before the loop."""
    if any(batch_dependent(op) for op in draft.leading_to({name})):
        raise TimeError(
            f"initial= {factor}: its result depends on the batch, and with reset= the starts of all steps are made at "
            f"once\nuse a network without BatchNorm"
        )
