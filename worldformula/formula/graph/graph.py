"""The graphical model of a formula, as data and as a picture.

Observed variables are shaded, latent ones white, deterministic ones have a double ring; what is observed in one term
and drawn in another is half shaded. Generative edges are solid and straight, the edges of the inference model dashed
and bent. A formula with a time index is drawn as slices: the current step in full, and of the steps before what it
reads. A history, z_{<t}, stands among these with the mark of several steps, two arcs. Plates hold what is repeated:
rows of data (N), samples (K), iterations that are not time, experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from worldformula.errors import UnknownVariableError, near
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.experts import MoE
from worldformula.formula.graph.model import Edge, EdgeKind, Graph, Vertex, VertexKind
from worldformula.formula.graph.observed import beside, counts, drawn, free, inferring, slot
from worldformula.formula.graph.picture import svg
from worldformula.formula.graph.plates import Plate, plates
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Header, Variable
from worldformula.formula.syntax.nodes import Node, factors
from worldformula.formula.syntax.starts import begins, series

__all__ = ["Edge", "Graph", "Plate", "Vertex", "graph", "svg"]


def graph(source: Expression | Node | Iterable[Factor], observed: Iterable[str] | None = None) -> Graph:
    """The graphical model of an expression, or of factors.

    A factor is generative unless its letter starts with ``q`` (and something is drawn from it, or another factor
    declares the same variable), or an expectation samples it while another factor declares the same variable. A
    deterministic factor belongs to the inference model when only that model reads it. What is made of other factors,
    such as a product of experts, is drawn as these. Counts that a formula scores by their probabilities itself, in
    total(c · log ρ), depend on these.

    Args:
        source: an expression, its node, or a list of factors.
        observed: keys of the observed variables that a factor declares. Without it, an expression shades what it never
            samples; a list of factors shades what the inference model reads and what nothing depends on. Variables
            that no factor declares are data, so always observed.

    Raises:
        UnknownVariableError: ``observed`` names a variable that the factors do not have.
    """
    node = source if isinstance(source, Node) else getattr(source, "node", None)
    everyone = factors(node) if isinstance(node, Node) else list(source)  # type: ignore[arg-type]
    known = [part for f in everyone for part in f.family_tree() if not part.parts]
    own = beside(node) if isinstance(node, Node) else set()
    own |= {id(f.gate) for f in everyone if isinstance(f, MoE)}  # which expert it is, is summed over
    known = list({id(f): f for f in known if id(f) not in own}.values())
    headers = [f.header for f in known]
    edge_kinds = _edge_kinds(known, inferring(node) if isinstance(node, Node) else None)
    edges = [Edge(c, v, k) for h, k in zip(headers, edge_kinds, strict=True) for c in h.conditions for v in h.variables]
    made = {v for h in headers for v in h.variables}
    counted = counts(node) if isinstance(node, Node) else []
    edges += [Edge(rho, c, "generative") for rho, c in counted if rho in made and c not in made]
    read = (v for h in headers for v in (*h.variables, *h.conditions))
    variables = list(dict.fromkeys((*read, *(e.target for e in edges))))
    edges += _links(variables, edges)
    edges += [Edge(v, z, "generative") for v in variables if v in made and (z := _from(v, variables)) is not None]
    vertex_kinds = _vertex_kinds(known, edge_kinds, node if isinstance(node, Node) else None, observed)
    earlier = [replace(e, source=e.source.at(-1), target=e.target.at(-1)) for e in edges if _within_step(e)]
    edges += [e for e in earlier if e.kind == "generative" and e.source in variables and e.target in variables]
    return Graph(
        tuple(Vertex(v, vertex_kinds.get(slot(v), "observed")) for v in variables),
        tuple(dict.fromkeys(edges)),
        _index(variables),
        plates(node, everyone, variables) if isinstance(node, Node) else (),
    )


def _index(variables: Sequence[Variable]) -> str | None:
    """The letter of the steps: that of a variable which is read one step later, else of any with an index."""
    indexed = [v for v in variables if v.index is not None and not v.several and not v.index.isupper()]
    return next((v.index for v in sorted(indexed, key=lambda v: v.offset)), None)


def _within_step(edge: Edge) -> bool:
    ends = (edge.source, edge.target)
    return (
        all(v.index is not None and v.offset == 0 and not v.several for v in ends) and len({v.index for v in ends}) == 1
    )


def _links(variables: Sequence[Variable], edges: Sequence[Edge]) -> list[Edge]:
    """From a variable of a step to the whole series ``x_{1:T}``, to a history that it is part of, ``x_{≤t}``, and to
    the last value ``c_L``; from what a series begins with, ``z_0``, to the step before, and from ``z_m1`` to the one
    further back.
    """
    found = []
    for v in variables:
        begun = [b for b in variables if b.offset < 0 and not b.several and v.key != b.key and _first(b) == begins(v)]
        found += [Edge(v, b, "generative") for b in begun if v.index is None]
        if v.index is not None and (v.several or v.index.isupper()) and not (v.past and v.offset < 0):
            one = slot(v)
            kinds = {e.kind for e in edges if e.source == v}
            if one in variables and one != v:
                found.append(Edge(one, v, "inference" if kinds == {"inference"} else "generative"))
    return found


def _from(start: Variable, variables: Sequence[Variable]) -> Variable | None:
    """The step that ``z_1``, the first of a chain, is one of: z_t."""
    index = _index(variables)
    step = None if index is None else series(start, index)
    return step if step in variables and step != start else None


def _first(before: Variable) -> str:
    """The key of what a step before the first reads in the place of this: ``z`` for z_{t-1}, ``z_m1`` for z_{t-2}."""
    return before.key if before.offset == -1 else before.at(0).lag(-before.offset - 1).key


def _edge_kinds(known: Sequence[Factor], drawn: set[int] | None) -> list[EdgeKind]:
    headers = [f.header for f in known]

    def infers(factor: Factor) -> bool:
        rivals = [f for f in known if f is not factor and set(f.header.variables) & set(factor.header.variables)]
        used = drawn is None or id(factor) in drawn
        if factor.header.letter.startswith("q"):
            return used or bool(rivals)
        without_q = not any(f.header.letter.startswith("q") for f in rivals)
        random = any(_density(f) and id(f) not in (drawn or ()) for f in rivals)
        return drawn is not None and used and without_q and random

    inference = {i for i, f in enumerate(known) if _density(f) and infers(f)}
    densities = [i for i, h in enumerate(headers) if not h.deterministic]
    read_by_p = _ancestors(headers, [i for i in densities if i not in inference])
    read_by_q = _ancestors(headers, [i for i in densities if i in inference])
    for i, h in enumerate(headers):
        keys = {v.key for v in h.variables}
        if h.deterministic and keys & read_by_q and not keys & read_by_p:
            inference.add(i)
    inference |= _encoders(headers, [i for i in densities if i not in inference])
    return ["inference" if i in inference else "generative" for i in range(len(known))]


def _encoders(headers: Sequence[Header], generative: Sequence[int]) -> set[int]:
    """The functions that read what is generated from them, at the same step: those of an auto-encoder."""
    functions = [i for i, h in enumerate(headers) if h.deterministic]

    def closure(start: set[Variable], upwards: bool) -> set[int]:
        """The functions above or below these variables, through functions alone."""
        found: set[int] = set()
        while True:
            into, out = ("variables", "conditions") if upwards else ("conditions", "variables")
            new = {i for i in functions if i not in found and start & set(getattr(headers[i], into))}
            if not new:
                return found
            found |= new
            start = start | {v for i in new for v in getattr(headers[i], out)}

    return {
        i
        for g in generative
        for i in closure(set(headers[g].variables), False) & closure(set(headers[g].conditions), True)
    }


def _density(factor: Factor) -> bool:
    """Whether it is neither a function nor data."""
    return not factor.header.deterministic and not factor.observed


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


# ------------------------------------------------------------------------------------------------- what is observed


def _vertex_kinds(
    known: Sequence[Factor], edge_kinds: Sequence[EdgeKind], node: Node | None, observed: Iterable[str] | None
) -> dict[Variable, VertexKind]:
    """The kind of every variable that a factor declares, at the current step."""
    computed = {slot(v) for f in known if f.header.deterministic for v in f.variables}
    data = {slot(v) for f in known if f.observed for v in f.variables}
    random = {slot(v) for f in known if _density(f) for v in f.variables}
    if observed is not None or node is None:
        keys = _shaded([f.header for f in known], edge_kinds, observed)
        shaded, made = {v for v in computed | random if v.key in keys} | data, set[Variable]()
    else:
        made = drawn(node)
        given = {slot(v) for v in free(node) if v == slot(v) or slot(v) not in made}
        shaded, made = (random - made) | (random & given) | data, made | computed
    kinds: dict[Variable, VertexKind] = {}
    for variable in (*computed, *data, *random):
        if variable in shaded:
            kinds[variable] = "partial" if variable in made & (random | computed) else "observed"
        else:
            kinds[variable] = "deterministic" if variable in computed else "latent"
    return kinds


def _shaded(headers: Sequence[Header], kinds: Sequence[EdgeKind], observed: Iterable[str] | None) -> set[str]:
    """What is observed, as told, or as a list of factors lets guess."""
    if observed is not None:
        keys = {v.key for h in headers for v in (*h.variables, *h.conditions)}
        for name in (chosen := set(observed)):
            if name not in keys:
                raise UnknownVariableError(
                    f"observed: expected a variable of the formula ({', '.join(sorted(keys))}), found {name!r}."
                    + near(name, keys)
                )
        return chosen
    both = list(zip(headers, kinds, strict=True))
    declared = {v.key for h, _ in both if not h.deterministic for v in h.variables}
    inferred = {v.key for h, k in both if k == "inference" and not h.deterministic for v in h.variables}
    read = {side: {c.key for h, k in both if k == side for c in h.conditions} for side in ("inference", "generative")}
    return {key for key in declared - inferred if key in read["inference"] or key not in read["generative"]}
