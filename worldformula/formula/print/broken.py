"""Where a long formula is broken into lines: at its sums, each term on a line of its own, in every notation alike.

A term is indented by the depth of its brackets and has its operator in front. What cannot be broken stays whole.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    OverRows,
    OverSteps,
    OverTime,
    StopGradient,
)
from worldformula.formula.syntax.rules import Rule, applied, each
from worldformula.formula.syntax.text import SUMMAND, bracketed, strength, widths

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
    return applied(_Breaking(width, writing, widths(node)).rule, node)


@dataclass(frozen=True)
class _Breaking:
    """The rule for every node: its lines, a new list that whoever receives it may change."""

    width: int
    writing: Writing
    widths: dict[int, int]

    def rule(self, node: Node) -> Rule[list[Line]]:
        writing = self.writing
        if isinstance(node, Group):
            bodies: list[list[Line]] = yield from each(node.bodies)
            named = zip(node.names, bodies, strict=True)
            return [row for name, body in named for row in _after(writing.label(name), body)]
        if self.widths[id(node)] <= self.width:
            return [(0, writing.inline(node))]
        match node:
            case Binary("+" | "-"):
                return (yield from self.sum(node))
            case Binary("*", _, right):
                rows = yield from self.wrapped("(", right, ")", bracketed(right, "*", right=True))
            case Negative(body):
                rows = yield from self.wrapped("(", body, ")", bracketed(body, "neg", right=True))
            case Expectation(_, body):
                rows = yield from self.wrapped("[", body, "]", behind=writing.ending(node))
            case StopGradient(body):
                rows = yield from self.wrapped("[", body, "]")
            case OverBatch(_, body) | Function("log" | "exp", body):
                rows = yield from self.wrapped("(", body, ")")
            case OverTime() | OverSteps() | OverRows():
                rows = yield from self.wrapped("(", node.body, ")", strength(node.body) < SUMMAND)
            case Operator() if node.separator == "+" and all(isinstance(p, Node) for p in node.parts):
                return (yield from self.mean(node))
            case _:
                return [(0, writing.inline(node))]
        return _after(writing.opening(node), rows)

    def sum(self, node: Binary) -> Rule[list[Line]]:
        """A broken sum: every term on a line of its own, whether or not some would fit beside each other."""
        terms = [node]
        while _is_sum(left := terms[-1].left):
            terms.append(left)
        rows = yield left
        for term in reversed(terms):
            needed = bracketed(term.right, term.op, right=True)
            rows += _after(self.writing.sign(term.op), (yield from self.wrapped("(", term.right, ")", needed)))
        return rows

    def mean(self, node: Operator) -> Rule[list[Line]]:
        """A mean over experts: the body of each on a line of its own."""
        writing = self.writing
        bodies: list[list[Line]] = yield from each(part for part in node.parts if isinstance(part, Node))
        terms = bodies[0] + [row for rows in bodies[1:] for row in _after(writing.sign("+"), rows)]
        rows = [(0, writing.half("[", first=True)), *((depth + 1, shown) for depth, shown in terms)]
        return _after(writing.opening(node), _before(rows, writing.half("]", first=False)))

    def wrapped(
        self, opening: str, body: Node, closing: str, needed: bool = True, behind: str = ""
    ) -> Rule[list[Line]]:
        """The lines of a body between brackets; the terms of a broken sum are indented below the opening one."""
        rows, writing = (yield body), self.writing
        if not needed:
            return rows
        if len(rows) == 1:
            return [(0, writing.fenced(opening, rows[0][1] + behind, closing))]
        first, last = writing.half(opening, first=True), behind + writing.half(closing, first=False)
        if _is_sum(body):
            rows = [(0, first), *((depth + 1, shown) for depth, shown in rows)]
        else:
            rows = _after(first, rows)
        return _before(rows, last)


def _is_sum(node: Node) -> TypeGuard[Binary]:
    return isinstance(node, Binary) and node.op in "+-"


def _after(prefix: str, rows: list[Line]) -> list[Line]:
    rows[0] = (rows[0][0], prefix + rows[0][1])
    return rows


def _before(rows: list[Line], suffix: str) -> list[Line]:
    rows[-1] = (rows[-1][0], rows[-1][1] + suffix)
    return rows
