"""Configurator: what an agent shall do now, as data. It retrains nothing (LeCun 2022, section 3.1).

A configuration sets the weights of the cost and the goal, and chooses between Mode-1 (the policy) and Mode-2 (a planner
on the same world), or says when the agent shall do which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.modes import Switch
from worldformula.errors import CatalogueError, ConfigError, ShapeError, near, table
from worldformula.formula.syntax.hidden import with_functions
from worldformula.planner import Planner

Rows = Mapping[str, NDArray[Any]]
"""What is acted on, ``[N, ...]`` by column."""


@dataclass(frozen=True)
class Configuration:
    """The weights of the cost by term, and the planner of Mode-2; without one the agent acts by its policy.

    ``noise`` is how much a planning agent explores, ``warm`` whether a plan goes on from the last one of its episode,
    ``proposals`` how many sequences of its policy are candidates: see `worldformula.agent.search.Search`. With
    ``value`` a plan ends with what the agent's critic says is to come, and is discounted. ``goal`` is what terms of the
    cost read beside the states, tensors by name of one row, ``[1, ...]``, or of one for each stream, or a function that
    makes them of the rows that are acted on. ``tokens`` are what world, heads, policy and terms read of the task
    itself, conditions without time such as κ of p(s_t|s_{t-1},a_{t-1},κ), told as goals are: they reach every dream of
    Mode-2, and whatever acts by Mode-1; a world learns to read them by a fit of data that hold them. ``limits`` are
    terms that are kept below, not minimised: for a planner that keeps constraints, `Lagrangian`. ``switch`` says when
    to think; elsewhere the agent acts by its policy. ``samples`` is how many dreams a plan is imagined in, with noise
    that all plans of a row share; 0 imagines means and modes, where the best plan may be one that a world gets wrong.
    With ``draws`` states are samples of what is inferred also where the agent does not explore: what has learnt from
    samples alone, such as jumps, may not know modes.
    """

    weights: Mapping[str, float | Tensor] = field(default_factory=dict)
    planner: Planner | None = None
    noise: float | Literal["plan"] = 0.3
    warm: bool = True
    proposals: int = 0
    value: bool = False
    goal: Mapping[str, Tensor] | Callable[[Rows], Mapping[str, Tensor]] = field(default_factory=dict)
    switch: Switch | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, Tensor] | Callable[[Rows], Mapping[str, Tensor]] = field(default_factory=dict)
    samples: int = 0
    draws: bool = False

    def __post_init__(self) -> None:
        if self.planner is not None and not isinstance(self.planner, Planner):
            raise ConfigError(
                f"planner: expected a planner, got {self.planner!r}\nwrite planner=CEM(horizon=12), of "
                f"worldformula.planners.cem"
            )
        if self.noise != "plan" and (not isinstance(self.noise, Real) or not 0 <= self.noise < math.inf):
            raise ConfigError(f"noise: expected a number of at least 0, or 'plan', got {self.noise!r}")
        if not isinstance(self.proposals, Integral) or self.proposals < 0:
            raise ConfigError(f"proposals: expected how many, 0 or more, got {self.proposals!r}")
        if not isinstance(self.samples, Integral) or self.samples < 0:
            raise ConfigError(f"samples: expected how many dreams of a plan, 0 or more, got {self.samples!r}")
        if self.limits and self.planner is None:
            raise ConfigError(
                f"limits: a policy does not keep {next(iter(self.limits))!r} below a limit; write "
                f"planner=Lagrangian(...), of worldformula.planners.lagrangian"
            )

    __deepcopy__ = with_functions  # goals and doubts may ask networks of the agent

    def given(self, rows: Rows) -> dict[str, Tensor]:
        """The goals of rows ``[N, ...]``, a row each.

        Raises:
            ShapeError: as many goals as neither one nor the rows.
        """
        return _each("goal", self.goal(rows) if callable(self.goal) else self.goal, len(rows["is_first"]))

    def told(self, rows: Rows) -> dict[str, Tensor]:
        """The tokens of rows ``[N, ...]``, a row each.

        Raises:
            ShapeError: as many as neither one nor the rows.
        """
        return _each("token", self.tokens(rows) if callable(self.tokens) else self.tokens, len(rows["is_first"]))


def _each(what: str, found: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Values of one row, or of one for each stream, as one for each stream."""
    if other := [(k, type(v).__name__) for k, v in found.items() if not isinstance(v, Tensor)]:
        name, kind = other[0]
        raise ShapeError(
            f"the {what} {name!r} is {kind}: expected a tensor of one row, [1, ...]\nwrite "
            f"{{{name!r}: torch.as_tensor(...)[None]}}"
        )
    if wrong := [(k, list(v.shape)) for k, v in found.items() if not v.ndim or len(v) not in (1, count)]:
        expected = f"expected {what}s of one row, or of {count}, one for each stream\n"
        raise ShapeError(expected + table((what, "got"), wrong))
    return {k: v.expand(count, *v.shape[1:]) for k, v in found.items()}


@dataclass(frozen=True)
class Habits:
    """How an agent acts by itself.

    Attributes:
        usual: the configuration that it begins with.
        random: explore uniformly at random until the first update, as PlaNet and Dreamer v1 and v2 do.
        noise: of a policy that explores: the deviation of what is added to numbers, which stay in [−1, 1].
    """

    usual: Configuration = field(default_factory=Configuration)
    random: bool = False
    noise: float = 0.0


@dataclass(frozen=True)
class Configurator:
    """Configurations by task; the simplest configurator, a table."""

    tasks: Mapping[str, Configuration]

    def __call__(self, task: str) -> Configuration:
        """The configuration of a task."""
        if task not in self.tasks:
            known = ", ".join(self.tasks)
            raise CatalogueError(f"no task is called {task!r}.{near(task, self.tasks)} There are: {known}.")
        return self.tasks[task]
