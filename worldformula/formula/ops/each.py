r"""The mean over the experts that a row has: \frac{1}{M} [ f(q_1) + … + f(q_M) ].

    KL bound of a mixture    KL(Σ_k w_k q_k ‖ p) ≤ Σ_k w_k KL(q_k ‖ p)        Sutter et al. 2021, openreview 5Y21V0RDBV
    "looser" bound           \frac{1}{M} Σ_m log E_{q_m}[p / q]               Shi et al. 2019, arXiv:1911.03393

An expert that reads what a row lacks (``present=``) is left out of the mean of that row, as a mixture leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worldformula.errors import FormulaError
from worldformula.families.experts import mean_of_present
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.experts import MoE
from worldformula.formula.factors.joint import Factor
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use


@dataclass(frozen=True, eq=False)
class EachNode(Operator):
    """The mean of one body for each expert."""

    experts: tuple[Factor, ...]
    bodies: tuple[Node, ...]
    separator = "+"
    of_shared = True

    @property
    def sign(self) -> Sign:
        """One over their number."""
        count = len(self.bodies)
        fraction = f"<mfrac><mn>1</mn><mn>{count}</mn></mfrac>"
        return Sign(f"1/{count} ", rf"\frac{{1}}{{{count}}}", fraction)

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The bodies."""
        return self.bodies

    @property
    def extra(self) -> Product:
        """The experts themselves, which say what a row has to have."""
        return tuple(map(Use, self.experts))

    def lower(self, lowering: Any, scope: Any) -> Any:
        """Every body where its expert is present; the mean over these."""
        values, flags, flagged = [], [], []
        for place, (expert, body) in enumerate(zip(self.experts, self.bodies, strict=True)):
            keys = lowering.masked & {c.key for c in expert.conditions}
            inside = scope.part().without(keys)
            values.append((yield body, inside))
            if keys:
                lowering.params(Use(expert), inside)  # so that its inputs are known
                flags.append(lowering.presence(frozenset(keys)))
                flagged.append(place)
        options = (("flagged", tuple(flagged)),) if flagged else ()
        return lowering.call("mean_of_each", mean_of_present, *values, *flags, options=options)

    @property
    def estimator(self) -> tuple[str, str]:
        """That of the bodies."""
        return "mean of what stands inside, over the experts that a row has", "as inside"


def each(experts: MoE | Sequence[Factor], f: Callable[[Factor], Expression]) -> Expression:
    """The mean of ``f(q)`` over the experts ``q`` of a mixture, or over a list of factors.

    >>> from worldformula import KL, MoE, Normal
    >>> p, a, b = Normal("p(z)", shape=2), Normal("q(z|a)", abs, shape=2), Normal("q(z|b)", abs, shape=2)
    >>> each(MoE([a, b]), lambda q: KL(q, p))
    <Expression 1/2 [KL(q(z|a) ‖ p(z)) + KL(q(z|b) ‖ p(z))]>

    Args:
        experts: a mixture, whose parts are taken, or the factors.
        f: from one expert to an expression.

    Raises:
        FormulaError: no expert, a mixture with weights, or something else than an expression from ``f``.
    """
    if isinstance(experts, MoE) and experts.gate is not None:
        raise FormulaError(f"each: {experts} has weights, and this is the plain mean; write each({experts}.experts, f)")
    parts = experts.parts if isinstance(experts, MoE) else tuple(experts)
    if not parts or not all(isinstance(p, Factor) for p in parts):
        raise FormulaError(f"each: expected a mixture MoE or a list of factors, got {experts!r}")
    made = [f(part) for part in parts]
    if wrong := next((m for m in made if not isinstance(m, Expression)), None):
        raise FormulaError(f"each: expected f to return an expression such as KL(q, p), got {type(wrong).__name__}")
    return Expression(EachNode(parts, tuple(m.node for m in made)))
