"""How acting and learning share time: in turn, or at the ticks of a clock that waits for neither.

In turn, acting waits for learning, which happens as often as the train ratio says. By a *virtual clock* the actor is a
copy of the agent with the weights that were handed over last: in each tick it acts once, then the learner makes so many
updates; every ``sync`` ticks its weights are handed over, and the actor has them ``lag`` ticks later. That is what two
processes do (`worldformula.run.apart`), without their chance: the same bits each time, and again after a kill.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from worldformula.envs import Envs
from worldformula.errors import ConfigError
from worldformula.nets import causal
from worldformula.run.apart import Apart, Away
from worldformula.run.checks import require
from worldformula.run.config import RunConfig
from worldformula.run.contract import Acting, Build, Learning, Weights
from worldformula.run.play import Turn, play
from worldformula.training.seeding import forked


class Driver(Protocol):
    """Where turns come from, and how many updates they bring."""

    @property
    def rate(self) -> float:
        """Updates per action; of a driver that counts none 0."""
        ...

    def begin(self) -> None:
        """A new run."""
        ...

    def restore(self, state: Mapping[str, Any]) -> list[int]:
        """Goes on from what `state` returned; the streams whose episode had to be cut."""
        ...

    def turns(self) -> Iterator[Turn]:
        """What has happened since the last call: one turn, or whatever has arrived.

        Raises:
            RobotError: the robot does not go on.
        """
        ...

    def owed(self, taken: int) -> float:
        """Updates that so many actions bring."""
        ...

    def learnt(self, taken: int, updates: int) -> None:
        """The updates that followed were made: so many of this process."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers since the last time, for the log."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        ...

    def halt(self) -> None:
        """Nobody acts any more for now."""
        ...


class InTurn:
    """One turn, then its updates.

    Args:
        config: of the run.
        envs: where it acts.
        agent: what acts and, where it can, learns.
        device: of its states.
    """

    def __init__(self, config: RunConfig, envs: Envs, agent: Acting, device: torch.device) -> None:
        self.config, self.envs, self.device = config, envs, device
        self.agent: Any = agent
        self.actor: Any = agent

    @property
    def rate(self) -> float:
        """As the train ratio says."""
        if not isinstance(self.agent, Learning):
            return 0.0
        learning = self.agent.config
        return learning.train_ratio / (learning.batch * learning.length)

    def begin(self) -> None:
        """The first episodes."""
        self._state = self.actor.initial(self.envs.num)
        self._turns = play(self.envs, self.actor, self.envs.reset(), self._state)

    def restore(self, state: Mapping[str, Any]) -> list[int]:
        """The running episodes are played again."""
        with forked(self.config.seed):
            rows, cut = self.envs.restore(state["envs"])
            self._state = causal.restored(state["acting"], self.actor.initial(self.envs.num), self.device)
        self._turns = play(self.envs, self.actor, rows, self._state)
        return cut

    def turns(self) -> Iterator[Turn]:
        """One."""
        turn = next(self._turns)
        self._state = turn.state
        yield turn

    def owed(self, taken: int) -> float:
        """By the rate."""
        return taken * self.rate

    def learnt(self, taken: int, updates: int) -> None:
        """The actor is the learner."""

    def metrics(self) -> dict[str, float]:
        """Turns take the time that they take."""
        return {}

    def state(self) -> dict[str, Any]:
        """The acting state, and the episodes."""
        return {"acting": causal.stored(self._state), "envs": self.envs.state()}

    def halt(self) -> None:
        """Environments wait by themselves; a robot that is not simulated is paused."""
        for robot in self._robots():
            robot.pause()

    def _robots(self) -> list[Any]:
        """Those that are not simulated."""
        return [bare.robot for bare in self.envs.bare if getattr(bare, "real", False)]


class Virtual(InTurn):
    """Ticks of a virtual clock, at which the actor has weights of some ticks ago.

    Args:
        config: of the run.
        envs: where it acts; all streams share the ticks.
        agent: what learns.
        device: of the agent.

    Raises:
        ConfigError: the agent cannot hand over its weights; the robot is not simulated, so that its time passes.
    """

    def __init__(self, config: RunConfig, envs: Envs, agent: Any, device: torch.device) -> None:
        super().__init__(config, envs, agent, device)
        self.drive = config.drive
        require(agent, config)
        if envs.real:
            raise ConfigError(
                f"drive.clock=virtual makes the time of a robot, and that of {envs.id} passes by itself: set "
                "drive.clock=wall"
            )
        self.actor = copy.deepcopy(agent)
        self.ticks, self._handed = 0, 0
        self._coming: deque[tuple[int, Weights]] = deque()  # weights by the tick from which on the actor has them

    @property
    def rate(self) -> float:
        """Updates in a tick, shared by the streams."""
        return self.drive.updates / self.envs.num

    def learnt(self, taken: int, updates: int) -> None:
        """A tick is over: weights are handed over, or arrive."""
        self.ticks += taken > 0
        if taken and self.ticks % self.drive.sync == 0 and updates > self._handed:
            self._handed = updates
            self._coming.append((self.ticks + self.drive.lag, self.agent.weights()))
        while self._coming and self._coming[0][0] <= self.ticks:
            self.actor.take_over(self._coming.popleft()[1])

    def begin(self) -> None:
        """Actor and learner begin with the same weights."""
        self.actor.take_over(self.agent.weights())
        super().begin()

    def restore(self, state: Mapping[str, Any]) -> list[int]:
        """The actor's weights, and those that were on their way."""
        drive = state["drive"]
        self.ticks, self._handed = int(drive["ticks"]), int(drive["handed"])
        self.actor.take_over(drive["actor"])
        self._coming = deque((int(tick), weights) for tick, weights in drive["coming"])
        return super().restore(state)

    def state(self) -> dict[str, Any]:
        """Also the weights that the actor has, and those on their way."""
        coming = [[tick, weights] for tick, weights in self._coming]
        drive = {"ticks": self.ticks, "handed": self._handed, "actor": self.actor.weights(), "coming": coming}
        return {**super().state(), "drive": drive}


def environments(config: RunConfig) -> Any:
    """Where a run acts: `Envs` in this process, or a robot that another one acts on."""
    if config.drive.clock == "wall":
        return Away(config)
    env = config.env
    return Envs(env.id, env.num, seed=config.seed, recover=True, **env.options())


def driver(config: RunConfig, envs: Any, agent: Any, build: Build, device: torch.device) -> Driver:
    """The one that the settings ask for."""
    if config.drive.clock == "wall":
        return Apart(config, envs, agent, build)
    return (Virtual if config.drive.clock == "virtual" else InTurn)(config, envs, agent, device)
