"""What the loop asks of an agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray

from worldformula.envs import Actions, Rows

Batch = Mapping[str, NDArray[Any]]
AgentState = dict[str, torch.Tensor]
Metrics = Mapping[str, float | torch.Tensor]


class LearningConfig(Protocol):
    """What the loop reads from an agent's settings."""

    @property
    def batch(self) -> int:
        """Sequences per update."""
        ...

    @property
    def length(self) -> int:
        """Rows per sequence."""
        ...

    @property
    def train_ratio(self) -> float:
        """Replayed rows per action taken in the environment."""
        ...

    @property
    def prefill(self) -> int:
        """Environment steps before the first update."""
        ...


@runtime_checkable
class Agent(Protocol):
    """An agent that acts in rows of experience and learns from replayed sequences.

    All randomness comes from torch's global generators (or from state that `checkpoint` contains), so that a resumed
    run draws what an uninterrupted one draws.
    """

    @property
    def config(self) -> LearningConfig:
        """The settings that it was built from."""
        ...

    def initial(self, num: int) -> AgentState:
        """The state before the first row, for ``num`` streams."""
        ...

    def act(self, rows: Rows, state: AgentState, explore: bool = True) -> tuple[Actions, AgentState]:
        """Actions at rows ``[num, …]``, an array or one per name, and the next state; anew where ``is_first``."""
        ...

    def update(self, batch: Batch) -> Metrics:
        """One step of learning on sequences ``[batch, length, …]``; returns named numbers (0-d tensors or floats)."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What learns."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """Everything that decides what it does next: weights, optimisers, running statistics."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `checkpoint` back."""
        ...

    def to(self, device: torch.device) -> Any:
        """Moves it, as `torch.nn.Module.to` does."""
        ...


Build = Callable[..., Agent]
"""``build(config, observations, actions, seed)``: columns by observation key, specifications by name of the action."""
