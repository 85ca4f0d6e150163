r"""The free energy of a latent variable, F(x, y) = −(1/β) log Σ_z exp(−β E(x, y, z)) (LeCun et al. 2006, eq. 16).

    FreeEnergy(code, E, beta=2.0)                   every value of a discrete latent
    FreeEnergy(latent, E, beta=2.0, samples=64)     −(1/β) log ∫ exp(−β E) dz by draws of the latent's own law q, each
                                                    weighing 1/q(z); above the true one in the mean, by ever less

It is at most the least energy, `Min`, which it is in the limit of β → ∞, and it is smooth. The gradient is that of E at
every value, by the weights exp(−β (E − F)), which sum to 1: those of the Gibbs law of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldformula.errors import FormulaError, NoClosedFormError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import E, Expression, log
from worldformula.formula.expressions.values import exp
from worldformula.formula.ops.base import count, enumerable, symbol_of, written_number
from worldformula.formula.ops.least import OverLatent, Steps, checked, every_value, reduced
from worldformula.formula.plan.scope import Scope
from worldformula.formula.print import latex, mathml
from worldformula.formula.syntax.check import pathwise
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import number
from worldformula.formula.syntax.nodes import Node


@dataclass(frozen=True, eq=False)
class FreeEnergyNode(OverLatent):
    """−(1/β) log Σ_z exp(−β E) of a discrete latent."""

    beta: float | Node

    @property
    def sign(self) -> Sign:
        """F with its variable and β."""
        z = self.latent.factor.variable
        shown, written, said = written_number(self.beta, "{:g}".format)
        return Sign(
            f"F_{{{z}; β={shown}}}",
            rf"\mathcal{{F}}_{{{latex.variable(z)}}}^{{\beta={written}}}",
            f"<msubsup><mi>ℱ</mi>{mathml.variable(z)}<mrow><mi>β</mi><mo>=</mo>{said}</mrow></msubsup>",
        )

    @property
    def numbers(self) -> tuple[int | float | Node, ...]:
        """β."""
        return (self.beta,)

    def lower(self, lowering: Any, scope: Scope) -> Steps:
        """One log-sum-exp over the values."""
        value, axis = yield from every_value(lowering, "FreeEnergy", self.latent, self.energy, scope)
        beta = lowering.lower(self.beta, scope) if isinstance(self.beta, Node) else self.beta
        whole = reduced(lowering, "logsumexp", lowering.unary("negative", lowering.binary("*", beta, value)), axis)
        return str(lowering.binary("/", lowering.unary("negative", whole), beta))

    @property
    def estimator(self) -> tuple[str, str]:
        """Every value."""
        return "exact: every value", "exact, each value by its weight"


def FreeEnergy(
    latent: Factor, energy: Expression, *, beta: float | Expression = 1.0, samples: int | None = None
) -> Expression:
    """−(1/β) log Σ_z exp(−β E), for each row of the batch; see the module.

    Args:
        latent: the factor of z: a discrete one whose values are summed, or with ``samples`` one that is drawn from.
        energy: one number per row; it reads z.
        beta: β, how sharp the soft minimum is; a number or a Symbol.
        samples: estimate the integral by so many draws.

    Raises:
        FormulaError: no energy, or a β that is not positive.
        NoClosedFormError: a latent whose values cannot be listed, and no ``samples``.
    """
    use, node = checked("FreeEnergy", latent, energy)
    known, samples = _beta(beta), count("FreeEnergy", "samples", samples)
    if samples is None:
        if not enumerable(latent):
            raise NoClosedFormError(
                f"FreeEnergy over {latent}: its values cannot be listed, and the integral has no closed form\n"
                f"estimate it: FreeEnergy(p, f, beta=..., samples=64)"
            )
        return Expression(FreeEnergyNode(use, node, known))
    if latent.family is None or not pathwise(latent.family):
        raise FormulaError(f"FreeEnergy over {latent}: samples= are of a latent with reparametrised draws, as a Normal")
    times = Expression(known) if isinstance(known, Node) else known
    return -log(E(latent, exp(-(times * energy) - log(latent)), samples=samples)) / times


def _beta(value: Any) -> float | Node:
    if (symbol := symbol_of(value, _beta)) is not None:
        return symbol
    known = number(value)
    if known is None or not known > 0:
        raise FormulaError(f"FreeEnergy: expected beta= as a positive number, got {value!r}")
    return float(known)
