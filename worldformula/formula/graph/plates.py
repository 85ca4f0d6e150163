"""Plates of a graphical model: what is repeated, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worldformula.formula.factors.experts import Experts, MoE, PoE
from worldformula.formula.graph.observed import everything
from worldformula.formula.ops.base import Compared
from worldformula.formula.ops.each import EachNode
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Node, OverBatch, OverRows, OverSteps
from worldformula.formula.syntax.text import text


@dataclass(frozen=True)
class Plate:
    """Variables that are repeated together; the ``label`` says how often."""

    label: str
    members: tuple[Variable, ...]


def plates(node: Node, factors: Sequence[Factor], variables: Sequence[Variable]) -> tuple[Plate, ...]:
    """The plates of a formula: rows of data, samples, iterations, experts.

    Args:
        node: the formula.
        factors: all of it, those that are made of others among them.
        variables: those that are drawn; each plate holds some of them.
    """
    found: dict[str, set[Variable]] = {}
    common = _shared(factors)
    for n in everything(node):
        if isinstance(n, OverBatch):
            found.setdefault("N", set()).update(v for v in variables if v not in common)
        if isinstance(n, OverRows):
            last = text(n.rows) if isinstance(n.rows, Node) else n.rows or "N"
            found.setdefault(f"{n.index} = 1, …, {last}", set()).update(v for v in variables if v not in common)
        if isinstance(n, OverSteps):
            label = f"{n.index} = 1" + {1: "", 2: ", 2"}.get(n.steps, f", …, {n.steps}")
            found.setdefault(label, set()).update(v for v in variables if v.index == n.index and not v.several)
        if isinstance(n, Expectation | Compared) and n.samples not in (None, 1):  # one draw repeats nothing
            found.setdefault(f"K = {n.samples}", set()).update(_sampled(n))
    for parts, label in _experts(node, factors):
        conditions = {c for part in parts for c in part.conditions}
        if len(conditions) > 1 and conditions not in found.values():
            found.setdefault(label, set()).update(conditions)
    shown = {label: tuple(v for v in variables if v in members) for label, members in found.items()}
    return tuple(Plate(label, members) for label, members in shown.items() if members)


def _shared(factors: Sequence[Factor]) -> set[Variable]:
    """The variables of which all rows have one value: what is shared, and what is computed of such alone."""
    found = {f.variable for f in factors if f.shared}
    while True:
        computed = (f for f in factors if f.family is None and f.conditions and found.issuperset(f.conditions))
        more = {v for f in computed for v in f.variables} - found
        if not more:
            return found
        found |= more


def _sampled(node: Expectation | Compared) -> set[Variable]:
    """What has the axis of the samples: the draws, and those inside, which depend on them."""
    if isinstance(node, Compared):
        return {v for factor in node.drawn for v in factor.variables}
    inside = (n for n in everything(node.body) if isinstance(n, Expectation))
    return {v for n in (node, *inside) for u in n.q if not u.factor.observed for v in u.factor.variables}


def _experts(node: Node, factors: Iterable[Factor]) -> list[tuple[tuple[Factor, ...], str]]:
    """Products and mixtures that are no parts of others, and means over experts: their parts, and what they are."""
    made = [f for f in factors if isinstance(f, Experts)]
    averaged = [n for n in everything(node) if isinstance(n, EachNode)]
    inside = {id(part) for f in made for part in f.parts} | {id(e) for n in averaged for e in n.experts}
    found = [(f.experts, "mixture" if isinstance(f, MoE) else "product") for f in made if id(f) not in inside]
    found += [(n.experts, "mean") for n in averaged]
    return [
        (parts, f"{what} over subsets" if any(isinstance(p, PoE) for p in parts) else f"{what} of experts")
        for parts, what in found
    ]
