"""Plain text: one line for debuggers, test diffs and keys of ``out.terms``. One rule per node, written order kept."""

from __future__ import annotations

from collections.abc import Callable, Generator

from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import (
    Binary,
    Divergence,
    Expectation,
    Function,
    Group,
    Integral,
    Log,
    Named,
    Negative,
    Node,
    Number,
    Operator,
    OverBatch,
    OverEvent,
    OverRows,
    OverSteps,
    OverTime,
    Product,
    Ratio,
    StopGradient,
    Use,
    Value,
    walk,
)
from worldformula.formula.syntax.rules import Rule, applied, each

BINDS = {"+": 1, "-": 1, "neg": 2, "*": 3, "/": 3, "^": 4}  # everything else is an atom
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
        case Ratio():
            return BINDS["/"]
        case OverRows(_, rows, _) if rows is not None:
            return BINDS["*"]
    return 9


def open_ended(node: Node) -> bool:
    """Whether a factor written behind the node would seem to belong to its last log or sum over time."""
    match node:
        case Log(event=False) | OverTime() | OverSteps() | OverRows():
            return True
        case Negative(body):
            return open_ended(body)
        case Binary(op, _, right) if op in BINDS:
            return not bracketed(right, op, right=True) and open_ended(right)
    return False


def bracketed(node: Node, op: str, *, right: bool = False) -> bool:
    """Whether an operand of ``op`` (or of ``neg``, which only has a right one) needs brackets to be read as meant."""
    if right:  # D - (-D), as two signs in a row are hard to read
        signed = op in "+-" and strength(node) == BINDS["neg"]
        return signed or strength(node) <= BINDS[op] or (op == "neg" and isinstance(node, Number))
    powered = op == "^" and (
        strength(node) == BINDS["^"] or isinstance(node, Function | OverEvent)
    )  # log(D)² or log(D²)?
    powered = powered or (op == "^" and isinstance(node, Number) and "e" in number(node.value))  # 10⁻⁵ has a power
    return strength(node) < BINDS[op] or (op in "*/^" and open_ended(node)) or powered


def clock(node: OverTime) -> tuple[tuple[str, str], ...]:
    """What the sign of a sum over time says besides its index: ``(("reset", "first"), ("initial", "h"))``."""
    initial = [] if node.initial is None else [("initial", name) for name in node.initial.names]
    marks = [("reset", node.reset), ("mask", node.mask), ("burn_in", str(node.burn_in or "")), ("until", node.until)]
    return (*((key, value) for key, value in marks if value), *initial)


def below(node: OverTime) -> str:
    """What stands below the sign of a sum over time: ``t``, or ``{t; reset=first; initial=p(z_0)}``."""
    said = [*(f"{key}={value}" for key, value in clock(node)), *(f"initial={use(u)}" for u in node.begin)]
    return f"{{{'; '.join((node.index, *said))}}}" if said else node.index


def number(value: int | float) -> str:
    """As Python writes it: ``1`` stays ``1`` and ``1.0`` stays ``1.0``."""
    return repr(value)


def typeset(value: int | float) -> str:
    """A number for a reader: as `number`, but of a long fraction six digits; the text and the code keep them all.

    >>> typeset(29 / 30), typeset(1.0), typeset(-0.125), typeset(1234567), typeset(1234567890.25)
    ('0.966667', '1.0', '-0.125', '1234567', '1234567890.2')
    """
    if not isinstance(value, float) or len(number(value)) <= 10:
        return number(value)
    if 1e6 <= abs(value) < 1e16:
        return f"{value:.1f}"  # six digits of it would be another whole number
    return number(float(f"{value:.6g}"))


def use(u: Use) -> str:
    """A factor's header, or sg(...) around it."""
    return f"sg({u.factor})" if u.stopped else str(u.factor)


def product(p: Product) -> str:
    """The factors of a product, in written order; commas set off a deterministic one."""
    between = ", " if any(u.factor.header.deterministic for u in p) else " "
    shown = between.join(use(u) for u in p)
    if not isinstance(p, Integral):
        return shown
    listed, rest = summed(p)
    sums = f"Σ_{{{','.join(map(str, listed))}}} " if listed else ""
    return f"{sums}∫ {shown} {' '.join(f'd{v}' for v in rest)}" if rest else sums + shown


def summed(p: Integral) -> tuple[list[Variable], list[Variable]]:
    """What a marginal hides: the variables with a list of values, which are summed, and those that are integrated."""
    sizes = {
        v: None if u.factor.family is None else u.factor.family.support_size(u.factor.shape)
        for u in p
        for v in u.factor.variables
    }
    listed = [v for v in p.hidden if sizes.get(v) is not None]
    return listed, [v for v in p.hidden if v not in listed]


def limits(
    bounds: tuple[int | float | Node | None, ...], write: Callable[[int | float], str], free: tuple[str, str]
) -> Generator[Node, str, list[str]]:
    """The bounds of a clamp: numbers, those of the call by the rule that asks, and what says that there is none."""
    found = list[str]()
    for bound, none in zip(bounds, free, strict=True):
        found += [(yield bound) if isinstance(bound, Node) else none if bound is None else write(bound)]
    return found


def _operand(node: Node, brackets: bool) -> Rule[str]:
    return f"({(yield node)})" if brackets else (yield node)


def text(node: Node) -> str:
    """The formula on one line.

    >>> from worldformula import Normal, KL
    >>> KL(Normal("q(z)", shape=2), Normal("p(z)", shape=2))
    <Expression KL(q(z) ‖ p(z))>
    """
    return applied(_text, node)


def _text(node: Node) -> Rule[str]:
    match node:
        case Number(value):
            return number(value)
        case Value(variable):
            return str(variable)
        case Log(p, event):
            return f"[log {product(p)}]_i" if event else f"log {product(p)}"
        case Ratio(p, q):
            return f"{product(p)} / {product(q)}"
        case Divergence(q, p):
            return f"KL({use(q)} ‖ {use(p)})"
        case Expectation(q, body, _, _, baseline):
            inside = yield body
            if isinstance(baseline, Node):  # the learned one of the score estimator
                inside += f"; baseline {(yield baseline)}"
            return f"E_{{{'; '.join((product(q), *node.marks))}}}[{inside}]"
        case Function("clamp", body, bounds):
            shown = yield body
            low, high = yield from limits(bounds, number, ("", ""))
            return f"clamp({shown}, {low}, {high})"
        case Function(name, body):
            return f"{name}({(yield body)})"
        case OverEvent(how, body):
            return f"{how}({(yield body)})"
        case Named(name):
            return name
        case Group(names, bodies):
            each_shown: list[str] = yield from each(bodies)
            return "; ".join(f"{name}: {body}" for name, body in zip(names, each_shown, strict=True))
        case Operator():
            between = f" {node.separator} " if node.separator in "‖+" else f"{node.separator} "
            parts = yield from written(node, product)
            return f"{node.sign.text}[{between.join(parts)}]"
        case OverSteps(how, index, steps, body):
            sign = "Σ" if how == "sum" else "mean"
            return f"{sign}_{{{index}=1..{steps}}} {(yield from _operand(body, strength(body) < SUMMAND))}"
        case OverRows(index, rows, body):
            last = "N" if rows is None else "B"
            shown = f"Σ_{{{index}=1..{last}}} {(yield from _operand(body, strength(body) < SUMMAND))}"
            return shown if rows is None else f"{(yield rows) if isinstance(rows, Node) else rows}/B {shown}"
        case Binary("max" | "min", left, right):
            return f"{node.op}({(yield left)}, {(yield right)})"
        case Binary(op, left, right):
            first = yield from _operand(left, bracketed(left, op))
            second = yield from _operand(right, bracketed(right, op, right=True))
            return f"{first} {op} {second}"
        case Negative(body):
            return f"-{(yield from _operand(body, bracketed(body, 'neg', right=True)))}"
        case StopGradient(body):
            return f"sg({(yield body)})"
        case OverBatch(how, body):
            return f"{how}({(yield body)})"
        case OverTime(how, _, body, _, _):
            shown = yield from _operand(body, strength(body) < SUMMAND)
            return f"{'Σ' if how == 'sum' else 'mean'}_{below(node)} {shown}"
    raise TypeError(f"no text rule for {type(node).__name__}")


def written(node: Operator, product: Callable[[Product], str]) -> Generator[Node, str, list[str]]:
    """What stands between the brackets of an operator: the products by the given notation, the nodes by its rule."""
    shown = list[str]()
    for part in node.parts:
        shown += [(yield part) if isinstance(part, Node) else product(part)]
    return shown


def widths(node: Node) -> dict[int, int]:
    """How many characters of text a node has, and every node that is printed inside it, by identity."""
    found: dict[int, int] = {}

    def measured(inner: Node) -> Rule[str]:
        shown = yield from _text(inner)
        found[id(inner)] = len(shown)
        return shown

    applied(measured, node)
    return found


def named(node: Node) -> dict[str, Node]:
    """The named parts of a formula, the outer before the inner."""
    return {n.name: n.body for n in walk(node) if isinstance(n, Named)}
