r"""Contrastive predictive coding over several horizons (van den Oord et al. 2018, arXiv:1807.03748, eq. 4).

    CPC_γ[a, b] = Σ_k w_k NCE[a^k, b^k],     w_k = γ^{k−1} / Σ_j γ^{j−1},     k = 1 … K

Both are values ``[K, D]`` of a row: a^k is what was predicted of it from one horizon, b^k that horizon's view of it.
Where the network that predicts has read the actions in between, this is the action-conditioned one of TWISTER (Burchi &
Timofte 2025, ICLR), with γ = 0.75. Every horizon has rows of its own that count: what lies before the beginning of an
episode has predicted nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worldformula.errors import FormulaError, ShapeError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import marked, symbol_of, written_number
from worldformula.formula.ops.info_nce import info_nce
from worldformula.formula.ops.of_rows import OfRows, counted, subscript
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node


def cpc(*given: Tensor, ranks: tuple[int, ...], decay: Tensor | float, each: bool = False) -> Tensor:
    """CPC_γ of two values ``[..., K, D]`` of the same rows, flags ``[..., K]`` of the horizons that count in each where
    ``each``, and behind them flags ``[...]`` of the rows that count: one number.

    Raises:
        ShapeError: values of other axes, unequal numbers of horizons, or what InfoNCE refuses.
    """
    a, b, *flags = given
    own = flags.pop(0) if each else None
    horizons = _horizons((a, b), own, ranks)
    weights: list[Tensor | float] = [decay**k for k in range(horizons)]
    found = []
    for k, weight in enumerate(weights):
        counts = ([] if own is None else [own[..., k]]) + flags
        found.append(weight * info_nce(a[..., k, :], b[..., k, :], *counts, ranks=(1, 1), temperature=1.0))
    return sum(found[1:], found[0]) / sum(weights)


def _horizons(values: Sequence[Tensor], flags: Tensor | None, ranks: Sequence[int]) -> int:
    """How many horizons all have."""
    shapes = [list(x.shape) for x in values] + ([] if flags is None else [list(flags.shape)])
    counts = {x.shape[-2] for x in values if x.ndim > 1} | (set() if flags is None else {flags.shape[-1]})
    if any(rank != 2 for rank in ranks) or len(counts) != 1:
        raise ShapeError(
            f"CPC: expected two values of the event [horizons, numbers], and where= of [horizons], got {shapes}\n"
            f"declare the axes: shape=(K, D) on the factor, Value('w', shape=K) for the flags"
        )
    return counts.pop()


@dataclass(frozen=True, eq=False)
class CPCNode(OfRows):
    """CPC_γ of two values."""

    a: Node
    b: Node
    decay: float | Node
    where: Node | None = None
    statistic = cpc
    wish = "cpc"
    flags_rank = 1

    @property
    def values(self) -> tuple[Node, ...]:
        """Both."""
        return self.a, self.b

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """γ."""
        return (self.decay,)

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """γ, and whether each horizon has flags of its own."""
        return (("decay", self.decay), *(() if self.where is None else (("each", True),)))

    @property
    def sign(self) -> Sign:
        """CPC with its γ."""
        text, latex, shown = written_number(self.decay, "{:g}".format)
        rows, mathml = subscript(*self.marks)
        below = rf"{latex},\, {rows}" if rows else latex
        return Sign(
            marked("CPC", f"γ={text}", *self.marks),
            rf"\mathrm{{CPC}}_{{{below}}}",
            f"<msub><mi>CPC</mi><mrow>{shown}{mathml}</mrow></msub>",
        )


def CPC(
    a: Expression, b: Expression, *, decay: float | Expression = 0.75, where: Expression | None = None
) -> Expression:
    r"""The weighted mean of InfoNCE over horizons, each with the other rows as its negatives: a number without batch
    axes.

    Args:
        a: predictions of every row, one for each horizon, of the event ``(K, D)``.
        b: what they are of, each horizon's view of it, of the same event.
        decay: γ, by which a horizon weighs less than the one before.
        where: which horizons count in which rows, flags of the event ``(K,)``, 1 or 0. Those of steps that a sum leaves
            out never do.

    Raises:
        FormulaError: no formulas, or a decay that is not positive.
        ShapeError: at the call, for values of other axes, unequal widths or one row.
    """
    return Expression(CPCNode(as_node(a), as_node(b), _decay(decay), counted(where)))


def _decay(decay: Any) -> float | Node:
    if (symbol := symbol_of(decay, _decay)) is not None:
        return symbol
    known = number(decay)
    if known is None or not known > 0:
        raise FormulaError(f"CPC: expected decay= as a positive number, got {decay!r}")
    return float(known)
