r"""Cross-entropy, in nats: H(q, p) = −E_q[log p] = H[q] + KL(q ‖ p)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from worldformula.errors import FormulaError, NoClosedFormError, table
from worldformula.families.closed import kl_pair
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import (
    Distribution,
    Expanded,
    OwnEntropy,
    chained,
    check_pathwise,
    computed,
    count,
    distribution,
    enumerated,
    has_entropy,
    random,
    shown,
)
from worldformula.formula.syntax.check import pathwise, scored
from worldformula.formula.syntax.nodes import Binary, Divergence, Expectation, Log, Negative, Node, Product, Use


@dataclass(frozen=True, eq=False)
class CrossEntropyNode(Expanded):
    """H(q, p) of two factors or products over the same variables."""

    q: Product
    p: Product
    samples: int | None = None
    separator = ","

    @property
    def sign(self) -> Sign:
        """ℍ, with a hat and the number of samples where it is estimated."""
        if self.samples is None:
            return Sign("H", r"\mathbb{H}", "<mi>ℍ</mi>")
        k = f"K={self.samples}"
        hat = '<mover accent="true"><mi>ℍ</mi><mo stretchy="false">^</mo></mover>'
        return Sign(f"Ĥ{{{k}}}", rf"\widehat{{\mathbb{{H}}}}^{{{k}}}", f"<msup>{hat}<mi>{k}</mi></msup>")

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two products."""
        return self.q, self.p

    @cached_property
    def expansion(self) -> Node:
        """H[q_i] + KL(q_i ‖ p_i) of every pair, under the draws that their conditions need; or −E_q[log p]."""
        if self.samples is None:
            return chained("CrossEntropy", self.q, self.p, _pair)
        known = {v for u in self.q for v in u.factor.variables}
        draws = (*self.q, *(u for u in computed(self.p) if not known & {*u.factor.variables}))
        return Negative(Expectation(draws, Log(random(self.p)), None, self.samples))

    @property
    def estimator(self) -> tuple[str, str]:
        """Closed form, enumeration or Monte Carlo."""
        if self.samples is not None:
            return f"Monte Carlo, {self.samples} samples of q", "pathwise, through the samples"
        if len(self.q) > 1:
            return "exact for every pair, given the draws that they depend on", "pathwise, or exact where enumerated"
        return "exact: every value" if isinstance(
            self.expansion, Negative
        ) else "closed form: H[q] + KL(q ‖ p)", "exact"


def _pair(q: Use, p: Use | None) -> Node:
    """H(q, p) of one factor each."""
    assert p is not None
    left, right = q.factor, p.factor
    assert left.family is not None
    assert right.family is not None
    if has_entropy(left.family) and kl_pair(left.family, right.family) is not None:
        return Binary("+", OwnEntropy(q), Divergence(q, p))
    if enumerated("CrossEntropy", left, right):
        return Negative(Expectation((q,), Log((p,)), "exact"))
    whole = "CrossEntropy(q, p, samples=8), or " if pathwise(left.family) else ""
    raise NoClosedFormError(
        f"CrossEntropy({left}, {right}): no closed form for {left.family.name}, {right.family.name}\n"
        f"estimate it: {whole}-E(q, log(p){scored(left.family)}) on the shared sample"
    )


def CrossEntropy(q: Distribution, p: Distribution, *, samples: int | None = None) -> Expression:
    """−E_q[log p]: in closed form or by enumeration, for each row of the batch; of products by the chain rule.

    Args:
        q: what is drawn.
        p: over the same variables.
        samples: estimate it by so many draws instead.

    Raises:
        FormulaError: other variables on one side.
        NoClosedFormError: no exact way, and no ``samples``.
    """
    left, right = distribution("CrossEntropy", q), distribution("CrossEntropy", p)
    names = [{u.factor.variable for u in random(side)} for side in (left, right)]
    if names[0] != names[1]:
        rows = [(shown(side), ", ".join(str(u.factor.variable) for u in random(side))) for side in (left, right)]
        raise FormulaError(
            "CrossEntropy: expected two sides over the same random variables\n"
            + table(("side", "random variables"), rows)
            + "\ngive both the same variables, by rename(...) if need be"
        )
    samples = count("CrossEntropy", "samples", samples)
    if samples is not None:
        check_pathwise("CrossEntropy", left, f"-E(q, log(p), gradient='score', samples={samples})")
    node = CrossEntropyNode(left, right, samples)
    _: Any = node.expansion
    return Expression(node)
