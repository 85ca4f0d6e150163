"""Lowering of iterations that are not time: the steps of a canvas (DRAW), the fast clock under a slow one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from worldformula.errors import TimeError
from worldformula.formula.plan.builder import Scope
from worldformula.formula.plan.operated import Operated
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Node, OverSteps, factors, walk
from worldformula.formula.syntax.text import text


class Iterated(Operated):
    """Rules for sums with ``steps=``, which are written out iteration by iteration."""

    def term(self, node: Node, value: Ref) -> Ref:
        """Note a term that ``out.terms`` shows."""
        raise NotImplementedError

    def over_steps(self, node: OverSteps, scope: Scope, index: str | None) -> Ref:
        """The iterations 1 … n, written out one after the other; the last values stay readable as ``c_L``."""
        if node.index in self.iteration or (index is not None and index == node.index):
            raise TimeError(f"{text(node)}: {node.index!r} is the index of a sum around it; choose another letter")
        outer, self.inside_term = self.inside_term, True
        total: Ref | None = None
        previous = dict(self.first_values(node, scope, index))
        self.counts[node.index] = node.steps
        for place in range(1, node.steps + 1):
            self.iteration[node.index] = place
            self.iterated = {v: n for v, n in self.iterated.items() if v.index != node.index}
            inside = {**scope, **previous}
            value = self.lower(node.body, inside, index)
            total = value if total is None else self.binary("+", total, value)
            previous = {v.at(-1): n for v, n in self.iterated.items() if v.index == node.index}
        del self.iteration[node.index]
        last = {v: n for v, n in self.iterated.items() if v.index == node.index}
        self.iterated = {v: n for v, n in self.iterated.items() if v.index != node.index}
        self.iterated |= {replace(v, index=node.index.upper()): n for v, n in last.items()}
        assert total is not None
        if node.how == "mean":
            total = self.binary("/", total, node.steps)
        self.inside_term = outer
        return self.term(node, total)

    def first_values(self, node: OverSteps, scope: Scope, index: str | None) -> Iterator[tuple[Variable, str]]:
        """Zeros for every variable that the first iteration reads of the one before."""
        for factor in factors(node.body):
            for condition in factor.conditions:
                if condition.index != node.index or condition.offset != -1 or condition in scope:
                    continue
                shape = self.shapes.get(condition.key)
                if shape is None:
                    raise TimeError(
                        f"{factor} reads {condition}, which begins with zeros, so its size must be known: "
                        f"declare shape= on the factor of {condition.at(0)}"
                    )
                like = self.like(node, scope, index)
                if like is None:
                    raise TimeError(f"{text(node)}: nothing tells the batch of {condition}; read some data before")
                source = self.ops[like]
                known = source.variable or (source.factor.variable if source.factor else None)
                rank = self.ranks.get(known.key, 1) + (known.key in self.inner) if known else 1
                yield condition, self.add(condition.identifier, Op("", "zeros", (like, rank), how=repr(shape)))

    def like(self, node: OverSteps, scope: Scope, index: str | None) -> str | None:
        """Some value with the batch axes of this place: what is drawn here, or data that the iterations read."""
        value = next((n for n in scope.values() if not self.shared(n)), None)
        if value is not None:
            return value
        own = drawn(node.body)
        conditions = [(c, f) for f in factors(node.body) for c in f.conditions if c not in own and not c.span]
        for condition, factor in sorted(conditions, key=lambda pair: node.index in (pair[0].index, pair[0].inner)):
            if condition.offset and condition.index == node.index:
                continue
            if condition.inner == node.index:
                self.inner[condition.key] = node.steps
                condition = replace(condition, inner=None)
            if condition.index == node.index:
                self.inner[condition.key] = node.steps
                condition = replace(condition, index=None)
            return self.read(condition, scope, index, factor)
        return None


def drawn(node: Node) -> set[Variable]:
    """The variables that the expectations inside a node draw or compute (not the data)."""
    return {
        v for n in walk(node) if isinstance(n, Expectation) for u in n.q if not u.factor.observed
        for v in u.factor.variables
    }  # fmt: skip
