"""Lowering: from the expression tree to the plan, one rule per node."""

from __future__ import annotations

import keyword

from worldformula.errors import FormulaError, TimeError
from worldformula.formula import runtime
from worldformula.formula.plan.builder import CALL_OPTIONS, Scope
from worldformula.formula.plan.iterated import Iterated, drawn
from worldformula.formula.plan.plan import Op, Plan, Ref, Term
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import (
    Binary,
    Divergence,
    Expectation,
    Function,
    Group,
    Integral,
    Log,
    Named,
    Negative,
    Node,
    Number,
    Operator,
    OverBatch,
    OverEvent,
    OverSteps,
    OverTime,
    Product,
    Ratio,
    StopGradient,
    Use,
    Value,
    factors,
    walk,
)
from worldformula.formula.syntax.text import text

WISHES = {
    "+": "total",
    "-": "difference",
    "*": "product",
    "/": "ratio",
    "^": "power",
    "max": "larger",
    "min": "smaller",
}


def lower(node: Node, masked: frozenset[str] = frozenset()) -> Plan:
    """The plan of an expression; ``masked`` are the inputs that some rows lack, told by ``present=``."""
    lowering = _Lowering(factors(node))
    lowering.masked = masked
    lowering.declare([n for n in walk(node) if isinstance(n, Value)])
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


class _Lowering(Iterated):
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
            case Value():
                return self.value(node, scope, index)
            case Ratio(p, q):
                ratio = self.binary("-", self.log(p, scope, index), self.log(q, scope, index))
                return self.term(node, self.function("exp", ratio))
            case Log(p):
                return self.term(node, self.log(p, scope, index))
            case Divergence(q, p):
                return self.term(node, self.divergence(q, p, scope, index))
            case Expectation():
                return self.expectation(node, scope, index)
            case Function("log", Expectation() as inner) if self.is_sampled(inner):
                return self.term(node, self.log_expectation(inner, scope, index))
            case Function(name, body, bounds):
                return self.function(name, self.lower(body, scope, index), bounds)
            case OverEvent(how, body):
                return self.over_event(how, self.lower(body, scope, index))
            case Named():
                return self.named(node, scope, index)
            case Operator():
                return self.term(node, node.lower(self, scope, index))
            case OverSteps():
                return self.over_steps(node, scope, index)
            case Group(names, bodies):
                return self.group(names, [self.reduced("", body, scope, index) for body in bodies])
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
                return self.over_batch(how, self.reduced(how, body, scope, index))
            case OverTime(how, name, body, _, _):
                self.enter_time(node)
                return self.over_time(node, self.reduced(f"time {how}", body, scope, name))
        raise TypeError(f"no lowering rule for {type(node).__name__}")

    # -------------------------------------------------------------------------------------------- terms and reductions

    def term(self, node: Node, value: Ref) -> Ref:
        """Note a KL, a log-density or an expectation of one as a term that ``out.terms`` shows."""
        if isinstance(value, str) and not self.rank(value) and not self.scalar(value):
            self.leaves.append(value)
        if isinstance(value, str):
            self.labels.setdefault(value, text(node))
        if not self.inside_term:
            shown, count = text(node), 2
            while any(t.text == shown for t in self.terms):
                shown, count = f"{text(node)} ({count})", count + 1
            self.terms.append(Term(shown, value, self.reductions, node))
        return value

    def reduced(self, how: str, body: Node, scope: Scope, index: str | None) -> Ref:
        """What a reduction reduces."""
        leaves, reductions = self.leaves, self.reductions
        self.leaves, self.reductions = [], (how, *reductions) if how else reductions
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
        """Σ log p of the factors of a product; of a marginal, the log of the sum over all hidden values."""
        if isinstance(p, Integral):
            hidden = tuple(u for u in p if u.factor.variable in p.hidden)
            rest = tuple(u for u in p if u.factor.variable not in p.hidden)
            return self.log_expectation(Expectation(hidden, Ratio(rest, ()), "exact"), scope, index)
        total: Ref | None = None
        for use in p:
            factor = use.factor
            value = self.read(factor.variable, scope, index, factor)
            params = self.widened(self.params(use, scope, index), use, value)
            wish = f"log_{factor.header.letter}_{factor.variable.key}"
            term = self.add(wish, Op("", "logp", (params, value), factor))
            if (flags := self.presence(self.absent(value))) is not None:
                term = self.add(f"{wish}_here", Op("", "call", (term, flags, 0), function=runtime.filled))
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
        sampled = self.is_sampled(node)
        whole = sampled or node.gradient == "score" or not isinstance(
            node.body, Binary | Negative | OverTime | OverSteps | Expectation | Named
        )  # fmt: skip
        outer, self.inside_term = self.inside_term, self.inside_term or whole
        if sampled:
            value = self.sampled_expectation(node, scope, index)
        else:
            inside = self.draw(node, scope, index)
            value = self.lower(node.body, inside, index)
            value = self.score(node, value, inside, index)
        self.inside_term = outer
        return self.term(node, value) if whole else value

    def named(self, node: Named, scope: Scope, index: str | None) -> Ref:
        """The value of a named part, which is one term under its name."""
        outer, self.inside_term = self.inside_term, True
        value = self.lower(node.body, scope, index)
        self.inside_term = outer
        if not outer:
            self.terms.append(Term(node.name, value, self.reductions, node))
        return value

    # ------------------------------------------------------------------------------------------------------ arithmetic

    def binary(self, op: str, left: Ref, right: Ref) -> Ref:
        """left op right; what has fewer event axes is seen with those of the other."""
        rank = max(self.rank(left), self.rank(right))
        left, right = (self.lift(side, rank) for side in (left, right))
        return self.add(WISHES[op], Op("", "binary", (left, right), how=op, rank=rank))

    def unary(self, kind: str, body: Ref) -> Ref:
        """Minus, or stop-gradient."""
        op = Op("", kind, (body,), rank=self.rank(body))
        return self.add(f"{kind}_{body}" if isinstance(body, str) else kind, op)

    def function(self, name: str, body: Ref, bounds: tuple[int | float | None, ...] = ()) -> Ref:
        """An elementwise function."""
        limits = "" if name != "clamp" else "".join(f", {k}={b!r}" for k, b in zip(("min", "max"), bounds, strict=True))
        return self.add(name, Op("", "function", (body,), how=name + limits, rank=self.rank(body)))

    def lift(self, ref: Ref, rank: int) -> Ref:
        """A value with event axes of size 1, so that arithmetic meets the axes it means."""
        missing = rank - self.rank(ref)
        if not missing or self.scalar(ref):
            return ref
        return self.add(f"{ref}_wide", Op("", "lift", (ref,), how=str(missing), rank=rank))

    def over_event(self, how: str, body: Ref) -> Ref:
        """The sum over event axes of a value, or of its squares."""
        rank = self.rank(body)
        name = self.add(how, Op("", "event", (body,), how=f"{how} {rank}"))
        if isinstance(name, str) and not self.scalar(name):
            self.leaves.append(name)
        return name

    def over_batch(self, how: str, body: Ref) -> Ref:
        """The mean or sum over all batch axes."""
        if self.rank(body) or (isinstance(body, str) and self.ops[body].axes):
            raise FormulaError(
                f".{how}() is over the batch, and what stands inside has event or sample axes too\n"
                f"reduce these first, by total(...) or norm2(...), and put .{how}() outside an E with samples="
            )
        return self.add(how + "_value", Op("", "batch", (body,), how=how))

    def group(self, names: tuple[str, ...], values: list[Ref]) -> Ref:
        """Several values under their names."""
        return self.add("values", Op("", "group", tuple(values), how=" ".join(names)))

    def value(self, node: Value, scope: Scope, index: str | None) -> Ref:
        """The value of a variable, or a number that the call is given."""
        variable = node.variable
        if node.scalar:
            name = self.input(variable, node, Op("", "symbol", variable=variable))
            return name
        name = self.read(variable, scope, index, text(node))
        rank = self.ranks.get(variable.key, len(self.shapes.get(variable.key, ())))
        self.event_axes[name] = rank
        if self.ops[name].kind == "input":
            self.ranks.setdefault(variable.key, rank)
        if not rank:
            self.leaves.append(name)
        return name

    # ------------------------------------------------------------------------------------------------------------ time

    def over_time(self, node: OverTime, inner: Ref) -> str:
        """The sum or mean of the steps."""
        if not self.is_step(inner):
            if self.scalar(inner) or not any(op.step for op in self.ops.values()):
                raise TimeError(
                    f"Sum over {node.index!r}: nothing inside has the index {node.index}\n"
                    f"give a variable its subscript, e.g. x_{node.index}; one number for the whole call belongs outside"
                )
            inner = self.add(f"{inner}_{node.index}", Op("", "repeat", (inner,), step=True))
        if self.rank(inner):
            raise FormulaError(f"Sum over {node.index!r}: {text(node.body)} has event axes; write total(...) around it")
        named = {"mask": node.mask, "until": node.until}
        flags = tuple(self.flags("mask", name) for name in named.values() if name is not None)
        counted = (("burn_in", node.burn_in), *((key, name) for key, name in named.items() if name is not None))
        options = counted if flags or node.burn_in else ()
        name = self.add(f"{node.how}_over_{node.index}", Op("", "over", (inner, *flags), how=node.how, options=options))
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
        self.declared |= {v for v in drawn(node.body) if v.index == node.index}
        if node.reset is not None:
            self.flags("reset", node.reset)

    def flags(self, what: str, name: str) -> str:
        """The series of flags [B, T] that the call is given under this name."""
        if keyword.iskeyword(name) or name in ("self", *CALL_OPTIONS):
            raise FormulaError(f"{what}=: flags cannot be called {name!r}; call them e.g. 'first'")
        kind = "flags" if what == "reset" else "mask"
        return self.add("keep" if what == "reset" else f"{name}_mask", Op("", kind, how=name, step=True))
