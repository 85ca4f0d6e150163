"""What is explained below a formula: its named parts, its products and mixtures of experts, marginals, slow copies,
settings that a call gives.

    recon = E_{q(z|x,y)}[log p(x|z)]
    q(z|x,y) ∝ p(z) q(z|x) q(z|y)
    p(x) = ∫ p(x|z) p(z) dz
    v̄(r|s): w̄ ← 0.98 w̄ + 0.02 w
    q(k|x): temperature = tau

and how a product of factors factorises: p(x,z) = p(x|z) p(z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from worldformula.families import FlowFamily
from worldformula.formula.factors.experts import Experts, MoE, PoE
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Header, Variable
from worldformula.formula.syntax.nodes import Integral, Node, Operator, Product, Use, uses, walk
from worldformula.formula.syntax.numbers import places
from worldformula.formula.syntax.pace import Pace
from worldformula.formula.syntax.text import named, typeset


@dataclass(frozen=True)
class Settings:
    """Parameters and settings by name, with the number that a call gives for each."""

    places: tuple[tuple[str, Variable], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name} = {variable}" for name, variable in self.places)


@dataclass(frozen=True, eq=False)
class Definition:
    """``left = right``, or ``left ∝ right``. Of several products on the right, the mean is meant.

    ``weights`` of several products are numbers, or the conditions that a network of them reads.

    ``left: right`` says how a slow copy follows, or which settings of a factor are numbers of the call.
    """

    left: str | Header
    right: Node | tuple[Product, ...] | Pace | Settings
    relation: Literal["=", "∝", ":"] = "="
    weights: tuple[float | Variable, ...] | None = None


def definitions(node: Node) -> list[Definition]:
    """Everything that a formula leaves to be explained: the named parts, the outer before the inner; then factors."""
    found = [Definition(name, body) for name, body in named(node).items()]
    mixed = {id(part) for n in walk(node) for u in uses(n) for part in u.factor.parts if isinstance(u.factor, MoE)}
    for n in walk(node):
        shown = (u.factor for u in _printed(n) if id(u.factor) not in mixed)  # a mixture spells out its products
        found += [d for d in map(made, shown) if d is not None]
        found += [d for u in _printed(n) for d in (*followed(u.factor), *given(u.factor))]
        sides = (v for v in vars(n).values() if isinstance(v, Integral))
        found += [d for d in map(factorised, sides) if d is not None]
    seen: dict[str, Definition] = {}
    for d in found:
        seen.setdefault(_key(d), d)
    return list(seen.values())


def _printed(node: Node) -> Product:
    """The factors that a node itself prints."""
    if isinstance(node, Operator):
        return tuple(use for part in node.parts if not isinstance(part, Node) for use in part)
    return uses(node)


def _key(d: Definition) -> str:
    if isinstance(d.right, Node):
        return str(d.left)
    if isinstance(d.right, Pace | Settings):
        return f"{d.left}: {d.right}"
    return f"{d.left} {' + '.join(' '.join(str(u.factor) for u in p) for p in d.right)}"


def made(factor: Factor) -> Definition | None:
    """What a product or mixture of experts is made of; None for any other factor."""
    if isinstance(factor, PoE):
        return Definition(factor.header, (_uses(factor.parts),), "∝")
    if isinstance(factor, MoE):
        each = [part.parts if isinstance(part, Experts) else (part,) for part in factor.experts]
        weights = None if factor.gate is None else factor.shares or factor.gate.conditions
        return Definition(factor.header, tuple(map(_uses, each)), weights=weights)
    return None


def weights(d: Definition, number: str, symbol: Callable[[str], str], head: Callable[[Header], str]) -> list[str]:
    """The weights of several products: numbers, w_1, or w_1(x) of what they read."""
    known = [number.format(typeset(round(w, 6))) for w in d.weights or () if isinstance(w, float)]
    read = tuple(w for w in d.weights or () if isinstance(w, Variable))
    places = range(1, 1 + (len(d.right) if isinstance(d.right, tuple) else 0))
    if not read:
        return known or [symbol(f"w{k}") for k in places]
    return [head(Header(f"w_{k}", read, (), deterministic=False, written="")) for k in places]


def fits(products: tuple[Product, ...], width: int) -> bool:
    """Whether a sum of these products stands on one line."""
    return sum(len(" ".join(str(u.factor) for u in p)) + 3 for p in products) <= width


def given(factor: Factor) -> list[Definition]:
    """Which settings a call gives a factor, or those that it is made of."""
    found = {part.header: places(part) for part in factor.family_tree() if not part.parts}
    return [Definition(header, Settings(shown), ":") for header, shown in found.items() if shown]


def followed(factor: Factor) -> list[Definition]:
    """How a slow copy follows, or those that a factor is made of."""
    if factor.pace is not None:
        return [Definition(factor.header, factor.pace, ":")]
    return [d for part in factor.parts for d in followed(part)]


def _uses(parts: tuple[Factor, ...]) -> Product:
    return tuple(map(Use, parts))


def factorised(p: Product) -> Definition | None:
    """The joint density of a product, and the product: ``p(x,z|y) = p(x|z) p(z|y)``; None of functions alone.

    It speaks of what the densities declare and no integral hides, given what nobody declares. The letter is that of the
    first density which is not data.
    """
    densities = [u.factor for u in p if not u.factor.header.deterministic]
    if not densities:
        return None
    hidden = p.hidden if isinstance(p, Integral) else ()
    declared = {v for u in p for v in u.factor.variables}
    first = next((f for f in densities if not f.observed), densities[0])
    variables = tuple(v for f in densities for v in f.variables if v not in hidden)
    conditions = tuple(dict.fromkeys(c for u in p for c in u.factor.conditions if c not in declared))
    letter, bar = first.header.letter.partition("_")[0], first.header.bar
    return Definition(Header(letter, variables, conditions, deterministic=False, written="", bar=bar), (p,))


def flows_in_time(u: Factor) -> bool:
    """Whether it is a flow along a velocity, a `worldformula.nets.transport.Transport`."""
    flow = getattr(u.net, "flow", None) if isinstance(u.family, FlowFamily) else None
    return hasattr(getattr(flow, "transform", None), "velocity")
