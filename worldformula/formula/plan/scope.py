"""Where in a formula something is lowered: the values at hand, the clock, and what is asked of the terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from worldformula.formula.plan.plan import Ref
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation


@dataclass(frozen=True)
class Weighed:
    """The values that an exact expectation takes: by their sample axis, what makes the logarithms of their
    probabilities. ``log``: whether the logarithm of the expectation is asked for, where small weights count.
    """

    shares: Mapping[int, Callable[[], Ref]]
    log: bool = False


@dataclass(frozen=True)
class Scope:
    """One place of a formula. Frozen: a rule hands a changed copy to what stands inside.

    values: drawn or computed around here, by variable. index: of the sum over time around here.
    place: which iteration, by the index of every sum with ``steps=`` around here.
    inside: whether this is a part of a term. private: whether no other term and no later step sees what is drawn.
    held: the factors whose densities hold their parameters fixed. expert: whether this belongs to an expert.
    begun: whether this counts only where a sequence begins. excused: absent inputs whose rows do not count here.
    reductions: how the formula reduces what stands here.
    leaves: what is combined elementwise here, collected until the next reduction.
    paths: the expectations around here that draw whole trajectories, at the steps of a sum, and their sample axes.
    weighs: whether this weighs the particles of a filter, in steps of a burn-in too.
    weighed: the exact expectations around here.
    """

    values: Mapping[Variable, str] = field(default_factory=dict)
    index: str | None = None
    place: Mapping[str, int] = field(default_factory=dict)
    inside: bool = False
    private: bool = False
    expert: bool = False
    held: frozenset[int] = frozenset()
    begun: bool = False
    excused: frozenset[str] = frozenset()
    reductions: tuple[str, ...] = ()
    leaves: list[str] = field(default_factory=list)
    paths: tuple[tuple[Expectation, int | None], ...] = ()
    weighs: bool = False
    weighed: tuple[Weighed, ...] = ()

    def __getitem__(self, variable: Variable) -> str:
        return self.values[variable]

    def having(self, values: Mapping[Variable, str]) -> Scope:
        """The same place with further values at hand."""
        return replace(self, values={**self.values, **values})

    def with_values(self, values: Mapping[Variable, str]) -> Scope:
        """The same place with these values at hand and no others."""
        return replace(self, values=values)

    def part(self, *, private: bool = False) -> Scope:
        """Inside of what is one term."""
        return replace(self, inside=True, private=private or self.private)

    def as_expert(self) -> Scope:
        """Inside of an expert, which can be left out of rows that lack what it reads."""
        return replace(self, expert=True)

    def without(self, keys: frozenset[str]) -> Scope:
        """Where rows that lack these inputs do not count."""
        return replace(self, excused=self.excused | keys)

    def reduced(self, how: str = "") -> Scope:
        """Inside of a reduction, whose leaves are compared among themselves."""
        return replace(self, leaves=[], reductions=(how, *self.reductions) if how else self.reductions)

    def at_time(self, index: str, how: str) -> Scope:
        """Inside of a sum over time."""
        return replace(self.reduced(how), index=index)

    def summed(self, shares: Mapping[int, Callable[[], Ref]], *, log: bool = False) -> Scope:
        """Inside of an exact expectation over values of these shares."""
        if not shares:
            return self
        return replace(self, weighed=(*self.weighed, Weighed(shares, log or any(w.log for w in self.weighed))))

    def bound(self, variable: Variable) -> bool:
        """Whether the variable's index is that of the sum over time around here."""
        return variable.index is not None and variable.index == self.index
