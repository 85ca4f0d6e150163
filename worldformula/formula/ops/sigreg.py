r"""SIGReg: how far a value's rows are from a standard normal, along random directions (Balestriero & LeCun 2025,
arXiv:2511.08544; as LeWM trains by, arXiv:2603.19312).

    S_M[a] = N · mean_m ∫_{−3}^{3} |φ̂_m(t) − e^{−t²/2}|² e^{−t²/2} dt,   φ̂_m(t) = mean_n e^{i t θ_mᵀ a_n},  |θ_m| = 1

The statistic of Epps and Pulley, by the trapezoid rule on knots of [0, 3], doubled. Its directions θ are drawn anew at
every call. Of N standard normal rows it is about 1.05 whatever N is, of a constant 0.402 N: a weight belongs to one
number of rows. ``scaled=False`` leaves N out, and then it goes to 0 as rows become more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import beside, count, marked
from worldformula.formula.ops.of_rows import OfRows, Rows, counted, subscript
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node, Product, Use, Value

REACH = 3.0  # of t
KNOTS = 17  # usually


def normality(
    *given: Tensor, ranks: tuple[int], directions: int, knots: int, scaled: bool, by_step: bool = False
) -> Tensor:
    """S of a value ``[..., D]``: one number. Behind it rows of which the first ``directions`` are directions, once they
    have length 1, and flags of the rows that count.
    """
    value, drawn, *flags = given
    rows = Rows("SIGReg", (value, *flags), ranks, by_step=by_step)
    (x,) = rows.values
    theta = torch.nn.functional.normalize(drawn.reshape(-1, x.shape[-1])[:directions].to(x), dim=-1)
    t = torch.linspace(0, REACH, knots, dtype=x.dtype, device=x.device)
    normal = (-t.square() / 2).exp()
    each = normal * (2 * REACH / (knots - 1))  # doubled, for what lies below 0
    each = torch.cat((each[:1] / 2, each[1:-1], each[-1:] / 2))
    angle = (x @ theta.mT).unsqueeze(-1) * t
    real, imaginary = rows.mean(angle.cos().flatten(-2)), rows.mean(angle.sin().flatten(-2))
    shape = (*real.shape[:-1], len(theta), knots)
    far = (real.reshape(shape) - normal).square() + imaginary.reshape(shape).square()
    found = (far @ each).mean(-1)
    return rows.over_steps(found * rows.count[..., 0] if scaled else found)


@dataclass(frozen=True, eq=False)
class SIGRegNode(OfRows):
    """S of a value; ``theta`` draws a direction beside every row."""

    a: Node
    theta: Use
    directions: int
    knots: int
    scaled: bool
    by_step: bool
    where: Node | None = None
    statistic = normality
    wish = "normality"

    @property
    def values(self) -> tuple[Node, ...]:
        """The value."""
        return (self.a,)

    @property
    def extra(self) -> Product:
        """The directions."""
        return (self.theta,)

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The directions."""
        return (self.theta.factor,)

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """Their number, the knots, and whether it is multiplied by N."""
        return (("directions", self.directions), ("knots", self.knots), ("scaled", self.scaled))

    @property
    def sign(self) -> Sign:
        """S with the number of directions, and the knots where they are not the usual ones."""
        knots = () if self.knots == KNOTS else (f"knots={self.knots}",)
        words = (*(() if self.scaled else ("mean",)), *knots, *self.marks)
        latex, shown = subscript(str(self.directions), *words)
        return Sign(
            marked("SIGReg", f"M={self.directions}", *words),
            rf"\mathcal{{S}}_{{{latex}}}",
            f"<msub><mi>S</mi><mrow>{shown}</mrow></msub>",
        )


def SIGReg(
    a: Expression,
    *,
    directions: int = 256,
    knots: int = KNOTS,
    scaled: bool = True,
    by_step: bool = False,
    where: Expression | None = None,
) -> Expression:
    """How far all rows are from a standard normal along random directions; a number without batch axes.

    Args:
        a: a value of every row by its name, ``Value("z")``; inside a sum over time with its shape,
            ``Value("z_t", shape=D)``.
        directions: M, and never more than there are rows.
        knots: of the trapezoid rule on [0, 3].
        scaled: multiply by the number of rows, as published; a weight then means something else for another batch.
        by_step: inside a sum over time, of the batch at each step, and the mean of these.
        where: which rows count, 1 or 0. Those of steps that a sum leaves out never do.

    Raises:
        FormulaError: no value by name, or numbers below 1 (below 2 knots).
    """
    node = as_node(a)
    if not isinstance(node, Value) or node.scalar:
        raise FormulaError(
            f"SIGReg: expected a value by its name, got {a!r}\n"
            "name it: Deterministic('y_t = g(z_t)', g, shape=D) among the draws, and SIGReg(Value('y_t', shape=D))"
        )
    m, n = count("SIGReg", "directions", number(directions)), count("SIGReg", "knots", number(knots), 2)
    theta = beside(node.variable, "vec", torch.zeros_like, node.shape, scale=1.0)
    return Expression(SIGRegNode(node, theta, m, n, bool(scaled), bool(by_step), counted(where)))
