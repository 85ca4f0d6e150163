"""The graphical model of a formula, as data and as a picture.

Observed variables are shaded, latent ones white, deterministic ones have a double ring; generative edges are solid and
straight, the edges of the inference model dashed and bent. A formula with a time index is drawn as two slices: the
current step in full, and of the step before what it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape, unescape
from typing import TYPE_CHECKING, Literal

import numpy as np

from worldformula.errors import UnknownVariableError, near
from worldformula.formula.layout import RADIUS, Curve, place, route
from worldformula.formula.names import GREEK, Header, Variable
from worldformula.formula.nodes import Divergence, Expectation, Node, children, factors

if TYPE_CHECKING:
    from worldformula.formula.expression import Expression
    from worldformula.formula.factors import Factor

VertexKind = Literal["latent", "observed", "deterministic"]
EdgeKind = Literal["generative", "inference"]


@dataclass(frozen=True)
class Vertex:
    """One variable at one step. ``slice`` is the offset of its time index, None for a variable without one."""

    variable: Variable
    kind: VertexKind

    @property
    def name(self) -> str:
        """As a formula writes it: ``z_{t-1}``."""
        return str(self.variable)

    @property
    def slice(self) -> int | None:
        """Steps from the current one: 0 or −1; None outside time."""
        return None if self.variable.index is None else self.variable.offset


@dataclass(frozen=True)
class Edge:
    """``target`` depends on ``source`` in the generative model or in the inference model."""

    source: Variable
    target: Variable
    kind: EdgeKind


@dataclass(frozen=True)
class Graph:
    """A graphical model. ``index`` is the time index of its variables, None for a static model."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    index: str | None

    def as_dict(self) -> dict[str, list[dict[str, object]]]:
        """Plain lists and strings, for JSON or another drawing program."""
        return {
            "vertices": [{"name": v.name, "kind": v.kind, "slice": v.slice} for v in self.vertices],
            "edges": [{"source": str(e.source), "target": str(e.target), "kind": e.kind} for e in self.edges],
        }

    def _repr_svg_(self) -> str:
        return svg(self)


def graph(source: Expression | Node | Iterable[Factor], observed: Iterable[str] | None = None) -> Graph:
    """The graphical model of an expression, or of factors.

    A factor is generative unless its letter starts with ``q``, or an expectation samples it while another factor
    declares the same variable. A deterministic factor belongs to the inference model when only that model reads it.

    Args:
        source: an expression, its node, or a list of factors.
        observed: keys of the observed variables that a factor declares. Without it, an expression shades what it never
            samples; a list of factors shades what the inference model reads and what nothing depends on. Variables
            that no factor declares are data, so always observed.

    Raises:
        UnknownVariableError: ``observed`` names a variable that the factors do not have.
    """
    node = source if isinstance(source, Node) else getattr(source, "node", None)
    if isinstance(node, Node):
        known, sampled, drawn = factors(node), _latent_keys(node), _drawn(node)
    else:
        known, sampled, drawn = list(source), None, set()  # type: ignore[arg-type]
    headers = [f.header for f in known]
    kinds = _edge_kinds(known, drawn)
    declared = {v.key: h.deterministic for h in headers for v in h.variables}
    data = {v.key for f in known if f.family is None and not f.header.deterministic for v in f.header.variables}
    shaded = data | _observed(headers, kinds, sampled, observed)
    variables = list(dict.fromkeys(v for h in headers for v in (*h.variables, *h.conditions)))

    def kind(variable: Variable) -> VertexKind:
        if variable.key in shaded or variable.key not in declared:
            return "observed"
        return "deterministic" if declared[variable.key] else "latent"

    edges = [Edge(c, v, k) for h, k in zip(headers, kinds, strict=True) for c in h.conditions for v in h.variables]
    earlier = [replace(e, source=e.source.at(-1), target=e.target.at(-1)) for e in edges if _within_step(e)]
    edges += [e for e in earlier if e.kind == "generative" and e.source in variables and e.target in variables]
    index = next((v.index for v in variables if v.index is not None), None)
    return Graph(tuple(Vertex(v, kind(v)) for v in variables), tuple(dict.fromkeys(edges)), index)


def _within_step(edge: Edge) -> bool:
    ends = (edge.source, edge.target)
    return all(v.index is not None and v.offset == 0 for v in ends)


def _walk(node: Node) -> Iterable[Node]:
    yield node
    for child in children(node):
        yield from _walk(child)


def _drawn(node: Node) -> set[int]:
    """Identities of the factors that an expectation samples."""
    return {id(use.factor) for n in _walk(node) if isinstance(n, Expectation) for use in n.q}


def _latent_keys(node: Node) -> set[str]:
    """Keys of the variables that an expectation samples or a divergence compares."""
    found: set[str] = set()
    for n in _walk(node):
        named = n.q if isinstance(n, Expectation) else (n.q,) if isinstance(n, Divergence) else ()
        found.update(v.key for use in named for v in use.factor.header.variables)
    return found


def _edge_kinds(known: Sequence[Factor], drawn: set[int]) -> list[EdgeKind]:
    headers = [f.header for f in known]

    def infers(factor: Factor) -> bool:
        if factor.header.letter.startswith("q"):
            return True
        rivals = [f for f in known if f is not factor and set(f.header.variables) & set(factor.header.variables)]
        without_q = not any(f.header.letter.startswith("q") for f in rivals)
        return id(factor) in drawn and without_q and any(id(f) not in drawn for f in rivals)

    inference = {i for i, f in enumerate(known) if not f.header.deterministic and infers(f)}
    densities = [i for i, h in enumerate(headers) if not h.deterministic]
    read_by_p = _ancestors(headers, [i for i in densities if i not in inference])
    read_by_q = _ancestors(headers, [i for i in densities if i in inference])
    for i, h in enumerate(headers):
        keys = {v.key for v in h.variables}
        if h.deterministic and keys & read_by_q and not keys & read_by_p:
            inference.add(i)
    return ["inference" if i in inference else "generative" for i in range(len(known))]


def _ancestors(headers: Sequence[Header], start: Sequence[int]) -> set[str]:
    """Keys that these factors read, directly or through deterministic factors."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        for condition in headers[waiting.pop()].conditions:
            if condition.key not in found:
                found.add(condition.key)
                functions = [i for i, h in enumerate(headers) if h.deterministic]
                waiting += [i for i in functions if condition.key in {v.key for v in headers[i].variables}]
    return found


def _observed(
    headers: Sequence[Header], kinds: Sequence[EdgeKind], sampled: set[str] | None, observed: Iterable[str] | None
) -> set[str]:
    densities = [(h, k) for h, k in zip(headers, kinds, strict=True) if not h.deterministic]
    declared = {v.key for h, _ in densities for v in h.variables}
    if observed is not None:
        keys = {v.key for h in headers for v in (*h.variables, *h.conditions)}
        for name in (chosen := set(observed)):
            if name not in keys:
                raise UnknownVariableError(
                    f"observed: expected a variable of the formula ({', '.join(sorted(keys))}), found {name!r}."
                    + near(name, keys)
                )
        return chosen
    if sampled is not None:
        return declared - sampled
    inferred = {v.key for h, k in densities if k == "inference" for v in h.variables}
    read_by_q = {c.key for h, k in zip(headers, kinds, strict=True) if k == "inference" for c in h.conditions}
    read_by_p = {c.key for h, k in zip(headers, kinds, strict=True) if k == "generative" for c in h.conditions}
    return {key for key in declared - inferred if key in read_by_q or key not in read_by_p}


# ------------------------------------------------------------------------------------------------------- the picture

_STYLE = (
    ":root.wf-graph{color:#1b1f24}@media(prefers-color-scheme:dark){:root.wf-graph{color:#e6e9ee}}"
    ".wf-graph{font-family:'STIX Two Text','Latin Modern Roman','Times New Roman',Georgia,serif}"
    ".wf-graph circle{fill:none;stroke:currentColor;stroke-width:1.5}"
    ".wf-graph .observed circle{fill:currentColor;fill-opacity:.17}"
    ".wf-graph path{fill:none;stroke:currentColor;stroke-width:1.35}"
    ".wf-graph .inference path{stroke-dasharray:5 4}"
    ".wf-graph polygon,.wf-graph text{fill:currentColor}.wf-graph text{text-anchor:middle}"
    ".wf-graph .separator{stroke:currentColor;stroke-opacity:.35;stroke-dasharray:1 5;stroke-linecap:round}"
    ".wf-graph .slice{font-size:15px;fill-opacity:.6}"
)
_ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "dot": "\u0307", "vec": "\u20d7"}
_MARGIN = 14.0


def svg(graph: Graph) -> str:
    """A self-contained SVG in the colour of the page around it; alone, in that of the reader's scheme."""
    order = {v.variable: i for i, v in enumerate(graph.vertices)}
    pairs = [(order[e.source], order[e.target]) for e in graph.edges]
    generative = [e.kind == "generative" for e in graph.edges]
    sides = [-1 if v.slice == -1 else 0 for v in graph.vertices]
    radius = max([RADIUS, *(_label_width(v.variable, 13.0) / 2 + 4 for v in graph.vertices)])
    radius = min(radius, 1.7 * RADIUS)
    centres = place(_layers(graph), sides, pairs, radius)
    curves = route(centres, pairs, generative, radius)
    body = [_edge(c, e) for c, e in zip(curves, graph.edges, strict=True)]
    body += [_vertex(v, x, y, radius) for v, (x, y) in zip(graph.vertices, centres, strict=True)]
    reach = [centres - radius, centres + radius, *(c.points for c in curves)] if len(centres) else [np.zeros((1, 2))]
    low, high = np.concatenate(reach).min(0) - _MARGIN, np.concatenate(reach).max(0) + _MARGIN
    if -1 in sides and 0 in sides:
        low = low - np.array([0.0, 30.0])
        body.insert(0, _separator(graph.index or "t", centres, sides, low, high))
    size = high - low
    names = ", ".join(f"{v.name} {v.kind}" for v in graph.vertices)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wf-graph" role="img" width="{size[0]:.0f}" '
        f'height="{size[1]:.0f}" viewBox="{low[0]:.1f} {low[1]:.1f} {size[0]:.1f} {size[1]:.1f}" '
        f'aria-label="Graphical model: {escape(names)}"><style>{_STYLE}</style>{"".join(body)}</svg>'
    )


def _layers(graph: Graph) -> list[int]:
    """Rows from the top: below all generative parents of the same step; both slices of a variable share a row."""
    parents: dict[Variable, set[Variable]] = {v.variable.at(0): set() for v in graph.vertices}
    for e in graph.edges:
        if e.source.offset == e.target.offset:
            # An inference-only variable (an embedding of the data) hangs below what it informs, beside the data.
            above, below = (e.source, e.target) if e.kind == "generative" else (e.target, e.source)
            alone = e.kind == "inference" and not any(e.source in (o.source, o.target) for o in _generative(graph))
            if e.kind == "generative" or alone:
                parents[below.at(0)].add(above.at(0))
    rows: dict[Variable, int] = {}

    def row(variable: Variable, below: frozenset[Variable]) -> int:
        if variable not in rows:
            inside = below | {variable}
            rows[variable] = max((row(p, inside) + 1 for p in parents[variable] if p not in inside), default=0)
        return rows[variable]

    for variable in parents:
        row(variable, frozenset())
    # A root is drawn just above its highest child; a variable of the earlier step alone, above what it leads to.
    for variable, above_it in parents.items():
        leads = [e.target.at(0) for e in _generative(graph) if e.source.at(0) == variable]
        lower = [rows[target] for target in leads if target != variable]
        if not above_it and lower:
            rows[variable] = min(lower) - 1
    return [rows[v.variable.at(0)] - min(rows.values()) for v in graph.vertices]


def _generative(graph: Graph) -> list[Edge]:
    return [e for e in graph.edges if e.kind == "generative"]


def _edge(curve: Curve, edge: Edge) -> str:
    (x0, y0), (cx, cy), (x1, y1) = curve.start, curve.control, curve.tail
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve.head)
    line = f"M{x0:.1f} {y0:.1f}" + (f"Q{cx:.1f} {cy:.1f} " if curve.bend else "L") + f"{x1:.1f} {y1:.1f}"
    title = f"{edge.source} to {edge.target}: {edge.kind}"
    return f'<g class="{edge.kind}"><title>{escape(title)}</title><path d="{line}"/><polygon points="{head}"/></g>'


def _vertex(vertex: Vertex, x: float, y: float, radius: float) -> str:
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius - 4:.1f}"/>' if vertex.kind == "deterministic" else ""
    room = 2 * radius - (16 if ring else 10)
    size = min(21.0, room / _label_width(vertex.variable, 1.0))
    return (
        f'<g class="{vertex.kind}"><title>{escape(vertex.name)}: {vertex.kind}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>{ring}{_label(vertex.variable, x, y, size)}</g>'
    )


def _symbol(variable: Variable) -> str:
    """The base as it is printed: Greek names as letters, accents and primes as characters."""
    key = replace(variable, accent=None, primes=0, subscript=None, index=None).key
    letter = unescape(f"&{key};") if key in GREEK else variable.base
    return letter + (_ACCENTS[variable.accent] if variable.accent else "") + "\u2032" * variable.primes


def _subscript(variable: Variable) -> str:
    return ",".join(s for s in (variable.subscript, variable.suffix) if s).replace("-", "\u2212")


def _label_width(variable: Variable, size: float) -> float:
    """A width in the serif of the picture, from average letter widths."""
    return size * (0.52 * len(_symbol(variable)) + 0.66 * 0.52 * len(_subscript(variable)) + 0.1)


def _label(variable: Variable, x: float, y: float, size: float) -> str:
    symbol, sub = _symbol(variable), _subscript(variable)
    style = ' font-style="italic"' if len(variable.base) == 1 or symbol != variable.base else ""
    shifted = f'<tspan dy="{0.26 * size:.1f}" font-size="{0.68 * size:.1f}" font-style="normal">{escape(sub)}</tspan>'
    return (
        f'<text x="{x:.1f}" y="{y + 0.29 * size:.1f}" font-size="{size:.1f}"{style}>{escape(symbol)}'
        f"{shifted if sub else ''}</text>"
    )


def _separator(index: str, centres: np.ndarray, sides: Sequence[int], low: np.ndarray, high: np.ndarray) -> str:
    earlier = np.array(sides) == -1
    x = (centres[earlier, 0].max() + centres[~earlier, 0].min()) / 2
    y = low[1] + 22
    return (
        f'<path class="separator" d="M{x:.1f} {low[1] + 6:.1f}V{high[1] - 6:.1f}"/>'
        f'<text class="slice" x="{x - 34:.1f}" y="{y:.1f}">'
        f'<tspan font-style="italic">{escape(index)}</tspan> \u2212 1</text>'
        f'<text class="slice" x="{x + 22:.1f}" y="{y:.1f}" font-style="italic">{escape(index)}</text>'
    )
