"""Formulas whose parts stand in several places, many times over: each part is written, lowered and printed once.

``for _ in range(60): a = tanh(a) * 0.5 + a`` has sixty operators; as a tree, it has 2⁶⁰. What is that large and shares
is given names, u_1, u_2, …, which are printed in the place of the parts and explained below the formula.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Function,
    Group,
    Named,
    Negative,
    Node,
    OverBatch,
    OverEvent,
    OverRows,
    OverSteps,
    OverTime,
    StopGradient,
    Value,
    children,
    innermost_first,
    of_numbers,
    uses,
    walk,
)

LARGE = 20_000  # nodes of the tree; below it a formula is written as it stands
SHARES = 4  # as many places for every part, on average; below it a formula is merely long
PARTS = (Binary, Function, Negative, OverEvent, StopGradient)  # what may be given a name
LETTERS = "uvwsgbjmn"


@dataclass(frozen=True, eq=False)
class Shared(Named):
    """A part that stands in several places. It got its name here, and is no term of its own."""


def tree_size(node: Node) -> int:
    """How many nodes the tree has, where a part counts as often as it stands. What was counted once is known."""
    waiting = [node]
    while waiting:
        last = waiting[-1]
        inner = children(last)
        if missing := [n for n in inner if not hasattr(n, "_tree")]:
            waiting.extend(missing)
            continue
        object.__setattr__(last, "_tree", 1 + sum(_known(n) for n in inner))
        waiting.pop()
    return _known(node)


def _known(node: Node) -> int:
    found: int = getattr(node, "_tree")  # noqa: B009 - a note on a frozen node, which is no field of it
    return found


def compact(node: Node) -> Node:
    """The formula with its shared parts named, where the tree is large by what it shares; else as it is."""
    if tree_size(node) <= LARGE:
        return node
    places: dict[int, int] = {}
    found = list(walk(node))
    if tree_size(node) <= SHARES * len(found):
        return node
    for n in found:
        for inner in children(n):
            places[id(inner)] = places.get(id(inner), 0) + 1
    letter, made = _letter(found), dict[int, Node]()
    count = 0
    for n in innermost_first(node):
        new = _with(n, made)
        if isinstance(n, PARTS) and places.get(id(n), 0) > 1 and _known(n) > 3 and not of_numbers(n):
            count += 1
            new = Shared(f"{letter}_{count}", new)
        made[id(n)] = new
    return made[id(node)]


def _letter(nodes: list[Node]) -> str:
    """A letter that no variable and no part of the formula begins with."""
    taken = {n.variable.key[:1] for n in nodes if isinstance(n, Value)}
    taken |= {v.key[:1] for n in nodes for use in uses(n) for v in use.factor.variables}
    taken |= {c.key[:1] for n in nodes for use in uses(n) for c in use.factor.conditions}
    taken |= {n.name[:1] for n in nodes if isinstance(n, Named)}
    return next((letter for letter in LETTERS if letter not in taken), "part")


def _with(node: Node, made: dict[int, Node]) -> Node:
    """The node with what its parts have become; an operator keeps its own."""

    def new(inner: Any) -> Any:
        return made[id(inner)] if isinstance(inner, Node) else inner

    match node:
        case Binary(_, left, right):
            changed: dict[str, Any] = {"left": new(left), "right": new(right)}
        case Expectation(_, body, _, _, baseline):
            changed = {"body": new(body), "baseline": new(baseline)}
        case Function(_, body, bounds):
            changed = {"body": new(body), "bounds": tuple(map(new, bounds))}
        case Negative() | StopGradient() | OverBatch() | OverTime() | OverSteps() | OverEvent() | Named():
            changed = {"body": new(node.body)}
        case OverRows(_, rows, body):
            changed = {"rows": new(rows), "body": new(body)}
        case Group(_, bodies):
            changed = {"bodies": tuple(map(new, bodies))}
        case _:
            return node
    same = all(getattr(node, key) is value or getattr(node, key) == value for key, value in changed.items())
    return node if same else replace(node, **changed)
