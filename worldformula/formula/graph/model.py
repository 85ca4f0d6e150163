"""A graphical model as data: its variables, its edges, and what is repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldformula.formula.graph.plates import Plate
from worldformula.formula.syntax.names import Variable

VertexKind = Literal["latent", "observed", "deterministic", "partial"]
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
        """Steps from the current one: 0, −1, −2 …; of a history that of its last step; None outside time."""
        return None if self.variable.index is None else self.variable.offset


@dataclass(frozen=True)
class Edge:
    """``target`` depends on ``source`` in the generative model or in the inference model."""

    source: Variable
    target: Variable
    kind: EdgeKind


@dataclass(frozen=True)
class Graph:
    """A graphical model. ``index`` is the index of its steps, of time or of iterations; None for a model without."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    index: str | None
    plates: tuple[Plate, ...] = ()

    def as_dict(self) -> dict[str, list[dict[str, object]]]:
        """Plain lists and strings, for JSON or another drawing program."""
        return {
            "vertices": [{"name": v.name, "kind": v.kind, "slice": v.slice} for v in self.vertices],
            "edges": [{"source": str(e.source), "target": str(e.target), "kind": e.kind} for e in self.edges],
            "plates": [{"label": p.label, "members": [str(m) for m in p.members]} for p in self.plates],
        }
