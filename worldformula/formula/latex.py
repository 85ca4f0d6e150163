"""LaTeX, exactly as written: no reordering, no cancelling. One rule per node."""

from __future__ import annotations

from worldformula.formula.functions import FUNCTIONS
from worldformula.formula.names import GREEK, Variable, greek
from worldformula.formula.nodes import (
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
    OverSteps,
    OverTime,
    Product,
    Ratio,
    StopGradient,
    Use,
    Value,
)
from worldformula.formula.text import SUMMAND, bracketed, clock, number, strength

SEPARATORS = {"‖": r" \,\|\, ", ",": r",\, ", ";": r";\, ", "+": " + "}


def symbol(word: str) -> str:
    r"""A base or subscript: Greek names as Greek, one letter as it is, words upright.

    >>> symbol("theta"), symbol("x"), symbol("image"), symbol("x1")
    ('\\theta', 'x', '\\mathrm{image}', 'x_{1}')
    """
    word = greek(word)
    if word in GREEK:
        return f"\\{word}"
    if len(word) > 1 and len(word.rstrip("0123456789")) == 1:
        return f"{word[0]}_{{{word[1:]}}}"
    return word if len(word) == 1 or word.isdigit() else rf"\mathrm{{{word.replace('_', chr(92) + '_')}}}"


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
    between = r",\, " if any(u.factor.header.deterministic for u in p) else r"\, "
    shown = between.join(map(factor, p))
    return rf"\int {shown}\, {' '.join(f'd{variable(v)}' for v in p.hidden)}" if isinstance(p, Integral) else shown


def decimal(value: int | float) -> str:
    r"""``0.1``, ``10^{-5}`` for 1e-05, ``2.5 \times 10^{-5}``, ``\infty``.

    >>> print(decimal(1e-5), decimal(-2.5e20), decimal(float("inf")))
    10^{-5} -2.5 \times 10^{20} \infty
    """
    mantissa, e, exponent = number(value).partition("e")
    if not e:
        return mantissa.replace("inf", r"\infty").replace("nan", r"\mathrm{NaN}")
    power = f"10^{{{int(exponent)}}}"
    return {"1": power, "-1": f"-{power}"}.get(mantissa, rf"{mantissa} \times {power}")


def _operand(node: Node, brackets: bool) -> str:
    shown = latex(node)
    return rf"\left( {shown} \right)" if brackets else shown


def _clock(node: OverTime) -> str:
    """The index of a sum over time and, behind it, what restarts the carry and where it begins."""
    marks = [rf"\mathrm{{{key}}}={symbol(value)}" for key, value in clock(node)]
    return r";\, ".join((symbol(node.index), *marks))


def latex(node: Node) -> str:
    """The formula in LaTeX."""
    match node:
        case Number(value):
            return decimal(value)
        case Value(v):
            return variable(v)
        case Log(p):
            return rf"\log {product(p)}"
        case Ratio(p, q):
            return rf"\frac{{{product(p)}}}{{{product(q)}}}"
        case Divergence(q, p):
            return rf"D_{{\mathrm{{KL}}}}\left[ {factor(q)} \,\|\, {factor(p)} \right]"
        case Expectation(q, body):
            marks = r",\, ".join(m if m.startswith("K=") else rf"\mathrm{{{m}}}" for m in node.marks)
            how = f"^{{{marks}}}" if marks else ""
            behind = rf";\, \mathrm{{baseline}}\ {latex(node.baseline)}" if isinstance(node.baseline, Node) else ""
            return rf"\mathbb{{E}}{how}_{{{product(q)}}}\left[ {latex(body)}{behind} \right]"
        case Function("clamp", body, bounds):
            low, high = (
                sign if b is None else decimal(b) for b, sign in zip(bounds, (r"-\infty", r"\infty"), strict=True)
            )
            return rf"\operatorname{{clamp}}\left( {latex(body)},\, {low},\, {high} \right)"
        case Function(name, body):
            return FUNCTIONS[name].latex.format(latex(body))
        case OverEvent("norm2", body):
            return rf"\left\| {latex(body)} \right\|^{{2}}"
        case OverEvent(_, body):
            return rf"\operatorname{{total}}\left( {latex(body)} \right)"
        case Named(name):
            return symbol(name)
        case Group(names, bodies):
            rows = [rf"{symbol(name)}:\; &{latex(body)}" for name, body in zip(names, bodies, strict=True)]
            return r"\begin{aligned} " + r" \\ ".join(rows) + r" \end{aligned}"
        case Operator():
            inside = SEPARATORS[node.separator].join(
                latex(p) if isinstance(p, Node) else product(p) for p in node.parts
            )
            return rf"{node.sign.latex}\left[ {inside} \right]"
        case OverSteps(how, index, steps, body):
            sign = r"\sum" if how == "sum" else r"\operatorname{mean}"
            return f"{sign}_{{{symbol(index)}=1}}^{{{steps}}} {_operand(body, strength(body) < SUMMAND)}"
        case Binary("max" | "min", left, right):
            return rf"\{node.op}\left( {latex(left)},\, {latex(right)} \right)"
        case Binary("/", left, right):
            return rf"\frac{{{latex(left)}}}{{{latex(right)}}}"
        case Binary("^", left, right):
            return f"{_operand(left, bracketed(left, '^'))}^{{{latex(right)}}}"
        case Binary(op, left, right):
            sign = op if op != "*" else r"\cdot" if isinstance(right, Number) else r"\,"
            return f"{_operand(left, bracketed(left, op))} {sign} {_operand(right, bracketed(right, op, right=True))}"
        case Negative(body):
            return f"-{_operand(body, bracketed(body, 'neg', right=True))}"
        case StopGradient(body):
            return rf"\mathrm{{sg}}\left[ {latex(body)} \right]"
        case OverBatch(how, body):
            return rf"\operatorname{{{how}}}\left( {latex(body)} \right)"
        case OverTime(how, _, body, _, _):
            name = r"\sum" if how == "sum" else r"\operatorname{mean}"
            return f"{name}_{{{_clock(node)}}} {_operand(body, strength(body) < SUMMAND)}"
    raise TypeError(f"no LaTeX rule for {type(node).__name__}")
