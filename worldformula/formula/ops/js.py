r"""Jensen–Shannon divergence (Lin 1991), in nats, between 0 and log 2.

    D_JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m),   m = ½ (p + q)
               = log 2 − ½ E_p[softplus(log q − log p)] − ½ E_q[softplus(log p − log q)]

The second line needs no density of the mixture; both expectations are exact where the variable has few values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from worldformula.errors import FormulaError, NoClosedFormError, ShapeError
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.ops.base import (
    Distribution,
    Expanded,
    check_pathwise,
    count,
    distribution,
    enumerable,
    enumerated,
    random,
    shown,
)
from worldformula.formula.syntax.nodes import Binary, Expectation, Function, Log, Node, Number, Product


@dataclass(frozen=True, eq=False)
class JSNode(Expanded):
    """D_JS of two factors or products over the same variables."""

    p: Product
    q: Product
    samples: int | None = None

    @property
    def sign(self) -> Sign:
        """D with a hat and the number of samples where it is estimated."""
        if self.samples is None:
            return Sign("JS", r"D_{\mathrm{JS}}", "<msub><mi>D</mi><mi>JS</mi></msub>")
        k = f"K={self.samples}"
        hat = '<mover accent="true"><mi>D</mi><mo stretchy="false">^</mo></mover>'
        return Sign(
            f"JŜ{{{k}}}",
            rf"\widehat{{D}}_{{\mathrm{{JS}}}}^{{{k}}}",
            f"<msubsup>{hat}<mi>JS</mi><mi>{k}</mi></msubsup>",
        )

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two products."""
        return self.p, self.q

    @cached_property
    def expansion(self) -> Node:
        """log 2 less half of each expectation."""
        halves = [self._half(a, b) for a, b in ((self.p, self.q), (self.q, self.p))]
        first = Binary("-", Number(math.log(2)), halves[0])
        return Binary("-", first, halves[1])

    def _half(self, a: Product, b: Product) -> Node:
        """½ E_a[softplus(log b − log a)]."""
        surprise = Function("softplus", Binary("-", Log(random(b)), Log(random(a))))
        gradient = "exact" if self.samples is None else None
        return Binary("*", Number(0.5), Expectation(a, surprise, gradient, self.samples))

    @property
    def estimator(self) -> tuple[str, str]:
        """Enumeration or Monte Carlo."""
        if self.samples is None:
            return "exact: every value, weighted by its probability", "exact"
        return f"Monte Carlo, {self.samples} samples of each side", "pathwise, through the samples"


def JS(p: Distribution, q: Distribution, *, samples: int | None = None) -> Expression:
    """D_JS(p, q), for each row of the batch: exact where every factor has few values, else by Monte Carlo.

    Args:
        p: a factor or a product.
        q: over the same variables.
        samples: how many draws of each side.

    Raises:
        FormulaError: other variables on one side.
        NoClosedFormError: a factor with too many values, and no ``samples``.
    """
    left, right = distribution("JS", p), distribution("JS", q)
    if {u.factor.variable for u in random(left)} != {u.factor.variable for u in random(right)}:
        raise FormulaError(f"JS[{shown(left)} ‖ {shown(right)}]: expected two sides over the same random variables")
    samples = count("JS", "samples", samples)
    if samples is None and not all(enumerable(u.factor) for u in (*random(left), *random(right))):
        raise NoClosedFormError(
            f"JS[{shown(left)} ‖ {shown(right)}]: a mixture of the two has no closed form\n"
            f"estimate it: JS(p, q, samples=8)"
        )
    mates = {u.factor.variable: u.factor for u in random(right)}
    for a, b in ((u.factor, mates[u.factor.variable]) for u in random(left)):
        if samples is None and not (enumerated("JS", a, b) and enumerated("JS", b, a)):
            raise ShapeError(f"JS({a}, {b}): expected equal event shapes, got {a.shape} and {b.shape}")
    for side in (left, right):
        if samples is not None:
            check_pathwise("JS", side, "sg(p) where no gradient is needed, or relaxed factors")
    return Expression(JSNode(left, right, samples))
