r"""Energy distance, squared (Székely & Rizzo 2013, J. Stat. Plan. Inference 143).

    D_E²(q, p) = 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖,   x, x' ~ q,  y, y' ~ p

Zero only for equal distributions with finite means; estimated without the pairs of a sample and itself, so unbiased.
The value has no batch axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import Compared, Distribution, count, marked, rows, sides
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Product


def squared_energy_distance(x: Tensor, y: Tensor, *, rank: int) -> Tensor:
    """D_E² of samples ``[..., *event]`` with any number of batch axes: one number.

    Raises:
        FormulaError: fewer than two samples of a side.
    """
    x, y = rows(x, rank), rows(y, rank)
    if min(len(x), len(y)) < 2:
        raise FormulaError(f"EnergyDistance: expected two samples of each side or more, got {len(x)} and {len(y)}")
    within = [_distances(s, s).sum() / (len(s) * (len(s) - 1)) for s in (x, y)]
    return 2 * _distances(x, y).mean() - within[0] - within[1]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖; the gradient at distance 0 is 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True, eq=False)
class EnergyDistanceNode(Compared):
    """D_E² of the samples of two sides."""

    q: Product
    p: Product
    variable: Variable
    samples: int | None
    gradient: str | None

    @property
    def sign(self) -> Sign:
        """D_E², with the number of samples."""
        k = "" if self.samples is None else f"K={self.samples}"
        below = r"\mathrm{E}" + (rf",\, {k}" if k else "")
        shown = "E" + (f", {k}" if k else "")
        return Sign(
            marked("ED²", k), rf"D_{{{below}}}^{{2}}", f"<msubsup><mi>D</mi><mi>{shown}</mi><mn>2</mn></msubsup>"
        )

    def compare(self, lowering: Any, inside: Any, left: str, right: str) -> str:
        """One number."""
        options = (("rank", lowering.event_rank(self.variable)),)
        return str(lowering.call("energy_gap", squared_energy_distance, left, right, how="batch", options=options))


def EnergyDistance(
    q: Distribution, p: Distribution, *, samples: int | None = None, gradient: str | None = None
) -> Expression:
    """D_E²(q, p) of the variable that both declare, over the samples of the batch; a value without batch axes.

    Args:
        q: a factor or a product.
        p: the other side. What both sides draw is drawn anew for this one.
        samples: so many draws for each row, or in all where there are no data.
        gradient: ``"straight-through"`` or ``"gumbel"`` for draws without reparametrised samples.

    Raises:
        FormulaError: no common variable.
    """
    left, right, variable = sides("EnergyDistance", q, p, gradient)
    samples = count("EnergyDistance", "samples", samples)
    return Expression(EnergyDistanceNode(left, right, variable, samples, gradient))
