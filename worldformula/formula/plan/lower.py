"""Lowering: from the expression tree to the plan, one rule per node.

A rule gets the draft, its node and the scope. One that needs what stands inside is a generator: it yields a node with
its scope and is sent the value. `Lowering.lower` drives them, so that no tree is too deep.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from types import GeneratorType
from typing import Any, cast

import torch

from worldformula.errors import FormulaError, TimeError
from worldformula.formula.plan import (
    arithmetic,
    clocks,
    densities,
    estimates,
    iterations,
    particles,
    possible,
    rows,
    starts,
    variables,
)
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.estimates import Steps
from worldformula.formula.plan.histories import refuse_value
from worldformula.formula.plan.plan import Method, Op, Plan, Ref
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.drawn import drawn_factors
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import fitting
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import (
    Binary,
    Divergence,
    Expectation,
    Function,
    Group,
    Log,
    Named,
    Negative,
    Node,
    Number,
    Operator,
    OverBatch,
    OverEvent,
    OverRows,
    OverSteps,
    OverTime,
    Product,
    Ratio,
    StopGradient,
    Use,
    Value,
    factors,
    uses,
    walk,
)
from worldformula.formula.syntax.numbers import check_bounds
from worldformula.formula.syntax.shared import Shared
from worldformula.formula.syntax.text import text

Answer = Ref | Steps


def lower(
    node: Node,
    masked: frozenset[str] = frozenset(),
    going: bool = False,
    floats: tuple[frozenset[str], torch.dtype] | None = None,
) -> Plan:
    """The plan of an expression; ``masked`` are the inputs that some rows lack, told by ``present=``; ``going`` is one
    that goes on from a given start, behind that which factors draw or compute. ``floats`` are the inputs of whole
    numbers, and the numbers that they are where arithmetic reads them.
    """
    lowering = Lowering(factors(node), masked)
    lowering.floats = floats
    lowering.declare([n for n in walk(node) if isinstance(n, Value)])
    for clock in particles.prepare(lowering, node):
        if clock.begin and not (lowering.begins or lowering.gone):
            starts.begin(lowering, clock, going)
    particles.filters(lowering, node)
    scope = Scope()
    value = lowering.lower(node, scope)
    lowering.check_alike(scope.leaves)
    lowering.refuse_several(value)
    return lowering.plan(value)


def lower_rollout(
    clock: OverTime,
    shapes_from: tuple[Factor, ...] = (),
    memories: Mapping[str, Factor] | None = None,
    kept: Iterable[Variable] = (),
) -> Plan:
    """The plan that only makes the draws of ``Sum("t", E(product, 0))``: what ``filter`` and ``imagine`` run.

    ``shapes_from``: further factors whose declared event shapes hold here too. ``memories``: by key, the factors whose
    networks read a past; what they keep of it goes from call to call, also where only a later call draws from them.
    ``kept``: of older steps, ``z_{t-1}``, and of the number of the step, ``t``, what a state keeps whether or not a
    factor here reads it.
    """
    draws = clock.body
    assert isinstance(draws, Expectation)
    if (shared := next((f for f in drawn_factors(draws) if f.shared), None)) is not None:
        raise FormulaError(
            f"{shared} is shared by all rows (shared=True), and what a world imagines or filters draws for each row\n"
            f"leave it out of the prior and the posterior, whose factors then read {shared.variable}, and give it: "
            f"imagine(..., given={{{shared.variable.key!r}: ...}})"
        )
    lowering = Lowering([*factors(draws), *shapes_from])
    clocks.enter_time(lowering, clock)
    if clock.begin:
        starts.begin(lowering, clock)
    inside = densities.draw(lowering, draws, Scope(index=clock.index))
    for key, factor in (memories or {}).items():
        name = densities.net(lowering, factor, inside)
        assert name is not None
        lowering.memories[key] = name
    for variable in kept:
        older = variables.read(lowering, variable, inside, "a state")
        if variable.offset:
            variables.keep_lag(lowering, variable.at(0), -variable.offset, older)
    return lowering.plan(None)


# ---------------------------------------------------------------------------------------------------------------- rules


def _number(draft: Draft, node: Number, scope: Scope) -> Ref:
    return fitting(node.value)


def _value(draft: Draft, node: Value, scope: Scope) -> Ref:
    """The value of a variable, or a number that the call is given."""
    variable = node.variable
    if (place := variables.iteration(variable, scope)) is not None and not node.scalar:
        return place
    if node.scalar:
        known = variables.given(draft, variable, text(node), Op("", "symbol", variable=variable))
        if node.kept is not None:
            draft.checks[id(node)] = node.kept, (known,)
        return known
    name = variables.read(draft, variable, scope, text(node))
    refuse_value(draft, node, name, scope)
    rank = draft.ranks.get(variable.key, len(draft.shapes.get(variable.key, ())))
    draft.event_axes[name] = rank
    if variable.key in draft.shapes:
        draft.events[name] = draft.shapes[variable.key]
    if draft.ops[name].kind == "input":
        draft.ranks.setdefault(variable.key, rank)
    draft.reckoned.add(variable.key)
    name = variables.number_of(draft, name)
    draft.event_axes[name] = rank
    if not rank:
        scope.leaves.append(name)
    return name


def _divergence(draft: Draft, node: Divergence, scope: Scope) -> Ref:
    return draft.term(node, densities.divergence(draft, node.q, node.p, scope), scope)


def _function(draft: Draft, node: Function, scope: Scope) -> Steps:
    if node.name == "log" and isinstance(node.body, Expectation) and estimates.is_sampled(node.body):
        return (yield from estimates.logarithm(draft, node, scope))
    body = possible.of_function(draft, scope, node.name, (yield node.body, scope))
    bounds = list[Ref | None]()
    for bound in node.bounds:
        bounds += [(yield bound, scope) if isinstance(bound, Node) else bound]
    if any(isinstance(bound, str) for bound in bounds) and None not in bounds:
        draft.checks[id(node)] = check_bounds, tuple(bounds)
    return arithmetic.function(draft, node.name, body, tuple(bounds))


def _over_event(draft: Draft, node: OverEvent, scope: Scope) -> Steps:
    body = yield node.body, scope
    body = possible.of_squares(draft, scope, body) if node.how == "norm2" else body
    return arithmetic.over_event(draft, node.how, body, scope)


def _binary(draft: Draft, node: Binary, scope: Scope) -> Steps:
    left = yield node.left, _beside(draft, node, node.right, scope)
    right = yield node.right, _beside(draft, node, node.left, scope)
    arithmetic.refuse_mixed(draft, node.op, left, right)
    return arithmetic.binary(draft, node.op, *possible.of_binary(draft, scope, node.op, left, right))


def _beside(draft: Draft, node: Binary, other: Node, scope: Scope) -> Scope:
    """The scope of a factor in a product: where the other one is the flag of a restart, it counts only there."""
    if node.op == "*" and draft.time is not None and clocks.restarts(draft.time, other):
        return replace(scope, begun=True)
    return scope


def _negative(draft: Draft, node: Negative, scope: Scope) -> Steps:
    return arithmetic.unary(draft, "negative", (yield node.body, scope))


def _stopped(draft: Draft, node: StopGradient, scope: Scope) -> Steps:
    return arithmetic.unary(draft, "detach", (yield node.body, scope))


def _named(draft: Draft, node: Named, scope: Scope) -> Steps:
    """The value of a named part, which is one term under its name."""
    value = yield node.body, scope.part()
    draft.part(node, value, scope)
    return value


def _shared(draft: Draft, node: Shared, scope: Scope) -> Steps:
    """A part that was given a name because it stands in many places: one value for each place of the formula."""
    key = (id(node), id(scope))
    if key not in draft.known_parts:
        draft.known_parts[key] = (yield node.body, scope), scope  # kept, so that its identity stays its own
    return draft.known_parts[key][0]


def _group(draft: Draft, node: Group, scope: Scope) -> Steps:
    """Several values under their names."""
    values = []
    for body in node.bodies:
        inside = scope.reduced()
        draft.begin_formula()
        values.append((yield body, inside))
        draft.check_alike(inside.leaves)
        draft.refuse_several(values[-1])
    return draft.add("values", Op("", "group", tuple(values), how=" ".join(node.names)))


def _over_time(draft: Draft, node: OverTime, scope: Scope) -> Steps:
    if scope.index is not None:
        raise TimeError(
            f"{text(node)}: a {node.how} over {node.index!r} cannot stand inside the Sum over {scope.index!r}\n"
            f"put the inner one outside the Sum"
        )
    return (yield from clocks.over_time(draft, node, scope))


def _operator(lowering: Draft, node: Operator, scope: Scope) -> Steps:
    """What an operator of ``ops/`` says of itself."""
    if not node.of_shared and (shared := next((u.factor for u in uses(node) if u.factor.shared), None)) is not None:
        raise FormulaError(
            f"{text(node)} is about values of the rows, and {shared.variable} is one for all rows (shared=True)\n"
            f"write KL, Entropy, CrossEntropy, Renyi or E of it, which are one number for the call"
        )
    value = node.lower(lowering, scope)
    if isinstance(value, GeneratorType):
        value = yield from value
    return lowering.term(node, cast(Ref, value), scope)


RULES: dict[type[Node], Callable[[Any, Any, Scope], Answer]] = {
    Number: _number,
    Value: _value,
    Log: estimates.logs,
    Ratio: estimates.ratio,
    Divergence: _divergence,
    Expectation: estimates.expectation,
    Function: _function,
    OverEvent: _over_event,
    Binary: _binary,
    Negative: _negative,
    StopGradient: _stopped,
    Named: _named,
    Shared: _shared,
    Group: _group,
    OverBatch: rows.over_batch,
    OverTime: _over_time,
    OverSteps: iterations.over_steps,
    OverRows: rows.over_rows,
}


# ------------------------------------------------------------------------------------------------------------- lowering


class Lowering(Draft):
    """The rules at work, and what operators write themselves with."""

    def lower(self, node: Node, scope: Scope) -> Ref:
        """The operation (or the number) that a node becomes."""
        open_rules: list[Generator[tuple[Node, Scope], Ref, Ref]] = []
        answer = self._answer(node, scope)
        while True:
            if isinstance(answer, GeneratorType):
                open_rules.append(answer)
                sent: Any = None
            elif not open_rules:
                return cast(Ref, answer)
            else:
                sent = answer
            try:
                answer = self._answer(*open_rules[-1].send(sent))
            except StopIteration as done:
                open_rules.pop()
                answer = done.value

    def _answer(self, node: Node, scope: Scope) -> Answer:
        if isinstance(node, Operator):
            return _operator(self, node, scope)
        rule = RULES.get(type(node))
        if rule is None:
            raise TypeError(f"no lowering rule for {type(node).__name__}")
        return rule(self, node, scope)

    def read(self, variable: Variable, scope: Scope, by: object) -> str:
        """The operation that holds a variable's value; ``by`` is who asks, for messages."""
        return variables.read(self, variable, scope, by)

    def params(self, use: Use, scope: Scope) -> str:
        """The parameters of a factor."""
        return densities.params(self, use, scope)

    def widened(self, name: str, use: Use, like: str) -> str:
        """Parameters without batch axes, seen with those of ``like``."""
        return densities.widened(self, name, use, like)

    def value_of(self, use: Use, scope: Scope) -> tuple[str, ...]:
        """The draw of a factor, its network's outputs, or the data itself."""
        return densities.value_of(self, use, scope)

    def value_at(self, factor: Factor, scope: Scope) -> str:
        """What the network of a deterministic factor returns where its conditions have the values of ``scope``."""
        name = densities.net(self, factor, scope)
        assert name is not None
        return name

    def side(self, uses: Product, scope: Scope, samples: int | None = None, gradient: str | None = None) -> Scope:
        """Draw a product for a comparison: a scope with its values, which later steps and other terms do not see."""
        return densities.side(self, uses, scope, samples, gradient)

    def presence(self, keys: frozenset[str]) -> str | None:
        """The flags of the rows that have all these inputs."""
        return variables.presence(self, keys)

    def binary(self, op: str, left: Ref, right: Ref) -> Ref:
        """Left op right."""
        return arithmetic.binary(self, op, left, right)

    def unary(self, kind: str, body: Ref) -> Ref:
        """``negative`` or ``detach``."""
        return arithmetic.unary(self, kind, body)

    def method(self, name: str, use: Use, scope: Scope) -> str:
        """``family.name(params, rank, shape)``, such as the entropy of a factor, with its batch axes."""
        family, variable = use.factor.family, use.factor.variable
        assert family is not None
        known = self.params(use, scope)
        rest = (self.ranks.get(variable.key, use.factor.rank), self.shapes.get(variable.key))
        return self.add(f"{name}_{variable.key}", Op("", "call", (known, *rest), target=Method(family, name)))

    def call(
        self,
        wish: str,
        function: Callable[..., Any],
        *args: Any,
        rank: int = 0,
        how: str = "",
        net: Factor | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> str:
        """The result of a function on the values of other operations and numbers, once per call or per step.

        ``net``: the factor whose network the function gets first. ``options``: keywords, with values that their repr
        gives back, or Symbols. ``how="batch"`` marks a function that reduces the batch, and with it all sample axes.
        """
        if how == "batch" and any(map(self.common, args)):
            raise FormulaError(
                f"{wish} is a statistic of the rows, and it reads {self.label(next(filter(self.common, args)))}, which "
                f"is one for all rows\ngive it values that each row has of its own"
            )
        asked = {key: self.lower(value, Scope()) for key, value in options if isinstance(value, Node)}
        plain = tuple((key, value) for key, value in options if key not in asked)
        args, keywords = (*args, *asked.values()), tuple(asked)
        return self.add(
            wish,
            Op("", "call", args, net, how=how, rank=rank, target=function, options=plain, keywords=keywords),
        )

    def event_rank(self, variable: Variable) -> int:
        """How many event axes a variable has: those that are declared, or one."""
        return self.ranks.get(variable.key, 1)
