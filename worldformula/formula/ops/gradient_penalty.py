r"""Penalties on the gradient of a network by one of its inputs.

    centre 0   ‖∇_x d(x)‖²            R1 on data, R2 on samples (Mescheder et al. 2018, arXiv:1801.04406, eq. 9)
    centre 1   (‖∇_x d(x)‖ − 1)²      WGAN-GP between data and samples (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3)

The network is called once more, at the value that the expression gives x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, near
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import symbol_of, written_number
from worldformula.formula.print.latex import variable as latex_variable
from worldformula.formula.print.mathml import variable as mathml_variable
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use

Net = Any


def squared_slope(net: Net, *inputs: Tensor, place: int, rank: int, centre: float) -> Tensor:
    """(‖∇ net‖ − centre)² by input number ``place`` of ``rank`` event axes, for each row: ``[*batch]``."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = inputs[place]
        x = x if x.requires_grad else x.detach().requires_grad_()
        result = net(*inputs[:place], x, *inputs[place + 1 :])
        (found,) = torch.autograd.grad(result.sum(), x, create_graph=keep)
    squared = found.square().sum(tuple(range(-rank, 0))) if rank else found.square()
    if centre == 0:
        return squared
    return ((squared + 1e-12).sqrt() - centre).square()  # the root has no slope at 0


@dataclass(frozen=True, eq=False)
class GradientPenaltyNode(Operator):
    """(‖∇_x d‖ − centre)², one number per row."""

    network: Use
    by: Variable
    centre: float | Node

    @property
    def sign(self) -> Sign:
        """The norm of a gradient, squared, and where it is centred."""
        text, c, shown = ("", "", "") if self.centre == 0 else written_number(self.centre, "{:g}".format)
        below = latex_variable(self.by)
        return Sign(
            f"‖∇_{self.by}‖²" if not c else f"(‖∇_{self.by}‖-{text})²",
            rf"\|\nabla_{{{below}}}\|^{{2}}" if not c else rf"(\|\nabla_{{{below}}}\| - {c})^{{2}}",
            f"<msup><mrow><mo>‖</mo><msub><mo>∇</mo>{mathml_variable(self.by)}</msub><mo>‖</mo>"
            f"{f'<mo>−</mo>{shown}' if c else ''}</mrow><mn>2</mn></msup>",
        )

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """The centre."""
        return (self.centre,)

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The network's factor."""
        return ((self.network,),)

    def lower(self, lowering: Any, scope: Any) -> str:
        """The gradient by autograd, at the values of the conditions."""
        factor = self.network.factor
        args = [lowering.read(c, scope, factor) for c in factor.conditions]
        options = (
            ("place", factor.conditions.index(self.by)),
            ("rank", lowering.event_rank(self.by)),
            ("centre", self.centre),
        )
        return str(lowering.call(f"slope_{self.by.key}", squared_slope, *args, net=factor, options=options))

    @property
    def estimator(self) -> tuple[str, str]:
        """By autograd."""
        return "exact, by automatic differentiation", "exact, through the gradient"


def GradientPenalty(d: Factor, *, by: str | None = None, centre: float | Expression = 0.0) -> Expression:
    """(‖∇_x d(x)‖ − centre)² for each row, at the value that the expression gives x: ``0.5 * γ * GradientPenalty(D)``.

    Args:
        d: a deterministic factor with one number per row, such as a discriminator; its network must not mix rows.
        by: the condition by which it is differentiated; the first by default.
        centre: 0 for R1, 1 for the gradient penalty of a Wasserstein GAN.

    Raises:
        FormulaError: no deterministic factor, or a condition that it does not read.
    """
    if not isinstance(d, Factor) or d.family is not None or d.net is None or d.unnormalised:
        raise FormulaError("GradientPenalty: expected a deterministic factor, e.g. Deterministic('d = D(x)', net)")
    known = {c.key: c for c in d.conditions}
    name = d.conditions[0].key if by is None else by
    if name not in known:
        raise FormulaError(f"GradientPenalty: {d} does not read {name!r}.{near(name, known)}")
    return Expression(GradientPenaltyNode(Use(d), known[name], _centre(centre)))


def _centre(centre: Any) -> float | Node:
    """Any number, or a Symbol."""
    if (symbol := symbol_of(centre, _centre)) is not None:
        return symbol
    if (known := number(centre)) is None:
        raise FormulaError(f"GradientPenalty: expected centre= as a number, got {centre!r}")
    return float(known)
