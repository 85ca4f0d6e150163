r"""The asymmetric square whose minimiser is an expectile (Newey & Powell 1987, Econometrica 55, eq. 2.7).

    ρ_τ[f] = τ max(0, f)² + (1 − τ) max(0, −f)²

Of f = y − V, its mean is least where V is the τ-expectile of y: the mean at τ = ½, towards the largest y as τ goes to
1, towards the smallest as τ goes to 0. With costs and a small τ a critic learns what the better continuations of a
state cost, and asks for no action that nobody has tried: IQL (Kostrikov et al. 2021, arXiv:2110.06169, eq. 5, of
rewards).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.expressions.values import relu
from worldformula.formula.ops.base import Expanded, marked
from worldformula.formula.syntax.check import check_function
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node, Product


@dataclass(frozen=True, eq=False)
class ExpectileNode(Expanded):
    """ρ_τ of a value."""

    f: Node
    share: float

    @property
    def sign(self) -> Sign:
        """ρ with τ."""
        shown = f"{self.share:g}"
        return Sign(marked("Expectile", f"τ={shown}"), rf"\rho_{{{shown}}}", f"<msub><mi>ρ</mi><mn>{shown}</mn></msub>")

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The value."""
        return (self.f,)

    @cached_property
    def expansion(self) -> Node:
        """Both squares."""
        f = Expression(self.f)
        return (self.share * relu(f) ** 2 + (1 - self.share) * relu(-f) ** 2).node

    @property
    def estimator(self) -> tuple[str, str]:
        """A function of the value."""
        return "exact", "exact"


def Expectile(f: Expression, share: float) -> Expression:
    """ρ_τ[f] = τ max(0, f)² + (1 − τ) max(0, −f)², elementwise: ``Expectile(Value("y") - Value("V"), 0.1)``.

    Args:
        f: a difference: what is learnt from, less what is learnt.
        share: τ, in (0, 1); ½ is half of the square.

    Raises:
        FormulaError: no formula, or τ outside (0, 1).
    """
    known = number(share)
    if known is None or not 0 < known < 1:
        raise FormulaError(f"Expectile: expected share as a number in (0, 1), got {share!r}")
    node = as_node(f)
    check_function("square", node)
    return Expression(ExpectileNode(node, float(known)))
