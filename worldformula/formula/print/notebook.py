"""What a formula, a factor, a product and the result of a call show in a notebook. How it looks: `display`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from worldformula.display import Written, beside, decimals, grouped, mathematics, note, stack, tabular
from worldformula.formula.factors.joint import Joint
from worldformula.formula.plan.plan import Plan
from worldformula.formula.print import mathml
from worldformula.formula.print.densities import factor_mathml, product_mathml
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import Node, Use
from worldformula.formula.syntax.text import text as plain


class Result(Protocol):
    """What a call returns: see `Out`, which this file does not know."""

    value: Any

    @property
    def plan(self) -> Plan:
        """What was run."""

    @property
    def terms(self) -> dict[str, Tensor]:
        """Values by the text of their term."""

    @property
    def samples(self) -> dict[str, Tensor]:
        """Draws by variable."""


def term(node: Node, text: str, behind: str = "") -> Written:
    """A term in a table: its text, and its mathematics with what tells it from others of the same text."""
    return Written(text, _inline(mathml.inline(node)) + escape(behind))


def expected(factors: Iterable[Factor], text: str) -> Written:
    """The row of an expectation: ``E_{q(z|x)}[...]``."""
    below = mathml.product(tuple(map(Use, factors)))
    opening, closing = (f'<mo stretchy="false">{bracket}</mo>' for bracket in "[]")
    return Written(text, _inline(f"<msub><mi>𝔼</mi><mrow>{below}</mrow></msub>{opening}<mo>…</mo>{closing}"))


def formula_html(node: Node) -> str:
    """A formula, broken into lines where it is long."""
    return stack(mathematics(mathml.mathml(node)))


def factor_html(factor: Factor) -> str:
    """One line: the density, and what it is."""
    name, event, network = _described(factor)
    said = "; ".join(filter(None, (f"{name} of shape {event}" if event else name, network and f"network: {network}")))
    return stack(beside(mathematics(factor_mathml(factor)), note(said)))


def product_html(p: Joint) -> str:
    """What the product factorises into, and a row for each factor."""
    rows = [(Written(str(f), _inline(mathml.head(f.header))), *_described(f)) for f in p.factors]
    header = ("factor", "distribution", "shape", "network")
    return stack(mathematics(product_mathml(p.uses)), tabular(header, rows))


def out_html(out: Result) -> str:
    """The value, the terms and what was drawn."""
    values = out.value if isinstance(out.value, Mapping) else {"value": out.value}
    rows = [(name, *_number(value)) for name, value in values.items()]
    rows += [(name, *_number(value)) for name, value in _terms(out)]
    shown = iter(decimals([number for _, number, _ in rows if number is not None]))
    cells = [(name, "" if number is None else next(shown), batch) for name, number, batch in rows]
    cells[: len(values)] = [(_strong(name), _strong(number), batch) for name, number, batch in cells[: len(values)]]
    width = 3 if any(batch for _, _, batch in cells) else 2
    drawn = ", ".join(f"{key} {list(value.shape)}" for key, value in out.samples.items() if isinstance(value, Tensor))
    below = [note(f"samples: {drawn}")] if drawn else []
    return stack(tabular([""] * width, [row[:width] for row in cells], numbers=[1]), *below)


def parts_html(parts: Mapping[str, object], said: str = "") -> str:
    """What something is made of, by name: formulas, factors and products as mathematics, the rest as text below."""
    shown = {name: _part(value) for name, value in parts.items()}
    below = [f"{name}: {_briefly(parts[name])}" for name, part in shown.items() if part is None]
    rows = [(name, part) for name, part in shown.items() if part is not None]
    return stack(tabular(("", ""), rows, align="top"), note("; ".join(filter(None, (said, *below)))))


def _part(value: object) -> Written | None:
    match value:
        case Factor():
            return Written(str(value), _inline(mathml.head(value.header)))
        case Joint():
            return Written(str(value), _inline(mathml.factorisation(value.uses)))
    node = getattr(value, "node", None)  # of an expression, which this file must not know
    if not isinstance(node, Node):
        return None
    return Written(plain(node), f'<div style="font-size:1.25em;display:inline-block">{mathml.mathml(node)}</div>')


def _briefly(value: object) -> str:
    """A number or a word as it is; of an array the shape, of anything long its class."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)}"
    name = getattr(value, "__name__", type(value).__name__)
    said = name if callable(value) else str(value)
    return said if len(said) <= 60 and "\n" not in said else name


def _terms(out: Result) -> Iterable[tuple[Written, Any]]:
    """Every term with its value; the second of the same text has a number behind it."""
    found = out.terms
    for title, shown in zip(out.plan.titles, (t.shown for t in out.plan.terms), strict=True):
        if isinstance(shown, Node):
            written = term(shown, title, title.removeprefix(plain(shown)))
        else:
            written = Written(title, _inline(mathml.symbol(shown)) + escape(title.removeprefix(shown)))
        yield written, found[title]


def _inline(inside: str) -> str:
    """Mathematics in a line of text."""
    return f'<math style="font-size:1.25em"><mrow>{inside}</mrow></math>'


def _strong(text: str) -> Written:
    return Written(text, f"<b>{escape(text)}</b>")


def _described(factor: Factor) -> tuple[str, str, str]:
    """Distribution, event shape and network of a factor."""
    shapes = [shape for _, shape in factor.event_shapes()]
    event = ", ".join("" if shape is None else str(list(shape)) for shape in shapes)
    net = factor.net
    return type(factor).__name__, event.strip(", "), "" if net is None else _network(net)


def _network(net: Any) -> str:
    """``Sequential, 9 264 weights``."""
    name = type(net).__name__ if isinstance(net, nn.Module) else getattr(net, "__name__", type(net).__name__)
    name = "" if name.startswith("_") else name  # what this library puts around a network
    weights = list(net.parameters()) if isinstance(net, nn.Module) else []
    if any(map(is_lazy, weights)):
        return ", ".join(filter(None, (name, "weights not made yet")))
    count = sum(w.numel() for w in weights)
    return ", ".join(filter(None, (name, f"{grouped(count)} weights" if count else "")))


def _number(value: Any) -> tuple[float | None, str]:
    """The number of a value, and of a batch the mean, with what it is the mean of."""
    if not isinstance(value, Tensor):
        return float(value), ""
    if value.is_meta or not value.numel():
        return None, f"{list(value.shape)}"
    if not value.ndim:
        return float(value.detach()), ""
    return float(value.detach().double().mean()), f"mean of {list(value.shape)}"
