"""A ball with two motors on a table, seen from above, twice a second: the Sphero of DayDreamer, reconstructed.

The table is [−1, 1]². Commands l, r ∈ [−1, 1] of the left and the right motor hold for half a second, ten steps of
dt = 0.05 s each:

    v ← v + dt/0.3 · (0.5 (l + r)/2 − v)        ω ← ω + dt/0.3 · (3 (r − l)/2 − ω)        speed, and turning rate
    φ ← φ + dt ω        (x, y) ← (x, y) + dt v (cos φ, sin φ), kept in ±0.9; the edge of the table stops it, v ← 0
    reward of the arriving tick  −‖(x, y) − goal‖

Readings are x and y with Gaussian noise, or a picture. Neither shows where the ball is heading, which takes a memory. A
command works a tick after it was given; of a hundred readings one never arrives. Nobody puts the ball back: a
pseudo-episode is 100 ticks, 50 seconds. Random play reaches about −80 in one of a life, the reference controller about
−0.1 in the mean of a hundred (``python -m worldformula.envs.reference sphero_sim`` measures). The light may fade as
that of `worldformula.envs.pendulum_noreset`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.robot import RobotEnv
from worldformula.envs.simulated import Link, SimulatedRobot
from worldformula.envs.spaces import finite
from worldformula.errors import ConfigError

RATE, SUBSTEPS, DT, LAG = 2.0, 10, 0.05, 0.3
FASTEST, TURNS, EDGE, RADIUS = 0.5, 3.0, 0.9, 0.1
BACKGROUND, TABLE_GOAL, BALL = (24, 28, 44), (70, 160, 90), (235, 240, 255)
X, Y, HEADING, SPEED, TURNING, TICKS = range(6)  # of the state


def moved(state: NDArray[np.float64], command: ArrayLike) -> NDArray[np.float64]:
    """The state ``[6]`` after a tick of 0.5 s under commands (l, r)."""
    x, y, heading, speed, turning, ticks = (float(v) for v in state)
    left, right = (float(v) for v in finite(command, "the command"))
    for _ in range(SUBSTEPS):
        speed += DT / LAG * (FASTEST * (left + right) / 2 - speed)
        turning += DT / LAG * (TURNS * (right - left) / 2 - turning)
        heading += DT * turning
        ahead = x + DT * speed * np.cos(heading), y + DT * speed * np.sin(heading)
        x, y = (float(np.clip(place, -EDGE, EDGE)) for place in ahead)
        speed = speed if (x, y) == ahead else 0.0
    return np.array([x, y, heading, speed, turning, ticks + 1])


class Ball:
    """The body of this file."""

    rate = RATE

    def __init__(
        self, *, size: int, noise: float, goal: tuple[float, float], fade: float, drift_from: int, drift_ticks: int
    ) -> None:
        if noise < 0 or not 0 <= fade <= 1 or drift_ticks < 1 or max(map(abs, goal)) > EDGE:
            raise ConfigError(
                f"expected noise ≥ 0, fade in [0, 1], drift_ticks ≥ 1 and a goal within ±{EDGE}, got {noise}, {fade}, "
                f"{drift_ticks} and {goal}"
            )
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.noise, self.goal = noise, np.array(goal, np.float64)
        self.fade, self.drift_from, self.drift_ticks = fade, drift_from, drift_ticks
        self.state = np.zeros(6)
        self._canvas = Canvas(size, BACKGROUND)

    def begin(self, rng: np.random.Generator) -> None:
        """Anywhere on the table, at rest, heading anywhere."""
        place = rng.uniform(-EDGE, EDGE, 2)
        self.state = np.array([*place, rng.uniform(-np.pi, np.pi), 0.0, 0.0, 0.0])

    def advance(self, command: NDArray[np.float64], rng: np.random.Generator) -> None:
        """One tick of 0.5 s."""
        self.state = moved(self.state, command)

    def observe(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """x and y, float32 ``[2]``."""
        return (self.state[:2] + self.noise * rng.normal(size=2)).astype(np.float32)

    def reward(self) -> float:
        """Of the tick that ended now."""
        return -float(np.linalg.norm(self.state[:2] - self.goal))

    def truth(self) -> dict[str, NDArray[Any]]:
        """Place, heading as sine and cosine, speed and turning rate, and the goal."""
        heading = self.state[HEADING]
        return {
            "position": self.state[:2].astype(np.float32),
            "heading": np.array([np.sin(heading), np.cos(heading)], np.float32),
            "motion": self.state[SPEED : TURNING + 1].astype(np.float32),
            "goal": self.goal.astype(np.float32),
        }

    def draw(self, states: NDArray[np.float64]) -> Frames:
        """Pictures of states ``[N, 6]``, in the light of their tick, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        goal = self._canvas.disc(self.goal[:1], self.goal[1:], 1.5 * RADIUS)
        ball = self._canvas.disc(states[:, X], states[:, Y], RADIUS)
        frames = self._canvas.frames([(np.repeat(goal, len(states), 0), TABLE_GOAL), (ball, BALL)])
        come = np.clip((states[:, TICKS] - self.drift_from) / self.drift_ticks, 0.0, 1.0)
        return (frames * (1.0 - self.fade * come)[:, None, None, None]).astype(np.uint8)


def make(
    size: int = 32, *, sensor_delay: int = 0, actuation_delay: int = 1, jitter: float = 0.0, loss: float = 0.01,
    smooth: float = 0.0, patience: int = 20, noise: float = 0.01, goal: tuple[float, float] = (0.5, 0.5),
    fade: float = 0.0, drift_from: int = 0, drift_ticks: int = 120, realtime: bool = False,
) -> RobotEnv:  # fmt: skip
    """The environment of this file.

    Args:
        size: edge of the picture in pixels; the paper's camera has 64.
        sensor_delay: ticks that a reading takes; with the next four see `worldformula.envs.simulated.Link`.
        actuation_delay: ticks that a command takes.
        jitter: probability that a reading takes a tick more.
        loss: probability that a reading never arrives.
        smooth: share of the command before in what the motors get.
        patience: ticks without a reading after which the robot counts as silent.
        noise: standard deviation of the place that is read.
        goal: where the ball shall be.
        fade: what the light loses in the end.
        drift_from: the tick at which it begins to fall.
        drift_ticks: over how many ticks it falls.
        realtime: a tick takes its half second, as that of a robot that is none of a simulation.
    """
    ball = Ball(size=size, noise=noise, goal=goal, fade=fade, drift_from=drift_from, drift_ticks=drift_ticks)
    link = Link(sensor_delay, actuation_delay, jitter, loss, smooth)
    env = RobotEnv(SimulatedRobot(ball, link), patience=patience)
    if realtime:
        env.keep_time()
    return env


def reference(state: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """Turns towards the goal and rolls there, backwards where that is nearer, from where it will be."""
    x, y, (sine, cosine) = *state["position"], state["heading"]
    place = np.array([x, y, np.arctan2(sine, cosine), *state["motion"], 0.0], np.float64)
    for command in np.asarray(state["pending"], np.float64):
        place = moved(place, command)
    towards = np.asarray(state["goal"], np.float64) - place[:2]
    far = float(np.linalg.norm(towards))
    error = (np.arctan2(towards[1], towards[0]) - place[HEADING] + np.pi) % (2 * np.pi) - np.pi
    side = 1.0 if abs(error) <= np.pi / 2 else -1.0
    error = error if side > 0 else error - np.sign(error) * np.pi
    roll = side * min(1.0, 2.5 * far) * max(0.0, np.cos(error)) ** 2 - 0.5 * place[SPEED]
    turn = float(np.clip(0.5 * error * min(1.0, 10 * far), -1.0, 1.0))
    return np.clip(np.array([roll - turn, roll + turn]), -1.0, 1.0).astype(np.float32)


ENVIRONMENTS = (Entry("SpheroSim", "sphero_sim", make, 100, reference),)
