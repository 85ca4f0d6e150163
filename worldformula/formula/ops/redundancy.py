r"""Redundancy reduction, Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230, eq. 1).

    B_λ[a, b] = Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²,     C = 1/N Σ_n â_n b̂_nᵀ,   â, b̂ standardised over the rows n

In the place of a decoder it makes a state tell what an embedding says: `Redundancy(Value("\hat e"), sg(Value("e")))` of
R2-Dreamer (arXiv:2603.18202). The standard deviation is the unbiased one and the mean divides by N, as in the authors'
code, so C_ii is at most (N − 1)/N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import marked, symbol_of, written_number
from worldformula.formula.ops.of_rows import OfRows, Rows, counted, subscript
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node


def redundancy(*given: Tensor, ranks: tuple[int, int], weight: Tensor | float) -> Tensor:
    """B_λ of two values ``[..., D]`` of the same rows, and behind them flags of those that count: one number.

    Raises:
        ShapeError: unequal rows or widths, or one row.
    """
    rows = Rows("Redundancy", given, ranks, alike=True)
    a, b = map(rows.standardised, rows.values)
    c = a.T @ b / rows.count
    own = c.diagonal()
    beside = c.square().sum() - own.square().sum()
    return rows.over_steps((1 - own).square().sum() + beside * weight)


@dataclass(frozen=True, eq=False)
class RedundancyNode(OfRows):
    """B_λ of two values."""

    a: Node
    b: Node
    weight: float | Node
    where: Node | None = None
    statistic = redundancy
    wish = "redundancy"

    @property
    def values(self) -> tuple[Node, ...]:
        """Both."""
        return self.a, self.b

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The weight."""
        return (self.weight,)

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """λ."""
        return (("weight", self.weight),)

    @property
    def sign(self) -> Sign:
        """B with its weight."""
        text, latex, shown = written_number(self.weight, "{:g}".format)
        rows, mathml = subscript(*self.marks)
        below = rf"{latex},\, {rows}" if rows else latex
        return Sign(
            marked("Redundancy", f"λ={text}", *self.marks),
            rf"\mathcal{{B}}_{{{below}}}",
            f"<msub><mi>ℬ</mi><mrow>{shown}{mathml}</mrow></msub>",
        )


def Redundancy(
    a: Expression, b: Expression, *, weight: float | Expression = 5e-4, where: Expression | None = None
) -> Expression:
    r"""Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij² of the cross-correlation of two values over all rows: a number without batch
    axes.

    Args:
        a: a value of every row, ``Value(r"\hat e")``.
        b: another of the same width; ``sg(...)`` of it where it is a target.
        weight: λ, of the entries beside the diagonal.
        where: which rows count, 1 or 0: ``1 - Value("first_t")``. Those of steps that a sum leaves out never do.

    Raises:
        FormulaError: no formulas, or a negative weight.
        ShapeError: at the call, for unequal widths or one row.
    """
    return Expression(RedundancyNode(as_node(a), as_node(b), _weight(weight), counted(where)))


def _weight(weight: Any) -> float | Node:
    if (symbol := symbol_of(weight, _weight)) is not None:
        return symbol
    known = number(weight)
    if known is None or not known >= 0:
        raise FormulaError(f"Redundancy: expected weight= as a number of at least 0, got {weight!r}")
    return float(known)
