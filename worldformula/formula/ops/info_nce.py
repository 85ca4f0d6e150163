r"""InfoNCE: which of the targets belongs to a row (van den Oord et al. 2018, arXiv:1807.03748, eq. 4).

    NCE_τ[a, b] = −1/N Σ_n log exp(s(a_n, b_n)/τ) / Σ_m exp(s(a_n, b_m)/τ),     s(a, b) = aᵀb, or their cosine

log N − NCE is at most the mutual information of a and b. The negatives are all other rows, or with ``negatives="step"``
the other rows at the same step alone (those of one sequence are near copies of each other: TPC, arXiv:2106.07156).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import FormulaError, near
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import marked, symbol_of, written_number
from worldformula.formula.ops.of_rows import OfRows, Rows, counted, subscript
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node

NEGATIVES = ("rows", "step")


def info_nce(
    *given: Tensor, ranks: tuple[int, int], temperature: Tensor | float, cosine: bool = False, by_step: bool = False
) -> Tensor:
    """NCE_τ of two values ``[..., D]`` of the same rows, and behind them flags of those that count: a number from 0.

    Raises:
        ShapeError: unequal rows or widths, or one row.
    """
    rows = Rows("InfoNCE", given, ranks, by_step=by_step, alike=True)
    a, b = rows.values
    if cosine:
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    scores = a @ b.mT / temperature
    right = torch.diagonal(scores, dim1=-2, dim2=-1)
    if rows.weight is not None:  # what does not count is no negative
        scores = scores.masked_fill((rows.weight == 0).unsqueeze(-2), torch.finfo(scores.dtype).min)
    found = (scores.logsumexp(-1) - right)[..., None]
    return rows.over_steps(rows.mean(found)[..., 0])


@dataclass(frozen=True, eq=False)
class InfoNCENode(OfRows):
    """NCE_τ of two values."""

    a: Node
    b: Node
    temperature: float | Node
    cosine: bool
    by_step: bool  # negatives of the same step alone
    where: Node | None = None
    statistic = info_nce
    wish = "info_nce"

    @property
    def values(self) -> tuple[Node, ...]:
        """Both."""
        return self.a, self.b

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The temperature."""
        return (self.temperature,)

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """The temperature, and the cosine."""
        return (("temperature", self.temperature), *((("cosine", True),) if self.cosine else ()))

    @property
    def sign(self) -> Sign:
        """NCE with what is not as usual."""
        plain = self.temperature == 1.0
        text, latex, shown = ("", "", "") if plain else written_number(self.temperature, "{:g}".format)
        words = [*(["cos"] if self.cosine else []), *self.marks]
        rows, mathml = subscript(*words)
        below = r",\, ".join(part for part in (latex, rows) if part)
        return Sign(
            marked("InfoNCE", f"τ={text}" if text else "", *words),
            r"\mathrm{NCE}" + (f"_{{{below}}}" if below else ""),
            f"<msub><mi>NCE</mi><mrow>{shown}{mathml}</mrow></msub>" if below else "<mi>NCE</mi>",
        )


def InfoNCE(
    a: Expression,
    b: Expression,
    *,
    temperature: float | Expression = 1.0,
    cosine: bool = False,
    negatives: str = "rows",
    where: Expression | None = None,
) -> Expression:
    r"""−mean log softmax of the scores of each row's own target among those of all rows: a number without batch axes.

    Args:
        a: a value of every row, such as a prediction, ``Value(r"\hat e")``.
        b: its target, of the same width.
        temperature: what the scores are divided by.
        cosine: score by the cosine instead of the inner product.
        negatives: ``"rows"``, all others, those of other steps included; or ``"step"``, those of the same step.
        where: which rows count, also as negatives, 1 or 0. Those of steps that a sum leaves out never do.

    Raises:
        FormulaError: no formulas, a temperature that is not positive, or unknown negatives.
        ShapeError: at the call, for unequal widths or one row.
    """
    if negatives not in NEGATIVES:
        raise FormulaError(
            f"InfoNCE: expected negatives= as one of {', '.join(NEGATIVES)}, got {negatives!r}."
            f"{near(str(negatives), NEGATIVES)}"
        )
    step = negatives == "step"
    node = InfoNCENode(as_node(a), as_node(b), _positive(temperature), bool(cosine), step, counted(where))
    return Expression(node)


def _positive(temperature: Any) -> float | Node:
    if (symbol := symbol_of(temperature, _positive)) is not None:
        return symbol
    known = number(temperature)
    if known is None or not known > 0:
        raise FormulaError(f"InfoNCE: expected temperature= as a positive number, got {temperature!r}")
    return float(known)
