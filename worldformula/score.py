"""What candidates of a search cost: they are imagined side by side, and a task is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import ConfigError, NonFiniteError, ShapeError, table
from worldformula.given import check_space, like_of
from worldformula.planner import Named, Plan, Space, Task, shaped
from worldformula.world import Dynamics, State, Values
from worldformula.world.arrivals import Arrive


class Score:
    """The cost ``[B, N]`` of candidates ``[B, N, H, size]`` from states ``[B, ...]``; equal actions cost the same.

    The noise of sampled dreams is drawn once, for each episode from its own generator, and all candidates share it.

    Raises:
        ConfigError: a task with samples, and dynamics that cannot say what noise they draw; a task with constraints,
            which candidates would be scored without.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        task: Task,
        state: Values,
        space: Space,
        horizon: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        check_space(dynamics, space)
        if task.constraints:
            raise ConfigError(
                f"the task has constraints, {', '.join(task.constraints)}, and this search knows of costs alone\nwrite "
                f"Lagrangian(planner), of worldformula.planners.lagrangian, around the planner"
            )
        self.dynamics, self.task, self.horizon = dynamics, task, horizon
        self.state = State({k: v for k, v in state.items() if k not in dynamics.actions})
        if other := [(k, v) for k, v in task.given.items() if not isinstance(v, Tensor)]:
            name, value = other[0]
            raise ShapeError(f"given: {name} is {type(value).__name__}; expected a tensor, a row for each episode")
        wrong = [(k, list(v.shape)) for k, v in task.given.items() if v.shape[:1] != (len(generators),)]
        if wrong:
            expected = f"given: expected a row for each of {len(generators)} episodes\n"
            raise ShapeError(expected + table(("name", "got"), wrong))
        self._arrivals = shortcut(dynamics)
        self._kept: tuple[int, Arrive | None] = 0, None  # what dreams for so many candidates, of the last call
        self._duration: str | None = getattr(dynamics, "duration", None)  # the variable that says how long a step takes
        self.noise: dict[str, Tensor] | None = None
        if task.samples:
            draw = getattr(dynamics, "dream_noise", None)
            if draw is None:
                raise ConfigError(
                    f"samples={task.samples}: candidates share their noise, and {type(dynamics).__name__} has no "
                    f"dream_noise(start, actions, generator) that gives it; set samples=0, or write it as "
                    f"PriorDynamics.dream_noise"
                )
            self.noise = self._shared(draw, space, generators)

    def _shared(
        self, draw: Callable[..., dict[str, Tensor]], space: Space, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Noise ``[B, S, H, ...]`` by variable, which does not depend on the actions."""
        like, S = like_of(self.state), self.task.samples
        still = {name: like.new_zeros(S, self.horizon, own.size) for name, own in space.items()}
        found = [
            draw(
                self.state.select(torch.tensor([b], device=like.device)).repeat(S),
                still,
                generator,
                **self.task.numbers,
            )
            for b, generator in enumerate(generators)
        ]
        return {key: torch.stack([noise[key] for noise in found]) for key in found[0]}

    def __call__(self, actions: Named) -> Tensor:
        """Candidates ``[B, N, H, size]`` by name to ``[B, N]``."""
        return self.dreamt(actions)[0]

    def dreamt(self, actions: Named) -> tuple[Tensor, State | None]:
        """The same, and the states ``[B·N, H, ...]`` that the dreams of means and modes arrive at; None of samples."""
        states, flat, durations = self.dreams(actions)
        return self.over(self.task.of(states, flat, durations), actions), None if self.task.samples else states

    def over(self, costs: Tensor, actions: Named) -> Tensor:
        """What dreams ``[B·N·S, ...]`` of candidates cost, the samples of one side by side, to ``[B, N, ...]``."""
        B, N = next(iter(actions.values())).shape[:2]
        if self.task.samples < 2:
            return costs.view(B, N, *costs.shape[1:])
        return self.task.over(costs.view(B, N, self.task.samples, *costs.shape[1:]).movedim(2, -1))

    def surprise(self, actions: Named) -> Tensor:
        """How improbable the dynamics finds what candidates ``[B, N, H, size]`` choose for it, −Σ log p along the dream
        of modes: ``[B, N]``.

        Raises:
            ConfigError: dynamics that do not say it.
        """
        B, N = next(iter(actions.values())).shape[:2]
        flat = {k: v.flatten(0, 1) for k, v in actions.items()}
        dream = self.dynamics.imagine(self.state.repeat(N), actions=flat, deterministic=True, **self.task.numbers)
        return -log_prob(self.dynamics, State(dream, 2), flat).view(B, N)

    def dreams(self, actions: Named) -> tuple[State, dict[str, Tensor], Tensor | None]:
        """What a task is asked about candidates ``[B, N, H, size]``: the states that their dreams arrive at and the
        actions, ``[B·N·S, H, ...]``, the samples of a candidate side by side, and how long each step takes.
        """
        N, S = next(iter(actions.values())).shape[1], max(self.task.samples, 1)
        flat = {
            k: (v if S == 1 else v.unsqueeze(2).expand(-1, -1, S, *v.shape[2:]).flatten(0, 1)).flatten(0, 1)
            for k, v in actions.items()
        }
        arrived = self._dreaming(N)(flat)
        return self.told(arrived, N * S), flat, self.durations(arrived)

    def _dreaming(self, count: int) -> Arrive:
        """What dreams for so many candidates; kept for the next call, but with memories, which are written on."""
        if self._kept[0] == count and self._kept[1] is not None:
            return self._kept[1]
        options: dict[str, Any] = {"deterministic": True}
        if self.noise is not None:
            noise = {k: v.unsqueeze(1).expand(-1, count, *v.shape[1:]).flatten(0, 2) for k, v in self.noise.items()}
            options = {"noise": noise}
        start = self.state.repeat(count * max(self.task.samples, 1))
        found = self._from(start, {**options, **self.task.numbers})
        if len(start.series) == len(start):
            self._kept = count, found
        return found

    def _from(self, start: State, options: Mapping[str, Any]) -> Arrive:
        """What gives the states ``[N, H, ...]`` that dreams from a start arrive at, without actions and memories."""
        if self._arrivals is not None:
            return self._arrivals(start, **options)

        def arrive(actions: Named) -> State:
            dream = State(self.dynamics.imagine(start, actions=actions, **options), 2).series
            return dream.only(k for k in dream if k not in self.dynamics.actions).span(1)

        return arrive

    def found(
        self, actions: Named, cost: Tensor, trace: Sequence[Tensor], calls: int, discarded: Tensor | None = None,
        arrived: State | None = None,
    ) -> Plan:  # fmt: skip
        """The plan with the states that it leads through: those that it ``arrived`` at ``[B, H, ...]``, where they are
        known, behind the start; else one more dream for each episode says them.

        Raises:
            NonFiniteError: no candidate has a cost that is a number; none is finite, and what it is told of is not.
        """
        if not bool(cost.isfinite().all()):
            self._blame(cost)
        states, steps = self._joined(arrived), calls
        if states is None:
            states, steps = self._dream(actions), calls + self.horizon
        states = self.told(states)
        durations = self.durations(states.only((name,)).span(1)) if (name := self._duration) else None
        return Plan(dict(actions), states, cost, tuple(trace), steps, durations, discarded=discarded)

    def _blame(self, cost: Tensor) -> None:
        """Raises `NonFiniteError` where no candidate has a cost that is a number, naming what it begins at or is
        told that is not finite. What costs infinity by itself is a plan.
        """
        bad = ~cost.isfinite()
        for what, values in (("given", self.task.given), ("the state", self.state.series)):
            for name, value in values.items():
                wrong = bad & ~value.isfinite().reshape(len(bad), -1).all(1)
                if bool(wrong.any()):
                    raise NonFiniteError(
                        f"{what}: {name} holds NaN or infinity in the episodes {_places(wrong)}, and so no plan has a "
                        f"finite cost; expected finite numbers"
                    )
        if bool(cost.isnan().any()):
            raise NonFiniteError(
                f"the cost of every candidate is NaN in the episodes {_places(cost.isnan())}; expected a number of at "
                f"least one"
            )

    def _joined(self, arrived: State | None) -> State | None:
        """The start, and the states that were arrived at from there; None where these are not known, or hold what the
        start does not, or the start has a memory besides.
        """
        if arrived is None or len(self.state.series) < len(self.state):
            return None
        own = [k for k in arrived if k not in self.task.given]
        if any(k not in self.state for k in own):
            return None
        return State({k: torch.cat((self.state[k].unsqueeze(1), arrived[k]), 1) for k in own}, 2)

    def _dream(self, actions: Named) -> State:
        """The states ``[B, H + 1, ...]``, means and modes, of one dream for each episode, the start first."""
        options = {"deterministic": True, **self.task.numbers}
        arrived = None if self._arrivals is None else self._arrivals(self.state, **options)(actions)
        if (joined := self._joined(arrived)) is not None:
            return joined
        dream = State(self.dynamics.imagine(self.state, actions=dict(actions), **options), 2)
        return dream.only(k for k in dream if k not in self.dynamics.actions)

    def told(self, states: State, times: int = 1) -> State:
        """States ``[B·times, T, ...]`` with what is given for each episode.

        Raises:
            ConfigError: the dynamics has a variable of that name.
        """
        if not self.task.given:
            return states
        if taken := [name for name in self.task.given if name in states]:
            raise ConfigError(
                f"given: {taken[0]} is a variable of the dreams already; what only costs read needs a name of its own"
            )
        steps = states.lead[1]
        rows = {k: v.repeat_interleave(times, 0).unsqueeze(1) for k, v in self.task.given.items()}
        return states | {k: v.expand(-1, steps, *v.shape[2:]) for k, v in rows.items()}

    def durations(self, arrived: State) -> Tensor | None:
        """How long the step to each of these states ``[N, T, ...]`` took, ``[N, T]``, where the dynamics says it.

        Raises:
            ShapeError: it is not one number a step.
            ConfigError: a step that takes no time, or less.
        """
        if (name := self._duration) is None:
            return None
        found = arrived[name] if arrived[name].is_floating_point() else arrived[name].float()
        lead = found.shape[:2]
        found = found.squeeze(-1) if found.ndim > len(lead) else found
        found = shaped(name, found, lead, "one duration a step")
        if bool((found <= 0).any()):
            raise ConfigError(f"expected durations {name} above 0, got {float(found.min()):g}")
        return found


def shortcut(dynamics: Dynamics) -> Callable[..., Arrive] | None:
    """``arrivals`` of dynamics that say themselves what this is to be. A subclass, or what stands around another
    dynamics, that imagines something of its own is asked by ``imagine`` alone: what it has by inheritance would dream
    as if it had changed nothing.
    """
    line = [getattr(dynamics, "__dict__", {}), *map(vars, type(dynamics).__mro__)]
    imagine, own = (next((i for i, known in enumerate(line) if k in known), len(line)) for k in ("imagine", "arrivals"))
    return getattr(dynamics, "arrivals", None) if own <= imagine < len(line) else None


def _places(which: Tensor) -> str:
    return ", ".join(map(str, which.nonzero()[:, 0].tolist()))


def log_prob(dynamics: Dynamics, dream: State, actions: Named) -> Tensor:
    """How probable the dynamics finds what was chosen along dreams of H steps: Σ log p, ``[N]``.

    Raises:
        ConfigError: dynamics that do not say it.
    """
    of = getattr(dynamics, "log_prob_of", None)
    if of is None:
        raise ConfigError(
            f"{type(dynamics).__name__} has no log_prob_of(dream, actions), which says how probable a latent is; set "
            f"surprise=0, or write it as PriorDynamics.log_prob_of"
        )
    found: Tensor = of(dream, actions)
    return found.sum(1)
