"""Sums and means over the rows of the batch: reductions of all that a formula says, and plates inside it."""

from __future__ import annotations

from worldformula.errors import FormulaError, TimeError
from worldformula.formula.plan import arithmetic
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.estimates import Steps
from worldformula.formula.plan.plan import Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.nodes import Node, OverBatch, OverRows
from worldformula.formula.syntax.numbers import check_rows
from worldformula.formula.syntax.text import text


def over_batch(draft: Draft, node: OverBatch, scope: Scope) -> Steps:
    """The mean or sum over the batch."""
    if scope.index is not None:
        raise TimeError(
            f"{text(node)}: a {node.how} over the batch cannot stand inside the Sum over {scope.index!r}\n"
            f"put .{node.how}() outside the Sum"
        )
    inside = scope.reduced(node.how)
    value = yield node.body, inside
    draft.check_alike(inside.leaves)
    _refuse_rows(draft, node, value, scope)
    return arithmetic.over_batch(draft, node.how, value, _shared_axes(draft, scope))


def over_rows(draft: Draft, node: OverRows, scope: Scope) -> Steps:
    """The sum over the rows of a plate: of N rows of which a call gives some, N times their mean."""
    if scope.index is not None:
        raise TimeError(
            f"{text(node)}: a sum over the rows cannot stand inside the Sum over {scope.index!r}\n"
            f"put the sum over {scope.index} inside: Sum({node.index!r}, Sum({scope.index!r}, ...), rows=...)"
        )
    how = "sum" if node.rows is None else "mean"
    inside = scope.part().reduced()
    value = yield node.body, inside
    draft.check_alike(inside.leaves)
    _refuse_rows(draft, node, value, scope)
    if draft.number(value) or draft.statistic(value):
        raise FormulaError(
            f"{text(node)}: nothing in it is of a row, so there is no sum over the rows\n"
            f"write one number for the call outside of the Sum"
        )
    total = arithmetic.over_batch(draft, how, value, _shared_axes(draft, scope), plate=True)
    if node.rows is not None:
        rows: Ref = (yield node.rows, scope) if isinstance(node.rows, Node) else float(node.rows)
        draft.checks[id(node)] = check_rows, (rows,)
        total = arithmetic.binary(draft, "*", rows, total)
    return draft.term(node, total, scope)


def _shared_axes(draft: Draft, scope: Scope) -> frozenset[int]:
    """The sample axes of what all rows share here: a sum over the rows keeps them."""
    return frozenset(a for name in scope.values.values() if draft.common(name) for a in draft.ops[name].axes)


def _refuse_rows(draft: Draft, node: OverBatch | OverRows, value: Ref, scope: Scope) -> None:
    """A latent that depends on nothing is drawn for each row, so no reduction of the batch is about one value of it."""
    index = node.index if isinstance(node, OverRows) else None  # z_n is of the row n, and says so
    values = [n for v, n in scope.values.items() if index is None or v.index != index]
    drawn = {n for n in values if draft.ops[n].kind in ("draw", "support")}
    shared = {n for n in drawn if (f := draft.ops[n].factor) is not None and f.unbatched and not f.shared}
    if not shared or not isinstance(value, str):
        return
    if own := next((op for op in draft.leading_to({value}) if op.name in shared), None):
        how, put = ("sum", "Sum(...)") if isinstance(node, OverRows) else (node.how, f".{node.how}()")
        raise FormulaError(
            f"{text(node)}: a {how} over the batch inside E over {own.factor}, of which every row has a draw of "
            f"its own: this is no value of one draw for all rows\n"
            f"put {put} outside the E, where it is over the rows, or write shared=True on {own.factor} and on every "
            f"factor of {own.factor.variable if own.factor else ''}, which is then one for all rows"
        )
