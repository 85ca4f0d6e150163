"""How rules, one per node, are applied to a whole formula: at any depth, each node once.

A rule is a generator. It yields a node that stands inside its own, receives what the rule makes of that, and returns
what it makes of its own:

    def rule(node):
        match node:
            case Negative(body):
                return f"-{yield body}"
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from worldformula.formula.syntax.nodes import Node

T = TypeVar("T")
Rule = Generator[Node, T, T]


def applied(rule: Callable[[Node], Rule[T]], node: Node) -> T:
    """What the rule makes of a node. The rules that wait for others stand on a list and not on Python's stack."""
    waiting = [rule(node)]
    answer: T | None = None
    while True:
        try:
            inside = waiting[-1].send(answer)  # type: ignore[arg-type]  # the first one, of None, starts the rule
        except StopIteration as done:
            answer = done.value
            waiting.pop()
            if not waiting:
                return done.value  # type: ignore[no-any-return]
        else:
            answer = None
            waiting.append(rule(inside))


def each(nodes: Iterable[Node]) -> Generator[Node, T, list[T]]:
    """What the rule makes of several nodes, for ``yield from``."""
    found = list[T]()
    for node in nodes:
        found += [(yield node)]  # in a comprehension, no one could answer
    return found
