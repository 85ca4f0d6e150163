"""Factors and their products as users hold them, and what is left of products when variables are summed out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from worldformula.errors import FormulaError, NoClosedFormError, UnknownVariableError, near
from worldformula.formula.factors import ancestral
from worldformula.formula.factors.condition import Held
from worldformula.formula.factors.slow import slow_of, weightless
from worldformula.formula.syntax import factor as base
from worldformula.formula.syntax import text
from worldformula.formula.syntax.check import Checked, check_product
from worldformula.formula.syntax.constants import Multiplied
from worldformula.formula.syntax.given import check_axes, generator_of
from worldformula.formula.syntax.habits import named_only
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Integral, Use
from worldformula.formula.syntax.numbers import all_symbols, given_numbers, settled
from worldformula.formula.syntax.pace import Pace
from worldformula.formula.syntax.spelling import by_keyword, keyword


class Factor(base.Factor):
    """A named conditional distribution, or a deterministic function, of the formula.

    ``net`` is called positionally with the conditions in header order. ``shape`` is the event shape of the variable.
    """

    latex: str  # see `face`

    def condition(self, **values: Tensor) -> Factor:
        """The distribution with some of its conditions held at these values: ``p.condition(y=y)`` is p(x|z).

        A value without batch axes holds for every row; an ``nn.Parameter`` is learnt. Networks and weights are shared.
        """
        return Held.of(self, values)

    def marginal(self, *names: str) -> Joint:
        """As of a product, for a deterministic factor of several outputs: see `Joint.marginal`."""
        return Joint.of(self).marginal(*names)

    def slow(self, decay: float, every: int = 1) -> Factor:
        """The same factor with averaged weights, printed with a bar: a target network, a slow critic.

        It starts as a copy. No gradient reaches its weights, while its inputs get theirs, and training moves them: at
        every ``every``-th update w̄ ← decay·w̄ + (1 − decay)·w, with ``decay=0`` a hard copy; buffers, such as the
        statistics of a BatchNorm, are copied. In a loop of one's own, call `worldformula.training.slow.move_slow`.
        Called again with the same numbers it is the same factor, and what is fresh or renamed shares its copy.

        Raises:
            FormulaError: a decay outside [0, 1), no weights, or a network that cannot be copied.
        """
        return slow_of(self, Pace(decay, every))

    @named_only("mean(x=...), a condition by its name")
    def mean(self, **conditions: Any) -> Tensor:
        """The expected value of the variable, ``batch + event``; raises where the family has none in closed form."""
        return self._moment("mean", conditions)

    @named_only("variance(x=...), a condition by its name")
    def variance(self, **conditions: Any) -> Tensor:
        """The variance of each element of the variable, ``batch + event``; raises as `mean` does."""
        return self._moment("variance", conditions)

    def _moment(self, name: str, conditions: Mapping[str, Any]) -> Tensor:
        if self.family is None:
            known = "an unnormalised density" if self.unnormalised else "a deterministic factor"
            raise FormulaError(f"{self}: {'data' if self.observed else known} has no {name} in closed form")
        factor, conditions = self.for_call(conditions)
        family = factor.family
        assert family is not None
        with base.naming(self):
            params = factor.params(*factor.arguments(conditions, self.conditions))
            batch, _ = family.shapes(params, self.rank)
            like = next((t for t in chain(params, self.parameters()) if isinstance(t, Tensor)), torch.empty(0))
            if family.joint and self.shape and not any(isinstance(p, Tensor) for p in params):
                params = (like.new_full(self.shape, params[0]), *params[1:])  # a vector's size may matter
            found = getattr(family, name)(params)
            whole = (*batch, *factor.event(params))
            return found.expand(whole) if isinstance(found, Tensor) else like.new_full(whole, found)

    def __mul__(self, other: Factor | Joint | Use) -> Joint:
        return Joint.of(self) * other


class Stopped(Multiplied, Use):
    """A factor whose parameters get no gradient, ``sg(q)``: in a product too."""

    def __mul__(self, other: Factor | Joint | Use) -> Joint:
        return Joint(*as_uses(self)) * other

    def __str__(self) -> str:
        return f"sg({self.factor})"


class Joint(Multiplied):
    """A product of factors, ``core * post``; draws go from causes to effects whatever the written order."""

    hidden: tuple[Variable, ...] = ()  # what is summed out: see `Marginal`
    latex: str  # see `face`

    def __init__(self, *uses: Use) -> None:
        self.uses: tuple[Use, ...] = uses
        self._checked: Checked | None = None

    @classmethod
    def of(cls, *factors: Factor) -> Joint:
        """The product of these factors."""
        return cls(*(Use(f) for f in factors))

    @property
    def factors(self) -> tuple[Factor, ...]:
        """In written order."""
        return tuple(cast(Factor, u.factor) for u in self.uses)

    def rename(self, **names: str) -> Joint:
        """The product with other names; weights are shared."""
        names = dict(by_keyword(names))
        keys = {name for f in self.factors for v in (*f.variables, *f.conditions) for name in (v.key, v.identifier)}
        if unknown := [name for name in names if name not in keys]:
            raise UnknownVariableError(f"{self} has no variable {unknown[0]!r}.{near(unknown[0], keys)}")

        def own(factor: base.Factor) -> dict[str, str]:
            found = {name for v in (*factor.variables, *factor.conditions) for name in (v.key, v.identifier)}
            return {name: new for name, new in names.items() if name in found}

        return Joint(*check_product(tuple(Use(u.factor.rename(**own(u.factor)), u.stopped) for u in self.uses)))

    def __mul__(self, other: Factor | Joint | Use) -> Joint:
        if not isinstance(other, (Factor, Joint, Use)):
            self._refuse(other)
        checked = (self._checked or Checked().times(self.uses)).times(as_uses(other))
        hidden = {v.key: v for side in (self, other) if isinstance(side, Joint) for v in side.hidden}
        product = Joint(*checked.uses)
        product._checked = checked
        return product.marginal(*hidden) if hidden else product

    def fresh(self) -> Joint:
        """The same factors for an independent draw of all of them: see `Factor.fresh`."""
        return Joint(*(Use(u.factor.fresh(), u.stopped) for u in self.uses))

    def slow(self, decay: float, every: int = 1) -> Joint:
        """The product of the slow copies of those factors that have weights: see `Factor.slow`."""
        known = [u.factor if weightless(u.factor) else slow_of(u.factor, Pace(decay, every)) for u in self.uses]
        if all(slow is u.factor for slow, u in zip(known, self.uses, strict=True)):
            raise FormulaError(f"{self} has no weights to average: its slow copy would be the product itself")
        return Joint(*(Use(slow, u.stopped) for slow, u in zip(known, self.uses, strict=True)))

    def marginal(self, *names: str) -> Marginal:
        """What is left of the product when these variables are summed out: ``(prior * decode).marginal("z")`` is p(x).

        E over it draws them and forgets them. Its log is exact where all of them can be enumerated; elsewhere a bound
        has to be written.
        """
        gone = {v.key for v in self.hidden}
        known = {v.key: v for u in self.uses for v in u.factor.variables if v.key not in gone}
        if not names:
            raise FormulaError(f"{self}: expected the variables to sum out, e.g. .marginal({next(iter(known))!r})")
        names = tuple(keyword(name) if isinstance(name, str) else name for name in names)
        for name in names:
            if name not in known:
                hint = near(str(name), known)
                raise UnknownVariableError(
                    f"{self} declares no variable {name!r}.{hint} It declares {', '.join(known)}."
                )
        if set(names) >= set(known):
            raise FormulaError(f"{self}: all its variables would be summed out, and nothing is left")
        return Marginal(self.uses, (*self.hidden, *(known[name] for name in names)))

    def condition(self, **values: Tensor) -> Joint:
        """The product with some of its conditions held at these values, which need no batch axes."""
        declared, values = {v.key for u in self.uses for v in u.factor.variables}, dict(by_keyword(values))
        if fixed := [name for name in values if name in declared]:
            raise FormulaError(
                f"{self} draws {fixed[0]}: what is left given {fixed[0]} is a posterior, which needs a factor of its "
                f"own, such as q(z|{fixed[0]})"
            )
        read = {c.key for u in self.uses for c in u.factor.conditions}
        if unknown := [name for name in values if name not in read]:
            raise UnknownVariableError(f"{self} has no condition {unknown[0]!r}.{near(unknown[0], read)}")

        ranks = {v: len(s) for u in self.uses for v, s in u.factor.event_shapes() if s is not None}

        def held(factor: base.Factor) -> base.Factor:
            own = {c.key: values[c.key] for c in factor.conditions if c.key in values}
            return Held.of(factor, own, ranks) if own else factor

        return Joint(*(Use(held(u.factor), u.stopped) for u in self.uses))

    def __str__(self) -> str:
        return " ".join(map(str, self.factors))

    def __repr__(self) -> str:
        return f"<Joint {self}>"

    @named_only("sample(sample_shape=(5,)) for several draws, and what is given by its name, sample(x=...)")
    def sample(
        self,
        *,
        sample_shape: tuple[int, ...] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        noise: Mapping[str, Tensor] | None = None,
        deterministic: bool = False,
        **given: Any,
    ) -> dict[str, Tensor]:
        """Ancestral draw: every variable of the product by name, ``sample_shape + batch + event``.

        ``given`` holds what no factor draws: ``h=`` is h_{t-1} where the product declares h_t, and ``x=`` is the datum
        of ``p_data(x)``. ``noise`` gives the noise itself, by variable; the other arguments are those of a factor.
        """
        whole, given = self._for_call(given)
        held = ancestral.given(self, given)
        check_axes(self, sample_shape)
        weights = (t for f in self.factors for t in (*f.parameters(), *f.buffers()))
        rng = generator_of(seed, generator, (*held.values(), *weights))
        return ancestral.sample(whole, held, sample_shape, rng, ancestral.noises(self, noise), deterministic)

    @named_only("log_prob(x=..., z=...)")
    def log_prob(self, **values: Any) -> Tensor:
        """Sum of the factors' log-densities; what deterministic factors declare is computed where it is not given.

        Where the product speaks of h_t and of h_{t-1} and both are needed, they are ``h=`` and ``h_prev=``.
        """
        if all(f.family is None for f in self.factors):
            raise FormulaError(f"{self}: no factor has a density")
        whole, values = self._for_call(values)
        return ancestral.log_prob(whole, values)

    def _for_call(self, values: Mapping[str, Any]) -> tuple[Joint, dict[str, Any]]:
        """The product with the numbers that a direct call gives it, and the other keywords."""
        if not any(all_symbols(f) for f in self.factors):
            return self, dict(values)
        numbers, rest = given_numbers(self, self.factors, values)
        return Joint(*(Use(settled(u.factor, numbers), u.stopped) for u in self.uses)), rest


class Marginal(Joint):
    """∫ p(x|z) p(z) dz: a product in which some variables are summed out."""

    def __init__(self, uses: tuple[Use, ...], hidden: tuple[Variable, ...]) -> None:
        super().__init__(*uses)
        self.hidden = hidden
        self.uses = Integral(uses, hidden)

    def __str__(self) -> str:
        return text.product(self.uses)

    def rename(self, **names: str) -> Joint:
        """The marginal with other names."""
        names = dict(by_keyword(names))
        keys = {v.key: names.get(v.key, v.key) for v in self.hidden}
        return Joint(*self.uses).rename(**names).marginal(*keys.values())

    def condition(self, **values: Tensor) -> Joint:
        """The marginal with some of its conditions held."""
        return Joint(*self.uses).condition(**values).marginal(*(v.key for v in self.hidden))

    def sample(self, **options: Any) -> dict[str, Tensor]:
        """Ancestral draw of the variables that are left; arguments as for a product."""
        hidden = {v.key for v in self.hidden}
        return {key: value for key, value in super().sample(**options).items() if key not in hidden}

    def refuse(self) -> None:
        """Raise NoClosedFormError where a hidden variable cannot be enumerated."""
        for use in self.uses:
            factor = use.factor
            family = factor.family
            if factor.variable in self.hidden and (family is None or family.support_size(factor.shape) is None):
                what = "a deterministic factor" if family is None else f"a {family.name} variable"
                raise NoClosedFormError(
                    f"log {self}: {what} cannot be summed out exactly: {factor.variable} has no short list of values\n"
                    f"write a bound, log(E(q, ratio(p, q), samples=K)), or draw it inside E(...)"
                )


def as_uses(value: base.Factor | Joint | Use) -> tuple[Use, ...]:
    """The factors of what a user passed where a distribution belongs."""
    match value:
        case base.Factor():
            return (Use(value),)
        case Joint():
            return value.uses
        case Use():
            return (Use(value.factor, value.stopped),)
    raise FormulaError(f"expected a factor or a product of factors, got {type(value).__name__}: {value!r}")
