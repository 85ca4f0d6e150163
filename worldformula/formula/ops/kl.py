r"""KL of products, by the chain rule, and KL by Monte Carlo.

    KL(q(w) q(z|w) ‖ p(w) p(z|w)) = KL(q(w) ‖ p(w)) + E_{q(w)}[KL(q(z|w) ‖ p(z|w))]    Cover & Thomas 2006, thm. 2.5.3
    \widehat{D}_{KL}(q ‖ p) = (1/K) Σ_k log q(z_k) − log p(z_k),  z_k ~ q

The closed form of two factors is a node of its own, `Divergence`. `KL` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from worldformula.errors import FormulaError, NoClosedFormError, table
from worldformula.families.closed import kl_pair
from worldformula.families.writing import Sign
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.joint import as_uses
from worldformula.formula.ops.base import (
    Distribution,
    Expanded,
    chained,
    check_pathwise,
    computed,
    count,
    enumerated,
    no_marginal,
    random,
    shown,
)
from worldformula.formula.syntax.check import check_divergence, check_product
from worldformula.formula.syntax.nodes import Binary, Divergence, Expectation, Log, Node, Product, Use


@dataclass(frozen=True, eq=False)
class ProductDivergence(Expanded):
    """KL between two products over the same variables; the KL of each pair of factors has a closed form."""

    q: Product
    p: Product
    symbol = Sign("KL", r"D_{\mathrm{KL}}", "<msub><mi>D</mi><mi>KL</mi></msub>")

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two products."""
        return self.q, self.p

    @cached_property
    def expansion(self) -> Node:
        """Σ KL of the pairs, under the draws that their conditions need."""
        if len(self.q) == 1:
            use = self.q[0]
            return Expectation(self.q, Binary("-", Log((use,)), Log(self.p)), "exact")

        def term(left: Use, right: Use | None) -> Node:
            assert right is not None
            return divergence((left,), (right,))

        return chained("KL", self.q, self.p, term)

    @property
    def estimator(self) -> tuple[str, str]:
        """Closed forms, and what is drawn between them."""
        if len(self.q) == 1:
            return "exact: every value, weighted by its probability", "exact"
        return _chain(self.expansion)


@dataclass(frozen=True, eq=False)
class SampledDivergence(Expanded):
    """The mean of log q − log p over ``samples`` draws from q."""

    q: Product
    p: Product
    samples: int

    @property
    def sign(self) -> Sign:
        """D with a hat, and the number of samples."""
        k = f"K={self.samples}"
        hat = '<mover accent="true"><mi>D</mi><mo stretchy="false">^</mo></mover>'
        return Sign(
            f"KL̂{{{k}}}",
            rf"\widehat{{D}}_{{\mathrm{{KL}}}}^{{{k}}}",
            f"<msubsup>{hat}<mi>KL</mi><mi>{k}</mi></msubsup>",
        )

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two products."""
        return self.q, self.p

    @cached_property
    def expansion(self) -> Node:
        """E_q[log q − log p]."""
        known = {v for u in self.q for v in u.factor.variables}
        draws = (*self.q, *(u for u in computed(self.p) if not known & {*u.factor.variables}))
        body = Binary("-", Log(random(self.q)), Log(random(self.p)))
        return Expectation(draws, body, None, self.samples)

    @property
    def estimator(self) -> tuple[str, str]:
        """Monte Carlo."""
        return f"Monte Carlo, {self.samples} samples of q", "pathwise, through the samples"


def _chain(expansion: Node) -> tuple[str, str]:
    if not isinstance(expansion, Expectation):
        return "closed forms of the factors", "exact"
    drawn = ", ".join(str(u.factor.variable) for u in random(expansion.q))
    how = "every value of" if expansion.gradient == "exact" else "one shared sample of"
    return f"closed forms of the factors, given {how} {drawn}", expansion.gradient or "pathwise, through the samples"


def KL(q: Distribution, p: Distribution, *, samples: int | None = None) -> Expression:
    """KL(q ‖ p) in closed form; of products by the chain rule, with draws of what the conditions of others need.

    samples: estimate it by the mean of log q − log p over so many draws, which have a leading axis. Without it,
    NoClosedFormError is raised where there is no closed form and no enumeration.
    """
    return Expression(divergence(as_uses(q), as_uses(p), samples))


def divergence(q: Product, p: Product, samples: int | None = None) -> Node:
    """KL(q ‖ p): in closed form, exactly by enumeration or by the chain rule, or by Monte Carlo where asked for.

    Raises:
        FormulaError: the two sides are not over the same variables.
        NoClosedFormError: none of the exact ways exists, and ``samples`` is not given.
    """
    left, right = no_marginal("KL", check_product(q)), no_marginal("KL", check_product(p))
    samples = count("KL", "samples", samples)
    if samples is None and len(left) == len(right) == 1:
        a, b = left[0].factor, right[0].factor
        if a.variable == b.variable and a.family is not None and b.family is not None:
            closed = kl_pair(a.family, b.family) is not None
            if not closed and enumerated("KL", a, b):
                return ProductDivergence(left, right)
        check_divergence(left[0], right[0])
        return Divergence(left[0], right[0])
    _check_sides(left, right)
    if samples is not None:
        check_pathwise("KL", left, f"E(q, log(q) - log(p), gradient='score', samples={samples})")
        return SampledDivergence(left, right, samples)
    node = ProductDivergence(left, right)
    _ = node.expansion  # what has no closed form is told here, where it is written
    return node


def _check_sides(q: Product, p: Product) -> None:
    """Both products declare the same random variables, and what both compute is one function."""
    ours, theirs = ({u.factor.variable for u in random(side)} for side in (q, p))
    rows = [(shown(side), ", ".join(str(u.factor.variable) for u in random(side)) or "none") for side in (q, p)]
    head = f"KL({shown(q)} ‖ {shown(p)})"
    if not ours or not theirs:
        raise NoClosedFormError(
            f"{head}: a deterministic or data factor has no density\n" + table(("side", "random variables"), rows)
        )
    if ours != theirs:
        raise FormulaError(
            f"{head}: expected two products over the same random variables\n"
            + table(("side", "random variables"), rows)
            + "\nput what only one side has into a term of its own, e.g. KL(q, prior) - E(q, log(decode))"
        )
    known = {v: u.factor for u in (*computed(q),) for v in u.factor.variables}
    for use, v in ((u, v) for u in computed(p) for v in u.factor.variables):
        if v in ours or known.get(v, use.factor).origin is not use.factor.origin:
            raise FormulaError(f"{head}: {v} is computed by {use.factor} on one side and not on the other")
