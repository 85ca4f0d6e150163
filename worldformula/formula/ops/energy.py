r"""The energy of a Gibbs factor at the value that the expression gives its variable: E(x) = −log p(x) − log Z.

It stands where the log-density cannot: ``E(q, log(q) + Energy(p))`` is KL(q ‖ p) up to the constant log Z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldformula.errors import FormulaError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.gibbs import Gibbs
from worldformula.formula.factors.langevin import energies
from worldformula.formula.syntax.nodes import Node, Operator, Product, Use


@dataclass(frozen=True, eq=False)
class EnergyNode(Operator):
    """E(x), one number per row."""

    p: Gibbs
    symbol = Sign("Energy", r"\mathcal{E}", "<mi>ℰ</mi>")

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The factor."""
        return ((Use(self.p),),)

    def lower(self, lowering: Any, scope: Any) -> str:
        """The network at the value."""
        return value_of_energy(lowering, self.p, scope)

    @property
    def estimator(self) -> tuple[str, str]:
        """A network."""
        return "exact, at the values it is given; log Z is left out", "exact"


def value_of_energy(lowering: Any, p: Gibbs, scope: Any) -> str:
    """The operation of E(x) with the values of a scope: ``[*batch]``."""
    args = [lowering.read(v, scope, p) for v in (p.variable, *p.conditions)]
    options = (("rank", lowering.event_rank(p.variable)),)
    return str(lowering.call(f"energy_{p.variable.key}", energies, *args, net=p, options=options))


def Energy(p: Gibbs) -> Expression:
    """E(x) of a Gibbs factor, for each row of the batch: −log p(x) up to a constant.

    Raises:
        FormulaError: another kind of factor.
    """
    if not isinstance(p, Gibbs):
        raise FormulaError(f"Energy: expected a Gibbs factor, got {type(p).__name__}; of others write -log(p)")
    return Expression(EnergyNode(p))
