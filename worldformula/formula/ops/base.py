"""What operators share: expansion into other nodes, the chain rule of products, and the sides of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from torch import Tensor

from worldformula.errors import FormulaError, GradientError, NoClosedFormError, table
from worldformula.families import MixtureFamily, UnlikeMixtureFamily, WrappedFamily
from worldformula.families.base import Family
from worldformula.families.writing import Sign
from worldformula.formula.factors.independent import Normal
from worldformula.formula.factors.joint import Joint, as_uses
from worldformula.formula.print import latex, mathml
from worldformula.formula.syntax.check import check_gradient, check_product, estimator
from worldformula.formula.syntax.drawn import drawn_factors
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import Shape, whole_number
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Binary, Expectation, Integral, Node, Operator, Product, Use, Value

FEW = 64  # values that an operator enumerates unasked
Distribution = Factor | Joint | Use


class Expanded(Operator):
    """An operator that stands for other nodes, which it is lowered to."""

    of_shared = True

    @cached_property
    def expansion(self) -> Node:
        """What it stands for."""
        raise NotImplementedError

    def lower(self, lowering: Any, scope: Any) -> Any:
        """The value of its expansion."""
        return (yield self.expansion, scope.part(private=True))

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """What its expansion draws."""
        return tuple(drawn_factors(self.expansion))

    @property
    def meaning(self) -> Node:
        """Its expansion."""
        return self.expansion


@dataclass(frozen=True, eq=False)
class OwnEntropy(Operator):
    """The entropy of one factor given its conditions, in the closed form of its family."""

    q: Use
    symbol = Sign("H", r"\mathbb{H}", "<mi>ℍ</mi>")
    of_shared = True

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The factor."""
        return ((self.q,),)

    def lower(self, lowering: Any, scope: Any) -> str | float:
        """The method of the family."""
        return lowering.method("entropy", self.q, scope)  # type: ignore[no-any-return]

    @property
    def estimator(self) -> tuple[str, str]:
        """The closed form."""
        return "closed form", "exact"


class Compared(Operator):
    """An operator on samples of two sides, which it reduces with the batch. Subclasses are dataclasses of these fields.

    Inside a sum over time it compares the batch at each step.
    """

    q: Product
    p: Product
    variable: Variable
    samples: int | None
    gradient: str | None

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The two sides."""
        return self.q, self.p

    @property
    def drawn(self) -> tuple[Factor, ...]:
        """The random factors of both sides."""
        return tuple(u.factor for u in (*random(self.q), *random(self.p)))

    def lower(self, lowering: Any, scope: Any) -> str:
        """Draw both sides, then compare."""
        inside = lowering.side(self.q, scope, self.samples, self.gradient)
        left = inside[self.variable]
        right = lowering.side(self.p, scope, self.samples, self.gradient)[self.variable]
        value = self.compare(lowering, inside, left, right)
        return over_rows(lowering, value, left, self.variable)

    def compare(self, lowering: Any, inside: Any, left: str, right: str) -> str:
        """The operation that compares the samples of the variable; ``inside`` is the scope of the first side."""
        raise NotImplementedError

    @property
    def estimator(self) -> tuple[str, str]:
        """How many samples."""
        how = "one sample of each side per row" if self.samples is None else f"{self.samples} samples of each side"
        return f"Monte Carlo, {how}, over the batch", "pathwise, through the samples"


def over_rows(lowering: Any, value: str, like: str, variable: Variable) -> str:
    """A value that reduces the batch, seen by every row of the batch where it belongs to one time step."""
    if not lowering.is_step(value):
        return value
    rank, samples = ("rank", lowering.event_rank(variable)), len(lowering.ops[like].axes)
    options = (rank, ("samples", samples)) if samples else (rank,)
    return str(lowering.call(f"{value}_rows", per_row, value, like, how="batch", options=options))


def per_row(value: Tensor, like: Tensor, *, rank: int, samples: int = 0) -> Tensor:
    """One number of a time step, as a view for every row of the batch; ``samples`` axes of ``like`` stand before it."""
    return value.expand(like.shape[samples : like.ndim - rank])


def rows(x: Tensor, rank: int) -> Tensor:
    """Samples with any batch axes as ``[N, D]``.

    Raises:
        FormulaError: one sample alone.
    """
    if x.ndim == rank:
        raise FormulaError(
            "samples are compared, and there is one of each side: give samples=, or data, whose rows have draws"
        )
    return x.flatten(0, x.ndim - rank - 1).flatten(1) if rank else x.reshape(-1, 1)


def beside(variable: Variable, accent: str, net: Any, shape: Shape, **fixed: Any) -> Use:
    r"""A Normal that an operator draws beside a variable, of its shape: ``q(\tilde x|x)``."""
    name = replace(variable, accent=accent)
    if variable.accent:
        name = replace(variable, primes=variable.primes + 1)
    return Use(Normal(f"q({name}|{variable})", net, shape=shape, **fixed))


def shape_in(variable: Variable, *uses: Use) -> Shape:
    """The event shape that factors declare for a variable, if any does."""
    shapes = (s for u in uses for v, s in u.factor.event_shapes() if v == variable)
    return next((s for s in shapes if s is not None), None)


# ---------------------------------------------------------------------------------------------------------- products


def shown(p: Product) -> str:
    """A product in a message: ``q(z|x) p(y)``."""
    return " ".join(str(u.factor) for u in p)


def random(p: Product) -> Product:
    """The uses with a density."""
    return tuple(u for u in p if u.factor.family is not None)


def computed(p: Product) -> Product:
    """The deterministic uses; data need no draw."""
    return tuple(u for u in p if u.factor.family is None and not u.factor.observed)


def distribution(what: str, value: Any) -> Product:
    """A factor or a product with at least one density, checked."""
    found = no_marginal(what, check_product(as_uses(value)))
    if not random(found):
        raise FormulaError(f"{what}: {shown(found)} has no density; expected a factor such as Normal, or a product")
    return found


def no_marginal(what: str, p: Product) -> Product:
    """Refuse a marginal, whose density is an integral."""
    if isinstance(p, Integral):
        raise NoClosedFormError(
            f"{what}: the density of the marginal {shown(p)} is an integral without a closed form\n"
            f"compare its samples, by MMD(q, p) or EnergyDistance(q, p), or learn a DensityRatio(q, p, discriminator)"
        )
    return p


def has_entropy(family: Family | None) -> bool:
    """Whether the entropy has a closed form, as far as is known before the call."""
    return family is not None and not isinstance(family, WrappedFamily) and type(family).entropy is not Family.entropy


def discrete(factor: Factor, family: Family | None = None) -> bool:
    """Whether the values of a factor have probabilities that can be enumerated, or a mixture of such."""
    family = family or factor.family
    if isinstance(family, MixtureFamily):
        return discrete(factor, family.component)
    if isinstance(family, UnlikeMixtureFamily):
        return all(discrete(factor, part) for part in family.parts)
    return family is not None and family.support_size(factor.shape) is not None


def enumerable(factor: Factor) -> bool:
    """Whether every value of a factor can be taken in turn."""
    family = factor.family
    return family is not None and family.support_size(factor.shape) is not None


def enumerated(what: str, q: Factor, p: Factor) -> bool:
    """Whether E_q of the density of p can be the sum over every value of q.

    Raises:
        FormulaError: q has values that p does not have, so that its density of them means nothing.
    """
    if not (enumerable(q) and discrete(p) and (q.shape or ()) == (p.shape or ())):
        return False
    assert q.family is not None
    assert p.family is not None
    if fault := p.family.wrong_value(q.family.support(q.shape or ()), q.rank):
        raise FormulaError(
            f"{what}({q}, {p}): {q.family.name} takes values that {p.family.name} cannot have, whose probability "
            f"under {p} is 0\n{fault}\ngive both sides the same set of values, such as OneHot and OneHot"
        )
    return True


def total(terms: Sequence[Node]) -> Node:
    """The sum of nodes."""
    return list(accumulate(terms, lambda a, b: Binary("+", a, b)))[-1]


def drawing(q: Product) -> str | None:
    """The gradient estimator of the draws that a chain rule needs: enumeration of what has few values.

    Raises:
        GradientError: a factor has no reparametrised samples and too many values.
    """
    sizes = [
        u.factor.family.support_size(u.factor.shape)
        for u in random(q)
        if u.factor.family is not None and (not u.factor.family.reparametrised or u.factor.family.estimator)
    ]
    chosen = "exact" if any(n is not None and n <= FEW for n in sizes) else None
    check_gradient(q, chosen)
    return chosen


def chained(what: str, q: Product, others: Product, term: Callable[[Use, Use | None], Node]) -> Node:
    """Σ_i E[term(q_i, p_i)], where p_i is the factor of ``others`` over the same variable, under the draws of those
    factors of ``q`` that a term depends on: the chain rule of entropies and divergences.

    Raises:
        NoClosedFormError: the two products depend on their variables in opposite orders.
    """
    mates = {v: u for u in others for v in u.factor.variables}
    terms = [term(u, mates.get(u.factor.variable)) for u in random(q)]
    known = {id(u.factor.origin) for u in computed(q)}
    steps = (*q, *(u for u in computed(others) if id(u.factor.origin) not in known))
    reads = {u.factor.variable: {*u.factor.conditions} for u in steps}
    for use in random(others):
        reads.setdefault(use.factor.variable, set()).update(use.factor.conditions)
    _check_order(what, q, others, reads)
    needed = set().union(*reads.values())
    draws = tuple(u for u in steps if not u.factor.observed and needed & {*u.factor.variables})
    return Expectation(draws, total(terms), drawing(draws)) if draws else total(terms)


def _check_order(what: str, q: Product, p: Product, reads: dict[Variable, set[Variable]]) -> None:
    """Some order of the variables must suit both products: then their terms pair up one by one."""
    left = dict(reads)
    while left:
        ready = [v for v, needs in left.items() if not needs & left.keys()]
        if not ready:
            raise NoClosedFormError(
                f"{what}[{shown(q)} ‖ {shown(p)}]: the two products depend on {', '.join(map(str, left))} in opposite "
                f"orders, so the chain rule has no terms\nestimate it: {what}(q, p, samples=8)"
            )
        for v in ready:
            del left[v]


# -------------------------------------------------------------------------------------------------- sides and numbers


def sides(
    what: str, q: Distribution, p: Distribution, gradient: str | None, *, check: bool = True
) -> tuple[Product, Product, Variable]:
    """Two products to compare by their samples, and the one variable that both declare.

    What is drawn in both is drawn anew for the second: the samples of the two sides are independent.

    Raises:
        FormulaError: no common variable, or several.
        GradientError: a draw without reparametrised samples, and no ``gradient``.
    """
    left, right = check_product(as_uses(q)), check_product(as_uses(p))
    common = [v for u in left for v in u.factor.variables if any(v in w.factor.variables for w in right)]
    ours = {id(u.factor) for u in random(left)}
    if any(id(u.factor) in ours for u in random(right)):
        right = tuple(replace(u, factor=u.factor.fresh()) if id(u.factor) in ours else u for u in right)
    read = {c for u in (*left, *right) for c in u.factor.conditions}
    ends = [v for v in common if v not in read] or common
    if len(ends) != 1:
        rows = [(shown(side), ", ".join(str(v) for u in side for v in u.factor.variables)) for side in (left, right)]
        raise FormulaError(
            f"{what}: expected two sides that declare one common variable\n"
            + table(("side", "declares"), rows)
            + "\ngive what is compared the same variable on both sides, by rename(...) if need be"
        )
    if check:
        check_reparametrised(what, (left, right), gradient)
    return left, right, ends[0]


def check_reparametrised(what: str, products: Sequence[Product], gradient: str | None) -> None:
    """Refuse samples whose gradient would be missing, and estimators that are not of single samples."""
    if gradient not in (None, "straight-through", "gumbel"):
        raise GradientError(f"{what}: samples are compared, so gradient= is 'straight-through' or 'gumbel'")
    for side in products:
        moving = tuple(u for u in side if not u.stopped)
        check_gradient(moving, gradient if any(estimator(u.factor, side, gradient) for u in moving) else None)


def check_pathwise(what: str, q: Product, write: str) -> None:
    """Refuse an operator's own draws where their gradient would be missing, and say what to ``write`` instead."""
    try:
        check_gradient(tuple(u for u in q if not u.stopped), None)
    except GradientError as error:
        refused, _, _ = str(error).partition("\nchoose an estimator")
        raise GradientError(f"{refused}\nthe samples of {what} have no other gradient; write {write}") from None


def count(what: str, name: str, value: Any, least: int = 1) -> Any:
    """A whole number of any kind as Python's, or None."""
    known = whole_number(value)
    if value is not None and (known is None or known < least):
        raise FormulaError(f"{what}: expected {name}= as a whole number of at least {least}, got {value!r}")
    return known


def marked(symbol: str, *marks: str) -> str:
    """A symbol of plain text with its settings: ``MMD{gaussian; K=8}``."""
    kept = [m for m in marks if m]
    return f"{symbol}{{{'; '.join(kept)}}}" if kept else symbol


def symbol_of(value: Any, kept: Callable[[Any], object]) -> Value | None:
    """The node of a Symbol in the place of a setting, whose number ``kept`` checks at the call; None of all else."""
    node = getattr(value, "node", None)
    return replace(node, kept=kept) if isinstance(node, Value) and node.scalar else None


def written_number(value: float | Node, show: Callable[[float], str] = repr) -> Sign:
    """A setting as it is printed: a number, or the Symbol of one."""
    if isinstance(value, Value):
        return Sign(str(value.variable), latex.variable(value.variable), mathml.variable(value.variable))
    assert isinstance(value, int | float)
    return Sign(show(value), latex.scientific(show(value)), f"<mn>{show(value)}</mn>")
