"""Terms of a cost: how far from a goal, what actions take; and goals, which are data of an episode.

A goal is a value that the states of a dream hold beside what is imagined, under a name of its own, one an episode:

    cost = Cost(world, {"far": Distance("z", "goal")})
    goal = seen(world, {"x": pictures})["z"]                     # [B, D]; or a latent, or a state of a simulator
    plan = planner.plan(world, cost.task(given={"goal": goal}), state, space=space)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, MissingInputError, ShapeError, table
from worldformula.formula.syntax.hidden import Found, found
from worldformula.planner import Named, Space
from worldformula.world import State, World

Measure = Callable[..., Tensor]
"""``states [..., event] -> [...]``; with ``acts = True``, of states and actions by name ``[..., size]``."""


@dataclass(frozen=True)
class Distance:
    """How far a variable of the states is from a goal: the squared distance over all its numbers, divided by ``unit``.

    Attributes:
        variable: what should come near.
        goal: the name of the goal, of the same shape, which the states hold.
        unit: what counts as 1.

    Raises:
        MissingInputError: the states hold no such variable, or no goal.
        ShapeError: the goal has another shape.
    """

    variable: str
    goal: str = "goal"
    unit: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.unit < math.inf:
            raise ConfigError(f"expected what counts as 1, unit > 0, got {self.unit}")

    def __call__(self, states: State) -> Tensor:
        """States ``[..., event]`` to ``[...]``."""
        for name in (self.variable, self.goal):
            if name not in states:
                raise MissingInputError(
                    f"how far {self.variable} is from {self.goal}: the states hold {', '.join(states) or 'nothing'}, "
                    f"and not {name}\nof a plan, say cost.task(given={{{self.goal!r}: ...}}), a row for each episode"
                )
        here, there = states[self.variable], states[self.goal]
        if here.shape != there.shape:
            rows = [(name, list(here.shape), list(states[name].shape)) for name in (self.variable, self.goal)]
            raise ShapeError(
                "a goal has the shape of what should reach it\n" + table(("name", "expected", "got"), rows)
            )
        lead = getattr(states, "axes", here.ndim - 1)
        far = (here - there).square()
        return (far.flatten(lead).sum(-1) if far.ndim > lead else far) / self.unit


@dataclass(frozen=True)
class Effort:
    """What actions take: the squares of all their numbers, summed."""

    acts = True

    def __call__(self, states: State, actions: Named) -> Tensor:
        """Actions ``[..., size]`` by name to ``[...]``."""
        parts = [action.square().sum(-1) for action in actions.values()]
        return sum(parts[1:], parts[0])


def seen(world: World, observations: Mapping[str, Tensor], space: Space | None = None) -> State:
    """The states that a world infers from one row of observations ``[B, ...]`` by variable, each the first of an
    episode: what a goal is that is shown, a picture or numbers. Means and modes.

    ``space`` says how wide actions are, for a world that infers states from the action before: there is none.

    Raises:
        ConfigError: pictures ``[B, h, w, 1 or 3]`` that are far from [0, 1], which no world has learnt from.
    """
    for name, value in observations.items():
        if value.ndim == 4 and value.shape[-1] in (1, 3) and not bool(((value > -0.5) & (value < 1.5)).all()):
            raise ConfigError(
                f"{name}: expected pictures with numbers from 0 to 1, got {value.dtype} from {float(value.min()):g} to "
                f"{float(value.max()):g}\nwrite {name}.float() / 255; maps of other numbers are for world.filter"
            )
    like = next(iter(observations.values()))
    begins = {} if world.reset_name is None else {world.reset_name: torch.ones(len(like), device=like.device)}
    still = {name: like.new_zeros(len(like), own.size) for name, own in (space or {}).items()}
    row = {name: value.unsqueeze(1) for name, value in {**observations, **begins, **still}.items()}
    return world.filter(row, deterministic=True).last()


def with_steps(term: Measure, states: State, actions: Named | None, names: tuple[str, ...]) -> Tensor:
    """A term of actions at states ``[..., event]``; those of a dream hold the actions that were taken *at* them, so
    that the one before a state is the last row's, and the first state has none: 0.

    Raises:
        MissingInputError: nobody says which actions.
        ShapeError: states of one step, which hold the actions that follow them.
    """
    if actions is not None:
        return term(states, actions)
    if missing := [name for name in names if name not in states] or ([] if names else ["an action"]):
        raise MissingInputError(
            f"a term of actions needs {missing[0]}, and the states hold {', '.join(states) or 'nothing'}; say "
            f"cost(states, actions)"
        )
    if getattr(states, "axes", 2) != 2:
        raise ShapeError(
            "a term of actions is of the step that leads to a state: expected states [N, T, ...] of a dream, or "
            "cost(states, actions)"
        )
    steps = states[names[0]].shape[1]
    later = State({k: v[:, 1:] for k, v in State(states, 2).series.items() if v.shape[1] >= steps}, 2)
    taken = {name: states[name][:, : later.lead[1]] for name in names}
    known = term(State({k: v for k, v in later.items() if k not in names}, 2), taken)
    return torch.cat((known.new_zeros(len(known), 1), known), 1)


def modules_of(term: Any) -> list[nn.Module]:
    """The networks of a term: a module, or what a function reaches."""
    if isinstance(term, nn.Module):
        return [term]
    reached = found(term, "a term of a cost")
    return [m.whole[0] for m in reached.modules] if isinstance(reached, Found) else []
