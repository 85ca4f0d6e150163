"""LaTeX, exactly as written: no reordering, no cancelling. One rule per node."""

from __future__ import annotations

import re

from worldformula.formula.print.definitions import (
    Settings,
)
from worldformula.formula.syntax.functions import FUNCTIONS
from worldformula.formula.syntax.names import Header, Variable
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
)
from worldformula.formula.syntax.pace import Pace
from worldformula.formula.syntax.rules import Rule, applied, each
from worldformula.formula.syntax.spelling import GREEK, greek
from worldformula.formula.syntax.text import SUMMAND, bracketed, clock, limits, strength, summed, typeset, written

SUBSCRIPT = 36  # the longest list of draws on one line below an expectation that is broken, in characters
SEPARATORS = {"‖": r" \,\|\, ", ",": r",\, ", ";": r";\, ", "+": " + "}


def symbol(word: str) -> str:
    r"""A base or subscript: Greek names as Greek, one letter as it is, words upright.

    >>> symbol("theta"), symbol("x"), symbol("image"), symbol("x1")
    ('\\theta', 'x', '\\mathrm{image}', 'x_{1}')
    """
    word = greek(word)
    letter, digits = numbered(word)
    if digits:
        return f"{symbol(letter)}_{{{digits}}}"
    if word in GREEK:
        return f"\\{word}"
    return word if len(word) == 1 or word.isdigit() else rf"\mathrm{{{word.replace('_', chr(92) + '_')}}}"


def numbered(word: str) -> tuple[str, str]:
    """A letter, Greek ones too, and the digits behind it; no digits for any other word.

    >>> numbered("x1"), numbered("zeta10"), numbered("conv2"), numbered("x")
    (('x', '1'), ('zeta', '10'), ('conv2', ''), ('x', ''))
    """
    letter = word.rstrip("0123456789")
    return (letter, word[len(letter) :]) if len(letter) == 1 or letter in GREEK else (word, "")


def variable(v: Variable) -> str:
    r"""``z_{t-1}``, ``\hat{z}``, ``h'``."""
    letter, digits = numbered(v.base)
    base = rf"\{v.accent}{{{symbol(letter)}}}" if v.accent else symbol(letter)
    steps = "".join(r"\le " if c == "≤" else c if c.isascii() else symbol(c) for c in v.suffix)
    sub = ",".join(s for s in (digits, symbol(v.subscript) if v.subscript else "", steps) if s)
    return base + "'" * v.primes + (f"_{{{sub}}}" if sub else "")


def head(header: Header) -> str:
    r"""``q(z_{t} \mid h_{t})``, or ``h_{t} = f(x_{t})``."""
    variables, conditions = (", ".join(map(variable, vs)) for vs in (header.variables, header.conditions))
    _, _, sub = header.letter.partition("_")
    name = letter(header) + (f"_{{{symbol(sub)}}}" if sub else "")
    if header.deterministic:
        return rf"{variables} = {name}({conditions})"
    given = rf" \mid {conditions}" if conditions else ""
    return f"{name}({variables}{given})"


def letter(header: Header) -> str:
    r"""The letter without its subscript: ``q``, ``\bar{q}`` of a slow copy."""
    plain = symbol(header.letter.partition("_")[0])
    return rf"\bar{{{plain}}}" if header.bar else plain


def pace(p: Pace) -> str:
    r"""How a slow copy follows: ``\bar{w} \leftarrow 0.98\, \bar{w} + 0.02\, w``."""
    rule = rf"{decimal(p.decay)}\, \bar{{w}} + {decimal(p.rate)}\, w" if p.decay else "w"
    when = rf"\ \text{{{p.when}}}" if p.every > 1 else ""
    return rf"\bar{{w}} \leftarrow {rule}{when}"


def settings(s: Settings) -> str:
    r"""Which settings a call gives: ``\text{temperature} = \tau``."""
    return r",\ ".join(rf"\text{{{name.replace('_', ' ')}}} = {variable(v)}" for name, v in s.places)


def factor(u: Use) -> str:
    r"""The header of a factor, or ``\mathrm{sg}[...]`` around it."""
    shown = head(u.factor.header)
    return rf"\mathrm{{sg}}\left[{shown}\right]" if u.stopped else shown


def product(p: Product) -> str:
    """Densities side by side; a deterministic factor is set off by commas."""
    between = r",\, " if any(u.factor.header.deterministic for u in p) else r"\, "
    shown = between.join(map(factor, p))
    if not isinstance(p, Integral):
        return shown
    listed, rest = summed(p)
    sums = rf"\sum_{{{', '.join(map(variable, listed))}}} " if listed else ""
    return rf"{sums}\int {shown}\, {' '.join(f'd{variable(v)}' for v in rest)}" if rest else sums + shown


def decimal(value: int | float) -> str:
    r"""``0.1``, ``10^{-5}`` for 1e-05, ``2.5 \times 10^{-5}``, ``\infty``.

    >>> print(decimal(1e-5), decimal(-2.5e20), decimal(float("inf")))
    10^{-5} -2.5 \times 10^{20} \infty
    """
    return scientific(typeset(value))


def scientific(shown: str) -> str:
    """A number that Python has written, as a reader expects its power of ten; see `decimal`."""
    mantissa, e, exponent = shown.partition("e")
    if not e:
        return mantissa.replace("inf", r"\infty").replace("nan", r"\mathrm{NaN}")
    power = f"10^{{{int(exponent)}}}"
    return {"1": power, "-1": f"-{power}"}.get(mantissa, rf"{mantissa} \times {power}")


def _operand(node: Node, brackets: bool) -> Rule[str]:
    return rf"\left( {(yield node)} \right)" if brackets else (yield node)


def times(right: Node) -> str:
    """The sign of a product: a dot before a number, otherwise a space."""
    return r"\cdot" if isinstance(right, Number) else r"\,"


def below(node: OverTime) -> str:
    """The index of a sum over time and, behind it, what restarts the carry and where it begins."""
    marks = [f"{symbol(key)}={symbol(value)}" for key, value in clock(node)]
    marks += [f"{symbol('initial')}={factor(use)}" for use in node.begin]
    return r";\, ".join((symbol(node.index), *marks))


def expected(node: Expectation, stacked: bool = False) -> str:
    """The sign of an expectation: what is drawn, and how; ``stacked`` for a long list on lines of its own."""
    below = product(node.q)
    if stacked and len(node.q) > 1:
        below = r"\substack{" + r", \\ ".join(map(factor, node.q)) + "}"
    marks = r",\, ".join(map(_mark, node.marks))
    return rf"\mathbb{{E}}{f'^{{{marks}}}' if marks else ''}_{{{below}}}"


def _mark(mark: str) -> str:
    """What the sign of an expectation says: ``K=8``, ``exact``, ``resample=systematic``, ``ESS<0.5K``."""
    key, sign, value = re.split("([=<])", mark) if re.search("[=<]", mark) else (mark, "", "")
    written = value if key == "K" or sign == "<" else rf"\mathrm{{{value}}}" if sign else ""
    return (key if key == "K" else rf"\mathrm{{{key}}}") + sign + written


def over(node: OverTime | OverSteps) -> str:
    """The sign of a sum or mean over time or iterations, with a space behind it."""
    sign = r"\sum" if node.how == "sum" else r"\operatorname{mean}"
    if isinstance(node, OverSteps):
        return f"{sign}_{{{symbol(node.index)}=1}}^{{{node.steps}}} "
    return f"{sign}_{{{below(node)}}} "


def over_rows(node: OverRows, rows: str) -> str:
    """The sign of a sum over the rows of the data, scaled where a call gives some of them; with a space behind it."""
    scale = rf"\frac{{{rows}}}{{B}} " if rows else ""
    return rf"{scale}\sum_{{{symbol(node.index)}=1}}^{{{'B' if rows else 'N'}}} "


def count(node: OverRows) -> str:
    """How many rows there are, where that is written."""
    return latex(node.rows) if isinstance(node.rows, Node) else str(node.rows or "")


def behind(baseline: str) -> str:
    """The learned baseline of the score estimator."""
    return rf";\, \mathrm{{baseline}}\ {baseline}"


def latex(node: Node) -> str:
    """The formula in LaTeX."""
    return applied(_latex, node)


def _latex(node: Node) -> Rule[str]:
    match node:
        case Number(value):
            return decimal(value)
        case Value(v):
            return variable(v)
        case Log(p, event):
            return rf"\left[ \log {product(p)} \right]_{{i}}" if event else rf"\log {product(p)}"
        case Ratio(p, q):
            return rf"\frac{{{product(p)}}}{{{product(q)}}}"
        case Divergence(q, p):
            return rf"D_{{\mathrm{{KL}}}}\left[ {factor(q)} \,\|\, {factor(p)} \right]"
        case Expectation(_, body, _, _, baseline):
            inside = yield body
            if isinstance(baseline, Node):
                inside += behind((yield baseline))
            return rf"{expected(node)}\left[ {inside} \right]"
        case Function("clamp", body, bounds):
            shown = yield body
            low, high = yield from limits(bounds, decimal, (r"-\infty", r"\infty"))
            return rf"\operatorname{{clamp}}\left( {shown},\, {low},\, {high} \right)"
        case Function(name, body):
            return FUNCTIONS[name].latex.format((yield body))
        case OverEvent("norm2", body):
            return rf"\left\| {(yield body)} \right\|^{{2}}"
        case OverEvent(_, body):
            return rf"\operatorname{{total}}\left( {(yield body)} \right)"
        case Named(name):
            return symbol(name)
        case Group(names, bodies):
            each_shown: list[str] = yield from each(bodies)
            rows = [rf"{symbol(name)}:\; &{body}" for name, body in zip(names, each_shown, strict=True)]
            return r"\begin{aligned} " + r" \\ ".join(rows) + r" \end{aligned}"
        case Operator():
            parts = yield from written(node, product)
            return rf"{node.sign.latex}\left[ {SEPARATORS[node.separator].join(parts)} \right]"
        case Binary("max" | "min", left, right):
            return rf"\{node.op}\left( {(yield left)},\, {(yield right)} \right)"
        case Binary("/", left, right):
            return rf"\frac{{{(yield left)}}}{{{(yield right)}}}"
        case Binary("^", left, right):
            return f"{(yield from _operand(left, bracketed(left, '^')))}^{{{(yield right)}}}"
        case Binary(op, left, right):
            sign = times(right) if op == "*" else op
            first = yield from _operand(left, bracketed(left, op))
            second = yield from _operand(right, bracketed(right, op, right=True))
            return f"{first} {sign} {second}"
        case Negative(body):
            return f"-{(yield from _operand(body, bracketed(body, 'neg', right=True)))}"
        case StopGradient(body):
            return rf"\mathrm{{sg}}\left[ {(yield body)} \right]"
        case OverBatch(how, body):
            return rf"\operatorname{{{how}}}\left( {(yield body)} \right)"
        case OverTime() | OverSteps():
            return f"{over(node)}{(yield from _operand(node.body, strength(node.body) < SUMMAND))}"
        case OverRows(_, _, body):
            return f"{over_rows(node, count(node))}{(yield from _operand(body, strength(body) < SUMMAND))}"
    raise TypeError(f"no LaTeX rule for {type(node).__name__}")
