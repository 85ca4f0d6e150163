"""LaTeX in lines, with what a formula leaves to be explained below it; factors with what they stand for."""

from __future__ import annotations

from worldformula import families
from worldformula.formula.print import latex as tex
from worldformula.formula.print.broken import WIDTH, Line, lines
from worldformula.formula.print.definitions import (
    Definition,
    Settings,
    definitions,
    factorised,
    fits,
    flows_in_time,
    made,
    weights,
)
from worldformula.formula.syntax import text
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import (
    Binary,
    Expectation,
    Function,
    Integral,
    Negative,
    Node,
    Operator,
    OverBatch,
    OverRows,
    OverSteps,
    OverTime,
    Product,
)
from worldformula.formula.syntax.numbers import places
from worldformula.formula.syntax.pace import Pace
from worldformula.formula.syntax.text import bracketed


class _Latex:
    """The notation of `broken`. The halves of brackets on different lines have a fixed size."""

    def inline(self, node: Node) -> str:
        return tex.latex(node)

    def opening(self, node: Node) -> str:
        match node:
            case Expectation():
                return tex.expected(node, stacked=len(text.product(node.q)) > tex.SUBSCRIPT)
            case OverTime() | OverSteps():
                return tex.over(node)
            case OverRows():
                return tex.over_rows(node, tex.count(node))
            case OverBatch(how):
                return rf"\operatorname{{{how}}}"
            case Function(name):
                return rf"\{name}"
            case Binary(_, left, right):
                shown = tex.latex(left)
                return f"{self.fenced('(', shown, ')') if bracketed(left, '*') else shown} {tex.times(right)} "
            case Operator():
                return node.sign.latex
        return "-" if isinstance(node, Negative) else r"\mathrm{sg}"

    def ending(self, node: Expectation) -> str:
        return tex.behind(tex.latex(node.baseline)) if isinstance(node.baseline, Node) else ""

    def sign(self, op: str) -> str:
        return f"{op} "

    def label(self, name: str) -> str:
        return rf"{tex.symbol(name)}:\; "

    def half(self, bracket: str, *, first: bool) -> str:
        return rf"\Bigl{bracket} " if first else rf" \Bigr{bracket}"

    def fenced(self, opening: str, inside: str, closing: str) -> str:
        return rf"\left{opening} {inside} \right{closing}"


def latex_lines(node: Node, width: int = WIDTH) -> str:
    """The formula in LaTeX, broken at its sums, with what it leaves to be explained below it.

    Args:
        node: the expression's node.
        width: the longest line, in characters of plain text.

    Returns:
        An ``aligned`` environment, or one line where that is enough.
    """
    rows = lines(node, width, _Latex())
    below = [_indented(row) for d in definitions(node) for row in _defined(d, width)]
    shown = [_indented(row) for row in rows]
    if len(rows) == 1 and not below:
        return rows[0][1]
    if below:
        below[0] = below[0].replace("&", r"&\text{where}\quad ", 1)
        below[1:] = [row.replace("&", r"&\phantom{\text{where}}\quad ", 1) for row in below[1:]]
    return "\\begin{aligned}\n" + " \\\\\n".join([*shown, *below]) + "\n\\end{aligned}"


def _indented(row: Line) -> str:
    depth, shown = row
    return ("&" + r"\quad " * depth + shown).rstrip()


def _defined(d: Definition, width: int) -> list[Line]:
    """The lines of a definition, those after the first one indented."""
    left = tex.symbol(d.left) if isinstance(d.left, str) else tex.head(d.left)
    relation = {"=": " = ", "∝": r" \propto ", ":": r":\; "}[d.relation]
    if isinstance(d.right, Pace | Settings):
        return [(0, left + relation + (tex.pace(d.right) if isinstance(d.right, Pace) else tex.settings(d.right)))]
    if isinstance(d.right, Node):
        first, *rest = lines(d.right, width, _Latex())
        return [(0, left + relation + first[1]), *((depth + 1, shown) for depth, shown in rest)]
    if len(d.right) == 1:
        return [(0, left + relation + factorisation(d.right[0]))]
    products = list(map(tex.product, d.right))
    if d.weights is not None:
        each = map(r"{}\, {}".format, weights(d, "{}", tex.symbol, tex.head), products)
        terms = [f"+ {term}" if i else left + relation + term for i, term in enumerate(each)]
        return [(0, " ".join(terms))] if fits(d.right, width) else [(min(i, 1), t) for i, t in enumerate(terms)]
    count = rf"\tfrac{{1}}{{{len(d.right)}}}"
    if fits(d.right, width):
        return [(0, rf"{left}{relation}{count} \left( {' + '.join(products)} \right)")]
    rows = [(1, shown if i == 0 else f"+ {shown}") for i, shown in enumerate(products)]
    return [(0, rf"{left}{relation}{count} \Bigl("), *rows[:-1], (1, rows[-1][1] + r" \Bigr)")]


def factorisation(p: Product) -> str:
    r"""A product, densities first, then the functions that they read: ``q(z \mid h),\quad h = f(x)``."""
    functions = [tex.factor(u) for u in p if u.factor.header.deterministic]
    if not functions or isinstance(p, Integral):
        return tex.product(p)
    densities = r"\, ".join(tex.factor(u) for u in p if not u.factor.header.deterministic)
    return r",\quad ".join(filter(None, [densities, *functions]))


def product_latex(p: Product) -> str:
    r"""A product as it is read: the joint density, and what it factorises into: ``p(x, z) = p(x \mid z)\, p(z)``."""
    d = factorised(p)
    return factorisation(p) if d is None else _defined(d, WIDTH)[0][1]


def factor_latex(u: Factor) -> str:
    r"""A factor, and what it stands for where it is made of simpler densities.

    PoE, MoE              q(z \mid x, y) \propto p(z)\, q(z \mid x)\, q(z \mid y)
    Mixture               p(x \mid c) = \sum_{k=1}^{3} w_{k}(c)\, p_{k}(x \mid c)
    ZeroInflated          p(n \mid c) = \pi(c)\, \delta_{0}(n) + (1 - \pi(c))\, p_{0}(n \mid c)
    Flow                  p(x \mid c) = p_{0}(f(x; c))\, |\det \partial f(x; c) / \partial x|
    Flow of a Transport   p(x \mid c):\; x = u_{0} + \int_{0}^{1} v(u_{\tau}, \tau, c)\, d\tau,\quad u_{0} \sim p_{0}
    Autoregressive        p(x \mid c) = \prod_{i} p(x_{i} \mid x_{<i}, c)

    Behind a slow copy stands how it follows; behind one whose settings a call gives, which these are.
    """
    known = Settings(places(u))
    behind = [*([tex.pace(u.pace)] if u.pace is not None else []), *([tex.settings(known)] if known.places else [])]
    return r",\quad ".join([_made_of(u), *behind])


def _made_of(u: Factor) -> str:
    d = made(u)
    if d is not None:
        return r" \; ".join(shown for _, shown in _defined(d, 10**6))
    left, family = tex.head(u.header), u.family
    x = "".join(map(tex.variable, u.variables))
    c = ", ".join(map(tex.variable, u.conditions))
    letter = tex.letter(u.header)
    if isinstance(family, families.MixtureFamily | families.UnlikeMixtureFamily):
        weight, given = (f"({c})", rf" \mid {c}") if c and u.net is not None else ("", "")
        return rf"{left} = \sum_{{k=1}}^{{{family.components}}} w_{{k}}{weight}\, {letter}_{{k}}({x}{given})"
    if isinstance(family, families.ZeroInflatedFamily):
        gate, given = (rf"\pi({c})", rf" \mid {c}") if c and u.net is not None else (r"\pi", "")
        return rf"{left} = {gate}\, \delta_{{0}}({x}) + (1 - {gate})\, {letter}_{{0}}({x}{given})"
    if flows_in_time(u):
        given = f", {c}" if c else ""
        way = rf"u_{{0}} + \int_{{0}}^{{1}} v(u_{{\tau}}, \tau{given})\, d\tau"
        return rf"{left}:\; {x} = {way},\quad u_{{0}} \sim {letter}_{{0}}"
    if isinstance(family, families.FlowFamily):
        image = f"f({x}; {c})" if c else f"f({x})"
        slope = rf"\frac{{\partial {image}}}{{\partial {x}}}"
        return rf"{left} = {letter}_{{0}}\left( {image} \right) \left| \det {slope} \right|"
    if isinstance(family, families.AutoregressiveFamily):
        x = f"{{{x}}}" if "_" in x else x  # a letter has one subscript in LaTeX
        given = f"{x}_{{<i}}, {c}" if c else f"{x}_{{<i}}"
        return rf"{left} = \prod_{{i}} {letter}({x}_{{i}} \mid {given})"
    return left
