"""What a run asks of its task, and a task that acts of its agent: protocols, no code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from worldformula.envs import Actions, Rows

Batch = Mapping[str, NDArray[Any]]
AgentState = dict[str, torch.Tensor]
Weights = Mapping[str, torch.Tensor]
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
class Acting(Protocol):
    """Whatever acts in rows of experience: an agent, random play, a planner on a simulator.

    All randomness comes from torch's global generators (or from state that is checkpointed), so that a resumed run
    draws what an uninterrupted one draws.
    """

    def initial(self, num: int) -> AgentState:
        """The state before the first row, for ``num`` streams."""
        ...

    def act(self, rows: Rows, state: AgentState, explore: bool = True) -> tuple[Actions, AgentState]:
        """Actions at rows ``[num, …]``, an array or one per name, and the next state; anew where ``is_first``."""
        ...


@runtime_checkable
class Learning(Protocol):
    """Whatever learns from sequences of experience."""

    @property
    def config(self) -> LearningConfig:
        """The settings that it was built from."""
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


@runtime_checkable
class Recalling(Learning, Protocol):
    """Whatever learns from sequences that go on from the state before them, which the replay keeps for it."""

    @property
    def latents(self) -> Mapping[str, tuple[int, ...]]:
        """What the replay keeps of every row, name -> shape; empty where it begins at nothing."""
        ...

    def stored(self, state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The latents of an acting state ``[num, …]``."""
        ...

    def learn(self, batch: Batch) -> tuple[Metrics, Mapping[str, NDArray[Any]]]:
        """`update`, and the newer latents ``[batch, length, …]`` of its rows."""
        ...


@runtime_checkable
class HandsOver(Protocol):
    """Whatever can act with the weights of another of its kind, which learns meanwhile."""

    def weights(self) -> Weights:
        """Copies of all that decides how it acts, but its acting state."""
        ...

    def take_over(self, weights: Weights) -> None:
        """Acts from now on as the one whose `weights` these are; an acting state goes on."""
        ...


@runtime_checkable
class Surprised(Learning, Protocol):
    """Whatever says how badly its world knew the rows of its last update, for a replay that draws by priority."""

    @property
    def surprise(self) -> NDArray[Any] | None:
        """The world's loss at every row of the last batch, ``[batch, length]``; None where it keeps none."""
        ...


@runtime_checkable
class Recollecting(Protocol):
    """Whatever keeps what it has lived through, beyond an episode."""

    def recollect(self, rows: Rows, state: AgentState) -> None:
        """After a turn of a run: what it saw, ``[num, …]``, and the acting state that it left."""
        ...


@runtime_checkable
class Watched(Learning, Protocol):
    """Whatever has latents that nothing decodes, which training may lose."""

    def watched(self, batch: Batch) -> Mapping[str, float]:
        """How they are on sequences ``[batch, length, …]``, by name, ``codes/z/rank``; see `metrics.collapse`."""
        ...


@runtime_checkable
class Agent(Acting, Learning, Protocol):
    """An agent acts and learns."""


class Task(Protocol):
    """What is done in a run folder, in parts. `worldformula.run.run.Run` does everything around it.

    Attributes:
        kind: what ``config.json`` says: ``"fit"``, ``"interact"``, ``"phases"`` or ``"python"``.
        every: steps between checkpoints; how many there are changes nothing.
        threads: CPU threads of torch, None for as many as there are.
        tensorboard: whether events are written too.
    """

    kind: str
    every: int
    threads: int | None
    tensorboard: bool

    @property
    def step(self) -> int:
        """How far it is."""
        ...

    @property
    def goal(self) -> int:
        """Where it ends."""
        ...

    def written(self) -> Mapping[str, Any]:
        """Its settings, for ``config.json``."""
        ...

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """What it cannot go on with: setting -> (as stored in the folder, as asked for now)."""
        ...

    def begin(self) -> None:
        """There is nothing to go on from; what a kill left behind before the first checkpoint must not count."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        ...

    def advance(self, until: int, write: Write, asked: Callable[[], bool]) -> None:
        """Works until its step reaches ``until``, or stops earlier between two steps, once it is ``asked`` to."""
        ...

    def test(self) -> Mapping[str, float]:
        """The numbers of data, or of episodes, that it does not learn from."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that decides how it goes on; taking it changes nothing."""
        ...

    def kept(self) -> None:
        """`state` lies on the disk now."""
        ...

    def resume_hint(self) -> str:
        """How to go on after an interruption: a command, or a call."""
        ...


@runtime_checkable
class Halting(Protocol):
    """A task with something that goes on by itself, such as a robot."""

    def halt(self) -> None:
        """It shall not go on any more. Called whenever a run ends, in whatever way."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A task whose step alone does not say where it is."""

    @property
    def place(self) -> str:
        """In words, as "step 40" or "step 40 of stage"."""
        ...


Write = Callable[[int, Mapping[str, float]], None]
"""``write(step, numbers)``: a line of ``metrics.jsonl``."""

Build = Callable[..., Agent]
"""``build(config, observations, actions, seed)``: columns by observation key, specifications by name of the action."""
