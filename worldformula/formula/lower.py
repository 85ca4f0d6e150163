"""Lowering: from the expression tree to the plan. Equal operations on equal arguments become one."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import replace

from worldformula.errors import DuplicateVariableError, FormulaError, ShapeError, TimeError, table
from worldformula.formula.check import draw_order
from worldformula.formula.factors import Factor
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

Scope = Mapping[Variable, str]
RESERVED = {
    "self", "torch", "normal", "bernoulli", "categorical", "one_hot", "two_hot", "flat", "steps", "stack", "kept", "shift",
    "restart", "repeat", "wide", "stop", "noise_for", "B", "T", "t", "rng", "sum", "range", "value",
}  # fmt: skip
CALL_OPTIONS = ("seed", "generator", "noise", "start", "horizon", "deterministic")


def lower(node: Node) -> Plan:
    """The plan of an expression, everything of a time step in the loop."""
    builder = _Builder(factors(node))
    value = builder.lower(node, {}, None)
    builder.collect_terms(node)
    return builder.plan(value)


def lower_rollout(product: Product, index: str, reset: str | None, shapes_from: tuple[Factor, ...] = ()) -> Plan:
    """The plan that only draws a product through time: what ``filter`` and ``imagine`` run.

    ``shapes_from``: further factors whose declared event shapes hold here too.
    """
    builder = _Builder([*(u.factor for u in product), *shapes_from])
    builder.enter_time(OverTime("sum", index, Expectation(product, Number(0.0)), reset))
    builder.draw(Expectation(product, Number(0.0)), {}, index)
    return builder.plan(None)


class _Builder:
    def __init__(self, used: list[Factor]) -> None:
        self.ops: list[Op] = []
        self.memo: dict[object, str] = {}
        self.results: dict[int, Ref] = {}
        self.terms: list[Term] = []
        self.samples: dict[str, str] = {}
        self.carries: dict[str, str] = {}
        self.time: OverTime | None = None
        self.declared: set[Variable] = set()
        self.shapes, self.ranks = _declared_shapes(used)

    # ------------------------------------------------------------------------------------------------------ one op

    def add(self, wish: str, op: Op, key: object = None) -> str:
        """Append an operation, or find the one that already computes the same."""
        key = (op.kind, op.args, id(op.factor), op.variable, op.how, key)
        if key in self.memo:
            return self.memo[key]
        step = op.step or any(self.is_step(a) for a in op.reads)
        if op.kind in ("over", "batch"):
            step = False
        if step and op.kind != "repeat":
            op = replace(op, args=tuple(self.repeated(a) for a in op.args))
        name = self.unique(wish)
        self.ops.append(replace(op, name=name, step=step))
        self.memo[key] = name
        return name

    def unique(self, wish: str) -> str:
        taken = {op.name for op in self.ops} | RESERVED
        name = wish + "_" if wish in RESERVED or keyword.iskeyword(wish) else wish
        count = 2
        while name in taken:
            name, count = f"{wish}_{count}", count + 1
        return name

    def op(self, name: str) -> Op:
        return next(op for op in self.ops if op.name == name)

    def is_step(self, ref: Ref) -> bool:
        return isinstance(ref, str) and self.op(ref).step

    def repeated(self, ref: Ref) -> Ref:
        """A once-per-call value that a step reads; parameters without a batch axis need no copy."""
        if not isinstance(ref, str) or self.is_step(ref) or self.unbatched(ref):
            return ref
        return self.add(f"{ref}_t", Op("", "repeat", (ref,), step=True))

    def unbatched(self, ref: str) -> bool:
        """Parameters that no network computes, perhaps detached."""
        op = self.op(ref)
        return (op.kind == "params" and not op.reads) or (op.kind == "stop" and self.unbatched(op.reads[0]))

    # ------------------------------------------------------------------------------------------------- variables

    def read(self, variable: Variable, scope: Scope, index: str | None, by: Factor) -> str:
        """Where a variable's value comes from: the scope, the carry, the shifted data, or the data."""
        if variable in scope:
            return scope[variable]
        bound = variable.index is not None and variable.index == index
        now = variable.at(0)
        if bound and variable.offset == -1:
            if now in self.declared:
                self.need_shape(now, by)
                return self.add(variable.identifier, Op("", "carry", variable=variable, step=True))
            series = self.add(now.key, Op("", "input", variable=now, step=True))
            return self.add(variable.identifier, Op("", "shift", (series,), variable=variable, step=True))
        if bound and now in self.declared:
            raise TimeError(f"{by} reads {variable} outside the E that draws it; put the term inside that E")
        if not bound and variable.index is not None:
            variable = Variable(variable.identifier)  # without a Sum over its index it is a variable like any other
        if variable.key in CALL_OPTIONS:
            raise FormulaError(f"{by}: a variable cannot be called {variable.key!r}, which is an option of the call")
        return self.add(variable.key, Op("", "input", variable=variable, step=bound))

    def need_shape(self, variable: Variable, by: Factor) -> None:
        initial = self.time.initial if self.time else None
        if variable.key not in self.shapes and not (initial is not None and hasattr(initial, variable.key)):
            raise TimeError(
                f"{by} carries {variable.at(-1)} from step to step, so its size must be known before the first step\n"
                + table(("variable", "declared by", "shape"), [(variable, by, "undeclared")])
                + f"\ndeclare it on the factor of {variable}, e.g. shape=16"
            )

    def conditions(self, factor: Factor, scope: Scope, index: str | None) -> tuple[Ref, ...]:
        return tuple(self.read(c, scope, index, factor) for c in factor.conditions)

    # --------------------------------------------------------------------------------------------------- factors

    def net(self, factor: Factor, scope: Scope, index: str | None) -> str | None:
        if factor.net is None:
            return None
        wish = factor.variable.key if factor.family is None else f"head_{factor.header.letter}_{factor.variable.key}"
        return self.add(wish, Op("", "net", self.conditions(factor, scope, index), factor))

    def params(self, use: Use, scope: Scope, index: str | None) -> str:
        head = self.net(use.factor, scope, index)
        letter = use.factor.header.identifier.split("_given_")[0]
        name = self.add(letter, Op("", "params", () if head is None else (head,), use.factor))
        return self.add(f"sg_{name}", Op("", "stop", (name,))) if use.stopped else name

    def value_of(self, use: Use, scope: Scope, index: str | None, gradient: str | None) -> str:
        """The draw of a factor under these conditions (shared), its network's output, or the data itself."""
        factor = use.factor
        if factor.family is None:
            if factor.net is None:
                return self.read(factor.variable, scope, index, factor)
            return self.net(factor, scope, index)  # type: ignore[return-value]
        params = self.params(use, scope, index)
        key = factor.variable.key
        step = self.is_step(params) or (index is not None and factor.variable.index == index)
        how = "" if factor.family.reparametrised else gradient or ""
        source = (id(factor), params)
        noise = self.add(f"noise_{key}", Op("", "noise", factor=factor, variable=factor.variable, step=step), source)
        return self.add(key, Op("", "draw", (params, noise), factor, how=how))

    def draw(self, node: Expectation, scope: Scope, index: str | None) -> dict[Variable, str]:
        """Draw every factor of the expectation, causes first; returns the scope inside."""
        inside = dict(scope)
        for use in draw_order(node.q):
            variable = use.factor.variable
            name = self.value_of(use, inside, index, node.gradient)
            if inside.get(variable, name) != name:
                raise DuplicateVariableError(f"two factors declare {variable} in nested expectations; the inner is {use.factor}")
            inside[variable] = name
            key = variable.key
            if key in self.samples and self.samples[key] != name:
                key = name
            self.samples[key] = name
            if index is not None and variable.index == index:
                if self.carries.setdefault(variable.key, name) != name and self._is_carried(variable):
                    raise TimeError(
                        f"two factors draw {variable} in one step, so which one is carried to the next is ambiguous; "
                        f"the second is {use.factor}"
                    )
        return inside

    def _is_carried(self, variable: Variable) -> bool:
        return any(op.kind == "carry" and op.variable == variable.at(-1) for op in self.ops)

    # ------------------------------------------------------------------------------------------------------ nodes

    def lower(self, node: Node, scope: Scope, index: str | None) -> Ref:
        """The operation (or the number) that a node becomes."""
        result = self._lower(node, scope, index)
        self.results[id(node)] = result
        return result

    def _lower(self, node: Node, scope: Scope, index: str | None) -> Ref:
        match node:
            case Number(value):
                return value
            case Log(p):
                return self.log(p, scope, index)
            case Divergence(q, p):
                left, right = self.params(q, scope, index), self.params(p, scope, index)
                return self.add(f"kl_{q.factor.variable.key}", Op("", "kl", (left, right), q.factor), id(p.factor))
            case Expectation(q, body, gradient):
                inside = self.draw(node, scope, index)
                value = self.lower(body, inside, index)
                return self.score(q, value, inside, index) if gradient == "score" else value
            case Binary(op, left, right):
                return self.binary(op, self.lower(left, scope, index), self.lower(right, scope, index))
            case Negative(body):
                return self.unary("negative", self.lower(body, scope, index))
            case StopGradient(body):
                return self.unary("detach", self.lower(body, scope, index))
            case OverBatch(how, body):
                return self.add(how + "_value", Op("", "batch", (self.lower(body, scope, index),), how=how))
            case OverTime(how, name, body, _, _):
                self.enter_time(node)
                inner = self.lower(body, scope, name)
                if not self.is_step(inner):
                    raise TimeError(f"Sum over {name!r}: nothing inside has the index {name}, e.g. x_{name}")
                return self.add(f"{how}_over_{name}", Op("", "over", (inner,), how=how))
        raise TypeError(f"no lowering rule for {type(node).__name__}")

    def binary(self, op: str, left: Ref, right: Ref) -> Ref:
        wish = {"+": "total", "-": "difference", "*": "product", "/": "ratio", "max": "larger", "min": "smaller"}[op]
        return self.add(wish, Op("", "binary", (left, right), how=op))

    def unary(self, kind: str, body: Ref) -> Ref:
        return self.add(kind if isinstance(body, float) else f"{kind}_{body}", Op("", kind, (body,)))

    def log(self, p: Product, scope: Scope, index: str | None) -> Ref:
        total: Ref | None = None
        for use in p:
            value = self.read(use.factor.variable, scope, index, use.factor)
            params = self.params(use, scope, index)
            wish = f"log_{use.factor.header.letter}_{use.factor.variable.key}"
            term = self.add(wish, Op("", "logp", (params, value), use.factor))
            total = term if total is None else self.binary("+", total, term)
        assert total is not None
        return total

    def score(self, q: Product, value: Ref, scope: Scope, index: str | None) -> Ref:
        """value + (log q − sg log q)·sg(value): the value itself, with the score-function gradient."""
        for use in q:
            if use.factor.family is not None and not use.factor.family.reparametrised:
                logq = self.log((use,), scope, index)
                centred = self.binary("-", logq, self.unary("detach", logq))
                value = self.binary("+", value, self.binary("*", centred, self.unary("detach", value)))
        return value

    def enter_time(self, node: OverTime) -> None:
        if self.time is not None and (self.time.index, self.time.reset) != (node.index, node.reset):
            raise TimeError(
                f"one formula has one clock: found Sum over {self.time.index!r} with reset={self.time.reset!r} and over "
                f"{node.index!r} with reset={node.reset!r}"
            )
        self.time = self.time if self.time is not None and self.time.initial is not None else node
        self.declared |= {v for v in _drawn(node.body) if v.index == node.index}
        if node.reset:
            self.add(node.reset, Op("", "flags", how=node.reset, step=True))

    # -------------------------------------------------------------------------------------------------- the result

    def collect_terms(self, node: Node, reductions: tuple[str, ...] = ()) -> None:
        """The terms that a reader would name: look through sums and reductions, stop at KL, log and E of one thing."""
        match node:
            case Binary() | Negative() | StopGradient():
                for child in children(node):
                    self.collect_terms(child, reductions)
            case OverBatch(how, body):
                self.collect_terms(body, (how, *reductions))
            case OverTime(how, _, body, _, _):
                self.collect_terms(body, (f"time {how}", *reductions))
            case Expectation(_, (Binary() | Negative() | OverTime() | Expectation()) as body, gradient) if gradient != "score":
                self.collect_terms(body, reductions)
            case Log() | Divergence() | Expectation():
                shown, count = text(node), 2
                while any(t.text == shown for t in self.terms):
                    shown, count = f"{text(node)} ({count})", count + 1
                self.terms.append(Term(shown, self.results[id(node)], reductions))

    def plan(self, value: Ref | None) -> Plan:
        carried = {op.variable.key for op in self.ops if op.kind == "carry" and op.variable}
        shifted = [op.variable.key for op in self.ops if op.kind == "shift" and op.variable]
        return Plan(
            tuple(self.ops),
            value,
            tuple(self.terms),
            self.samples,
            {k: v for k, v in self.carries.items() if k in carried},
            tuple(shifted),
            self.time.index if self.time else None,
            self.time.reset if self.time else None,
            self.time.initial if self.time else None,
            self.shapes,
            self.ranks,
            {op.name: "loop" if op.step else "once" for op in self.ops},
        )


def _drawn(node: Node) -> set[Variable]:
    """The variables that the expectations inside a node draw or compute (not the data)."""
    found: set[Variable] = set()
    if isinstance(node, Expectation):
        found |= {u.factor.variable for u in node.q if u.factor.family is not None or u.factor.net is not None}
    return found.union(*(_drawn(child) for child in children(node)))


def _declared_shapes(used: list[Factor]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Event shapes by variable, from every factor that declares one; the ranks include the families' defaults."""
    shapes: dict[str, tuple[int, ...]] = {}
    ranks: dict[str, int] = {}
    by: dict[str, Factor] = {}
    for factor in used:
        key = factor.variable.key
        if factor.shape is not None:
            if shapes.setdefault(key, factor.shape) != factor.shape:
                rows = [(factor.variable, f, f.shape) for f in (by[key], factor)]
                raise ShapeError(f"{key} has two event shapes\n" + table(("variable", "declared by", "declared"), rows))
            by.setdefault(key, factor)
    for factor in used:
        if factor.family is not None or factor.shape is not None:
            ranks.setdefault(factor.variable.key, len(shapes.get(factor.variable.key, ())) if factor.variable.key in shapes else factor.rank)
    return shapes, ranks
