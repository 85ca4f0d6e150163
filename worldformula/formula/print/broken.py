"""Where a long formula is broken into lines: at its sums, each term on a line of its own, in every notation alike.

A term is indented by the depth of its brackets and has its operator in front. What cannot be broken stays whole.
"""

from __future__ import annotations

from typing import Protocol, TypeGuard

from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Function,
    Group,
    Negative,
    Node,
    Operator,
    OverBatch,
    OverSteps,
    OverTime,
    StopGradient,
)
from worldformula.formula.syntax.text import SUMMAND, bracketed, strength, text

WIDTH = 72  # the longest line, in characters of plain text
Line = tuple[int, str]  # depth of the indent, content


class Writing(Protocol):
    """A notation: what it writes for the pieces of a formula."""

    def inline(self, node: Node) -> str:
        """A node on one line."""

    def opening(self, node: Node) -> str:
        """What stands before the brackets around the body: the sign of an expectation, of a sum over time."""

    def ending(self, node: Expectation) -> str:
        """What stands behind the body of an expectation."""

    def sign(self, op: str) -> str:
        """An operator at the start of a line."""

    def label(self, name: str) -> str:
        """The name of a formula, in front of it."""

    def half(self, bracket: str, *, first: bool) -> str:
        """A bracket whose other half stands on another line."""

    def fenced(self, opening: str, inside: str, closing: str) -> str:
        """Brackets around what stands on one line."""


def lines(node: Node, width: int, writing: Writing) -> list[Line]:
    """Every line of a formula, none longer than ``width`` characters of plain text if it can be broken."""
    if isinstance(node, Group):
        each = zip(node.names, node.bodies, strict=True)
        return [row for name, body in each for row in _after(writing.label(name), lines(body, width, writing))]
    if len(text(node)) <= width:
        return [(0, writing.inline(node))]
    match node:
        case Binary("+" | "-"):
            return _sum(node, width, writing)
        case Binary("*", _, right):
            rows = _wrapped("(", right, ")", width, writing, bracketed(right, "*", right=True))
        case Negative(body):
            rows = _wrapped("(", body, ")", width, writing, bracketed(body, "neg", right=True))
        case Expectation(_, body):
            rows = _wrapped("[", body, "]", width, writing, behind=writing.ending(node))
        case StopGradient(body):
            rows = _wrapped("[", body, "]", width, writing)
        case OverBatch(_, body) | Function("log" | "exp", body):
            rows = _wrapped("(", body, ")", width, writing)
        case OverTime() | OverSteps():
            rows = _wrapped("(", node.body, ")", width, writing, strength(node.body) < SUMMAND)
        case Operator() if node.separator == "+" and all(isinstance(p, Node) for p in node.parts):
            return _each(node, width, writing)
        case _:
            return [(0, writing.inline(node))]
    return _after(writing.opening(node), rows)


def _sum(node: Binary, width: int, writing: Writing) -> list[Line]:
    """A broken sum: every term on a line of its own, whether or not some would fit beside each other."""
    before = _sum(node.left, width, writing) if _is_sum(node.left) else lines(node.left, width, writing)
    term = _wrapped("(", node.right, ")", width, writing, bracketed(node.right, node.op, right=True))
    return [*before, *_after(writing.sign(node.op), term)]


def _each(node: Operator, width: int, writing: Writing) -> list[Line]:
    """A mean over experts: the body of each on a line of its own."""
    bodies = [lines(part, width, writing) for part in node.parts if isinstance(part, Node)]
    terms = [row for i, rows in enumerate(bodies) for row in (_after(writing.sign("+"), rows) if i else rows)]
    rows = [(0, writing.half("[", first=True)), *((depth + 1, shown) for depth, shown in terms)]
    return _after(writing.opening(node), [*rows[:-1], (rows[-1][0], rows[-1][1] + writing.half("]", first=False))])


def _is_sum(node: Node) -> TypeGuard[Binary]:
    return isinstance(node, Binary) and node.op in "+-"


def _after(prefix: str, rows: list[Line]) -> list[Line]:
    return [(rows[0][0], prefix + rows[0][1]), *rows[1:]]


def _wrapped(
    opening: str, body: Node, closing: str, width: int, writing: Writing, needed: bool = True, behind: str = ""
) -> list[Line]:
    """The lines of a body between brackets; the terms of a broken sum are indented below the opening one."""
    rows = lines(body, width, writing)
    if not needed:
        return rows
    if len(rows) == 1:
        return [(0, writing.fenced(opening, rows[0][1] + behind, closing))]
    first, last = writing.half(opening, first=True), behind + writing.half(closing, first=False)
    if _is_sum(body):
        rows = [(0, first), *((depth + 1, shown) for depth, shown in rows)]
    else:
        rows = _after(first, rows)
    return [*rows[:-1], (rows[-1][0], rows[-1][1] + last)]
