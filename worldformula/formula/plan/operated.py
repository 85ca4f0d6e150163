"""What the lowering offers to operators of ``ops/``: to expand, to draw sides of a comparison, to call a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worldformula.formula.plan.builder import Scope
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.sampled import Sampled
from worldformula.formula.syntax.check import draw_order, estimator
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Node, Product, Use


class Operated(Sampled):
    """Rules that `Operator.lower` is written with."""

    inside_term: bool

    def within(self, node: Node, scope: Scope, index: str | None, *, private: bool = False) -> Ref:
        """The value of what an operator stands for, whose parts are no terms of their own.

        ``private``: what it draws is seen by no other term and by no later step.
        """
        outer = self.inside_term, self.private
        self.inside_term, self.private = True, private or self.private
        value = self.lower(node, scope, index)
        self.inside_term, self.private = outer
        return value

    def method(self, name: str, use: Use, scope: Scope, index: str | None) -> str:
        """``family.name(params, rank, shape)``, such as the entropy of a factor, with its batch axes."""
        params = self.params(use, scope, index)
        return self.add(f"{name}_{use.factor.variable.key}", Op("", "method", (params,), use.factor, how=name))

    def call(
        self,
        wish: str,
        function: Callable[..., Any],
        *args: Ref,
        rank: int = 0,
        how: str = "",
        net: Factor | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> str:
        """The result of a function on the values of other operations and numbers, once per call or per step.

        ``net``: the factor whose network the function gets first. ``options``: keywords, with values that their repr
        gives back. ``how="batch"`` marks a function that reduces the batch, and with it all sample axes.
        """
        self.reserved |= {function.__name__}
        return self.add(wish, Op("", "call", args, function=function, rank=rank, how=how, factor=net, options=options))

    def value_at(self, factor: Factor, scope: Scope, index: str | None) -> str:
        """What the network of a deterministic factor returns where its conditions have the values of ``scope``."""
        name = self.net(factor, scope, index)
        assert name is not None
        return name

    def side(
        self, uses: Product, scope: Scope, index: str | None, samples: int | None = None, gradient: str | None = None
    ) -> dict[Variable, str]:
        """Draw a product for a comparison: the scope with its values, which later steps and other terms do not see."""
        own = {v for u in uses for v in u.factor.variables}
        inside = {v: name for v, name in scope.items() if v not in own}
        random = [u.factor for u in uses if u.factor.family is not None]
        axis = None
        if samples is not None and random:
            outer = tuple(inside[v] for f in random for v in f.conditions if v in inside)
            axis = self.axis((tuple(id(f) for f in random), outer, tuple(self.iteration.items())), samples)
        for use in draw_order(uses):
            names = self.value_of(use, inside, index, estimator(use.factor, uses, gradient), axis)
            inside.update(zip(use.factor.variables, names, strict=True))
        return inside

    def event_rank(self, variable: Variable) -> int:
        """How many event axes a variable has: those that are declared, or one."""
        return self.ranks.get(variable.key, 1)
