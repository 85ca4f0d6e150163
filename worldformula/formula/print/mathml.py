"""MathML Core, which browsers typeset. Exactly as written, one rule per node; `broken` breaks long formulas."""

from __future__ import annotations

from html import escape, unescape

from worldformula.formula.print.broken import WIDTH, Line, lines
from worldformula.formula.print.definitions import Definition, Settings, definitions, fits, weights
from worldformula.formula.print.latex import SUBSCRIPT, numbered
from worldformula.formula.syntax import text
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
from worldformula.formula.syntax.spelling import GREEK
from worldformula.formula.syntax.text import SUMMAND, bracketed, clock, limits, strength, summed, typeset, written

_ACCENTS = {"hat": "^", "tilde": "~", "bar": "¯", "dot": "˙", "vec": "→"}
_SIGNS = {"+": "+", "-": "−"}
APPLY = "<mo>&#x2061;</mo>"
COMMA = '<mo separator="true">,</mo>'


def mathml(node: Node, width: int = WIDTH) -> str:
    """The formula as one ``<math display="block">``, with what it leaves to be explained below it.

    Args:
        node: the expression's node.
        width: the longest line, in characters of plain text; a longer formula is broken at its sums.
    """
    rows = lines(node, width, _MathML())
    where = "<mtext>where</mtext>"
    for depth, shown in (row for d in definitions(node) for row in defined(d, width)):
        rows.append((0, f'{where}<mspace width="{0.8 + 1.6 * depth:g}em"/>{shown}'))
        where = "<mphantom><mtext>where</mtext></mphantom>"
    return block(rows)


def block(rows: list[Line]) -> str:
    """One ``<math>`` of these lines."""
    if len(rows) == 1:
        return f'<math display="block">{rows[0][1]}</math>'
    cell = '<mtr><mtd style="text-align:left"><mrow><mspace width="{:g}em"/>{}</mrow></mtd></mtr>'
    table = "".join(cell.format(1.6 * depth, shown) for depth, shown in rows)
    return f'<math display="block"><mtable displaystyle="true">{table}</mtable></math>'


# ------------------------------------------------------------------------------------------------------------ the names


def symbol(word: str) -> str:
    """A base or subscript: Greek names as letters, one letter italic, words upright, digits after a letter lowered."""
    letter, digits = numbered(word)
    if digits:
        return f"<msub>{symbol(letter)}<mn>{digits}</mn></msub>"
    if word in GREEK:
        return f"<mi>{unescape(f'&{word};')}</mi>"
    return f"<mn>{word}</mn>" if word.isdigit() else f"<mi>{escape(word)}</mi>"


def variable(v: Variable) -> str:
    """One variable with its accent, primes and subscripts."""
    letter, digits = numbered(v.base)
    base = symbol(letter)
    if v.accent:
        base = f'<mover accent="true">{base}<mo stretchy="false">{_ACCENTS[v.accent]}</mo></mover>'
    parts = [f"<mn>{digits}</mn>"] if digits else []
    parts += [symbol(v.subscript)] if v.subscript else []
    if v.index and v.span:
        parts.append(f"<mn>1</mn><mo>:</mo>{symbol(v.index.upper())}")
    elif v.first:
        parts.append(f"<mn>1</mn><mo>:</mo><mn>{v.window}</mn>")
    elif v.index and v.past:
        parts.append(_history(v))
    elif v.index:
        sign = f"<mo>{'−' if v.offset < 0 else '+'}</mo><mn>{abs(v.offset)}</mn>" if v.offset else ""
        parts.append(symbol(v.index) + sign)
        parts += [symbol(v.inner)] if v.inner else []
    sub = f"<mrow>{COMMA.join(parts)}</mrow>"
    primes = f"<mo>{'′' * v.primes}</mo>"
    if parts and v.primes:
        return f"<msubsup>{base}{sub}{primes}</msubsup>"
    if parts:
        return f"<msub>{base}{sub}</msub>"
    return f"<msup>{base}{primes}</msup>" if v.primes else base


def _history(v: Variable) -> str:
    """``<t``, ``≤t``, or the window ``t−3:t``."""
    index = symbol(str(v.index))
    if v.window is None:
        return f"<mo>{'&lt;' if v.offset else '≤'}</mo>{index}"
    ends = (v.offset - v.window + 1, v.offset)
    return "<mo>:</mo>".join(index + (f"<mo>−</mo><mn>{-end}</mn>" if end else "") for end in ends)


def head(header: Header) -> str:
    """``q(z_t ∣ h_t)``, or ``h_t = f(x_t)``."""
    variables, conditions = (COMMA.join(map(variable, vs)) for vs in (header.variables, header.conditions))
    name, _, sub = header.letter.partition("_")
    letter = _barred(symbol(name)) if header.bar else symbol(name)
    letter = f"<msub>{letter}{symbol(sub)}</msub>" if sub else letter
    if header.deterministic:
        return f"{variables}<mo>=</mo>{letter}{fenced('(', conditions, ')', stretchy=False)}"
    bar = '<mo lspace="0.17em" rspace="0.17em" stretchy="false">∣</mo>' if conditions else ""
    return letter + fenced("(", variables + bar + conditions, ")", stretchy=False)


def _barred(shown: str) -> str:
    return f'<mover accent="true">{shown}<mo stretchy="false">{_ACCENTS["bar"]}</mo></mover>'


def rule(p: Pace | Settings) -> str:
    """How a slow copy follows: ``w̄ ← 0.98 w̄ + 0.02 w``; or which settings a call gives: ``temperature = τ``."""
    if isinstance(p, Settings):
        return COMMA.join(f"<mtext>{name.replace('_', ' ')}</mtext><mo>=</mo>{variable(v)}" for name, v in p.places)
    space, slow = '<mspace width="0.17em"/>', _barred("<mi>w</mi>")
    old = f"{_decimal(p.decay)}{space}{slow}<mo>+</mo>{_decimal(p.rate)}{space}" if p.decay else ""
    when = f'<mspace width="0.4em"/><mtext>{p.when}</mtext>' if p.every > 1 else ""
    return f"{slow}<mo>←</mo>{old}<mi>w</mi>{when}"


def factor(u: Use) -> str:
    """The header of a factor, or ``sg[…]`` around it."""
    shown = head(u.factor.header)
    return _stopped(shown) if u.stopped else f"<mrow>{shown}</mrow>"


def product(p: Product) -> str:
    """Densities side by side; a deterministic factor is set off by commas."""
    between = COMMA if any(u.factor.header.deterministic for u in p) else '<mspace width="0.17em"/>'
    shown = between.join(map(factor, p))
    if not isinstance(p, Integral):
        return shown
    listed, rest = summed(p)
    below = COMMA.join(map(variable, listed))
    sums = f'<munder><mo movablelimits="false">∑</mo><mrow>{below}</mrow></munder>' if listed else ""
    differentials = "".join(f'<mspace width="0.17em"/><mi>d</mi>{variable(v)}' for v in rest)
    return f"{sums}<mo>∫</mo>{shown}{differentials}" if rest else sums + shown


# ----------------------------------------------------------------------------------------------------------- the pieces


def _bracket(symbol: str, form: str, stretchy: bool = False) -> str:
    grows = str(stretchy).lower()
    return f'<mo form="{form}" fence="true" stretchy="{grows}" lspace="0" rspace="0">{symbol}</mo>'


def fenced(opening: str, inside: str, closing: str, stretchy: bool = True) -> str:
    """Brackets around something; ``stretchy`` ones are as tall as it is."""
    return f"<mrow>{_bracket(opening, 'prefix', stretchy)}{inside}{_bracket(closing, 'postfix', stretchy)}</mrow>"


def _stopped(inside: str) -> str:
    return f"<mrow><mi>sg</mi>{APPLY}{fenced('[', inside, ']')}</mrow>"


def _operand(node: Node, brackets: bool) -> Rule[str]:
    return fenced("(", (yield node), ")") if brackets else (yield node)


def _decimal(value: int | float) -> str:
    """``0.1``, ``10⁻⁵`` for 1e-05, ``2.5 × 10⁻⁵``, ``∞``."""
    shown = typeset(value)
    minus = "<mo>−</mo>" if shown.startswith("-") else ""
    mantissa, e, exponent = shown.lstrip("-").partition("e")
    digits = f"<mn>{mantissa.replace('inf', '∞').replace('nan', 'NaN')}</mn>"
    if e:
        sign = "<mo>−</mo>" if int(exponent) < 0 else ""
        digits = "" if mantissa == "1" else f"{digits}<mo>×</mo>"
        digits += f"<msup><mn>10</mn><mrow>{sign}<mn>{abs(int(exponent))}</mn></mrow></msup>"
    return f"<mrow>{minus}{digits}</mrow>" if minus or e else digits


def _expected(node: Expectation, stacked: bool = False) -> str:
    """𝔼 with what is drawn as subscript, below the letter when there are several factors; the estimator above.

    ``stacked``: a long list has a line for each factor.
    """
    below = product(node.q)
    if stacked and len(node.q) > 1:
        each = [factor(u) for u in node.q]
        each[:-1] = [shown + COMMA for shown in each[:-1]]
        below = f"<mtable>{''.join(f'<mtr><mtd>{shown}</mtd></mtr>' for shown in each)}</mtable>"
    kind = "sub" if len(node.q) == 1 else "under"
    marks = [f"<mi>{escape(m)}</mi>" for m in node.marks]
    above = marks[0] if len(marks) == 1 else f"<mrow>{COMMA.join(marks)}</mrow>" if marks else ""
    tag = f"m{kind}{'' if not above else 'sup' if kind == 'sub' else 'over'}"
    letter = '<mo movablelimits="false" lspace="0.17em" rspace="0.1em">𝔼</mo>'
    return f"<{tag}>{letter}<mrow>{below}</mrow>{above}</{tag}>"


def over(node: OverTime | OverSteps | OverRows) -> str:
    """The sign of a sum or mean with its limits; over time, below it, what restarts the carry and where it begins; over
    the rows of the data, before it, the scale where a call gives some of them.
    """
    mean = not isinstance(node, OverRows) and node.how == "mean"
    sign = "<mi>mean</mi>" if mean else '<mo movablelimits="false" largeop="true">∑</mo>'
    below = symbol(node.index)
    if isinstance(node, OverTime):
        marks = [f"<mi>{key}</mi><mo>=</mo>{symbol(value)}" for key, value in clock(node)]
        marks += [f"<mi>initial</mi><mo>=</mo>{factor(use)}" for use in node.begin]
        below = f"<mrow>{COMMA.replace(',', ';').join((below, *marks))}</mrow>" if marks else below
        behind = f'{APPLY}<mspace width="0.17em"/>' if mean else ""
        return f"<munder>{sign}{below}</munder>{behind}"
    scale, last = "", f"<mn>{node.steps}</mn>" if isinstance(node, OverSteps) else "<mi>N</mi>"
    if isinstance(node, OverRows) and node.rows is not None:
        count = inline(node.rows) if isinstance(node.rows, Node) else f"<mn>{node.rows}</mn>"
        scale, last = f"<mfrac>{count}<mi>B</mi></mfrac>", "<mi>B</mi>"
    return f"{scale}<munderover>{sign}<mrow>{below}<mo>=</mo><mn>1</mn></mrow>{last}</munderover>"


def _behind(baseline: str) -> str:
    """The learned baseline of the score estimator."""
    return f"<mo>;</mo><mi>baseline</mi>{baseline}"


def _times(right: Node) -> str:
    """The sign of a product: a dot before a number, otherwise nothing that is seen."""
    return "<mo>⋅</mo>" if isinstance(right, Number) else '<mo>&#x2062;</mo><mspace width="0.17em"/>'


def inline(node: Node) -> str:
    """The formula on one line, as an ``<mrow>``."""
    return applied(_inline, node)


def _inline(node: Node) -> Rule[str]:
    match node:
        case Number(value):
            return _decimal(value)
        case Value(v):
            return variable(v)
        case Ratio(p, q):
            return f"<mfrac><mrow>{product(p)}</mrow><mrow>{product(q)}</mrow></mfrac>"
        case Log(p, event):
            shown = f'<mi>log</mi>{APPLY}<mspace width="0.17em"/>{product(p)}'
            return f"<msub>{fenced('[', shown, ']')}<mi>i</mi></msub>" if event else f"<mrow>{shown}</mrow>"
        case Divergence(q, p):
            name = "<msub><mi>D</mi><mi>KL</mi></msub>"
            parallel = '<mo lspace="0.28em" rspace="0.28em" stretchy="false">∥</mo>'
            return f"<mrow>{name}{fenced('[', factor(q) + parallel + factor(p), ']')}</mrow>"
        case Expectation(_, body, _, _, baseline):
            inside = yield body
            if isinstance(baseline, Node):
                inside += _behind((yield baseline))
            return f"<mrow>{_expected(node)}{fenced('[', inside, ']')}</mrow>"
        case Function() | OverEvent() | Named() | Operator() | Group() | OverTime() | OverSteps() | OverRows():
            return (yield from _further(node))
        case Binary("^", left, right):
            return f"<msup>{(yield from _operand(left, bracketed(left, '^')))}<mrow>{(yield right)}</mrow></msup>"
        case Binary("max" | "min" as op, left, right):
            return f"<mrow><mi>{op}</mi>{APPLY}{fenced('(', (yield left) + COMMA + (yield right), ')')}</mrow>"
        case Binary("/", left, right):
            return f"<mfrac>{(yield left)}{(yield right)}</mfrac>"
        case Binary("*" as op, left, right):
            first = yield from _operand(left, bracketed(left, op))
            second = yield from _operand(right, bracketed(right, op, right=True))
            return f"<mrow>{first}{_times(right)}{second}</mrow>"
        case Binary(op, left, right):
            sign = f'<mo form="infix">{_SIGNS[op]}</mo>'
            first = yield from _operand(left, bracketed(left, op))
            second = yield from _operand(right, bracketed(right, op, right=True))
            return f"<mrow>{first}{sign}{second}</mrow>"
        case Negative(body):
            shown = yield from _operand(body, bracketed(body, "neg", right=True))
            return f'<mrow><mo form="prefix">−</mo>{shown}</mrow>'
        case StopGradient(body):
            return _stopped((yield body))
        case OverBatch(how, body):
            return f"<mrow><mi>{how}</mi>{APPLY}{fenced('(', (yield body), ')')}</mrow>"
    raise TypeError(f"no MathML rule for {type(node).__name__}")


def _further(node: Node) -> Rule[str]:
    """The nodes that stand for themselves: functions, names, operators, sums."""
    match node:
        case Function("clamp", body, bounds):
            shown = yield body
            low, high = yield from limits(bounds, _decimal, ("−∞", "∞"))
            inside = COMMA.join((shown, f"<mrow>{low}</mrow>", f"<mrow>{high}</mrow>"))
            return f"<mrow><mi>clamp</mi>{APPLY}{fenced('(', inside, ')')}</mrow>"
        case Function(name, body):
            return f"<mrow>{FUNCTIONS[name].mathml.format((yield body))}</mrow>"
        case OverEvent("norm2", body):
            return f"<msup>{fenced('‖', (yield body), '‖')}<mn>2</mn></msup>"
        case OverEvent(_, body):
            return f"<mrow><mi>total</mi>{APPLY}{fenced('(', (yield body), ')')}</mrow>"
        case Named(name):
            return symbol(name)
        case Group(names, bodies):
            each_shown: list[str] = yield from each(bodies)
            rows = (f"{symbol(name)}<mo>:</mo>{body}" for name, body in zip(names, each_shown, strict=True))
            return f"<mrow>{'<mo>;</mo>'.join(rows)}</mrow>"
        case Operator():
            sign = f'<mo lspace="0.28em" rspace="0.28em" stretchy="false">{node.separator}</mo>'.replace("‖", "∥")
            inside = sign.join((yield from written(node, lambda p: f"<mrow>{product(p)}</mrow>")))
            letter = node.sign.mathml or f"<mi>{escape(node.sign.text)}</mi>"
            return f"<mrow>{letter}{fenced('[', inside, ']')}</mrow>"
        case OverTime() | OverSteps() | OverRows():
            return f"<mrow>{over(node)}{(yield from _operand(node.body, strength(node.body) < SUMMAND))}</mrow>"
    raise TypeError(f"no MathML rule for {type(node).__name__}")


# ------------------------------------------------------------------------------------------------- lines, definitions


class _MathML:
    """The notation of `broken`."""

    def inline(self, node: Node) -> str:
        return inline(node)

    def opening(self, node: Node) -> str:
        match node:
            case Expectation():
                return _expected(node, stacked=len(text.product(node.q)) > SUBSCRIPT)
            case OverTime() | OverSteps() | OverRows():
                return over(node)
            case OverBatch(name) | Function(name):
                return f"<mi>{name}</mi>"
            case Binary(_, left, right):
                shown = inline(left)
                return (self.fenced("(", shown, ")") if bracketed(left, "*") else shown) + _times(right)
            case Operator():
                return node.sign.mathml or f"<mi>{escape(node.sign.text)}</mi>"
        return '<mo form="prefix">−</mo>' if isinstance(node, Negative) else "<mi>sg</mi>"

    def ending(self, node: Expectation) -> str:
        return _behind(inline(node.baseline)) if isinstance(node.baseline, Node) else ""

    def sign(self, op: str) -> str:
        return f'<mo form="infix" lspace="0">{_SIGNS[op]}</mo>'

    def label(self, name: str) -> str:
        return f'{symbol(name)}<mo>:</mo><mspace width="0.4em"/>'

    def half(self, bracket: str, *, first: bool) -> str:
        return _bracket(bracket, "prefix" if first else "postfix")

    def fenced(self, opening: str, inside: str, closing: str) -> str:
        return fenced(opening, inside, closing, stretchy="<mtable" not in inside)  # not as tall as what is drawn


def defined(d: Definition, width: int) -> list[Line]:
    """The lines of a definition, those after the first one indented."""
    left = (symbol(d.left) if isinstance(d.left, str) else head(d.left)) + f"<mo>{d.relation}</mo>"
    if isinstance(d.right, Pace | Settings):
        return [(0, f'{left}<mspace width="0.4em"/>{rule(d.right)}')]
    if isinstance(d.right, Node):
        first, *rest = lines(d.right, width, _MathML())
        return [(0, left + first[1]), *((depth + 1, shown) for depth, shown in rest)]
    products = [f"<mrow>{product(p)}</mrow>" for p in d.right]
    if len(products) == 1:
        return [(0, left + factorisation(d.right[0]))]
    if d.weights is not None:
        each = map('{}<mspace width="0.17em"/>{}'.format, weights(d, "<mn>{}</mn>", symbol, head), products)
        terms = [f'<mo form="infix">+</mo>{term}' if i else left + term for i, term in enumerate(each)]
        return [(0, "".join(terms))] if fits(d.right, width) else [(min(i, 1), t) for i, t in enumerate(terms)]
    left += f"<mfrac><mn>1</mn><mn>{len(products)}</mn></mfrac>"
    if fits(d.right, width):
        return [(0, left + fenced("(", "<mo>+</mo>".join(products), ")"))]
    rows = [(1, shown if i == 0 else f'<mo form="infix" lspace="0">+</mo>{shown}') for i, shown in enumerate(products)]
    return [(0, left + _bracket("(", "prefix")), *rows[:-1], (1, rows[-1][1] + _bracket(")", "postfix"))]


def factorisation(p: Product) -> str:
    """A product, densities first, then the functions that they read: ``q(z ∣ h), h = f(x)``."""
    functions = [factor(u) for u in p if u.factor.header.deterministic]
    if not functions or isinstance(p, Integral):
        return f"<mrow>{product(p)}</mrow>"
    densities = '<mspace width="0.17em"/>'.join(factor(u) for u in p if not u.factor.header.deterministic)
    between = f'{COMMA}<mspace width="0.8em"/>'
    return f"<mrow>{between.join(filter(None, [densities, *functions]))}</mrow>"
