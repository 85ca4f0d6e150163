"""Inside an exact expectation: what has probability 0 adds nothing to the gradient either.

A sum over the values of z gives what its body is worth where q(z) = 0 the gradient 0, and the functions in the body
multiply that by their slopes on its way back. Where a slope is infinite, that of a logarithm at 0, the product is NaN.
So arguments of such functions are seen as 1 where they have no probability and are close to 0 or infinite:
`runtime.possible`. Everything else is written as it would be without.
"""

from __future__ import annotations

from functools import reduce

from worldformula.formula import runtime
from worldformula.formula.plan.arithmetic import binary
from worldformula.formula.plan.draft import Draft
from worldformula.formula.plan.plan import Op, Ref
from worldformula.formula.plan.scope import Scope, Weighed

MOST = {"exp": 60.0}  # e⁶⁰ is a number in every type


def of_function(draft: Draft, scope: Scope, name: str, body: Ref) -> Ref:
    """The body of a function whose slope may be infinite."""
    return _seen(draft, scope, body, (body,), MOST.get(name)) if name in ("log", "sqrt", "exp") else body


def of_squares(draft: Draft, scope: Scope, body: Ref) -> Ref:
    """What is squared: its slope is as large as itself."""
    return _seen(draft, scope, body, (body,)) if _wild(draft, body) else body


def of_binary(draft: Draft, scope: Scope, op: str, left: Ref, right: Ref) -> tuple[Ref, Ref]:
    """The sides of a product, a quotient or a power: infinite ones, and the one that must not be 0."""
    if op not in "*/^" or not scope.weighed or not (isinstance(left, str) or isinstance(right, str)):
        return left, right
    several = isinstance(left, str) and isinstance(right, str)
    both = left, right
    if (op == "*" and several and _wild(draft, left)) or op == "^" or (op == "/" and several and _wild(draft, left)):
        left = _seen(draft, scope, left, both)
    if (op in "*^" and several and _wild(draft, right)) or op == "/":
        right = _seen(draft, scope, right, both)
    return left, right


def _wild(draft: Draft, ref: Ref) -> bool:
    """Whether a value may be infinite."""
    return isinstance(ref, str) and draft.facts[ref].wild


def _seen(draft: Draft, scope: Scope, ref: Ref, beside: tuple[Ref, ...], most: float | None = None) -> Ref:
    """A value as it is where it has a probability, given what it is combined with."""
    axes = {axis for other in beside if isinstance(other, str) for axis in draft.ops[other].axes}
    for known in scope.weighed:
        if not isinstance(ref, str) or known.shares.keys().isdisjoint(draft.ops[ref].axes):
            continue
        shares = _shares(draft, known, axes)
        share = reduce(lambda left, right: binary(draft, "+", left, right), shares)
        rank = draft.rank(ref)
        if rank and isinstance(share, str):
            share = draft.add(f"{share}_wide", Op("", "lift", (share,), how=str(rank), rank=rank))
        options = (*((("most", most),) if most else ()), *((("log", True),) if known.log else ()))
        op = Op("", "call", (ref, share), target=runtime.possible, options=options, rank=rank)
        seen = draft.add(f"{ref}_seen" if len(ref) < 20 else "seen", op)
        if ref in draft.events:
            draft.events[seen] = draft.events[ref]
        ref = seen
    return ref


def _shares(draft: Draft, known: Weighed, axes: set[int]) -> list[Ref]:
    """The shares of the values at these axes, and of those at the axes that these shares have: q(k|s) stands beside
    q(s), which may be 0 where it is not.
    """
    found, waiting = dict[int, Ref](), axes & known.shares.keys()
    while waiting:
        found |= {axis: known.shares[axis]() for axis in waiting}
        read = {axis for ref in found.values() if isinstance(ref, str) for axis in draft.ops[ref].axes}
        waiting = read & known.shares.keys() - found.keys()
    return [found[axis] for axis in known.shares if axis in found]
