r"""Hierarchical planning: the top level plans macro-actions for the task, each level below a way to its next sub-goal.

LeCun 2022 (section 4.6, hierarchical Mode-2); with levels that share one latent state as HWM plans (2026,
arXiv:2604.03208), with encoders between them as H-JEPA does (2026, arXiv:2610.06805).

    s^ℓ = up_ℓ(s^{ℓ−1})                                    the present, as each level sees it
    top:    a^L = plan_L(Σ_t C(s^L_t)),                    g = s^L_1, the first state that it leads to
    below:  a^ℓ = plan_ℓ(Σ_t ‖up_{ℓ+1}(s^ℓ_t) − g‖²),      g = s^ℓ_1                              executed: a^1

Where the first step of a plan gains nearly all that the plan gains, the task is within that step: there the level below
plans by the task itself, as it sees it; so it does where the present costs as little as ``near``. The lowest level may
know more of a goal than those above, ``ground``. With no level above this is the planner of the lowest level, bit by
bit.

Where every level knows the task by itself, such as by a head of its own for the reward (``Level.task``), the way to the
sub-goal does not replace it, but is added (THICK, Gumbsch et al. 2024):

    below:  a^ℓ = plan_ℓ(Σ_t w_t C^ℓ(s^ℓ_t) + far(up_{ℓ+1}(s^ℓ_t), g)),       g = aim(plan of the level above)

w_t is what the task discounts and how probably the episode still goes on; the way counts fully (`Task.guide`): else an
episode that ends with a reward would forfeit what the sub-goal is worth, and stay in front of it.

`Level.of` is a level of a `World`: its encoder, and its macro-actions between the quantiles of those that an encoder
made of data (`worldformula.world.usual`), of which the usual ones are cheap, ``price``.

Deviations        peers                                here                            why
the goal itself   within a distance (HWM), by steps    within ``near``, or where the   a plan says it too
is aimed for      that are left (H-JEPA)               first step gains .9 of it all
macro-actions     a Normal and quantiles of a queue    the same along principal axes   encoders turn them as they like
                  of encoded chunks (H-JEPA)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from worldformula.catalogue import System, find
from worldformula.errors import ConfigError, MissingInputError, ShapeError, near
from worldformula.given import check_fields, of_space
from worldformula.planner import ActionSet, Named, Plan, Planner, Space, Task
from worldformula.world import Dynamics, State, Values, World
from worldformula.world.usual import Usual

SUBGOAL, AIMED = "subgoal/", "aimed"
"""What the costs of a level below are given: the state above to go to, and whether the task itself is aimed for."""
SHARE = 0.9  # of what a plan gains: where its first step gains as much, the task is within that step


@dataclass(frozen=True)
class Level:
    """A level above the lowest one.

    Attributes:
        dynamics: what it imagines with, one step for several of the level below.
        space: the sets of its macro-actions, whose names no other level has.
        planner: what searches; a few steps.
        up: from states of the level below to its own, ``[..., event]``; the same ones where nothing is said.
        towards: the variables of a state that sub-goals are compared by; all that are given none.
        price: what ‖m‖² of a macro-action costs: its prior, a Normal, where those that are usual are near 0.
        task: the task as this level knows it, of what the level below knows; None where it is that of the top level.
        aim: the sub-goal that a plan gives, ``[B, event]`` by name; its second state where nothing is said.
        far: what states ``[N, T, event]`` as this level sees them cost for being away from a sub-goal, of the same
            axes, ``[N, T]``; the squared distance where nothing is said.
    """

    dynamics: Dynamics
    space: Space
    planner: Planner
    up: Callable[[State], Values] = lambda states: states
    towards: tuple[str, ...] = ()
    price: float = 0.0
    task: Callable[[Task], Task] | None = None
    aim: Callable[[Plan], Values] | None = None
    far: Callable[[State, Values], Tensor] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.price < 0:
            raise ConfigError(f"expected price ≥ 0, got {self.price}")

    @classmethod
    def of(cls, world: World, name: str, planner: Planner, seen: Mapping[str, Tensor], *, price: float = 0.0) -> Level:
        """A level of a world whose posterior makes its state of the state of the level below.

        Args:
            world: with this level.
            name: of the level.
            planner: what searches.
            seen: its macro-actions in data, ``[K, M]`` by name.
            price: see `Level`.

        Raises:
            ConfigError: no such level, or one whose state reads more than other variables of the same step.
        """
        if name not in world.levels:
            raise ConfigError(f"expected one of the levels {', '.join(world.levels)}, got {name!r}")
        own = world.levels[name]
        parts = list[tuple[str, Callable[..., Tensor], tuple[str, ...]]]()
        for factor in (f for f in world.posterior.factors if f.variable.key in own.carried):
            read, plain = tuple(c.key for c in factor.conditions), factor.family is None and not own.memory
            if factor.net is None or not plain or any(c.offset or c.several for c in factor.conditions):
                raise ConfigError(
                    f"level {name!r}: expected a state that is computed from other variables of its step, got {factor}"
                    f"\nwrite Level(..., up=...), a function from states of the level below"
                )
            parts.append((factor.variable.key, factor.net, read))

        def up(states: State) -> Values:
            flat = states.only(c for _, _, read in parts for c in read).flat()
            found = {key: net(*(flat[c] for c in read)) for key, net, read in parts}
            return State(found).unflat(states.lead)

        space = {action: ActionSet(value.shape[-1]) for action, value in seen.items()}
        return cls(Usual.of(own, seen), space, planner, up, price=price)

    def priced(self, task: Task) -> Task:
        """The task, and what macro-actions cost."""
        if not self.price:
            return task

        def cost(states: State, actions: Named) -> Tensor:
            return task.cost(states, actions) + self.price * sum(actions[k].square().sum(-1) for k in self.space)

        return replace(task, cost=cost)

    def seen(self, states: State) -> State:
        """States of the level below as it sees them."""
        return State(self.up(states), states.axes)

    def goal(self, plan: Plan, given: Mapping[str, Tensor]) -> State:
        """The sub-goal of a plan, without what its task is given."""
        if self.aim is not None:
            return State(self.aim(plan))
        return plan.states.only(k for k in plan.states if k not in given).at(1)

    def away(self, states: State, goal: Values) -> Tensor:
        """What states of the level below ``[N, T, event]`` cost for being away from a sub-goal: ``[N, T]``."""
        seen = self.seen(states)
        if self.far is not None:
            return self.far(seen, goal)
        return torch.cat([(seen[k] - goal[k]).flatten(2) for k in goal], -1).square().sum(-1)


@final
@dataclass(frozen=True)
class Hierarchy(Planner):
    """The search; see the module for the method. ``plan`` takes dynamics and space of the lowest level, and the task is
    that of the states of the top one, or of the lowest where every level knows it by itself.

    Raises:
        ConfigError: levels of which some know the task and some do not; ``near`` or ``ground`` where all do.
    """

    planner: Planner
    """What searches at the lowest level."""
    above: tuple[Level, ...] = ()
    """The levels above, the lowest first."""
    near: float = 0.0
    """The cost of a state, as the top level sees it, from which on all levels plan by the task itself."""
    ground: Callable[[State, Named], Tensor] | None = None
    """What a state of the lowest level costs there, as a `Task` has it; None is the task as the top level sees it."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.above, tuple | list) or not all(isinstance(level, Level) for level in self.above):
            raise ConfigError(
                f"above: expected levels, the lowest first, got {self.above!r}\nwrite Hierarchy(planner, (Level(...),))"
            )

        told = [level.task is not None for level in self.above]
        if any(told) and not all(told):
            raise ConfigError("expected Level(task=...) of every level above the lowest one, or of none")
        if self.knowing and (self.near or self.ground is not None):
            raise ConfigError(
                "near and ground say when the lowest level plans by the task of the top one; levels with a task of "
                "their own always plan by it"
            )

    @property
    def knowing(self) -> bool:
        """Whether every level knows the task by itself."""
        return any(level.task is not None for level in self.above)

    @property
    def horizon(self) -> int:
        """Steps of the plan of the lowest level."""
        found: int = getattr(self.planner, "horizon")  # noqa: B009
        return found

    @property
    def climbs(self) -> bool:
        """Whether a search of any level does."""
        return self.planner.climbs or any(level.planner.climbs for level in self.above)

    def horizons(self, space: Space) -> dict[str, int | None]:
        """Plans of all levels are kept."""
        found = self.planner.horizons(space)
        for level in self.above:
            found |= level.planner.horizons(level.space)
        return found

    @torch.no_grad()
    def plan(
        self,
        dynamics: Dynamics,
        task: Task,
        state: Values,
        *,
        space: Space,
        generators: Sequence[torch.Generator] | None = None,
        warm: Named | None = None,
        proposals: Named | None = None,
        mask: Named | None = None,
    ) -> Plan:
        """Search from states ``[B, ...]``; proposals and masks are of the lowest level's actions.

        Raises:
            ConfigError: two levels with an action of the same name; ``warm`` of an action that no level has; a task of
                more than the sum of its costs, of which levels below would know nothing that do not know it themselves.
        """
        self._check(space, warm)
        self._check_sum(task)
        present, tasks = [State(state)], [task]  # as each level sees the one, and knows the other
        for level in self.above:
            present.append(level.seen(present[-1]))
            tasks.append(task if level.task is None else level.task(tasks[-1]))
        goal: State | None = None
        aimed: Tensor | None = None  # where every level above plans by the task itself
        upper: list[Plan] = []
        for i in range(len(self.above) - 1, -1, -1):
            level = self.above[i]
            own = tasks[i + 1] if goal is None else self._towards(i + 1, tasks[i + 1], goal, aimed)
            try:
                found = level.planner.plan(
                    level.dynamics, level.priced(own), present[i + 1], space=level.space, generators=generators,
                    warm=of_space(warm, level.space),
                )  # fmt: skip
            except (MissingInputError, ShapeError) as error:
                sees = ", ".join(f"{k} {list(v.shape)}" for k, v in present[i + 1].series.items())
                raise type(error)(
                    f"level {i + 1} above the lowest one sees {sees}, which Level(up=...) makes of the states below:\n"
                    f"{error}"
                ) from error
            if not self.knowing:
                near = _nearest(own, found, self.near if goal is None else 0.0)
                aimed = near if aimed is None else near & aimed
            goal = level.goal(found, own.given)
            upper.append(found)
        own = tasks[0] if goal is None else self._towards(0, tasks[0], goal, aimed)
        found = self.planner.plan(
            dynamics, own, state, space=space, generators=generators, warm=of_space(warm, space), proposals=proposals,
            mask=mask,
        )  # fmt: skip
        if not upper:
            return found
        further = {name: value for plan in upper for name, value in plan.actions.items()}
        calls = found.calls + sum(plan.calls for plan in upper)
        return replace(found, calls=calls, next=found.shifted() | further, upper=tuple(upper))

    def _towards(self, below: int, task: Task, goal: State, aimed: Tensor | None) -> Task:
        """What the level ``below`` minimises: the way to the sub-goal in the states of the level above it, and of the
        episodes that are ``aimed``, the task as the top level sees it; where levels know the task, both.
        """
        level = self.above[below]
        names = level.towards or tuple(
            k for k, v in goal.series.items() if v.is_floating_point() and k not in task.given
        )
        if other := [k for k in names if k not in goal]:
            raise ConfigError(
                f"towards: the states of the level above hold {', '.join(goal.series)}, and not {other[0]}"
                f"{near(other[0], goal)}"
            )
        aims = {SUBGOAL + k: goal[k] for k in names}
        own = {} if aimed is None else {AIMED: aimed}

        def way(states: State) -> Tensor:
            return level.away(states, {k: states[SUBGOAL + k] for k in names})

        if self.knowing:
            given = {**task.given, **aims}
            known = task.guide
            guide = lambda states, actions: way(states) if known is None else way(states) + known(states, actions)  # noqa: E731
            return replace(task, guide=guide, given=given)

        def highest(states: State) -> State:
            """As the top level sees them, who the task is for."""
            top = states
            for higher in self.above[below:]:
                top = higher.seen(top)
            return top | {k: states[k] for k in task.given}

        def cost(states: State, actions: Named) -> Tensor:
            total = way(states)
            if AIMED not in states:
                return total
            if below == 0 and self.ground is not None:
                return torch.where(states[AIMED], self.ground(states, actions), total)
            return torch.where(states[AIMED], task.cost(highest(states), actions), total)

        def limited(of: Callable[[State, Named], Tensor]) -> Callable[[State, Named], Tensor]:
            return lambda states, actions: of(highest(states), actions)

        going = task.proceed
        return replace(
            task, cost=cost, proceed=None if going is None else lambda states: going(highest(states)),
            constraints={name: replace(c, of=limited(c.of)) for name, c in task.constraints.items()},
            given={**task.given, **aims, **own},
        )  # fmt: skip

    def _check_sum(self, task: Task) -> None:
        """Levels below the top that know of nothing but sub-goals plan by costs of states."""
        if not self.above or self.knowing:
            return
        if total := [name for name, c in task.constraints.items() if c.reduce != "each"]:
            raise ConfigError(
                f"{total[0]}: levels take steps of other lengths, and plans of different ones are not one sum: "
                f"expected a Constraint of each step"
            )
        if task.value is not None or task.reduce == "last":
            what = "a value at the end" if task.value is not None else "reduce='last'"
            raise ConfigError(
                f"{what}: levels below the top plan by the costs of states alone, and would not know of it\n"
                f"let the cost of a state say it, such as a critic among the terms of a Cost, and write value=None, "
                f"reduce='sum'"
            )

    def _check(self, space: Space, warm: Named | None) -> None:
        names = [*space, *(name for level in self.above for name in level.space)]
        if other := [name for name in warm or () if name not in names]:
            raise ConfigError(f"warm: no level has an action {other[0]!r}; these are: {', '.join(names)}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"two levels have an action {twice[0]!r}: expected names of their own, such as 'm' for macro-actions"
            )


def _nearest(task: Task, plan: Plan, close: float) -> Tensor:
    """Whether the first step of a plan gains nearly all that the plan gains, there is nothing to gain, or the present
    costs as little as ``close``; ``[B]``.
    """
    doing = {name: torch.cat((value[:, :1], value), 1) for name, value in plan.actions.items()}
    costs = task.cost(plan.states, doing)  # of the present too, as if the first action had led there
    gained, least = costs[:, 0] - costs[:, 1], costs[:, 0] - costs[:, 1:].amin(1)
    return (gained >= SHARE * least) | (least <= 0) | (costs[:, 0] <= close)


def paper() -> dict[str, Any]:
    """The lowest level of HWM is searched by 500 candidates; levels above come with a world."""
    return {"horizon": 10, "candidates": 500, "elites": 50, "iterations": 6}


def tiny() -> dict[str, Any]:
    """Milliseconds on a CPU."""
    return {"horizon": 8, "candidates": 96, "elites": 16, "iterations": 6}


def build(sizes: dict[str, Any]) -> Hierarchy:
    """The planner with its lowest level alone, a cross-entropy search of these sizes."""
    return Hierarchy(find("cem").build(sizes))


SYSTEM = System(
    name="hierarchy",
    kind="planners",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf; 2026, arXiv:2604.03208; 2026, arXiv:2610.06805",
    bibtex="""@article{lecun2022path, title={A path towards autonomous machine intelligence}, author={LeCun, Yann},
  journal={OpenReview}, year={2022}}""",
    presets={"paper": paper, "tiny": tiny},
    build=build,
    summary="Macro-actions for the task at the top, a way to the next sub-goal at each level below.",
)
