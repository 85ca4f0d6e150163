"""Lowering: from the expression tree to the plan, one rule per node."""

from __future__ import annotations

import keyword

from worldformula.errors import FormulaError, TimeError
from worldformula.formula.builder import CALL_OPTIONS, Builder, Scope
from worldformula.formula.factor import Factor
from worldformula.formula.names import Variable
from worldformula.formula.nodes import (
    Binary,
    Divergence,
    Expectation,
    Log,
    Negative,
    Node,
    Number,
    OverBatch,
    OverTime,
    Product,
    StopGradient,
    Use,
    children,
    factors,
)
from worldformula.formula.plan import Op, Plan, Ref, Term
from worldformula.formula.text import text

WISHES = {"+": "total", "-": "difference", "*": "product", "/": "ratio", "max": "larger", "min": "smaller"}


def lower(node: Node) -> Plan:
    """The plan of an expression."""
    lowering = _Lowering(factors(node))
    value = lowering.lower(node, {}, None)
    lowering.check_batch()
    return lowering.plan(value)


def lower_rollout(clock: OverTime, shapes_from: tuple[Factor, ...] = ()) -> Plan:
    """The plan that only makes the draws of ``Sum("t", E(product, 0))``: what ``filter`` and ``imagine`` run.

    ``shapes_from``: further factors whose declared event shapes hold here too.
    """
    draws = clock.body
    assert isinstance(draws, Expectation)
    lowering = _Lowering([*factors(draws), *shapes_from])
    lowering.enter_time(clock)
    lowering.draw(draws, {}, clock.index)
    return lowering.plan(None)


class _Lowering(Builder):
    """Rules for nodes. Between two reductions a formula works elementwise on the batch: all its leaves (KLs, logs, sums
    over time) must have one batch shape.
    """

    def __init__(self, used: list[Factor]) -> None:
        super().__init__(used)
        self.reductions: tuple[str, ...] = ()
        self.leaves: list[str] = []
        self.inside_term = False

    def lower(self, node: Node, scope: Scope, index: str | None) -> Ref:
        """The operation (or the number) that a node becomes."""
        match node:
            case Number(value):
                return value
            case Log(p):
                return self.term(node, self.log(p, scope, index))
            case Divergence(q, p):
                return self.term(node, self.divergence(q, p, scope, index))
            case Expectation():
                return self.expectation(node, scope, index)
            case Binary(op, left, right):
                return self.binary(op, self.lower(left, scope, index), self.lower(right, scope, index))
            case Negative(body):
                return self.unary("negative", self.lower(body, scope, index))
            case StopGradient(body):
                return self.unary("detach", self.lower(body, scope, index))
            case OverBatch() | OverTime() if index is not None:
                what = "over the batch" if isinstance(node, OverBatch) else f"over {node.index!r}"
                write = f".{node.how}()" if isinstance(node, OverBatch) else "the inner one"
                raise TimeError(
                    f"{text(node)}: a {node.how} {what} cannot stand inside the Sum over {index!r}\n"
                    f"put {write} outside the Sum"
                )
            case OverBatch(how, body):
                return self.add(how + "_value", Op("", "batch", (self.reduced(how, body, scope, index),), how=how))
            case OverTime(how, name, body, _, _):
                self.enter_time(node)
                return self.over_time(node, self.reduced(f"time {how}", body, scope, name))
        raise TypeError(f"no lowering rule for {type(node).__name__}")

    # -------------------------------------------------------------------------------------------- terms and reductions

    def term(self, node: Node, value: Ref) -> Ref:
        """Note a KL, a log-density or an expectation of one as a term that ``out.terms`` shows."""
        if isinstance(value, str):
            self.leaves.append(value)
            self.labels.setdefault(value, text(node))
        if not self.inside_term:
            shown, count = text(node), 2
            while any(t.text == shown for t in self.terms):
                shown, count = f"{text(node)} ({count})", count + 1
            self.terms.append(Term(shown, value, self.reductions))
        return value

    def reduced(self, how: str, body: Node, scope: Scope, index: str | None) -> Ref:
        """What a reduction reduces."""
        leaves, reductions = self.leaves, self.reductions
        self.leaves, self.reductions = [], (how, *reductions)
        value = self.lower(body, scope, index)
        self.check_batch()
        self.leaves, self.reductions = leaves, reductions
        return value

    def check_batch(self) -> None:
        """Nothing broadcasts silently: the leaves since the last reduction have one batch shape."""
        leaves = tuple(dict.fromkeys(self.leaves))
        if len(leaves) > 1:
            check = self.ops.pop(self.add("same", Op("", "same", leaves)))
            names = list(self.ops)
            place = 1 + max(names.index(a) for a in check.reads)  # before the arithmetic that combines them
            self.ops = (
                {n: self.ops[n] for n in names[:place]} | {check.name: check} | {n: self.ops[n] for n in names[place:]}
            )

    # ------------------------------------------------------------------------------------------------------- densities

    def log(self, p: Product, scope: Scope, index: str | None) -> Ref:
        """Σ log p of the factors of a product."""
        total: Ref | None = None
        for use in p:
            factor = use.factor
            value = self.read(factor.variable, scope, index, factor)
            params = self.widened(self.params(use, scope, index), use, value)
            wish = f"log_{factor.header.letter}_{factor.variable.key}"
            term = self.add(wish, Op("", "logp", (params, value), factor))
            self.labels.setdefault(term, f"log {factor}")
            if len(p) > 1:
                self.leaves.append(term)
            total = term if total is None else self.binary("+", total, term)
        assert total is not None
        return total

    def divergence(self, q: Use, p: Use, scope: Scope, index: str | None) -> str:
        """KL(q ‖ p) in closed form; a side without batch axes takes those of the other."""
        left, right = self.params(q, scope, index), self.params(p, scope, index)
        if not q.factor.unbatched:
            right = self.widened(right, p, left)
        elif not p.factor.unbatched:
            left = self.widened(left, q, right)
        op = Op("", "kl", (left, right), q.factor, p.factor)
        return self.add(f"kl_{q.factor.variable.key}", op, id(p.factor.origin))

    def expectation(self, node: Expectation, scope: Scope, index: str | None) -> Ref:
        """Draw, then the body at the draws. One of a single thing is a term of its own, as is one with a surrogate."""
        whole = node.gradient == "score" or not isinstance(node.body, Binary | Negative | OverTime | Expectation)
        outer, self.inside_term = self.inside_term, self.inside_term or whole
        inside = self.draw(node, scope, index)
        value = self.lower(node.body, inside, index)
        if node.gradient == "score":
            value = self.score(node.q, value, inside, index)
        self.inside_term = outer
        return self.term(node, value) if whole else value

    def score(self, q: Product, value: Ref, scope: Scope, index: str | None) -> Ref:
        """value + (log q − sg log q)·sg(value): the value itself, with the score-function gradient."""
        surrogate = value
        for use in q:
            if use.factor.family is not None and not use.factor.family.reparametrised:
                logq = self.log((use,), scope, index)
                self.leaves += [logq] if isinstance(logq, str) else []
                centred = self.binary("-", logq, self.unary("detach", logq))
                surrogate = self.binary("+", surrogate, self.binary("*", centred, self.unary("detach", value)))
        return surrogate

    # ------------------------------------------------------------------------------------------------------ arithmetic

    def binary(self, op: str, left: Ref, right: Ref) -> Ref:
        """left op right."""
        return self.add(WISHES[op], Op("", "binary", (left, right), how=op))

    def unary(self, kind: str, body: Ref) -> Ref:
        """Minus, or stop-gradient."""
        return self.add(f"{kind}_{body}" if isinstance(body, str) else kind, Op("", kind, (body,)))

    # ------------------------------------------------------------------------------------------------------------ time

    def over_time(self, node: OverTime, inner: Ref) -> str:
        """The sum or mean of the steps."""
        if not self.is_step(inner):
            if not isinstance(inner, str) or not any(op.step for op in self.ops.values()):
                raise TimeError(
                    f"Sum over {node.index!r}: nothing inside has the index {node.index}\n"
                    f"give a variable its subscript, e.g. x_{node.index}"
                )
            inner = self.add(f"{inner}_{node.index}", Op("", "repeat", (inner,), step=True))
        name = self.add(f"{node.how}_over_{node.index}", Op("", "over", (inner,), how=node.how))
        self.leaves.append(name)
        self.labels.setdefault(name, text(node))
        return name

    def enter_time(self, node: OverTime) -> None:
        """Begin a sum over time; all sums of one formula share one clock, one carry and one set of flags."""
        known = self.time
        if known is not None and (known.index, known.reset) != (node.index, node.reset):
            raise TimeError(
                f"one formula has one clock: found Sum over {known.index!r} with reset={known.reset!r} and over "
                f"{node.index!r} with reset={node.reset!r}"
            )
        if known is not None and known.initial is not None and node.initial not in (None, known.initial):
            raise TimeError(f"one formula has one initial state: two sums over {node.index!r} give initial=")
        if known is None or known.initial is None:
            self.time = node
        self.declared |= {v for v in _drawn(node.body) if v.index == node.index}
        if node.reset is not None:
            if keyword.iskeyword(node.reset) or node.reset in ("self", *CALL_OPTIONS):
                raise FormulaError(f"reset=: flags cannot be called {node.reset!r}; call them e.g. 'first'")
            self.add("keep", Op("", "flags", how=node.reset, step=True))


def _drawn(node: Node) -> set[Variable]:
    """The variables that the expectations inside a node draw or compute (not the data)."""
    found: set[Variable] = set()
    if isinstance(node, Expectation):
        found |= {u.factor.variable for u in node.q if u.factor.family is not None or u.factor.net is not None}
    return found.union(*(_drawn(child) for child in children(node)))
