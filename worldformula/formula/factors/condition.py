"""Conditions held at given values: ``p(x|z,y)`` with y at hand is a distribution of x given z."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor, nn

from worldformula.errors import FormulaError, ShapeError, UnknownVariableError, near
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.names import Variable, read_header
from worldformula.formula.syntax.spelling import by_keyword

F = TypeVar("F", bound=Factor)
NONE: Mapping[Variable, int] = MappingProxyType({})


class Held(nn.Module):
    """A network some of whose inputs are held at tensors, or at an ``nn.Parameter``, which is learnt; they get the
    batch axes of the others.
    """

    def __init__(
        self,
        net: nn.Module,
        places: Mapping[int, Tensor],
        ranks: Mapping[int, int],
        count: int,
        others: Sequence[int | None],
    ) -> None:
        super().__init__()
        self.net, self.places, self.ranks, self.count = net, tuple(places), dict(ranks), count
        self.others = tuple(others)  # the event axes of the inputs that are given, where they are known
        for place, value in places.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"input_{place}", value)
            else:
                self.register_buffer(f"input_{place}", value)

    def forward(self, *given: Tensor) -> object:
        """The network at the given inputs and the held ones."""
        rest = iter(given)
        batch = self._batch(given)
        inputs = []
        for place in range(self.count):
            if place not in self.places:
                inputs.append(next(rest))
                continue
            inputs.append(self._held(place, batch))
        return self.net(*inputs)

    def _held(self, place: int, batch: tuple[int, ...]) -> Tensor:
        """A held value with the batch axes of the inputs that are given."""
        value: Tensor = getattr(self, f"input_{place}")
        event = value.shape[value.ndim - self.ranks[place] :]
        if value.ndim == self.ranks[place] or len(value) == 1:
            return value.expand(*batch, *event)
        if batch and len(value) != math.prod(batch):
            raise ShapeError(
                f"a condition is held at {len(value)} values, one for each row, {list(value.shape)}, and the network "
                f"is called with {math.prod(batch)} rows (with samples=K, K for each row of the data)\n"
                f"leave out .condition(...), and give the call a value for each row"
            )
        return value

    @property
    def by_row(self) -> tuple[int, ...]:
        """The places of the inputs that are held at another value for each row."""
        held = {place: getattr(self, f"input_{place}") for place in self.places}
        return tuple(place for place, value in held.items() if value.ndim > self.ranks[place] and len(value) > 1)

    def _batch(self, given: Sequence[Tensor]) -> tuple[int, ...]:
        """The batch axes of an input whose event axes are known; else the first axis."""
        for x, rank in zip(given, self.others, strict=True):
            if rank is not None:
                return tuple(x.shape[: x.ndim - rank])
        return tuple(given[0].shape[:1]) if given else ()

    @staticmethod
    def of(factor: F, values: Mapping[str, Tensor], known_ranks: Mapping[Variable, int] = NONE) -> F:
        """The factor with these conditions held; ``known_ranks`` are the event axes of others, as far as declared."""
        known, values = {c.key: c for c in factor.conditions}, by_keyword(values)
        for name, value in values.items():
            if name not in known:
                raise UnknownVariableError(f"{factor} has no condition {name!r}.{near(name, known)}")
            if not isinstance(value, Tensor):
                raise FormulaError(f"{factor}: expected {name}= as a tensor, got {type(value).__name__}")
        if not isinstance(factor.net, nn.Module):
            raise FormulaError(f"{factor}: only the conditions of a network (an nn.Module) can be held")
        places = {i: values[c.key] for i, c in enumerate(factor.conditions) if c.key in values}
        ranks = {i: places[i].ndim if places[i].ndim < 2 else places[i].ndim - 1 for i in places}
        rest = tuple(c for c in factor.conditions if c.key not in values)
        header = replace(factor.header, conditions=rest)
        other = factor.fresh()
        if factor.header.deterministic and not rest:
            raise FormulaError(f"{factor}: all its conditions would be held; use the value itself")
        object.__setattr__(other, "header", read_header(str(header), deterministic=header.deterministic))
        held = Held(factor.net, places, ranks, len(factor.conditions), [known_ranks.get(c) for c in rest])
        other.__dict__["_modules"] = {**factor._modules, "net": held}
        object.__setattr__(other, "origin", other)
        return other


def refuse_held_rows(factor: Factor, index: str) -> None:
    """Refuse a condition that is held at a value of each row, of a factor of the steps: before and after the loop rows
    and steps share one axis.
    """
    stepped = any(v.index == index for v in (*factor.variables, *factor.conditions))
    if stepped and isinstance(factor.net, Held) and (rows := factor.net.by_row):
        shape = list(getattr(factor.net, f"input_{rows[0]}").shape)
        raise FormulaError(
            f"{factor}: a condition is held at one value for each row, {shape}, and inside the Sum over {index} it is "
            f"one for all rows and steps\nleave out .condition(...), and give the call a value of each row"
        )
