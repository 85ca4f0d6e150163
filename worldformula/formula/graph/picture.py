"""A graphical model as a self-contained SVG: circles, arrows, plates, and the line between two slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import escape, unescape

import numpy as np
from numpy.typing import NDArray

from worldformula.formula.graph.layout import PAD, RADIUS, Curve, Frame, boxes, place, route
from worldformula.formula.graph.model import Edge, Graph, Vertex
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.spelling import GREEK

_STYLE = (
    ":root.wf-graph{color:#1b1f24}@media(prefers-color-scheme:dark){:root.wf-graph{color:#e6e9ee}}"
    ".wf-graph{font-family:'STIX Two Text','Latin Modern Roman','Times New Roman',Georgia,serif}"
    ".wf-graph circle,.wf-graph rect{fill:none;stroke:currentColor;stroke-width:1.5}"
    ".wf-graph .observed circle,.wf-graph .half{fill:currentColor;fill-opacity:.17}"
    ".wf-graph .several{stroke-opacity:.6}"
    ".wf-graph path{fill:none;stroke:currentColor;stroke-width:1.35}.wf-graph path.half{stroke:none}"
    ".wf-graph .inference path{stroke-dasharray:5 4}.wf-graph rect{stroke-width:1;stroke-opacity:.6}"
    ".wf-graph polygon,.wf-graph text{fill:currentColor}.wf-graph text{text-anchor:middle}"
    ".wf-graph .separator{stroke:currentColor;stroke-opacity:.35;stroke-dasharray:1 5;stroke-linecap:round}"
    ".wf-graph .slice,.wf-graph .plate text{font-size:15px;fill-opacity:.7}"
    ".wf-graph .plate text{font-size:14px;text-anchor:inherit}"
)
_ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "dot": "\u0307", "vec": "\u20d7"}
_MARGIN = 14.0
_LABEL = 17.0  # height of the label of a plate
_SLICES = 30.0  # height of the names of the slices
Points = NDArray[np.float64]


def svg(graph: Graph) -> str:
    """A self-contained SVG in the colour of the page around it; alone, in that of the reader's scheme."""
    order = {v.variable: i for i, v in enumerate(graph.vertices)}
    pairs = [(order[e.source], order[e.target]) for e in graph.edges]
    sides = _sides(graph, pairs)
    radius = max([RADIUS, *(_label_width(v.variable, 12.0) / 2 + 8 for v in graph.vertices)])
    radius = min(radius, 1.7 * RADIUS)
    whole = [p.label for p in graph.plates if len(p.members) == len(graph.vertices)]
    part = [(p.label, [order[m] for m in p.members]) for p in graph.plates if p.label not in whole]
    centres = place(_layers(graph), sides, pairs, radius, [members for _, members in part])
    curves = route(centres, pairs, [e.kind == "generative" for e in graph.edges], radius)
    sizes = [(_width(label), _LABEL) for label, _ in part]
    frames = boxes(centres, [members for _, members in part], radius, sizes, curves)
    corners = [np.stack([f.low, f.high]) for f in frames]
    reach = [centres - radius, centres + radius, *(c.points for c in curves), *corners]
    ends = np.concatenate(reach) if len(centres) else np.zeros((1, 2))
    low, high = ends.min(0), ends.max(0)
    body = [_plate(label, frame) for (label, _), frame in zip(part, frames, strict=True)]
    if min(sides, default=0) < 0 and 0 in sides:
        low = low - np.array([0.0, _SLICES])
        stepped = [i for i, v in enumerate(graph.vertices) if v.slice is not None and _stepped(v.variable)]
        bottom = max([centres[stepped, 1].max() + radius + PAD, *(f.high[1] for f in frames if f.high[1] < high[1])])
        body.append(_separator(centres, sides, low, bottom if whole or part else high[1]))
        body += _slices(graph, centres, low)
    for label in whole:
        low, high = low - PAD, high + np.array([PAD, PAD + _LABEL])
        body.append(_plate(label, Frame(low, high, high - np.array([7.0, 6.0]))))
    body += [_edge(c, e) for c, e in zip(curves, graph.edges, strict=True)]
    body += [_vertex(v, x, y, radius) for v, (x, y) in zip(graph.vertices, centres, strict=True)]
    low, size = low - _MARGIN, high - low + 2 * _MARGIN
    names = ", ".join(f"{v.name} {_WORDS.get(v.kind, v.kind)}" for v in graph.vertices)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wf-graph" role="img" width="{size[0]:.0f}" '
        f'height="{size[1]:.0f}" viewBox="{low[0]:.1f} {low[1]:.1f} {size[0]:.1f} {size[1]:.1f}" '
        f'aria-label="Graphical model: {escape(names)}"><style>{_STYLE}</style>{"".join(body)}</svg>'
    )


def _sides(graph: Graph, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The slice of every circle; what a sequence begins with, z_0 and what it reads, lies before what it leads to."""
    sides = [min(v.slice or 0, 0) for v in graph.vertices]
    for _ in graph.vertices:  # a start may read another one
        for source, target in pairs:
            if graph.vertices[source].slice is None and sides[target] < 0:
                sides[source] = min(sides[source], sides[target] - 1)
    return sides


_WORDS = {"partial": "partly observed"}


# -------------------------------------------------------------------------------------------------------- the rows


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


# ------------------------------------------------------------------------------------------------------ the pieces


def _edge(curve: Curve, edge: Edge) -> str:
    (x0, y0), (cx, cy), (x1, y1) = curve.start, curve.control, curve.tail
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve.head)
    line = f"M{x0:.1f} {y0:.1f}" + (f"Q{cx:.1f} {cy:.1f} " if curve.bend else "L") + f"{x1:.1f} {y1:.1f}"
    title = f"{edge.source} to {edge.target}: {edge.kind}"
    return f'<g class="{edge.kind}"><title>{escape(title)}</title><path d="{line}"/><polygon points="{head}"/></g>'


def _vertex(vertex: Vertex, x: float, y: float, radius: float) -> str:
    inside = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius - 4:.1f}"/>' if vertex.kind == "deterministic" else ""
    room = 2 * radius - (16 if inside else 10)
    if vertex.kind == "partial":
        inside = (
            f'<path class="half" d="M{x:.1f} {y - radius:.1f}a{radius:.1f} {radius:.1f} 0 0 0 0 {2 * radius:.1f}"/>'
        )
    if vertex.variable.past:  # the mark of several steps
        inside += "".join(_arc(x, y, radius + beyond) for beyond in (4.5, 9.0))
    size = min(21.0, room / _label_width(vertex.variable, 1.0))
    return (
        f'<g class="{vertex.kind}"><title>{escape(vertex.name)}: {_WORDS.get(vertex.kind, vertex.kind)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>{inside}{_label(vertex.variable, x, y, size)}</g>'
    )


def _arc(x: float, y: float, radius: float) -> str:
    """A part of a circle, to the left of its centre."""
    dx, dy = 0.9 * radius, 0.436 * radius
    start, end = f"{x - dx:.1f} {y + dy:.1f}", f"{x - dx:.1f} {y - dy:.1f}"
    return f'<path class="several" d="M{start}A{radius:.1f} {radius:.1f} 0 0 1 {end}"/>'


def _plate(label: str, frame: Frame) -> str:
    """A rectangle with its label in a corner."""
    (x, y), (width, height) = frame.low, frame.high - frame.low
    return (
        f'<g class="plate" text-anchor="{frame.anchor}">'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6"/>'
        f'<text x="{frame.label[0]:.1f}" y="{frame.label[1]:.1f}">{_styled(label)}</text></g>'
    )


def _stepped(variable: Variable) -> bool:
    """Whether a variable belongs to one step: neither a whole series nor the last value."""
    return variable.index is not None and not variable.several and not variable.index.isupper()


def _separator(centres: Points, sides: Sequence[int], low: Points, bottom: float) -> str:
    """The line between the steps before and the current one."""
    earlier = np.array(sides) < 0
    x = (centres[earlier, 0].max() + centres[~earlier, 0].min()) / 2
    return f'<path class="separator" d="M{x:.1f} {low[1]:.1f}V{bottom:.1f}"/>'


def _slices(graph: Graph, centres: Points, low: Points) -> list[str]:
    """The name of every slice above the middle of its circles; where there are histories alone, it is theirs."""
    index = f'<tspan font-style="italic">{escape(graph.index or "t")}</tspan>'
    members: dict[int, list[int]] = {}
    for i, vertex in enumerate(graph.vertices):
        if _stepped(vertex.variable):
            members.setdefault(vertex.variable.offset, []).append(i)
    names = {n: index if n == 0 else f"{index} \u2212 {-n}" if n < 0 else f"{index} + {n}" for n in members}
    past = [i for i, v in enumerate(graph.vertices) if v.variable.past and v.variable.offset < 0]
    if past and -1 not in members:
        members[-1], names[-1] = past, f"&lt; {index}"
    middle = {n: (centres[own, 0].min() + centres[own, 0].max()) / 2 for n, own in members.items()}
    return [f'<text class="slice" x="{middle[n]:.1f}" y="{low[1] + 16:.1f}">{names[n]}</text>' for n in sorted(members)]


# ------------------------------------------------------------------------------------------------------ the labels


def _symbol(variable: Variable) -> str:
    """The base as it is printed: Greek names as letters, accents and primes as characters."""
    key = replace(variable, accent=None, primes=0, subscript=None, index=None).key
    letter = unescape(f"&{key};") if key in GREEK else variable.base
    return letter + (_ACCENTS[variable.accent] if variable.accent else "") + "\u2032" * variable.primes


def _subscript(variable: Variable) -> str:
    return ",".join(s for s in (variable.subscript, variable.suffix) if s).replace("-", "\u2212")


def _styled(text: str) -> str:
    """Letters that stand alone in italics, everything else upright."""
    parts = re.split(r"(?<![^\W_])([^\W\d_])(?![^\W_])", text)
    return "".join(
        f'<tspan font-style="italic">{escape(part)}</tspan>' if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _width(label: str) -> float:
    """Of the label of a plate."""
    return 6.4 * len(label)


def _label_width(variable: Variable, size: float) -> float:
    """A width in the serif of the picture, from average letter widths."""
    letters = len(_symbol(variable)) - variable.primes - (variable.accent is not None)
    return size * (0.52 * letters + 0.27 * variable.primes + 0.66 * 0.52 * len(_subscript(variable)) + 0.1)


def _label(variable: Variable, x: float, y: float, size: float) -> str:
    symbol, sub = _symbol(variable), _subscript(variable)
    style = ' font-style="italic"' if len(variable.base) == 1 or symbol != variable.base else ""
    shifted = f'<tspan dy="{0.26 * size:.1f}" font-size="{0.68 * size:.1f}" font-style="normal">{_styled(sub)}</tspan>'
    return (
        f'<text x="{x:.1f}" y="{y + 0.29 * size:.1f}" font-size="{size:.1f}"{style}>{escape(symbol)}'
        f"{shifted if sub else ''}</text>"
    )
