"""LaTeX, exactly as written: no reordering, no cancelling. One rule per node."""

from __future__ import annotations

from worldformula.formula.names import GREEK, Variable
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
from worldformula.formula.text import BINDS, number, strength


def symbol(word: str) -> str:
    r"""A base or subscript: Greek names as Greek, one letter as it is, words upright.

    >>> symbol("theta"), symbol("x"), symbol("image"), symbol("x1")
    ('\\theta', 'x', '\\mathrm{image}', 'x_{1}')
    """
    if word in GREEK:
        return f"\\{word}"
    if len(word) > 1 and len(word.rstrip("0123456789")) == 1:
        return f"{word[0]}_{{{word[1:]}}}"
    return word if len(word) == 1 or word.isdigit() else rf"\mathrm{{{word}}}"


def variable(v: Variable) -> str:
    r"""``z_{t-1}``, ``\hat{z}``, ``h'``."""
    base = symbol(v.base)
    base = rf"\{v.accent}{{{base}}}" if v.accent else base
    sub = ",".join(s for s in (symbol(v.subscript) if v.subscript else "", v.suffix) if s)
    if sub and "_" in base:
        base = f"{{{base}}}"
    return base + "'" * v.primes + (f"_{{{sub}}}" if sub else "")


def factor(u: Use) -> str:
    r"""``q(z_{t} \mid h_{t})``, or ``\mathrm{sg}[...]`` around it."""
    header = u.factor.header
    variables, conditions = (", ".join(map(variable, vs)) for vs in (header.variables, header.conditions))
    name, _, sub = header.letter.partition("_")
    letter = symbol(name) + (f"_{{{symbol(sub)}}}" if sub else "")
    if header.deterministic:
        shown = rf"{variables} = {letter}({conditions})"
    else:
        given = rf" \mid {conditions}" if conditions else ""
        shown = f"{letter}({variables}{given})"
    return rf"\mathrm{{sg}}\left[{shown}\right]" if u.stopped else shown


def product(p: Product) -> str:
    """Densities side by side; a deterministic factor is set off by commas."""
    if any(u.factor.header.deterministic for u in p):
        return r",\, ".join(map(factor, p))
    return r"\, ".join(map(factor, p))


def _operand(node: Node, least: int) -> str:
    shown = latex(node)
    return rf"\left( {shown} \right)" if strength(node) < least else shown


def latex(node: Node) -> str:
    """The formula in LaTeX."""
    match node:
        case Number(value):
            return number(value)
        case Log(p):
            return rf"\log {product(p)}"
        case Divergence(q, p):
            return rf"D_{{\mathrm{{KL}}}}\left[ {factor(q)} \,\|\, {factor(p)} \right]"
        case Expectation(q, body, gradient):
            how = rf"^{{\mathrm{{{gradient}}}}}" if gradient else ""
            return rf"\mathbb{{E}}{how}_{{{product(q)}}}\left[ {latex(body)} \right]"
        case Binary("max" | "min", left, right):
            return rf"\{node.op}\left( {latex(left)},\, {latex(right)} \right)"
        case Binary("/", left, right):
            return rf"\frac{{{latex(left)}}}{{{latex(right)}}}"
        case Binary("*", Number(), Number()):
            return rf"{latex(node.left)} \cdot {latex(node.right)}"
        case Binary("*", left, right):
            return rf"{_operand(left, 3)} \, {_operand(right, 4)}"
        case Binary(op, left, right):
            return f"{_operand(left, BINDS[op])} {op} {_operand(right, BINDS[op] + 1)}"
        case Negative(body):
            return f"-{_operand(body, BINDS['neg'] + 1)}"
        case StopGradient(body):
            return rf"\mathrm{{sg}}\left[ {latex(body)} \right]"
        case OverBatch(how, body):
            return rf"\operatorname{{{how}}}\left( {latex(body)} \right)"
        case OverTime(how, index, body, _, _):
            sign = rf"\sum_{{{index}}}" if how == "sum" else rf"\operatorname{{mean}}_{{{index}}}"
            return f"{sign} {_operand(body, 2)}"
    raise TypeError(f"no LaTeX rule for {type(node).__name__}")
