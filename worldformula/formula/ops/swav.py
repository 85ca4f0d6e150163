r"""Assignments to prototypes (Caron et al. 2020, SwAV, arXiv:2006.09882, eqs. 2 to 5).

    S[a, b] = −1/N Σ_n Σ_k y_nk log softmax_k(a_n / τ),     Y = Diag(u) exp(b / ε) Diag(v)

a and b are scores of N rows by K prototypes, inner products of directions. Y is what Sinkhorn and Knopp make of b in a
few rounds: every row is shared out among the prototypes, and every prototype gets as much of all rows as any other, so
that not all rows can be assigned to one. It is a target where b is stopped, ``SwAV(a, sg(b))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.ops.base import count, marked, symbol_of, written_number
from worldformula.formula.ops.of_rows import OfRows, Rows, counted, subscript
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node

ITERATIONS = 3  # of the authors' code


def swav(
    *given: Tensor, ranks: tuple[int, int], temperature: Tensor | float, epsilon: Tensor | float, iterations: int
) -> Tensor:
    """S of two scores ``[..., K]`` of the same rows, and behind them flags of those that count: one number.

    Raises:
        ShapeError: unequal rows or numbers of prototypes, or one row.
    """
    rows = Rows("SwAV", given, ranks, alike=True)
    a, b = rows.values
    shares = sinkhorn(b / epsilon, rows.weight, iterations)
    found = -(shares * (a / temperature).log_softmax(-1)).sum(-1, keepdim=True)
    return rows.over_steps(rows.mean(found)[0])


def sinkhorn(scores: Tensor, weight: Tensor | None, iterations: int) -> Tensor:
    """Shares ``[N, K]`` of rows among prototypes after so many rounds, each row 1. Rows without weight have no part in
    what a prototype gets.
    """
    held, lowest = scores, torch.finfo(scores.dtype).min / 2
    for _ in range(iterations):
        taken = held if weight is None else held.masked_fill((weight == 0)[:, None], lowest)
        held = held - taken.logsumexp(0, keepdim=True)  # each prototype gets as much
        held = held.log_softmax(1)  # each row is shared out whole
    return held.exp()


@dataclass(frozen=True, eq=False)
class SwAVNode(OfRows):
    """S of two scores."""

    a: Node
    b: Node
    temperature: float | Node
    epsilon: float | Node
    iterations: int
    where: Node | None = None
    statistic = swav
    wish = "swav"

    @property
    def values(self) -> tuple[Node, ...]:
        """Both."""
        return self.a, self.b

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """τ and ε."""
        return self.temperature, self.epsilon

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """τ, ε and the rounds."""
        return (("temperature", self.temperature), ("epsilon", self.epsilon), ("iterations", self.iterations))

    @property
    def sign(self) -> Sign:
        """S with τ and ε, and the rounds where they are not the usual three."""
        settings = (("τ", r"\tau", self.temperature), ("ε", r"\epsilon", self.epsilon))
        told = [(symbol, latex, written_number(value, "{:g}".format)) for symbol, latex, value in settings]
        rounds = [] if self.iterations == ITERATIONS else [str(self.iterations)]
        rows, mathml = subscript(*rounds, *self.marks)
        below = r",\, ".join((*(rf"{latex}={own[1]}" for _, latex, own in told), *([rows] if rows else [])))
        shown = "".join(f"<mi>{symbol}</mi><mo>=</mo>{own[2]}" for symbol, _, own in told)
        return Sign(
            marked("SwAV", *(f"{symbol}={own[0]}" for symbol, _, own in told), *rounds, *self.marks),
            rf"\mathrm{{SwAV}}_{{{below}}}",
            f"<msub><mi>SwAV</mi><mrow>{shown}{mathml}</mrow></msub>",
        )


def SwAV(
    a: Expression,
    b: Expression,
    *,
    temperature: float | Expression = 0.1,
    epsilon: float | Expression = 0.05,
    iterations: int = ITERATIONS,
    where: Expression | None = None,
) -> Expression:
    r"""The cross-entropy of the prototypes that scores say with those that balanced scores of all rows assign: a number
    without batch axes.

    Args:
        a: scores of every row, one for each prototype, such as cosines.
        b: those that are balanced, of the same width; ``sg(...)`` of it where it is a target.
        temperature: τ, what a is divided by.
        epsilon: ε, what b is divided by; small values assign rows to single prototypes.
        iterations: rounds of the balancing.
        where: which rows count, 1 or 0. Those of steps that a sum leaves out never do.

    Raises:
        FormulaError: no formulas, a τ or ε that is not positive, or no round.
        ShapeError: at the call, for unequal widths or one row.
    """
    rounds = count("SwAV", "iterations", iterations)
    tau, sharpness = _positive("temperature", temperature), _positive("epsilon", epsilon)
    return Expression(SwAVNode(as_node(a), as_node(b), tau, sharpness, rounds, counted(where)))


def _positive(name: str, value: Any) -> float | Node:
    if (symbol := symbol_of(value, partial(_positive, name))) is not None:
        return symbol
    known = number(value)
    if known is None or not known > 0:
        raise FormulaError(f"SwAV: expected {name}= as a positive number, got {value!r}")
    return float(known)
