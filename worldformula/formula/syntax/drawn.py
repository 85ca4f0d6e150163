"""Which factors the expectations inside a node draw, remembered at the node: a product in a loop looks at each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.nodes import Node, children, draws


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


def drawn(node: Node) -> Drawn:
    """The random factors that the expectations of an expression draw."""
    waiting = [node]
    while waiting:
        last = waiting[-1]
        if "_drawn" not in vars(last):
            inside = children(last)
            if unknown := [child for child in inside if "_drawn" not in vars(child)]:
                waiting.extend(unknown)
                continue
            known = sorted((vars(child)["_drawn"] for child in inside), key=lambda d: -d.count)
            found = known[0] if known else Drawn([], {})
            for more in (*known[1:], draws(last)):
                found = found.extended(more)
            vars(last)["_drawn"] = found
        waiting.pop()
    return vars(node)["_drawn"]  # type: ignore[no-any-return]
