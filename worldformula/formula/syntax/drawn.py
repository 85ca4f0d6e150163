"""What the expectations inside a node draw, remembered at the node: arithmetic in a loop looks at each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import (
    Expectation,
    Node,
    Operator,
    OverTime,
    Product,
    StopGradient,
    children,
    uses,
    walk,
)

Parts = tuple[Node, ...]


class Drawn:
    """Factors, each once: the first ``count`` of a list that only grows, which a node shares with those around it."""

    def __init__(self, factors: list[Factor], places: dict[int, int]) -> None:
        self._factors, self._places, self.count = factors, places, len(factors)

    def __contains__(self, factor: Factor) -> bool:
        return self._places.get(id(factor), self.count) < self.count

    def __iter__(self) -> Iterator[Factor]:
        return islice(self._factors, self.count)

    def isdisjoint(self, other: Drawn) -> bool:
        """Whether no factor is drawn in both."""
        few, many = (self, other) if self.count < other.count else (other, self)
        return not any(factor in many for factor in few)

    def extended(self, more: Iterable[Factor]) -> Drawn:
        """These and others; in place where this is the whole list, else on a list of its own."""
        new = list({id(f): f for f in more if f not in self}.values())
        if not new:
            return self
        factors, places = self._factors, self._places
        if len(factors) > self.count:
            factors = list(self)
            places = {id(f): place for place, f in enumerate(factors)}
        places.update((id(f), place) for place, f in enumerate(new, len(factors)))
        factors.extend(new)
        return Drawn(factors, places)


def draws(node: Node) -> tuple[Factor, ...]:
    """The random factors that the node itself draws."""
    if isinstance(node, Expectation | OverTime):
        return tuple(u.factor for u in uses(node) if u.factor.family is not None)
    return tuple(node.drawn) if isinstance(node, Operator) else ()


def drawn_factors(node: Node) -> list[Factor]:
    """The random factors that the expectations of an expression draw."""
    return [factor for n in walk(node) for factor in draws(n)]


def drawn(node: Node, own: Callable[[Node], Iterable[Factor]]) -> Drawn:
    """The factors that the expectations of an expression draw at random; ``own`` says those of a node itself."""

    def found(last: Node, inside: tuple[Node, ...]) -> Drawn:
        known = sorted((vars(child)["_drawn"] for child in inside), key=lambda d: -d.count)
        total = known[0] if known else Drawn([], {})
        for more in (*known[1:], own(last)):
            total = total.extended(more)
        return total

    return _remembered(node, "_drawn", children, found)  # type: ignore[no-any-return]


def one_draw(node: Node, own: Callable[[Expectation], bool]) -> Node | None:
    """The first expectation that the value of a node depends on as one draw estimates it, or None.

    ``own`` says whether something random is drawn once by an expectation itself. Of what operators say of the samples
    of a batch nothing is known here.
    """

    def inside(last: Node) -> tuple[Node, ...]:
        if isinstance(last, Operator):
            return children(last) if last.meaning is None else (last.meaning,)
        return (last.body,) if isinstance(last, Expectation) else children(last)

    def found(last: Node, parts: tuple[Node, ...]) -> Node | None:
        if isinstance(last, Expectation) and (last.samples is not None or own(last)):
            return None if last.samples is not None else last
        if isinstance(last, OverTime) and draws(last):  # a start
            return last
        first = next((vars(part)["_one_draw"] for part in parts if vars(part)["_one_draw"] is not None), None)
        return last if first is not None and isinstance(last, Operator) and last.meaning is not None else first

    return _remembered(node, "_one_draw", inside, found)  # type: ignore[no-any-return]


def scored_draw(node: Node, own: Callable[[Expectation], bool]) -> Node | None:
    """The first expectation inside a node whose gradient is that of the score function, or None.

    ``own`` says so of an expectation itself. What stands under a stop-gradient has none.
    """

    def inside(last: Node) -> tuple[Node, ...]:
        if isinstance(last, Operator) and last.meaning is not None:
            return (last.meaning,)
        return (last.body,) if isinstance(last, Expectation) else children(last)

    def found(last: Node, parts: tuple[Node, ...]) -> Node | None:
        if isinstance(last, StopGradient):
            return None
        if isinstance(last, Expectation) and own(last):
            return last
        return next((vars(part)["_scored"] for part in parts if vars(part)["_scored"] is not None), None)

    return _remembered(node, "_scored", inside, found)  # type: ignore[no-any-return]


def sums_over_time(node: Node) -> list[OverTime]:
    """The sums over time of an expression, those that operators stand for among them."""
    known = (n if isinstance(n, OverTime) else n.clock if isinstance(n, Operator) else None for n in walk(node))
    return [clock for clock in known if clock is not None]


def along_time(node: Expectation) -> Product:
    """Of what an expectation draws, that which belongs to the steps of a sum over time inside: a whole trajectory."""
    below = {clock.index for clock in sums_over_time(node.body)}
    return tuple(u for u in node.q if not u.factor.observed and u.factor.variable.index in below)


def _remembered(node: Node, where: str, inside: Callable[[Node], Parts], found: Callable[[Node, Parts], Any]) -> Any:
    """What ``found`` says of a node and all that stands inside, each asked once and for all."""
    waiting = [node]
    while waiting:
        last = waiting[-1]
        if where not in vars(last):
            parts = inside(last)
            if unknown := [part for part in parts if where not in vars(part)]:
                waiting.extend(unknown)
                continue
            vars(last)[where] = found(last, parts)
        waiting.pop()
    return vars(node)[where]
