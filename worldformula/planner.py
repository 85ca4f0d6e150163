"""The contract of a planner, Mode-2: search for actions in what can be imagined, at the cost of a task.

A planner knows no model and no task: it imagines with a `Dynamics` and asks a `Task` what the dreams cost. Episodes are
planned side by side, each with a generator of its own, so a plan does not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from worldformula.errors import ConfigError, ShapeError, table
from worldformula.world import Dynamics, State, Values
from worldformula.world.contract import Kind

Named = Mapping[str, Tensor]
"""Actions by name: ``[N, H, size]`` of N dreams, ``[B, N, H, size]`` of N candidates for each of B episodes."""


@dataclass(frozen=True)
class ActionSet:
    """What one action may be: ``size`` "numbers" in [−1, 1], a one-hot "choice" of so many, or "flags" of 0 and 1.

    ``aim``: who sets it, the search ("min") or an adversary ("max"); what is in no space, the dynamics draws.
    """

    size: int
    kind: Kind = "numbers"
    aim: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.size < 1 or self.kind not in ("numbers", "choice", "flags") or self.aim not in ("min", "max"):
            raise ConfigError(
                "expected an action of size ≥ 1, of kind numbers, choice or flags, with the aim min or max, got "
                f"{self.size}, {self.kind!r} and {self.aim!r}"
            )

    def holds(self, actions: Tensor) -> bool:
        """Whether all of ``[..., size]`` are such actions."""
        if self.kind == "numbers":
            return bool((actions.abs() <= 1).all())
        binary = bool(((actions == 0) | (actions == 1)).all())
        return binary and (self.kind == "flags" or bool((actions.sum(-1) == 1).all()))

    def inside(self, actions: Tensor) -> Tensor:
        """``[..., size]`` as such actions: numbers are held within their bounds, others are as they should be."""
        return actions.clamp(-1, 1) if self.kind == "numbers" else actions

    def random(self, num: int, device: torch.device, allowed: Tensor | None = None) -> Tensor:
        """Uniformly random actions ``[num, size]`` of torch's generator; of choices those that are ``allowed``."""
        drawn = torch.rand(num, self.size, device=device)
        if self.kind == "numbers":
            return 2 * drawn - 1
        if self.kind == "flags":
            return (drawn < 0.5).to(drawn)
        best = drawn.argmax(-1) if allowed is None else drawn.masked_fill(~some(allowed), -1).argmax(-1)
        return torch.nn.functional.one_hot(best, self.size).to(drawn)


Space = Mapping[str, ActionSet]
"""The actions of a dynamics by name."""


@dataclass(frozen=True)
class CVaR:
    """The mean over the share α of the worst samples (Rockafellar & Uryasev 2000); of α = 0 the worst one."""

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"expected alpha from 0 to 1, got {self.alpha}")

    def __call__(self, costs: Tensor) -> Tensor:
        """Of samples ``[..., S]``: ``[...]``; where α·S is no whole number, the last one counts in part."""
        share = max(self.alpha * (count := costs.shape[-1]), 1.0)
        weight = (share - torch.arange(count).to(costs)).clamp(0, 1) / share
        worst = costs.sort(-1, descending=True).values
        return torch.where(weight > 0, worst * weight, 0.0).sum(-1)  # chosen, as zero times infinity is no number


@dataclass(frozen=True)
class Constraint:
    """What a plan must not exceed: ``of(states, actions) -> [N, T]``, asked as a cost is, stays at ``limit`` or below.

    Attributes:
        of: what is limited.
        limit: the most that it may be.
        reduce: "each" of the steps by itself, the "sum" over them, or the "last" alone.
    """

    of: Callable[[State, Named], Tensor]
    limit: float = 0.0
    reduce: Literal["each", "sum", "last"] = "each"

    def __post_init__(self) -> None:
        if self.reduce not in ("each", "sum", "last") or not math.isfinite(self.limit):
            raise ConfigError(
                f"expected a finite limit and reduce as 'each', 'sum' or 'last', got {self.limit} and {self.reduce!r}"
            )

    def excess(self, states: State, actions: Named) -> Tensor:
        """By how much dreams of states ``[N, T, ...]`` exceed the limit, less than 0 where they stay below it:
        ``[N, T]`` of each step, else ``[N, 1]``.
        """
        found = shaped("constraint", self.of(states, actions), states.lead, "one per imagined state")
        found = found if found.is_floating_point() else found.to(torch.get_default_dtype())
        return {"each": found, "sum": found.sum(1, keepdim=True), "last": found[:, -1:]}[self.reduce] - self.limit


@dataclass(frozen=True)
class Task:
    """What dreams cost; lower is better.

    Attributes:
        cost: ``cost(states, actions) -> [N, T]`` of the states ``[N, T, ...]`` that N dreams arrive at, and the actions
            ``[N, T, ...]`` by name, each taken one step before its state.
        value: what is to come after the last state, ``[N, ...] -> [N]``, which is added: a negated value function.
        proceed: ``[N, T, ...] -> [N, T]``, how probably an episode goes on after each state: what comes later, and the
            value, weigh by the product.
        discount: γ, what a cost one step later weighs; where the dynamics has a ``duration``, a step that takes Δ steps
            of time weighs what comes after it by γ^Δ.
        samples: dreams that each candidate is imagined in, with noise that all candidates of an episode share; 0
            imagines means and modes, one dream.
        risk: how the samples of a candidate count: their mean and so many standard deviations, or a `CVaR`.
        reduce: "sum" over the steps, or the "last" alone.
        numbers: what the dynamics takes by name, ``{"tau": 1.0}`` of a ``Symbol``.
        guide: ``guide(states, actions) -> [N, T]``, what is added at every state that is reached, whether the episode
            still goes on there or not, and undiscounted: what leads a search and is no part of the return, such as the
            way to a sub-goal. Reduced as costs are.
        given: what costs read beside the states, a row for each episode, ``[B, ...]`` by name, such as a goal: the
            states of its dreams hold it at every step.
        constraints: what a plan must keep to, by name; not discounted, and of samples it counts as the cost does, in
            the mean or by ``risk``. The planner `Lagrangian` makes any search keep them; others refuse such a task.
    """

    cost: Callable[[State, Named], Tensor]
    value: Callable[[State], Tensor] | None = None
    proceed: Callable[[State], Tensor] | None = None
    discount: float = 1.0
    samples: int = 0
    risk: float | CVaR = 0.0
    reduce: Literal["sum", "last"] = "sum"
    numbers: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)
    constraints: Mapping[str, Constraint] = field(default_factory=dict)
    guide: Callable[[State, Named], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.samples < 0 or self.reduce not in ("sum", "last"):
            raise ConfigError(
                f"expected samples ≥ 0 and reduce as 'sum' or 'last', got {self.samples} and {self.reduce!r}"
            )
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"expected a discount from 0 to 1, got {self.discount}")
        if not isinstance(self.risk, CVaR) and not math.isfinite(self.risk):
            raise ConfigError(f"expected risk as a finite number of deviations, or CVaR(alpha), got {self.risk}")
        if self.risk and self.samples < 2:
            raise ConfigError(f"risk={self.risk} needs a deviation: expected samples ≥ 2, got {self.samples}")

    def over(self, costs: Tensor) -> Tensor:
        """What samples cost together, ``[..., S]`` to ``[...]``."""
        if isinstance(self.risk, CVaR):
            return self.risk(costs)
        if costs.shape[-1] == 1:
            return costs[..., 0]
        mean = costs.mean(-1)
        if not self.risk:
            return mean
        return torch.where(mean.isinf(), mean, mean + self.risk * costs.std(-1))  # whose deviation is no number

    def each(self, states: State, actions: Named) -> Tensor:
        """What the steps of dreams cost, ``[N, T]``, before anything weighs them."""
        costs = self.cost(states, actions)
        return costs if self.guide is None else costs + self.guide(states, actions)

    def of(self, states: State, actions: Named, durations: Tensor | None = None) -> Tensor:
        """The cost ``[N]`` of dreams: states ``[N, T, ...]`` that were arrived at, actions ``[N, T, ...]``.

        ``durations`` ``[N, T]`` are how long each step took, 1 unless they are given.
        """
        shape = states.lead
        costs = shaped("cost", self.cost(states, actions), shape, "one per imagined state")
        costs = costs if costs.is_floating_point() else costs.to(torch.get_default_dtype())
        factors = []
        if self.proceed is not None:
            factors.append(shaped("proceed", self.proceed(states), shape, "one per imagined state"))
        if self.discount < 1:
            factors.append(self.discount ** (torch.ones_like(costs) if durations is None else durations))
        weight = math.prod(factors[1:], start=factors[0]).cumprod(1) if factors else None  # of what comes after a state
        if weight is not None:
            costs = torch.cat((costs[:, :1], costs[:, 1:] * weight[:, :-1]), 1)
        if self.guide is not None:
            costs = costs + shaped("guide", self.guide(states, actions), shape, "one per imagined state")
        total = costs.sum(1) if self.reduce == "sum" else costs[:, -1]
        if self.value is None:
            return total
        end = shaped("value", self.value(states.last()), shape[:1], "one per dream")
        return total + (end if weight is None else weight[:, -1] * end)

    def relaxed(self) -> Task:
        """What is asked about states that no dream has led to, one for each candidate: the same without samples."""
        return replace(self, samples=0, risk=0.0)


@dataclass(frozen=True)
class Plan:
    """What a search found.

    Attributes:
        actions: ``[B, H, size]`` by name, each in its set.
        states: ``[B, H + 1, ...]``, means and modes under these actions, the start first.
        cost: ``[B]``, what the task says of these actions.
        trace: the best cost after each iteration, ``[B]`` each.
        calls: steps of the model per episode.
        durations: how long each step takes, ``[B, H]``, where the dynamics says it.
        spread: of a search that says it, the deviation of the law that the first actions came from, ``[B, size]``.
        next: of a search that says it, where the next one of the episode begins, ``[B, H, size]``.
        discarded: how many candidates of an episode cost NaN, ``[B]``, where the search counts them.
        violation: by how much the plan exceeds its worst constraint, ``[B]``, 0 where it keeps them all; None of a task
            that has none.
        feasible: whether that is as good as nothing, ``[B]``; None of a task without constraints.
        multipliers: by constraint, what the cost would fall by per unit of a looser limit, ``[B, H]`` of each step, or
            ``[B, 1]``; where nothing keeps the constraints they say nothing.
        upper: of a hierarchy, the plans of the levels above, the top one first; their second states are sub-goals.
    """

    actions: dict[str, Tensor]
    states: State
    cost: Tensor
    trace: tuple[Tensor, ...]
    calls: int
    durations: Tensor | None = None
    spread: dict[str, Tensor] | None = None
    next: dict[str, Tensor] | None = None
    discarded: Tensor | None = None
    violation: Tensor | None = None
    feasible: Tensor | None = None
    multipliers: dict[str, Tensor] | None = None
    upper: tuple[Plan, ...] = ()

    @property
    def first(self) -> dict[str, Tensor]:
        """The actions to take now, ``[B, size]`` by name."""
        return {name: value[:, 0] for name, value in self.actions.items()}

    def shifted(self) -> dict[str, Tensor]:
        """Where the next search may begin, as ``warm``: what the search says, else the plan one step later, its last
        action repeated.
        """
        if self.next is not None:
            return dict(self.next)
        return {name: torch.cat((value[:, 1:], value[:, -1:]), 1) for name, value in self.actions.items()}


class Planner(ABC):
    """Abstract: fields belong to the final classes of the catalogue."""

    @property
    def climbs(self) -> bool:
        """Whether it goes by the gradient of the cost with regard to actions."""
        return False

    def horizons(self, space: Space) -> dict[str, int | None]:
        """The actions whose plan an episode keeps as the next ``warm``, and its steps; None is any number of them."""
        return dict.fromkeys(space, getattr(self, "horizon", None))

    @abstractmethod
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
        """Search from states ``[B, ...]``.

        Args:
            dynamics: what imagines.
            task: what dreams cost.
            state: where to begin; it may hold more than the dynamics reads.
            space: the set of each action; the result stays inside.
            generators: one per episode, on the device of the state; by default seeded 0, 1, … in order.
            warm: actions ``[B, H, size]`` to begin from, such as `Plan.shifted` of the last plan; an episode whose
                entries are NaN begins without.
            proposals: sequences ``[B, P, H, size]`` that are candidates too, such as those of a policy.
            mask: booleans ``[B, size]`` by name: which choices are allowed at the first step. At later steps of a dream
                all are.
        """


def some(mask: Tensor) -> Tensor:
    """A mask of choices ``[B, size]`` as booleans; where nothing is allowed, the first choice is."""
    mask = mask.bool()
    return torch.cat((mask[:, :1] | ~mask.any(-1, keepdim=True), mask[:, 1:]), -1)


def shaped(what: str, value: Tensor, shape: tuple[int, ...], told: str) -> Tensor:
    """The value; raises `ShapeError` where it is no tensor, or has another shape."""
    if not isinstance(value, Tensor):
        raise ShapeError(f"{what}: expected a tensor {list(shape)}, {told}, got {type(value).__name__} {value!r}")
    if value.shape != shape:
        rows = [(what, tuple(shape), tuple(value.shape))]
        raise ShapeError(f"expected {told}\n" + table(("value", "expected", "got"), rows))
    return value
