r"""Mode-1 or Mode-2: an agent acts by its policy, and thinks where something tells it to (LeCun 2022, section 3.1.3).

    think at t  where  surprise ‖s_t − f(s_{t−1}, a_{t−1})‖² / D  >  ε'      the world did what the model did not expect
                or     deviation of several critics at s_t        >  ε       they were never shown such a state
                or     what the policy costs in H dreamt steps    >  c       it leads to somewhere bad
                or     an episode begins

Each is a doubt, a number a row; a `Switch` plans for the rows where one is above its threshold, and for no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor

from worldformula.agent.actor import Actor
from worldformula.agent.search import COUNT, PLAN, SEED, Search
from worldformula.agent.terms import Measure
from worldformula.errors import ConfigError, near
from worldformula.planner import Task, shaped
from worldformula.world import Dynamics, State, Values


class Doubt(Protocol):
    """What makes an agent think: a number ``[N]`` and how much of it there may be."""

    most: float

    def __call__(self, dynamics: Dynamics, task: Task, actor: Actor, seen: State, before: Values) -> Tensor:
        """At states ``[N, ...]``; ``before`` is the acting state of the row before, with its actions."""
        ...


def _check_most(most: float) -> None:
    """Raises `ConfigError` for NaN: whatever is compared with it would be a doubt."""
    if math.isnan(most):
        raise ConfigError(f"expected how much doubt there may be, a number, got most={most}")


@dataclass(frozen=True)
class Surprise:
    """How far a variable is from what the world foretold: the mean squared difference over its numbers.

    Attributes:
        variable: of the state, such as a latent.
        most: ε'.
    """

    variable: str
    most: float

    def __post_init__(self) -> None:
        _check_most(self.most)

    def __call__(self, dynamics: Dynamics, task: Task, actor: Actor, seen: State, before: Values) -> Tensor:
        """See `Doubt`."""
        own = {k: v for k, v in before.items() if not k.startswith(PLAN) and k not in (SEED, COUNT)}
        acts = {name: own[name].unsqueeze(1) for name in dynamics.actions}
        start = State({k: v for k, v in own.items() if k not in dynamics.actions})
        dream = dynamics.imagine(start, actions=acts, deterministic=True, **task.numbers)
        if self.variable not in dream or self.variable not in seen:
            known = [k for k in dream if k in seen and k not in dynamics.actions]
            raise ConfigError(
                f"surprise: the states hold {', '.join(known)}, and not {self.variable}{near(self.variable, known)}"
            )
        foretold = dream[self.variable][:, 1]
        return (seen[self.variable] - foretold).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Disagreement:
    """The deviation over several critics of the same, ``states [N, ...] -> [N]``.

    Attributes:
        critics: two or more.
        most: ε.
    """

    critics: tuple[Measure, ...]
    most: float

    def __post_init__(self) -> None:
        _check_most(self.most)
        if len(self.critics) < 2:
            raise ConfigError(f"who disagrees are several: expected at least two critics, got {len(self.critics)}")

    def __call__(self, dynamics: Dynamics, task: Task, actor: Actor, seen: State, before: Values) -> Tensor:
        """See `Doubt`."""
        told = seen | task.given
        return torch.stack([critic(told) for critic in self.critics]).std(0, correction=0)


@dataclass(frozen=True)
class Costly:
    """What the policy costs in a dream of so many steps, by the task that a search would have.

    Attributes:
        horizon: H.
        most: c.
    """

    horizon: int
    most: float

    def __post_init__(self) -> None:
        _check_most(self.most)
        if not isinstance(self.horizon, Integral) or self.horizon < 1:
            raise ConfigError(f"expected a dream of at least one step, got horizon={self.horizon}")

    def __call__(self, dynamics: Dynamics, task: Task, actor: Actor, seen: State, before: Values) -> Tensor:
        """See `Doubt`."""
        if getattr(dynamics, "duration", None) is not None:
            raise ConfigError("costly: steps of this world take times of their own, which a doubt does not know")
        start = State({k: v for k, v in seen.items() if k not in dynamics.actions})
        dream = dynamics.imagine(start, actor.policy, horizon=self.horizon, deterministic=True, **task.numbers)
        states = State(dream, 2).only(k for k in dream if k not in dynamics.actions).span(1)
        given = {k: v.unsqueeze(1).expand(-1, self.horizon, *v.shape[1:]) for k, v in task.given.items()}
        return task.of(states | given, {name: dream[name][:, : self.horizon] for name in dynamics.actions})


@dataclass(frozen=True)
class Switch:
    """When to think.

    Attributes:
        doubts: any of them is enough.
    """

    doubts: tuple[Doubt, ...]

    def __post_init__(self) -> None:
        if not self.doubts:
            raise ConfigError("expected at least one doubt, such as Surprise('z', 0.1)")

    @torch.no_grad()
    def doubtful(
        self, dynamics: Dynamics, task: Task, actor: Actor, seen: State, kept: Values, begins: Tensor
    ) -> Tensor:
        """The rows to plan for, ``[N]``; all where the episodes have no plan yet.

        Raises:
            ShapeError: a doubt that is not one number a row, as of a critic ``[N, 1]``.
        """
        if SEED not in kept or not all(name in kept for name in dynamics.actions):
            return torch.ones_like(begins)
        found = begins
        for doubt in self.doubts:
            much = doubt(dynamics, task, actor, seen, kept)
            shaped(type(doubt).__name__, much, tuple(begins.shape), "a doubt of one number a row")
            found = found | ~(much <= doubt.most)  # what is no number is a doubt
        return found

    @torch.no_grad()
    def act(
        self, search: Search, actor: Actor, dynamics: Dynamics, task: Task, seen: State, kept: Values, begins: Tensor,
        *, explore: bool, masks: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
        """As `Search.act`: the policy's actions, and a plan's in their place where there is a doubt."""
        masks = dict(masks or {})
        think = self.doubtful(dynamics, task, actor, seen, kept, begins)
        rows = think.nonzero()[:, 0]
        if len(rows) == len(think):
            return search.act(dynamics, task, seen, kept, begins, explore=explore, masks=masks)
        actions = actor.act(seen, explore=explore, masks=masks)
        own = State({k: v for k, v in kept.items() if k in (SEED, COUNT) or k.startswith(PLAN)})
        plans = {k: v.masked_fill(~think.view(-1, 1, 1), torch.nan) for k, v in own.items() if k.startswith(PLAN)}
        if not len(rows):
            return actions, {**own, **plans}  # whoever did not plan has no plan to go on from
        part = replace(task, given={k: v[rows] for k, v in task.given.items()})
        found, left = search.act(
            dynamics, part, seen.select(rows), own.select(rows), begins[rows], explore=explore,
            masks={k: v[rows] for k, v in masks.items()},
        )  # fmt: skip
        after: dict[str, Tensor] = {**own, **plans}
        for name, value in left.items():
            if name not in after or after[name].shape[1:] != value.shape[1:]:  # they are kept, or as long, from now on
                after[name] = value.new_full((len(think), *value.shape[1:]), torch.nan)
            after[name] = after[name].index_copy(0, rows, value)
        return {name: v.index_copy(0, rows, found[name].to(v)) for name, v in actions.items()}, after
