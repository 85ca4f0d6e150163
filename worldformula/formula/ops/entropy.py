r"""Entropy, in nats.

    H[q(z|x)] = −E_q[log q(z|x)]
    H[q(w) q(z|w)] = H[q(w)] + E_{q(w)}[H[q(z|w)]]                        Cover & Thomas 2006, thm. 2.2.1

Of a continuous variable it is the differential entropy, which may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from worldformula.errors import NoClosedFormError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import (
    Distribution,
    Expanded,
    OwnEntropy,
    chained,
    check_pathwise,
    count,
    distribution,
    enumerable,
    has_entropy,
    random,
)
from worldformula.formula.syntax.check import pathwise
from worldformula.formula.syntax.nodes import Expectation, Log, Negative, Node, Product, Use


@dataclass(frozen=True, eq=False)
class EntropyNode(Expanded):
    """H[q] of a factor or a product."""

    q: Product
    samples: int | None = None

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
        """The product."""
        return (self.q,)

    @cached_property
    def expansion(self) -> Node:
        """The entropies of the factors, under the draws that their conditions need; or −E_q[log q]."""
        if self.samples is not None:
            return Negative(Expectation(self.q, Log(random(self.q)), None, self.samples))
        return chained("Entropy", self.q, (), _own)

    @property
    def estimator(self) -> tuple[str, str]:
        """Closed form, enumeration or Monte Carlo."""
        if self.samples is not None:
            return f"Monte Carlo, {self.samples} samples of q", "pathwise, through the samples"
        how = "closed form" if all(has_entropy(u.factor.family) for u in random(self.q)) else "exact: every value"
        if isinstance(self.expansion, Expectation) and len(self.q) > 1:
            return f"{how} of the factors, given the draws that they depend on", "pathwise, or exact where enumerated"
        return how, "exact"


def _own(use: Use, _: Use | None) -> Node:
    """The entropy of one factor given its conditions."""
    factor = use.factor
    if has_entropy(factor.family):
        return OwnEntropy(use)
    if enumerable(factor):
        return Negative(Expectation((use,), Log((use,)), "exact"))
    assert factor.family is not None
    write = "Entropy(q, samples=8)" if pathwise(factor.family) else "-E(q, log(q), gradient='score', samples=8)"
    raise NoClosedFormError(f"Entropy({factor}): no closed form for {factor.family.name}\nestimate it: {write}")


def Entropy(q: Distribution, *, samples: int | None = None) -> Expression:
    """H[q]: in closed form or by enumeration, for each row of the batch; of products by the chain rule.

    Args:
        q: a factor or a product.
        samples: estimate −E_q[log q] by so many draws instead.

    Raises:
        NoClosedFormError: no exact way, and no ``samples``.
        GradientError: a sample that is needed has no gradient.
    """
    uses = distribution("Entropy", q)
    samples = count("Entropy", "samples", samples)
    if samples is not None:
        check_pathwise("Entropy", uses, f"-E(q, log(q), gradient='score', samples={samples})")
    node = EntropyNode(uses, samples)
    _: Any = node.expansion
    return Expression(node)
