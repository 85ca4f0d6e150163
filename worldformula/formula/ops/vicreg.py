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
from worldformula.formula.ops.of_rows import OfRows, as_single, of_all_rows
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node

EPSILON = 1e-4


def hinged_deviation(a: Tensor, *, ranks: tuple[int], target: float, by_step: bool = False) -> Tensor:
    """V_γ of a value ``[..., D]``: one number."""
    (a,) = (as_single(x) for x in of_all_rows((a,), ranks, by_step, "Variance"))
    return torch.relu(target - (a.var(-2) + EPSILON).sqrt()).mean()


def covariance(a: Tensor, *, ranks: tuple[int], by_step: bool = False) -> Tensor:
    """C of a value ``[..., D]``: one number."""
    (a,) = (as_single(x) for x in of_all_rows((a,), ranks, by_step, "Covariance"))
    centred = a - a.mean(-2, keepdim=True)
    c = centred.mT @ centred / (a.shape[-2] - 1)
    own = torch.diagonal(c, dim1=-2, dim2=-1)
    beside = c.square().sum((-2, -1)) - own.square().sum(-1)
    return beside.mean() / a.shape[-1]


@dataclass(frozen=True, eq=False)
class VarianceNode(OfRows):
    """V_γ of a value."""

    a: Node
    target: float
    by_step: bool
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
        return _sign("Variance", "V", f"γ={self.target:g}", f"{self.target:g}", self.by_step)


@dataclass(frozen=True, eq=False)
class CovarianceNode(OfRows):
    """C of a value."""

    a: Node
    by_step: bool
    statistic = covariance
    wish = "covariance"

    @property
    def values(self) -> tuple[Node, ...]:
        """The value."""
        return (self.a,)

    @property
    def sign(self) -> Sign:
        """C."""
        return _sign("Covariance", "C", "", "", self.by_step)


def _sign(word: str, letter: str, mark: str, below: str, by_step: bool) -> Sign:
    marks = [m for m in (below, "step" if by_step else "") if m]
    latex = r",\, ".join(rf"\mathrm{{{m}}}" if m.isalpha() else m for m in marks)
    shown = "".join(f"<mi>{m}</mi>" for m in marks)
    return Sign(
        marked(word, mark, "step" if by_step else ""),
        rf"\mathcal{{{letter}}}" + (f"_{{{latex}}}" if latex else ""),
        f"<msub><mi>{letter}</mi><mrow>{shown}</mrow></msub>" if shown else f"<mi>{letter}</mi>",
    )


def Variance(a: Expression, *, target: float = 1.0, by_step: bool = False) -> Expression:
    """mean_d max(0, γ − √(Var a_d + 1e-4)) over all rows, which keeps a code from collapsing; it has no batch axes.

    Args:
        a: a value of every row, ``Value("e")``.
        target: γ, the deviation that a column should have.
        by_step: inside a sum over time, the variance over the batch at each step, and the mean of these.

    Raises:
        FormulaError: no formula, or a target that is not positive.
    """
    known = number(target)
    if known is None or not known > 0:
        raise FormulaError(f"Variance: expected target= as a positive number, got {target!r}")
    return Expression(VarianceNode(as_node(a), float(known), bool(by_step)))


def Covariance(a: Expression, *, by_step: bool = False) -> Expression:
    """Σ_{i≠j} Cov(a)_ij² / D over all rows, which keeps columns from saying the same: a number without batch axes.

    Args:
        a: a value of every row.
        by_step: inside a sum over time, the covariance over the batch at each step, and the mean of these.

    Raises:
        FormulaError: no formula.
    """
    return Expression(CovarianceNode(as_node(a), bool(by_step)))
