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
SUMMAND = 2  # what a sum over time may have behind it without brackets


def strength(node: Node) -> int:
    """How tightly the outermost operator of a node binds; atoms bind tightest."""
    match node:
        case Binary(op, _, _) if op in BINDS:
            return BINDS[op]
        case Negative():
            return BINDS["neg"]
        case Number(value) if number(value).startswith("-"):
            return BINDS["neg"]
    return 9


def open_ended(node: Node) -> bool:
    """Whether a factor written behind the node would seem to belong to its last log or sum over time."""
    match node:
        case Log() | OverTime():
            return True
        case Negative(body):
            return open_ended(body)
        case Binary(op, _, right) if op in BINDS:
            return not bracketed(right, op, right=True) and open_ended(right)
    return False


def bracketed(node: Node, op: str, *, right: bool = False) -> bool:
    """Whether an operand of ``op`` (or of ``neg``, which only has a right one) needs brackets to be read as meant."""
    if right:
        return strength(node) <= BINDS[op] or (op == "neg" and isinstance(node, Number))
    return strength(node) < BINDS[op] or (op in "*/" and open_ended(node))


def clock(node: OverTime) -> tuple[tuple[str, str], ...]:
    """What the sign of a sum over time says besides its index: ``(("reset", "first"), ("initial", "h"))``."""
    initial = [] if node.initial is None else [("initial", name) for name in node.initial.names]
    return ((("reset", node.reset),) if node.reset else ()) + tuple(initial)


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


def _operand(node: Node, brackets: bool) -> str:
    shown = text(node)
    return f"({shown})" if brackets else shown


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
            first, second = bracketed(left, op), bracketed(right, op, right=True)
            return f"{_operand(left, first)} {op} {_operand(right, second)}"
        case Negative(body):
            return f"-{_operand(body, bracketed(body, 'neg', right=True))}"
        case StopGradient(body):
            return f"sg({text(body)})"
        case OverBatch(how, body):
            return f"{how}({text(body)})"
        case OverTime(how, index, body, _, _):
            marks = "; ".join((index, *(f"{key}={value}" for key, value in clock(node))))
            below = f"{{{marks}}}" if clock(node) else index
            return f"{'Σ' if how == 'sum' else 'mean'}_{below} {_operand(body, strength(body) < SUMMAND)}"
    raise TypeError(f"no text rule for {type(node).__name__}")
