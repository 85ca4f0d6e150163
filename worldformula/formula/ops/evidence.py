r"""The evidence of a discrete chain: log p(x_{1:T}) = log Σ_{z_{1:T}} p(z_1) Π_t p(z_t|z_{t-1}) p(x_t|z_t), exactly.

The forward recursion in logarithms, one pass over time (Rabiner 1989, section III.A):

    α_t = log p(z_t|x_{1:t}),    log p(x_{1:T}) = Σ_t log Σ_j exp(log p(z_t=j|x_{<t}) + log p(x_t|z_t=j))

α is carried from step to step: ``out.last`` has it, and ``start=`` goes on from it. Its gradient is exact too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from worldformula.errors import FormulaError, TimeError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.chain import Chain
from worldformula.formula.ops.chain_tables import tables
from worldformula.formula.plan import clocks
from worldformula.formula.plan.scope import Scope
from worldformula.formula.print import latex, mathml
from worldformula.formula.syntax import text
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Operator, OverTime, Product


@dataclass(frozen=True, eq=False)
class OverChain(Operator):
    """What is known of a chain. Abstract."""

    chain: Chain

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The factors of a step."""
        return (self.chain.uses,)

    @property
    def extra(self) -> Product:
        """The factors that it begins with."""
        return self.chain.begin

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The states, which are summed out."""
        return tuple(u.factor for u in (*self.chain.states, *self.chain.begin))

    @property
    def clock(self) -> OverTime:
        """The sum over time that it runs in."""
        return self.chain.clock

    @property
    def sets(self) -> bool:
        """Nothing is drawn: every value of a state is taken in turn."""
        return True

    @property
    def estimator(self) -> tuple[str, str]:
        """The recursion."""
        return f"exact: the forward recursion over {self.chain.index}, every state", "exact"

    def refuse_inside(self, scope: Scope) -> None:
        """A chain is of the whole series."""
        if scope.index is not None:
            raise TimeError(
                f"{text.text(self)}: a chain goes over all steps, and stands inside the Sum over {scope.index!r}\n"
                f"put it beside the Sum: Evidence(...) + Sum({scope.index!r}, ...)"
            )


@dataclass(frozen=True, eq=False)
class Predictive(OverChain):
    """log p(x_t|x_{<t}) of one step of a chain: what its evidence sums."""

    symbol = Sign("log p(step|before)", r"\log p", "<mi>log p</mi>")

    def lower(self, lowering: Any, scope: Scope) -> str:
        """One step of the recursion."""
        return tables(lowering, self.chain, scope).step


@dataclass(frozen=True, eq=False)
class EvidenceNode(OverChain):
    """log Σ_{z_{1:T}} Π_t of the factors of a step."""

    @property
    def sign(self) -> Sign:
        """log Σ Π, with the states, the flags and the start."""
        shown, written, said = series(self.chain)
        clock = replace(self.chain.clock, begin=self.chain.begin)
        sums = f'<munder><mo largeop="true" movablelimits="false">∑</mo>{said}</munder>'
        return Sign(
            f"log Σ_{{{shown}}} Π_{text.below(clock)}",
            rf"\log \sum_{{{written}}} \prod_{{{latex.below(clock)}}}",
            f"<mrow><mi>log</mi>{mathml.APPLY}{sums}{mathml.over(clock).replace('∑', '∏')}</mrow>",
        )

    def lower(self, lowering: Any, scope: Scope) -> Any:
        """The sum over time of the logarithms that normalise the law of the state."""
        self.refuse_inside(scope)
        clock = replace(self.chain.clock, body=Predictive(self.chain))
        value = yield from clocks.over_time(lowering, clock, scope.part())
        lowering.labels[value] = self
        return value


def series(chain: Chain) -> tuple[str, str, str]:
    """The states of all steps, z_{1:T}, as text, LaTeX and MathML."""
    whole: list[Variable] = [replace(v, span=True) for v in chain.hidden]
    said = mathml.COMMA.join(map(mathml.variable, whole))
    return ",".join(map(str, whole)), ", ".join(map(latex.variable, whole)), f"<mrow>{said}</mrow>"


def checked(what: str, chain: Any) -> Chain:
    """A chain.

    Raises:
        FormulaError: anything else.
    """
    if not isinstance(chain, Chain):
        raise FormulaError(
            f"{what}: expected a Chain('t', transition * emission, over='z', initial=...), got {type(chain).__name__}"
        )
    return chain


def Evidence(chain: Chain) -> Expression:
    """log p(x_{1:T}) of a chain, in nats, one number for each row of the batch: ``[B]``; see the module.

    Raises:
        FormulaError: no chain.
    """
    return Expression(EvidenceNode(checked("Evidence", chain)))
