"""Which variables a formula draws, and which it needs from outside: what is latent and what is observed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from worldformula.formula.ops.base import Expanded, OwnEntropy
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import (
    Binary,
    Divergence,
    Expectation,
    Function,
    Integral,
    Log,
    Node,
    Operator,
    OverEvent,
    OverTime,
    Product,
    Ratio,
    Use,
    Value,
    children,
    uses,
)


def slot(variable: Variable) -> Variable:
    """The variable at the current step: that of h_t for h_{t-1}, for the whole series h_{1:T}, and for the last h_T."""
    return replace(variable.now, offset=0, index=variable.index and variable.index.lower())


def drawn(node: Node) -> set[Variable]:
    """The variables that a formula draws, compares by a divergence, or sums out, at the current step; data are none."""
    return {slot(v) for n in everything(node) for v in _bound(n)}


def inner(node: Node) -> tuple[Node, ...]:
    """The nodes below one; below an operator that stands for others, these."""
    return (node.expansion,) if isinstance(node, Expanded) else children(node)


def everything(node: Node) -> Iterable[Node]:
    """A node and all below it, through what operators stand for; each once."""
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting.extend(reversed(inner(node)))


def inferring(node: Node) -> set[int]:
    """Identities of the factors that something is drawn from, or that a divergence measures; of a mixture, its parts
    too.
    """
    found: set[int] = set()
    for n in everything(node):
        named = uses(n) if isinstance(n, Expectation | OverTime) else (n.q,) if isinstance(n, Divergence) else ()
        factors = [u.factor for u in named] + (list(n.drawn) if isinstance(n, Operator) else [])
        found |= {id(part) for factor in factors for part in factor.family_tree()}
    return found


def beside(node: Node) -> set[int]:
    r"""Identities of the factors that operators draw for their own use, as the noise of a score: q(\tilde x|x)."""
    extra = (u.factor for n in everything(node) if isinstance(n, Operator) for u in n.extra if u.factor.family)
    return {id(f) for f in extra if [_bare(c) for c in f.conditions] == [_bare(f.variable)]}


def counts(node: Node) -> list[tuple[Variable, Variable]]:
    """What is counted by its probabilities, each behind these: total(c · log ρ) is, up to what the data alone say, the
    log-density of counts or shares c of whose classes ρ are the probabilities, and no factor says so.
    """
    found = []
    for n in everything(node):
        match n:
            case OverEvent("total", Binary("*", left, right)):
                for c, log in ((left, right), (right, left)):
                    match c, log:
                        case Value(variable), Function("log", Value(probabilities)):
                            found.append((probabilities, variable))
    return found


def _bare(variable: Variable) -> Variable:
    return replace(variable, accent=None, primes=0)


def free(node: Node) -> set[Variable]:
    """The variables whose values come from outside: from the data of the call, or from what surrounds the node.

    The variables of a factor inside a logarithm are such, unless an expectation around it draws them.
    """
    found, seen = set[Variable](), set[tuple[int, frozenset[Variable]]]()
    waiting: list[tuple[Node, frozenset[Variable]]] = [(node, frozenset())]
    while waiting:
        node, bound = waiting.pop()
        if (id(node), bound) in seen:
            continue
        seen.add((id(node), bound))
        own = bound.union(map(slot, _bound(node)))
        found |= _free(node, bound, own)
        inside = inner(node)
        waiting += [(child, own) for child in inside]
        if isinstance(node, Expectation) and len(inside) > 1:  # a baseline is known before the draw
            waiting[-1] = (inside[-1], bound)
    return found


def _free(node: Node, bound: frozenset[Variable], own: frozenset[Variable]) -> set[Variable]:
    """What the node itself reads from outside, where ``bound`` is drawn around it and ``own`` inside it."""
    match node:
        case Value(variable):
            return set() if node.scalar or slot(variable) in bound else {variable}
        case Log(p):
            return _read(p, bound)
        case Ratio(p, q):
            return _read(p, bound) | _read(q, bound)
    found = {c for u in _named(node) for c in u.factor.conditions if slot(c) not in own}
    found |= {v for u in _named(node) if u.factor.observed for v in u.factor.variables}
    if isinstance(node, Operator):
        outside = own if _compares(node) or node.sets else bound
        found |= {v for u in _products(node) for v in u.factor.variables if slot(v) not in outside}
    return found


def _named(node: Node) -> Product:
    """The factors whose conditions a node reads itself; those of an operator that stands for others are read there."""
    return () if isinstance(node, Expanded | Log | Ratio) else uses(node)


def _bound(node: Node) -> set[Variable]:
    """What a node draws, integrates over or computes, for what stands inside it."""
    named: Iterable[Use] = ()
    hidden: set[Variable] = set()
    match node:
        case Expectation() | OverTime():
            named = uses(node)
        case Divergence(q, p):
            named = (q, p)
        case Log(Integral() as p):
            return set(p.hidden)
        case Operator():
            named = _products(node) if _compares(node) else ()
            hidden = {v for factor in node.drawn for v in factor.variables}
    return hidden | {v for u in named if not u.factor.observed for v in u.factor.variables}


def _products(node: Operator) -> Product:
    """The factors that an operator prints."""
    return tuple(u for part in node.parts if not isinstance(part, Node) for u in part)


def _compares(node: Operator) -> bool:
    """Whether an operator integrates over what its factors declare: entropies, and all that compare two sides.

    Any other looks at a density where its variable is: score matching, an energy.
    """
    return isinstance(node, OwnEntropy) or sum(not isinstance(part, Node) for part in node.parts) > 1


def _read(p: Product, bound: frozenset[Variable]) -> set[Variable]:
    known = bound | set(map(slot, p.hidden)) if isinstance(p, Integral) else bound
    named = (v for u in p for v in (*u.factor.variables, *u.factor.conditions))
    return {v for v in named if slot(v) not in known}
