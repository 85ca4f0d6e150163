"""Plain text: one line for debuggers, test diffs and keys of ``out.terms``. One rule per node, written order kept."""

from __future__ import annotations

from worldformula.formula.nodes import (
    Binary,
    Divergence,
    Expectation,
    Log,
    Negative,
    Node,
    Number,
    OverBatch,
    OverTime,
    Product,
    StopGradient,
    Use,
)

BINDS = {"+": 1, "-": 1, "neg": 2, "*": 3, "/": 3}  # everything else is an atom


def strength(node: Node) -> int:
    """How tightly the outermost operator of a node binds; atoms bind tightest."""
    match node:
        case Binary(op, _, _) if op in BINDS:
            return BINDS[op]
        case Negative():
            return BINDS["neg"]
        case Number(value) if value < 0:
            return BINDS["neg"]
    return 9


def number(value: int | float) -> str:
    """As Python writes it: ``1`` stays ``1`` and ``1.0`` stays ``1.0``."""
    return repr(value)


def use(u: Use) -> str:
    """A factor's header, or sg(...) around it."""
    return f"sg({u.factor})" if u.stopped else str(u.factor)


def product(p: Product) -> str:
    """The factors of a product, in written order; commas set off a deterministic one."""
    between = ", " if any(u.factor.header.deterministic for u in p) else " "
    return between.join(use(u) for u in p)


def _operand(node: Node, least: int) -> str:
    shown = text(node)
    return f"({shown})" if strength(node) < least else shown


def text(node: Node) -> str:
    """The formula on one line.

    >>> from worldformula import Normal, KL
    >>> KL(Normal("q(z)", shape=2), Normal("p(z)", shape=2))
    <Expression KL(q(z) ‖ p(z))>
    """
    match node:
        case Number(value):
            return number(value)
        case Log(p):
            return f"log {product(p)}"
        case Divergence(q, p):
            return f"KL({use(q)} ‖ {use(p)})"
        case Expectation(q, body, gradient):
            how = f"; {gradient}" if gradient else ""
            return f"E_{{{product(q)}{how}}}[{text(body)}]"
        case Binary("max" | "min", left, right):
            return f"{node.op}({text(left)}, {text(right)})"
        case Binary(op, left, right):
            least = BINDS[op]
            return f"{_operand(left, least)} {op} {_operand(right, least + (op in '-/' or op == '+'))}"
        case Negative(body):
            return f"-{_operand(body, BINDS['neg'] + 1)}"
        case StopGradient(body):
            return f"sg({text(body)})"
        case OverBatch(how, body):
            return f"{how}({text(body)})"
        case OverTime(how, index, body, _, _):
            sign = f"Σ_{index}" if how == "sum" else f"mean_{index}"
            return f"{sign} {_operand(body, 2)}"
    raise TypeError(f"no text rule for {type(node).__name__}")
