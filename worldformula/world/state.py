"""States of a world: tensors by name over common leading axes, and the memories of networks that read a past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from worldformula.errors import ShapeError, near, table
from worldformula.nets.causal import Memory

Values = Mapping[str, Any]
"""A state, or a plain dict of the same tensors: what a world starts from."""


class _Lacking(KeyError):
    """Which variable is not there, and which are; a `KeyError` alone would say its name."""

    def __str__(self) -> str:
        return str(self.args[0])


class State(dict[str, Any]):
    """What a world knows at one step, or along a sequence of steps.

    Every tensor has the same leading axes, then its event: ``axes=1`` is one step of N sequences, ``[N, event]``;
    ``axes=2`` is ``[N, T, event]``, with time on the last leading axis. A `Memory` has no axis of time: it is that of
    the last step. In a dream under H given actions there are H + 1 states, and no action at the last one: a series that
    ends before a step is not part of that step. The methods give new states and change none; what comes out shares its
    numbers with what went in.
    """

    __slots__ = ("axes",)

    def __init__(self, values: Values | Iterable[tuple[str, Any]] = (), axes: int = 1) -> None:
        super().__init__(values)
        self.axes = axes

    def __missing__(self, key: str) -> NoReturn:
        raise _Lacking(f"the states hold {', '.join(map(str, self)) or 'nothing'}, and not {key!r}.{near(key, self)}")

    @property
    def series(self) -> State:
        """The state without its memories."""
        return State({k: v for k, v in self.items() if not isinstance(v, Memory)}, self.axes)

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes, ``(N,)`` or ``(N, T)``.

        Raises:
            ShapeError: the tensors have different ones, or there is none.
        """
        found = {v.shape[: self.axes] for v in self.values() if not isinstance(v, Memory)}
        if len(found) != 1 or len(lead := found.pop()) != self.axes:
            rows = [(k, f"{self.axes} leading axes", list(v.shape)) for k, v in self.series.items()]
            raise ShapeError("a state has common leading axes\n" + table(("variable", "expected", "got"), rows))
        return tuple(lead)

    # --------------------------------------------------------------------------------------------------------- in time

    def at(self, t: int) -> State:
        """One step of a sequence: ``[N, event]`` of ``[N, T, event]``; t counts from 0, or back from the end.

        Raises:
            ShapeError: a state of one step; a step that is not there; a memory at another step than the last.
        """
        length, axis = self._length("at"), self.axes - 1
        if not -length <= t < length:
            raise ShapeError(f"at: expected a step between {-length} and {length - 1}, got {t}")
        t %= length
        if t < length - 1:
            self._refuse_memory(f"at({t})")
        there = {k: v for k, v in self.items() if isinstance(v, Memory) or t < v.shape[axis]}
        return State({k: v if isinstance(v, Memory) else v.select(axis, t) for k, v in there.items()}, axis)

    def last(self) -> State:
        """The last step of a sequence, which a world goes on from: ``[N, event]`` of ``[N, T, event]``.

        Raises:
            ShapeError: a state of one step.
        """
        return self.at(-1)

    def span(self, first: int = 0, stop: int | None = None) -> State:
        """Steps ``first`` to ``stop`` (not included) of a sequence, as slices count them.

        Raises:
            ShapeError: a state of one step; steps before the last of a state with a memory.
        """
        length = self._length("span")
        begin, end, _ = slice(first, stop).indices(length)
        if end < length:
            self._refuse_memory(f"span({first}, {stop})")
        cut = (*(slice(None),) * (self.axes - 1), slice(begin, end))
        return State({k: v if isinstance(v, Memory) else v[cut] for k, v in self.items()}, self.axes)

    def starts(self, last: int | None = None) -> State:
        """Every step of every sequence, or the last so many, as a start of its own: ``[N·K, event]``, a sequence's
        steps one behind the other. Of a state with a memory, which knows the last step alone, that step.

        Raises:
            ShapeError: a state of one step; fewer steps than asked for; several of a state with a memory.
        """
        length = self._length("starts")
        if last is not None and not 1 <= last <= length:
            raise ShapeError(f"starts: expected last between 1 and {length}, got {last}")
        if len(self.series) < len(self):
            if last not in (None, 1):
                self._refuse_memory(f"starts(last={last})")
            return self.last().flat()
        whole = State({k: v for k, v in self.items() if v.shape[self.axes - 1] == length}, self.axes)
        return (whole if last is None else whole.span(-last)).flat()

    def then(self, later: State) -> State:
        """One sequence and what follows it, joined over time, of the variables that both have; the later memory."""
        axis = self.axes - 1
        self._length("then")
        joined = {
            k: later[k] if isinstance(v, Memory) else torch.cat((v, later[k]), axis)
            for k, v in self.items() if k in later
        }  # fmt: skip
        return State(joined, self.axes)

    # --------------------------------------------------------------------------------------------------------- of rows

    def repeat(self, times: int) -> State:
        """Every row ``times`` times, one behind the other: candidates, which share what they remember."""
        return State(
            {k: v.repeat(times) if isinstance(v, Memory) else v.repeat_interleave(times, 0) for k, v in self.items()},
            self.axes,
        )

    def select(self, rows: Tensor) -> State:
        """Some rows, by their numbers, ``[M]``."""
        return State(
            {k: v.select(rows) if isinstance(v, Memory) else v.index_select(0, rows) for k, v in self.items()},
            self.axes,
        )

    def flat(self) -> State:
        """All leading axes as one: ``[N·T, event]`` of ``[N, T, event]``.

        Raises:
            ShapeError: several axes, and a memory, which has one; series of different lengths.
        """
        if self.axes == 1:
            return self
        self._refuse_memory("flat")
        _ = self.lead
        return State({k: v.reshape(-1, *v.shape[self.axes :]) for k, v in self.items()})

    def unflat(self, lead: tuple[int, ...]) -> State:
        """The opposite of `flat`: the first axis, of N, as these, whose product is N."""
        rest = self.axes - 1
        return State({k: v.reshape(*lead, *v.shape[1:]) for k, v in self.items()}, len(lead) + rest)

    # ---------------------------------------------------------------------------------------------------- of variables

    def only(self, names: Iterable[str]) -> State:
        """Some of its variables."""
        return State({k: self[k] for k in names}, self.axes)

    def detach(self) -> State:
        """The same without gradient."""
        return State({k: v.detach() for k, v in self.items()}, self.axes)

    def to(self, device: torch.device | str) -> State:
        """The same on a device.

        Raises:
            ShapeError: a memory, which stays where its network is.
        """
        self._refuse_memory("to")
        return State({k: v.to(device) for k, v in self.items()}, self.axes)

    def __or__(self, other: Values) -> State:  # type: ignore[override]
        return State({**self, **other}, self.axes)

    def __ior__(self, other: Values) -> State:  # type: ignore[override,misc]
        return State({**self, **other}, self.axes)

    def copy(self) -> State:
        """A state of its own with the same tensors."""
        return State(self, self.axes)

    def __repr__(self) -> str:
        kinds = (
            f"{k} {type(v).__name__}" if isinstance(v, Memory) else f"{k} {list(getattr(v, 'shape', ()))}"
            for k, v in self.items()
        )
        return f"<State {', '.join(kinds)}>"

    def _length(self, what: str) -> int:
        """How many steps it has."""
        if self.axes < 2:
            raise ShapeError(
                f"{what}: expected a state of several steps, [N, T, ...], got one of {self.axes} leading "
                f"{'axis' if self.axes == 1 else 'axes'}: {self!r}\nfilter and imagine give such states"
            )
        series = self.series
        return max((int(v.shape[self.axes - 1]) for v in series.values()), default=1)

    def _refuse_memory(self, what: str) -> None:
        for key, value in self.items():
            if isinstance(value, Memory):
                _refuse(what, key)


def _refuse(what: str, key: str) -> NoReturn:
    raise ShapeError(
        f"{what}: {key} is a memory, which has its last value only\n"
        f"take the last state, states.last(), or its other variables, states.series"
    )


def _flatten(state: State) -> tuple[list[Any], tuple[tuple[str, ...], int]]:
    return list(state.values()), (tuple(state), state.axes)


def _unflatten(values: Iterable[Any], context: tuple[tuple[str, ...], int]) -> State:
    return State(zip(context[0], values, strict=True), context[1])


register_pytree_node(State, _flatten, _unflatten)
