"""A simulated robot: a body, and what lies between it and a policy.

Order of a tick: the command that has arrived is smoothed and moves the body; then a reading is made, which may be lost,
and arrives after its delay, or a tick later still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldformula.envs.robot import Reading, read, written
from worldformula.errors import ConfigError


class Body(Protocol):
    """What moves. ``state`` holds all that decides how it goes on, as one array."""

    rate: float
    state: NDArray[np.float64]

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """As of Gymnasium."""
        ...

    @property
    def action_space(self) -> gymnasium.spaces.Box[Any]:
        """The limits of its motors."""
        ...

    def begin(self, rng: np.random.Generator) -> None:
        """The beginning of its life."""
        ...

    def advance(self, command: NDArray[np.float64], rng: np.random.Generator) -> None:
        """A tick under a command."""
        ...

    def observe(self, rng: np.random.Generator) -> Any:
        """What its sensors say now, noise included."""
        ...

    def reward(self) -> float:
        """Of the tick that ended now."""
        ...

    def truth(self) -> Mapping[str, NDArray[Any]]:
        """The true state by name."""
        ...

    def draw(self, states: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Pictures of states ``[N, …]``."""
        ...


@dataclass(frozen=True)
class Link:
    """What lies between a policy and a body.

    Attributes:
        sensor_delay: ticks that a reading takes.
        actuation_delay: ticks that a command takes; 0 works at once.
        jitter: probability that a reading takes a tick more.
        loss: probability that a reading never arrives.
        smooth: share of the command before in what the motors get, from 0 to less than 1.
    """

    sensor_delay: int = 1
    actuation_delay: int = 1
    jitter: float = 0.1
    loss: float = 0.01
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if min(self.sensor_delay, self.actuation_delay) < 0:
            raise ConfigError(f"expected delays ≥ 0 ticks, got {self.sensor_delay} and {self.actuation_delay}")
        if not (0 <= self.jitter <= 1 and 0 <= self.loss <= 1 and 0 <= self.smooth < 1):
            raise ConfigError(
                f"expected jitter and loss in [0, 1] and smooth in [0, 1), got {self.jitter}, {self.loss} and "
                f"{self.smooth}"
            )


class SimulatedRobot:
    """A body behind a link, as a `worldformula.envs.robot.Simulated` robot.

    Attributes:
        ticks: that have passed since it was switched on.
        moves: what the motors got in the last tick.
        paused, stopped: the motors get nothing; after `stop` until `release`.
    """

    def __init__(self, body: Body, link: Link | None = None) -> None:
        self.body, self.link = body, link or Link()
        self.rate = body.rate
        self.observation_space, self.action_space = body.observation_space, body.action_space
        self._nothing()

    def _nothing(self) -> None:
        self.ticks, self.paused, self.stopped = 0, False, False
        self.moves = np.zeros(self.action_space.shape)
        self._holds = np.zeros(self.action_space.shape)  # the command that has arrived last
        self._coming: list[tuple[int, NDArray[np.float64]]] = []  # commands by the tick that they arrive at
        self._sent: list[tuple[int, Reading]] = []  # readings by the tick that they arrive at
        self._newest = -1  # the tick of the newest reading that was read

    def switch_on(self, rng: np.random.Generator) -> None:
        """Its first reading is there at once."""
        self._nothing()
        self.body.begin(rng)
        self._sent.append((0, self._reading(rng)))

    def _reading(self, rng: np.random.Generator) -> Reading:
        return Reading(self.body.observe(rng), self.body.reward(), self.ticks, self.body.state.copy())

    def command(self, action: Any) -> None:
        """Within the limits of the motors. Arrives ``actuation_delay`` ticks later."""
        if self.stopped:
            return
        self.paused = False
        limited = np.clip(np.asarray(action, np.float64), self.action_space.low, self.action_space.high)
        self._coming.append((self.ticks + self.link.actuation_delay, limited))

    def tick(self, rng: np.random.Generator) -> None:
        """The body moves, and a reading is sent."""
        while self._coming and self._coming[0][0] <= self.ticks:
            self._holds = self._coming.pop(0)[1]
        wanted = np.zeros_like(self._holds) if self.paused or self.stopped else self._holds
        self.moves = self.link.smooth * self.moves + (1 - self.link.smooth) * wanted
        self.body.advance(self.moves, rng)
        self.ticks += 1
        reading, (lost, slow) = self._reading(rng), rng.random(2)
        if lost >= self.link.loss:
            self._sent.append((self.ticks + self.link.sensor_delay + int(slow < self.link.jitter), reading))

    def read(self) -> Reading | None:
        """The newest reading that has arrived, unless it was read before; one that was overtaken is never read."""
        arrived = [reading for at, reading in self._sent if at <= self.ticks and reading.tick > self._newest]
        self._sent = [(at, reading) for at, reading in self._sent if at > self.ticks]
        if not arrived:
            return None
        found = max(arrived, key=lambda reading: reading.tick)
        self._newest = found.tick
        return found

    def pause(self) -> None:
        """The motors get nothing until the next command; commands on their way are void."""
        self.paused, self._coming = True, []
        self._holds = np.zeros_like(self._holds)

    def stop(self) -> None:
        """Emergency stop: as a pause, and commands do not count until `release`."""
        self.pause()
        self.stopped = True

    def release(self) -> None:
        """A person has released the emergency stop."""
        self.stopped = False

    def truth(self) -> dict[str, NDArray[Any]]:
        """That of the body, and the commands that are on their way, ``pending`` ``[n, A]``, the oldest first.

        The one that holds is the first of them where nothing else moves the body in the next tick.
        """
        coming = [value for _, value in self._coming]
        pending = np.array(coming).reshape(-1, *self.action_space.shape)
        return {**self.body.truth(), "pending": pending.astype(np.float32)}

    def picture(self, reading: Reading) -> NDArray[np.uint8]:
        """What a camera saw at a reading, uint8 ``[size, size, 3]``."""
        found: NDArray[np.uint8] = self.body.draw(np.asarray(reading.seen)[None])[0]
        return found

    def snapshot(self) -> dict[str, Any]:
        """All that decides what follows but the generator."""
        return {
            "counts": [self.ticks, self._newest, int(self.paused), int(self.stopped)],
            "body": self.body.state.copy(), "moves": self.moves.copy(), "holds": self._holds.copy(),
            "coming": [[at, value.copy()] for at, value in self._coming],
            "sent": [[at, written(reading)] for at, reading in self._sent],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `snapshot` back."""
        self.ticks, self._newest, paused, stopped = (int(count) for count in state["counts"])
        self.paused, self.stopped = bool(paused), bool(stopped)
        self.body.state = np.array(state["body"], np.float64)
        self.moves, self._holds = (np.array(state[key], np.float64) for key in ("moves", "holds"))
        self._coming = [(int(at), np.array(value, np.float64)) for at, value in state["coming"]]
        self._sent = [(int(at), read(reading)) for at, reading in state["sent"]]
