"""Lowering of expectations that draw more than once, or every value: sample axes and the gradients of estimators."""

from __future__ import annotations

from worldformula.errors import FormulaError, GradientError
from worldformula.formula import runtime
from worldformula.formula.plan.builder import Builder, Scope
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.syntax.check import draw_order, estimator
from worldformula.formula.syntax.nodes import Expectation, Function, Node, Product, Ratio, Use
from worldformula.formula.syntax.text import text


class Sampled(Builder):
    """Rules for E with ``samples=`` or an estimator. The rules for nodes are those of the class below."""

    leaves: list[str]

    def lower(self, node: Node, scope: Scope, index: str | None) -> Ref:
        """The operation (or the number) that a node becomes."""
        raise NotImplementedError

    def log(self, p: Product, scope: Scope, index: str | None) -> Ref:
        """Σ log p of the factors of a product."""
        raise NotImplementedError

    def binary(self, op: str, left: Ref, right: Ref) -> Ref:
        """Left op right."""
        raise NotImplementedError

    def unary(self, kind: str, body: Ref) -> Ref:
        """Minus, or stop-gradient."""
        raise NotImplementedError

    def function(self, name: str, body: Ref, bounds: tuple[int | float | None, ...] = ()) -> Ref:
        """An elementwise function."""
        raise NotImplementedError

    def check_batch(self) -> None:
        """Nothing broadcasts silently."""
        raise NotImplementedError

    def is_sampled(self, node: Expectation) -> bool:
        """Whether the draws have an axis of their own."""
        return node.samples is not None or any(u.factor.family is not None for u in self.enumerated(node))

    @staticmethod
    def enumerated(node: Expectation) -> list[Use]:
        """The uses whose factors take every value (or component) in turn, in the order in which they are drawn."""
        return [u for u in draw_order(node.q) if estimator(u.factor, node.q, node.gradient) in ("exact", "stratified")]

    def sampled_expectation(self, node: Expectation, scope: Scope, index: str | None) -> Ref:
        """The mean of the body over the samples, or its sum weighted by the probabilities of the values."""
        if node.gradient == "dreg":
            raise GradientError(
                f"{text(node)}: gradient='dreg' is of log E: write log(E(q, ratio(p, q), samples=K, ...))"
            )
        inside, axis = self.enter(node, scope, index)
        value = self.inside(node.body, inside, index)
        value = self.score(node, value, inside, index, axis)
        for use in reversed(self.enumerated(node)):
            logq = self.share(use, node, inside, index)
            weighted = self.binary("*", self.function("exp", logq), value)
            value = self.reduced_axis("sum", weighted, self.own_axis(inside[use.factor.variable]))
        return self.reduced_axis("mean", value, axis)

    def log_expectation(self, node: Expectation, scope: Scope, index: str | None) -> Ref:
        """log E, by log-sum-exp over the samples or the values, whichever the expectation has."""
        if node.gradient == "score":
            raise GradientError(
                f"log({text(node)}): the score estimator is one of E, not of log E\nuse another gradient="
            )
        inside, axis = self.enter(node, scope, index)
        held = self.held
        if node.gradient == "dreg":
            self.held = held | {id(u.factor) for u in node.q}
        value = self.inside(node.body, inside, index, log=True)
        self.held = held
        for use in reversed(self.enumerated(node)):
            logq = self.share(use, node, inside, index)
            name = inside[use.factor.variable]
            value = self.reduced_axis("logsumexp", self.binary("+", value, logq), self.own_axis(name))
        if node.gradient == "dreg" and axis is not None and isinstance(value, str):
            draws = [inside[u.factor.variable] for u in node.q if u.factor.family is not None]
            op = Op("", "samples", (value, *draws), how="dreg", axis=axis)
            return self.add("bound", op)
        return self.reduced_axis("logmeanexp", value, axis)

    def enter(self, node: Expectation, scope: Scope, index: str | None) -> tuple[dict, int | None]:  # type: ignore[type-arg]
        """Draw; returns the scope inside and the axis of K samples."""
        if node.samples is None:
            return self.draw(node, scope, index), None
        random = [u.factor for u in node.q if u.factor.family is not None]
        if not random:
            raise FormulaError(f"{text(node)}: nothing random is drawn here, so samples= has no meaning")
        outer = tuple(scope[v] for f in random for v in f.conditions if v in scope)
        axis = self.axis((tuple(id(f) for f in random), outer, tuple(self.iteration.items())), node.samples)
        return self.draw(node, scope, index, axis), axis

    def inside(self, body: Node, scope: Scope, index: str | None, *, log: bool = False) -> Ref:
        """The body, its leaves checked among themselves; its log where ``log``."""
        leaves, self.leaves = self.leaves, []
        value = self.log_of(body, scope, index) if log else self.lower(body, scope, index)
        self.check_batch()
        self.leaves = leaves
        return value

    def log_of(self, body: Node, scope: Scope, index: str | None) -> Ref:
        """The logarithm of a node, without exponentials where it is made of densities."""
        match body:
            case Ratio(p, ()):
                return self.log(p, scope, index)
            case Ratio(p, q):
                return self.binary("-", self.log(p, scope, index), self.log(q, scope, index))
            case Function("exp", inner):
                return self.lower(inner, scope, index)
        return self.function("log", self.lower(body, scope, index))

    def own_axis(self, name: str) -> int:
        """The axis of the values of an enumerated variable: the newest."""
        return self.ops[name].axes[0]

    def share(self, use: Use, node: Expectation, inside: Scope, index: str | None) -> Ref:
        """log of the probability of every value, or of the weight of every component, along its axis."""
        if estimator(use.factor, node.q, node.gradient) == "exact":
            return self.log((use,), inside, index)
        params, name = self.params(use, inside, index), inside[use.factor.variable]
        axes = (self.own_axis(name), *self.ops[params].axes)
        return self.add(f"shares_{use.factor.variable.key}", Op("", "shares", (params,), axes=axes))

    def reduced_axis(self, how: str, value: Ref, axis: int | None) -> Ref:
        """A value without one of its sample axes; one that does not depend on it stays."""
        if axis is None or not isinstance(value, str) or axis not in self.ops[value].axes:
            return value
        return self.add(how, Op("", "samples", (value,), how=how, axis=axis, rank=self.rank(value)))

    def score(self, node: Expectation, value: Ref, scope: Scope, index: str | None, axis: int | None = None) -> Ref:
        """value + (log q − sg log q)·sg(value − baseline): the value itself, with the score-function gradient."""
        scored = [u for u in node.q if estimator(u.factor, node.q, node.gradient) == "score"]
        if not scored:
            return value
        surrogate, signal = value, value
        if isinstance(node.baseline, Node):
            signal = self.binary("-", value, self.inside(node.baseline, scope, index))
        elif node.baseline is not None and isinstance(value, str):
            if axis not in self.ops[value].axes:
                return value  # every sample has this value, so what the others have is all of it
            others = Op("", "call", (value, self.ops[value].axes.index(axis)), function=runtime.leave_one_out)
            signal = self.binary("-", value, self.add("others", others))
        for use in scored:
            logq = self.log((use,), scope, index)
            self.leaves += [logq] if isinstance(logq, str) and axis is None else []
            centred = self.binary("-", logq, self.unary("detach", logq))
            surrogate = self.binary("+", surrogate, self.binary("*", centred, self.unary("detach", signal)))
        return surrogate
