"""A robot as an environment: what a driver has to answer to, the clock of its ticks, and rows without resets.

A robot has a rate: so many ticks a second, at each of which the newest reading is taken and a command given. Nothing
waits for anybody: a command holds until the next one, and where no reading has arrived the last one stands. `RobotEnv`
makes a Gymnasium environment of it, so that the same agent acts in a simulation and on a driver of one's own:
``--env my_module:make`` where ``make()`` returns ``RobotEnv(MyRobot())``.

A reset moves nothing and takes no time. Episodes are pseudo-episodes, pieces of one life: the robot is where it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldformula.envs.spaces import checked, flattened, leaf, taken
from worldformula.errors import NonFiniteError, RobotError, SpaceError

ARRAYS = (
    gymnasium.spaces.Box, gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a robot said of one tick.

    Attributes:
        observation: as the robot's observation space declares it.
        reward: of the tick that ended there, computed from what the robot itself can see.
        tick: the tick that it was made at, counted from 0 when the robot was switched on.
        seen: what a picture of it is drawn from, where the robot draws one.
    """

    observation: Any
    reward: float
    tick: int
    seen: Any = None


@runtime_checkable
class RobotInterface(Protocol):
    """A robot, simulated or real. None of its methods may wait for longer than a small part of a tick.

    Attributes:
        rate: ticks per second.
    """

    rate: float

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """As of Gymnasium."""
        ...

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """As of Gymnasium."""
        ...

    def read(self) -> Reading | None:
        """The newest reading, or None where none has arrived since the last call."""
        ...

    def command(self, action: Any) -> None:
        """What it shall do from now on, until the next command. Ends a pause."""
        ...

    def pause(self) -> None:
        """Hold still, as safely as it can; the next command goes on. Called whenever nobody acts any more."""
        ...

    def stop(self) -> None:
        """Emergency stop: power off, and no command counts until a person has released it."""
        ...


@runtime_checkable
class Simulated(RobotInterface, Protocol):
    """A robot whose time passes when it is told to, and which can be put back where it was."""

    ticks: int

    def switch_on(self, rng: np.random.Generator) -> None:
        """The beginning of its life; its first reading has arrived."""
        ...

    def tick(self, rng: np.random.Generator) -> None:
        """A tick passes."""
        ...

    def truth(self) -> Mapping[str, NDArray[Any]]:
        """The true state, which no reading tells, by name."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """All that decides what follows, as numbers and arrays."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `snapshot` back."""
        ...


class VirtualClock:
    """Ticks pass when one asks: deterministic, and as fast as the computer is."""

    def wait(self) -> int:
        """The ticks that have passed until the next one begins: always 1."""
        return 1


class WallClock:
    """Ticks of ``rate`` a second. Late ones are not made up for: the grid stays where it is.

    Attributes:
        woke: when the present tick began, in seconds of ``time.perf_counter``.
    """

    def __init__(self, rate: float) -> None:
        self.period = 1.0 / rate
        self.woke = self._next = float("nan")

    def wait(self) -> int:
        """Sleeps until the next tick; how many have passed since the last call, more than 1 where one came late."""
        now = time.perf_counter()
        if np.isnan(self._next):
            self._next = now
        self._next += self.period
        passed = 1
        if now > self._next:
            missed = int((now - self._next) / self.period) + 1
            passed, self._next = passed + missed, self._next + missed * self.period
        time.sleep(max(0.0, self._next - time.perf_counter()))
        self.woke = time.perf_counter()
        return passed


class RobotEnv(gymnasium.Env[Any, Any]):
    """A robot as a Gymnasium environment that is never reset.

    Args:
        robot: the robot; a `Simulated` one has virtual time until `keep_time`.
        patience: ticks without a reading after which the robot counts as silent.

    Attributes:
        resets: False: what follows a reset depends on what was before it.
        real: it is not simulated: it does nothing twice, and nobody measures a floor with it.

    ``info`` has the ``age`` of the reading in ticks, how many ticks have been ``silent`` and ``late``, and of a
    simulated robot the true ``state``.

    Raises:
        RobotError: the robot was silent for longer than its patience, raised an error, or gave something else than a
            `Reading` of one finite reward and an observation that its space declares. It was paused before.
    """

    resets = False

    def __init__(self, robot: RobotInterface, *, patience: int = 20) -> None:
        self.robot, self.patience = robot, patience
        self._told = robot if isinstance(robot, Simulated) else None  # whose time passes only when it is told so
        self.real = self._told is None
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": robot.rate}
        self.render_mode = "rgb_array"
        self.observation_space, self.action_space = robot.observation_space, robot.action_space
        self.clock: VirtualClock | WallClock = VirtualClock() if self._told else WallClock(robot.rate)
        self.reading: Reading | None = None
        self.ticks, self.silent, self.late = 0, 0, 0

    def keep_time(self) -> WallClock:
        """From now on a tick takes its time, of a simulated robot too."""
        self.clock = clock = WallClock(self.robot.rate)
        return clock

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The newest reading; nothing moves. ``seed``: of the noise of the ticks that follow."""
        super().reset(seed=seed)
        if self.reading is None:
            if self._told:
                self._told.switch_on(self.np_random)
            self._read()
            while self.reading is None:
                self._pass()
        return self.reading.observation, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Commands, waits for the next tick, and reads."""
        assert self.reading is not None
        action = taken(self.action_space, action)
        with self._guarded("command"):
            self.robot.command(action)
        self._pass()
        return self.reading.observation, float(self.reading.reward), False, False, self._info()

    def _pass(self) -> None:
        passed = self.clock.wait()
        self.late = passed - 1
        if self._told:
            for _ in range(passed):
                self._told.tick(self.np_random)
        self.ticks += passed
        self._read()

    def _read(self) -> None:
        with self._guarded("read"):
            found = self.robot.read()
            if found is None:
                self.silent += 1
                if self.silent > self.patience:
                    self._refuse(f"the robot has given no reading for {self.silent} ticks, until tick {self.ticks}")
                return
            self._check(found)
        self.silent = 0
        self.reading = found

    def _check(self, found: Any) -> None:
        """Refuses what is no reading, before anything trusts it."""
        if not isinstance(found, Reading):
            self._refuse(f"read() gave {found!r:.100} at tick {self.ticks}; expected a Reading, or None")
        if not isinstance(found.tick, int | np.integer):
            self._refuse(f"the tick of a reading is {found.tick!r:.100}, at tick {self.ticks}; expected a whole number")
        reward = np.asarray(found.reward)
        with np.errstate(over="ignore"):  # rewards are stored in float32
            number = reward.size == 1 and reward.dtype.kind in "fiub" and np.isfinite(np.float32(reward.item()))
        if not number:
            self._refuse(f"the reward of tick {found.tick} is {found.reward!r:.100}; expected one finite number")
        leaves = {"observation": self.observation_space}
        if nested := isinstance(self.observation_space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
            leaves = flattened(self.observation_space)
        for key, space in leaves.items():
            if isinstance(space, ARRAYS):
                try:
                    value = leaf(found.observation, key) if nested else found.observation
                    checked(space, value, f"the {key} of tick {found.tick}")
                except (LookupError, TypeError):
                    self._refuse(f"the {key} of tick {found.tick} is missing: {found.observation!r:.100}")

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except RobotError:
            raise
        except (NonFiniteError, SpaceError) as error:
            self._refuse(str(error), error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a driver may raise anything; it must not move on
            self._refuse(f"the robot failed at {what}, tick {self.ticks}: {type(error).__name__}: {error}", error)

    def _refuse(self, why: str, error: BaseException | None = None) -> NoReturn:
        with contextlib.suppress(Exception, SystemExit):
            self.robot.pause()
        raise RobotError(f"{why}. The robot was paused") from error

    def _info(self) -> dict[str, Any]:
        assert self.reading is not None
        info = {"age": self.ticks - self.reading.tick, "silent": self.silent, "late": self.late}
        return {**info, "state": dict(self._told.truth())} if self._told else info

    def render(self) -> Any:
        """The picture of the latest reading, where the robot draws one."""
        if not hasattr(self.robot, "picture"):
            raise NotImplementedError
        return self.robot.picture(self.reading)

    def close(self) -> None:
        """Pauses the robot."""
        self.robot.pause()

    def snapshot(self) -> dict[str, Any] | None:
        """What lasts beyond an episode; None of a robot that cannot be put back, whose past is never played again."""
        if self._told is None:
            return None
        if self.reading is None:
            return {}
        return {"robot": self._told.snapshot(), "reading": written(self.reading), "counts": [self.ticks, self.silent]}

    def return_to(self, snapshot: Mapping[str, Any]) -> None:
        """Puts the answer of `snapshot` back; an empty one is a robot that was never switched on."""
        assert self._told is not None
        self.reading = None
        self.ticks = self.silent = self.late = 0
        if snapshot:
            self._told.restore(snapshot["robot"])
            self.reading = read(snapshot["reading"])
            self.ticks, self.silent = (int(count) for count in snapshot["counts"])


def written(reading: Reading) -> dict[str, Any]:
    """A reading as a checkpoint stores it."""
    return {"observation": reading.observation, "reward": reading.reward, "tick": reading.tick, "seen": reading.seen}


def read(stored: Mapping[str, Any]) -> Reading:
    """The reading that `written` wrote."""
    arrays = {
        key: None if stored[key] is None
        else {name: np.asarray(v) for name, v in stored[key].items()} if isinstance(stored[key], Mapping)
        else np.asarray(stored[key])
        for key in ("observation", "seen")
    }  # fmt: skip
    return Reading(arrays["observation"], float(stored["reward"]), int(stored["tick"]), arrays["seen"])
