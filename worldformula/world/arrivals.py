"""The states that dreams arrive at under given actions, imagined again and again, as a search does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch import Tensor

from worldformula.formula.code.program import DIAGNOSED
from worldformula.formula.code.rollout import Rollout
from worldformula.formula.code.straight import Dreaming, Straight
from worldformula.world.state import State, Values

MOST = 256  # kinds of dreams that are remembered
Options = Mapping[str, Any]
Arrive = Callable[[Mapping[str, Tensor]], State]


class Arrivals:
    """A rollout of a prior under given actions.

    A dream whose tensors are like those of one that was checked, in shape, kind and place, goes straight to the emitted
    function: a search takes hundreds of dreams of a millisecond, and the checks would take a tenth of each. Nothing is
    joined with the start, which costs do not read.

    Args:
        imagine: what dreams with all checks, the start first.
        rollout: what draws.
        carried: what a start has to hold, and states do.
        actions: the series that are actions.
        duration: what else states hold, if anything.
        plain: whether they hold no more, such as conditions without time.
    """

    def __init__(
        self, imagine: Callable[..., State], rollout: Rollout, carried: tuple[str, ...], actions: tuple[str, ...],
        duration: str | None, *, plain: bool,
    ) -> None:  # fmt: skip
        self.imagine, self.rollout, self.carried, self.actions, self.plain = imagine, rollout, carried, actions, plain
        self.shown = (*carried, *((duration,) if duration and duration not in carried else ()))
        self._checked: set[Hashable] = set()  # what dreams with all checks were like

    def __call__(self, start: Values, options: Options) -> Arrive:
        """What gives the states ``[N, H, ...]`` that dreams from a start ``[N, ...]`` arrive at under actions
        ``[N, H, ...]`` by name. It looks at the start and the options where the shape of the actions is new, so whoever
        keeps it leaves both as they are.
        """
        kind: Hashable = None
        dream: Dreaming | None = None

        def arrive(actions: Mapping[str, Tensor]) -> State:
            nonlocal kind, dream
            now = tuple((k, v.shape, v.dtype) for k, v in actions.items())
            if dream is None or now != kind:
                kind, dream = now, self._straight(start, actions, options)
            if dream is not None:
                try:
                    return State(dream(actions), 2)
                except DIAGNOSED:  # weights of another type, a network that returns something else now: named below
                    dream = None
                    self._checked.clear()
            return self._looked(start, actions, options)

        return arrive

    def _looked(self, start: Values, actions: Mapping[str, Tensor], options: Options) -> State:
        """The states that a dream with all checks arrives at."""
        dream = self.imagine(start, actions=actions, **options)
        if dream.axes == 2 and self.plain and (like := self._like(start, actions, options)) is not None:
            if len(self._checked) >= MOST:
                self._checked.clear()
            self._checked.add(like)
        return dream.only(k for k in dream.series if k not in self.actions).span(1)

    def _straight(self, start: Values, actions: Mapping[str, Tensor], options: Options) -> Dreaming | None:
        """What dreams from the start under actions like these; None where such a dream has not been checked, or has to
        be each time.
        """
        like = self._like(start, actions, options) if self.plain else None
        way = self._way(options) if like in self._checked else None
        return None if way is None else way.dreams(self.rollout, start, options.get("noise") or {}, self.shown)

    def _way(self, options: Options) -> Straight | None:
        return self.rollout.program.straight(options.get("deterministic", False))

    def _like(self, start: Values, actions: Mapping[str, Tensor], options: Options) -> Hashable | None:
        """What a dream is like; None where it takes anything but a start, all actions and no choice, and modes or all
        of its noise.
        """
        modes, noise = options.get("deterministic", False), options.get("noise")
        way, given = self._way(options), {} if noise is None else noise
        known = options.keys() <= {"deterministic", "noise"} and modes == (noise is None)
        if way is None or not known or actions.keys() != set(self.actions) or given.keys() != way.noisy:
            return None
        read: list[Any] = [start.get(k) for k in self.carried]
        read += [*(actions[k] for k in self.actions), *(given[k] for k in way.noisy)]
        if not all(isinstance(v, Tensor) for v in read):
            return None
        return modes, *((v.shape, v.dtype, v.device) for v in read)
