"""One step of a world with an environment: a row of observations, and the state behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from worldformula.formula.code.program import DIAGNOSED
from worldformula.formula.code.rollout import Rollout, carry_of, require
from worldformula.formula.plan.histories import refuse_ahead
from worldformula.world.state import State, Values


class Stride:
    """A rollout of one step, taken again and again.

    Whatever is given is checked, and what is wrong is named. A step whose tensors are like those of the step before in
    shape, kind and place goes straight to the emitted function, with the same noise: an agent's networks take a
    millisecond, and the checks a third of it.

    Args:
        rollout: what draws.
        carried: what a state has to hold, and what the next one does.
        memory: what networks keep of the past.
        actions: the series that are actions.
        chosen: what the new state holds besides, the actions of a policy.
    """

    def __init__(
        self,
        rollout: Rollout,
        carried: tuple[str, ...],
        memory: tuple[str, ...],
        actions: tuple[str, ...],
        chosen: tuple[str, ...] = (),
    ) -> None:
        self.rollout, self.carried, self.memory, self.actions = rollout, carried, memory, actions
        self.kept, self._wanted = (*carried, *chosen), {*carried, *memory, *actions}
        self._checked: dict[bool, Any] = {}  # what the last step with all checks was like

    def __call__(self, what: str, observation: Mapping[str, Tensor], state: Values, options: dict[str, Any]) -> State:
        """The state behind one row of observations, and what was chosen in it; ``what`` is the name in errors."""
        modes, plain = options.get("deterministic", False), options.keys() <= {"deterministic"}
        straight = self.rollout.program.straight(modes) if plain and state.keys() >= self._wanted else None
        like = None if straight is None else straight.like(observation, state)
        if straight is not None and like is not None and self._checked.get(modes) == like:
            try:
                return State(straight.ends(self.rollout, observation, state, self.kept))
            except DIAGNOSED:  # weights of another type, a network that returns something else now: named below
                self._checked.pop(modes, None)
        found = self._bound(what, observation, state, options)
        self._checked[modes] = like if straight is not None and like is not None and straight.typed(like) else None
        return found

    def _bound(self, what: str, observation: Mapping[str, Tensor], state: Values, options: dict[str, Any]) -> State:
        """A step with all checks."""
        plan = self.rollout.program.plan
        refuse_ahead(what, plan)
        wanted = (*self.carried, *self.memory, *self.actions)
        advice = "add the action taken in it under its own name"
        if any(key not in state for key in wanted if key not in self.actions):
            advice = (
                "pass the observation first, then a state of initial, filter or observe, with the action taken in it"
            )
        require(f"{what}: the state lacks", wanted, state, "state", advice)
        held = {k for k, op in plan.inputs.items() if op.kind == "input" and not op.step}  # conditions without time
        series = {k: v if k in held else v.unsqueeze(1) for k, v in observation.items()}
        # The filter reads these series at t−1, which is the start; the value of this step is never read.
        series |= {k: state[k].unsqueeze(1) for k in plan.shifts if k in state and k in plan.inputs}
        given = read(self.rollout, series)
        out = self.rollout.program.run(self.rollout, {**given, "start": carry_of(self.rollout, state), **options})
        ends = out.ends
        return State({k: ends[k] for k in self.kept} | (out.value or {}))


def read(rollout: Rollout, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The series that a rollout reads."""
    wanted = [k for k, op in rollout.program.plan.inputs.items() if op.kind != "symbol"]
    if missing := ", ".join(k + "=..." for k in wanted if k not in batch):
        require("filter needs", wanted, batch, "series [B, T, ...]", f"pass {missing} in the batch")
    return {k: batch[k] for k in wanted}
