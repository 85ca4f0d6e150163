"""The face of the language: what factors, products and expressions offer that is made in the packages above theirs.

Every other file imports downwards alone. `worldformula.formula` calls `bind` once, so whoever holds one of these
objects has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from worldformula.display import Picture
from worldformula.formula.code.out import Out
from worldformula.formula.expressions.expression import Expression, log
from worldformula.formula.factors.joint import Factor, Joint, Marginal
from worldformula.formula.graph.graph import graph as graph_of
from worldformula.formula.graph.model import Graph
from worldformula.formula.graph.picture import svg
from worldformula.formula.print.latex_lines import factor_latex, product_latex
from worldformula.formula.print.notebook import factor_html, out_html, product_html


def bind() -> None:
    """Give the classes what stands below: functions as methods, and those named ``latex`` as properties."""
    _method(Factor, "latex", property(_factor))
    _method(Joint, "latex", property(_product))
    for kind in (Factor, Joint):
        _method(kind, "_repr_latex_", _notebook)
    _method(Marginal, "log_prob", log_prob)
    _method(Expression, "graph", graph)
    _method(Graph, "_repr_svg_", _picture)
    _method(Graph, "_repr_html_", _drawn)
    _method(Factor, "_repr_html_", _line)
    _method(Joint, "_repr_html_", _table)
    _method(Out, "_repr_html_", _result)


def _method(kind: type, name: str, value: property | Callable[..., Any]) -> None:
    """As if it were written in the class, for tracebacks and ``help`` too."""
    function = value.fget if isinstance(value, property) else value
    assert function is not None
    function.__name__, function.__qualname__, function.__module__ = name, f"{kind.__name__}.{name}", kind.__module__
    setattr(kind, name, value)


def _factor(self: Factor) -> str:
    """The factor in LaTeX and, where it is made of simpler densities, of which: a flow, a mixture, experts."""
    return factor_latex(self)


def _product(self: Joint) -> str:
    r"""The joint density and what it factorises into: ``p(x, z) = p(x \mid z)\, p(z)``."""
    return product_latex(self.uses)


def _notebook(self: Factor | Joint) -> str:
    return f"$\\displaystyle {self.latex}$"


def log_prob(self: Marginal, **values: Any) -> Tensor:
    """The log-density of what is left, where every hidden variable can be enumerated."""
    return log(self)(**values).value  # type: ignore[no-any-return]


def graph(self: Expression) -> Picture:
    """The graphical model as SVG: observed shaded, deterministic double ring, inference dashed."""
    return Picture(svg(graph_of(self.node)))


def _picture(self: Graph) -> str:
    return svg(self)


def _drawn(self: Graph) -> str:
    return Picture(svg(self))._repr_html_()


def _line(self: Factor) -> str:
    return factor_html(self)


def _table(self: Joint) -> str:
    return product_html(self)


def _result(self: Out) -> str:
    return out_html(self)
