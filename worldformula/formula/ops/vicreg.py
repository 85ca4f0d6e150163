r"""Variance and covariance of VICReg (Bardes, Ponce & LeCun 2022, arXiv:2105.04906, eqs. 1–4).

    V_γ[a] = 1/D Σ_d max(0, γ − √(Var_n a_d + ε))      keeps every column apart from a constant
    C[a]   = 1/D Σ_{i≠j} Cov_n(a)_ij²                   keeps columns from saying the same

Var and Cov are the unbiased ones, over all rows n. The loss of the paper is
``25 * norm2(a − b)/D + 25/2 * (Variance(a) + Variance(b)) + Covariance(a) + Covariance(b)``. Some code divides C by
D(D − 1) instead of D: divide the weight by D − 1 to follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import marked
from worldformula.formula.ops.of_rows import OfRows, Rows, counted, subscript
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node

EPSILON = 1e-4


def hinged_deviation(*given: Tensor, ranks: tuple[int], target: float, by_step: bool = False) -> Tensor:
    """V_γ of a value ``[..., D]``, and behind it flags of the rows that count: one number."""
    rows = Rows("Variance", given, ranks, by_step=by_step)
    deviation = (rows.variance(rows.values[0]) + EPSILON).sqrt()
    return rows.over_steps(torch.relu(target - deviation).mean(-1))


def covariance(*given: Tensor, ranks: tuple[int], by_step: bool = False) -> Tensor:
    """C of a value ``[..., D]``, and behind it flags of the rows that count: one number."""
    rows = Rows("Covariance", given, ranks, by_step=by_step)
    centred = rows.centred(rows.values[0])
    c = centred.mT @ centred / (rows.count - 1).clamp_min(1).unsqueeze(-1)
    own = torch.diagonal(c, dim1=-2, dim2=-1)
    return rows.over_steps((c.square().sum((-2, -1)) - own.square().sum(-1)) / centred.shape[-1])


@dataclass(frozen=True, eq=False)
class VarianceNode(OfRows):
    """V_γ of a value."""

    a: Node
    target: float
    by_step: bool
    where: Node | None = None
    statistic = hinged_deviation
    wish = "hinged_deviation"

    @property
    def values(self) -> tuple[Node, ...]:
        """The value."""
        return (self.a,)

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """γ."""
        return (("target", self.target),)

    @property
    def sign(self) -> Sign:
        """V with its target."""
        return _sign("Variance", "V", f"γ={self.target:g}", f"{self.target:g}", self.marks)


@dataclass(frozen=True, eq=False)
class CovarianceNode(OfRows):
    """C of a value."""

    a: Node
    by_step: bool
    where: Node | None = None
    statistic = covariance
    wish = "covariance"

    @property
    def values(self) -> tuple[Node, ...]:
        """The value."""
        return (self.a,)

    @property
    def sign(self) -> Sign:
        """C."""
        return _sign("Covariance", "C", "", "", self.marks)


def _sign(word: str, letter: str, mark: str, below: str, words: tuple[str, ...]) -> Sign:
    latex, shown = subscript(below, *words)
    return Sign(
        marked(word, mark, *words),
        rf"\mathcal{{{letter}}}" + (f"_{{{latex}}}" if latex else ""),
        f"<msub><mi>{letter}</mi><mrow>{shown}</mrow></msub>" if shown else f"<mi>{letter}</mi>",
    )


def Variance(
    a: Expression, *, target: float = 1.0, by_step: bool = False, where: Expression | None = None
) -> Expression:
    """mean_d max(0, γ − √(Var a_d + 1e-4)) over all rows, which keeps a code from collapsing; it has no batch axes.

    Args:
        a: a value of every row, ``Value("e")``.
        target: γ, the deviation that a column should have.
        by_step: inside a sum over time, the variance over the batch at each step, and the mean of these.
        where: which rows count, 1 or 0. Those of steps that a sum leaves out never do.

    Raises:
        FormulaError: no formula, or a target that is not positive.
    """
    known = number(target)
    if known is None or not known > 0:
        raise FormulaError(f"Variance: expected target= as a positive number, got {target!r}")
    return Expression(VarianceNode(as_node(a), float(known), bool(by_step), counted(where)))


def Covariance(a: Expression, *, by_step: bool = False, where: Expression | None = None) -> Expression:
    """Σ_{i≠j} Cov(a)_ij² / D over all rows, which keeps columns from saying the same: a number without batch axes.

    Args:
        a: a value of every row.
        by_step: inside a sum over time, the covariance over the batch at each step, and the mean of these.
        where: which rows count, 1 or 0. Those of steps that a sum leaves out never do.

    Raises:
        FormulaError: no formula.
    """
    return Expression(CovarianceNode(as_node(a), bool(by_step), counted(where)))
