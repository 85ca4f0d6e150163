r"""Sliced Wasserstein distance, to its power (Bonneel et al. 2015, J. Math. Imaging Vis. 51).

    SW_r^r(q, p) = E_θ[W_r^r(θᵀx, θᵀy)],   θ uniform on the sphere

On a line the optimal transport sorts both samples: W_r^r is the mean of |x_(i) − y_(i)|^r. As many directions θ are
drawn as there are samples of a side. The value has no batch axes; of finite samples it is too large, also for equal
distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.families.tensors import is_number
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import (
    Compared,
    Distribution,
    beside,
    count,
    marked,
    rows,
    shape_in,
    sides,
    symbol_of,
    written_number,
)
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Product, Use


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor, *, rank: int, order: Tensor | float) -> Tensor:
    """SW_r^r of equally many samples ``[..., *event]``: one number.

    ``directions`` has the shape of x; each row is one direction, scaled to length 1 here.

    Raises:
        ShapeError: unequal numbers of samples.
    """
    x, y, theta = rows(x, rank), rows(y, rank), rows(directions, rank)
    if len(x) != len(y):
        shown = table(("side", "samples"), [("first", len(x)), ("second", len(y))])
        raise ShapeError(f"SlicedWasserstein: expected equally many samples of both sides\n{shown}")
    theta = torch.nn.functional.normalize(theta, dim=-1)
    ours, theirs = ((side @ theta.T).sort(0).values for side in (x, y))
    gap = ours - theirs
    return gap.square().mean() if is_number(order, 2) else gap.abs().pow(order).mean()


@dataclass(frozen=True, eq=False)
class SlicedWassersteinNode(Compared):
    """SW_r^r of the samples of two sides; ``directions`` draws one direction for each sample."""

    q: Product
    p: Product
    variable: Variable
    directions: Use
    order: float | Node
    samples: int | None
    gradient: str | None

    @property
    def extra(self) -> Product:
        """The directions."""
        return (self.directions,)

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """Both sides, and the directions."""
        return (*super().drawn, self.directions.factor)

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The order."""
        return (self.order,)

    @property
    def sign(self) -> Sign:
        """SW with its order, and the number of samples."""
        text, r, shown = written_number(self.order, "{:g}".format)
        k = "" if self.samples is None else f"K={self.samples}"
        below = r + (rf",\, {k}" if k else "")
        return Sign(
            marked("SW", f"r={text}", k),
            rf"\mathrm{{SW}}_{{{below}}}^{{{r}}}",
            f"<msubsup><mi>SW</mi><mrow>{shown}<mi>{k}</mi></mrow>{shown}</msubsup>",
        )

    def compare(self, lowering: Any, inside: Any, left: str, right: str) -> str:
        """One number."""
        (theta,) = lowering.value_of(self.directions, inside)
        options = (("rank", lowering.event_rank(self.variable)), ("order", self.order))
        return str(
            lowering.call("sliced_distance", sliced_wasserstein, left, right, theta, how="batch", options=options)
        )


def SlicedWasserstein(
    q: Distribution,
    p: Distribution,
    *,
    order: float | Expression = 2.0,
    samples: int | None = None,
    gradient: str | None = None,
) -> Expression:
    """SW_r^r(q, p) of the variable that both declare, over the samples of the batch; a value without batch axes.

    Args:
        q: a factor or a product.
        p: the other side. What both sides draw is drawn anew for this one.
        order: r, at least 1.
        samples: so many draws for each row, or in all where there are no data.
        gradient: ``"straight-through"`` or ``"gumbel"`` for draws without reparametrised samples.

    Raises:
        FormulaError: no common variable, or an order below 1.
    """
    known = _order(order)
    left, right, variable = sides("SlicedWasserstein", q, p, gradient)
    samples = count("SlicedWasserstein", "samples", samples)
    directions = beside(variable, "vec", torch.zeros_like, shape_in(variable, *left, *right), scale=1.0)
    return Expression(SlicedWassersteinNode(left, right, variable, directions, known, samples, gradient))


def _order(order: Any) -> float | Node:
    """A number of at least 1, or a Symbol."""
    if (symbol := symbol_of(order, _order)) is not None:
        return symbol
    if (number(order) or 0) < 1:
        raise FormulaError(f"SlicedWasserstein: expected order= as a number of at least 1, got {order!r}")
    return float(order)
