"""The nodes of an expression: frozen data that keep what was written, and nothing else.

``a - b`` and ``a + (-b)`` are different trees; only the plan may simplify. Printers, checks and lowering each live in a
file of their own with one rule per node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from worldformula.formula.factor import Constants, Factor


@dataclass(frozen=True, eq=False)
class Use:
    """One factor inside an expression; ``stopped`` when written ``sg(q)``: its parameters get no gradient."""

    factor: Factor
    stopped: bool = False


Product = tuple[Use, ...]


class Node:
    """Base of all nodes; compared by identity."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Number(Node):
    """A number as written: 1 and 1.0 print differently."""

    value: int | float


@dataclass(frozen=True, eq=False)
class Log(Node):
    """log p(x|z) of a factor, or of a product: the sum of its factors' log-densities."""

    p: Product


@dataclass(frozen=True, eq=False)
class Divergence(Node):
    """KL(q ‖ p) between two factors over the same variable, in closed form."""

    q: Use
    p: Use


@dataclass(frozen=True, eq=False)
class Expectation(Node):
    """E_q[body]: one shared draw of every factor of ``q``; ``gradient`` names the estimator that was chosen."""

    q: Product
    body: Node
    gradient: str | None = None


@dataclass(frozen=True, eq=False)
class Binary(Node):
    """left op right, with op one of ``+ - * / max min``."""

    op: Literal["+", "-", "*", "/", "max", "min"]
    left: Node
    right: Node


@dataclass(frozen=True, eq=False)
class Negative(Node):
    """-body."""

    body: Node


@dataclass(frozen=True, eq=False)
class StopGradient(Node):
    """sg(body): its value, without its gradient."""

    body: Node


@dataclass(frozen=True, eq=False)
class OverBatch(Node):
    """mean(body) or sum(body) over all batch axes."""

    how: Literal["mean", "sum"]
    body: Node


@dataclass(frozen=True, eq=False)
class OverTime(Node):
    """Σ_t body (or its mean over t). ``reset`` names the series of flags that restart the carry."""

    how: Literal["sum", "mean"]
    index: str
    body: Node
    reset: str | None = None
    initial: Constants | None = None


def children(node: Node) -> tuple[Node, ...]:
    """The sub-expressions of a node, in written order."""
    match node:
        case Binary(_, left, right):
            return left, right
        case Expectation() | Negative() | StopGradient() | OverBatch() | OverTime():
            return (node.body,)
    return ()


def uses(node: Node) -> tuple[Use, ...]:
    """The factors that the node itself names, in written order."""
    match node:
        case Log(p):
            return p
        case Divergence(q, p):
            return q, p
        case Expectation(q, _, _):
            return q
    return ()


def factors(node: Node) -> list[Factor]:
    """Every factor of the expression once, in written order."""
    found: dict[int, Factor] = {}

    def visit(n: Node) -> None:
        for use in uses(n):
            found.setdefault(id(use.factor), use.factor)
        for child in children(n):
            visit(child)

    visit(node)
    return list(found.values())


def drawn_factors(node: Node) -> list[Factor]:
    """The random factors that the expectations of an expression draw."""
    here = [u.factor for u in node.q if u.factor.family is not None] if isinstance(node, Expectation) else []
    return here + [factor for child in children(node) for factor in drawn_factors(child)]


def initial_of(node: Node) -> Constants | None:
    """The learnable or given initial state of the first sum over time that has one."""
    if isinstance(node, OverTime) and node.initial is not None:
        return node.initial
    return next((found for child in children(node) if (found := initial_of(child)) is not None), None)
