"""Configurator: what an agent shall do now, as data. It retrains nothing (LeCun 2022, section 3.1).

A configuration sets the weights of the cost and chooses between Mode-1 (the policy) and Mode-2 (a planner on the same
world).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from worldformula.errors import CatalogueError, near
from worldformula.planner import Planner


@dataclass(frozen=True)
class Configuration:
    """The weights of the cost by term, and the planner of Mode-2; without one the agent acts by its policy.

    ``noise`` is how much a planning agent explores, ``warm`` whether a plan goes on from the last one of its episode,
    ``proposals`` how many sequences of its policy are candidates: see `worldformula.agent.search.Search`. With
    ``value`` a plan ends with what the agent's critic says is to come, and is discounted.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    planner: Planner | None = None
    noise: float | Literal["plan"] = 0.3
    warm: bool = True
    proposals: int = 0
    value: bool = False


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
