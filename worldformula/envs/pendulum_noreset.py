"""A pendulum that is a robot: 20 ticks a second, late and lost readings, late commands, and nobody who resets it.

The dynamics are those of Gymnasium's Pendulum-v1 (θ = 0 upright, torque u ∈ [−2, 2], 0.05 s a tick):

    θ̇ ← clip(θ̇ + (15 sin θ + 3 g_t u) · 0.05 + push, ±8)        θ ← θ + 0.05 θ̇
    reward of the arriving tick  −(θ² + 0.1 θ̇² + 0.001 u²), θ in [−π, π)

Readings are cos θ, sin θ, θ̇ with Gaussian noise of ``noise`` times the range (1, 1, 8), or a picture. They arrive a
tick late, of ten one a tick later still, of a hundred one never; a command works a tick after it was given. A life
begins at a random angle at rest. A pseudo-episode is 200 ticks, 10 seconds: random play reaches about −1100 in one of a
life, the reference controller, which comes to stand in the first and stays, about −1 in the mean of a hundred
(``python -m worldformula.envs.reference pendulum_noreset`` measures).

What may happen to it, all of it off by default: from tick ``push_from`` on, with probability ``pushes`` a tick, a push
changes θ̇ by ±``push``; and from tick ``drift_from`` on, over ``drift_ticks``, the light falls to 1 − ``fade`` of what
it was, and the motor's gain g_t to 1 − ``wear``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs import pendulum
from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.robot import RobotEnv
from worldformula.envs.simulated import Link, SimulatedRobot
from worldformula.errors import ConfigError

RATE, TORQUE, FASTEST = 20.0, 2.0, 8.0
THETA, SPEED, APPLIED, TICKS = range(4)  # of the state


class Rod:
    """The body: a rod on a motor. Its state is θ, θ̇, the last torque and the ticks so far."""

    rate = RATE

    def __init__(
        self, *, size: int, noise: float, pushes: float, push: float, push_from: int, fade: float, wear: float,
        drift_from: int, drift_ticks: int,
    ) -> None:  # fmt: skip
        if not (0 <= pushes <= 1 and 0 <= fade <= 1 and 0 <= wear <= 1) or noise < 0 or drift_ticks < 1:
            raise ConfigError(
                "expected pushes, fade and wear in [0, 1], noise ≥ 0 and drift_ticks ≥ 1, got "
                f"{pushes}, {fade}, {wear}, {noise} and {drift_ticks}"
            )
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(-TORQUE, TORQUE, (1,), np.float32)
        self.noise, self.pushes, self.push, self.push_from = noise, pushes, push, push_from
        self.fade, self.wear, self.drift_from, self.drift_ticks = fade, wear, drift_from, drift_ticks
        self.state = np.zeros(4)
        self._canvas = Canvas(size, pendulum.BACKGROUND)

    def begin(self, rng: np.random.Generator) -> None:
        """At a random angle, at rest."""
        self.state = np.array([rng.uniform(-np.pi, np.pi), 0.0, 0.0, 0.0])

    def drift(self, ticks: ArrayLike) -> NDArray[np.float64]:
        """How much of the drift has come at a tick, from 0 to 1."""
        found: NDArray[np.float64] = np.clip((np.asarray(ticks) - self.drift_from) / self.drift_ticks, 0.0, 1.0)
        return found

    def advance(self, command: NDArray[np.float64], rng: np.random.Generator) -> None:
        """One tick of 0.05 s."""
        theta, speed, _, ticks = (float(v) for v in self.state)
        chance, side = rng.random(2)
        torque = float(command[0])
        gain = 1.0 - self.wear * float(self.drift(ticks))
        speed = speed + (15.0 * np.sin(theta) + 3.0 * gain * torque) / RATE
        if ticks >= self.push_from and chance < self.pushes:
            speed = speed + (self.push if side < 0.5 else -self.push)
        speed = float(np.clip(speed, -FASTEST, FASTEST))
        self.state = np.array([theta + speed / RATE, speed, torque, ticks + 1])

    def observe(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """cos θ, sin θ and θ̇, float32 ``[3]``."""
        theta, speed = self.state[:2]
        noise = self.noise * rng.normal(size=3) * (1.0, 1.0, FASTEST)
        return (np.array([np.cos(theta), np.sin(theta), speed]) + noise).astype(np.float32)

    def reward(self) -> float:
        """Of the tick that ended now."""
        theta, speed, torque = self.state[:3]
        angle = (theta + np.pi) % (2 * np.pi) - np.pi
        return float(-(angle**2 + 0.1 * speed**2 + 0.001 * torque**2))

    def truth(self) -> dict[str, NDArray[Any]]:
        """Angle as sine and cosine, velocity, and how much of the drift has come."""
        theta, speed, _, ticks = self.state
        return {
            "angle": np.array([np.sin(theta), np.cos(theta)], np.float32),
            "velocity": np.array([speed], np.float32),
            "drift": np.array([self.drift(ticks)], np.float32),
        }

    def draw(self, states: NDArray[np.float64]) -> Frames:
        """Pictures of states ``[N, 4]``, in the light of their tick, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        theta, canvas, length = states[:, THETA], self._canvas, pendulum.ROD_LENGTH
        rod = canvas.rod(0.0, 0.0, -length * np.sin(theta), length * np.cos(theta), pendulum.ROD_RADIUS)
        frames = canvas.frames([(rod, pendulum.ROD), (canvas.disc(0.0, 0.0, pendulum.HUB_RADIUS), pendulum.HUB)])
        light = 1.0 - self.fade * self.drift(states[:, TICKS])
        return (frames * light[:, None, None, None]).astype(np.uint8)


def make(
    size: int = 32, *, sensor_delay: int = 1, actuation_delay: int = 1, jitter: float = 0.1, loss: float = 0.01,
    smooth: float = 0.0, patience: int = 20, noise: float = 0.01, pushes: float = 0.0, push: float = 4.0,
    push_from: int = 0, fade: float = 0.0, wear: float = 0.0, drift_from: int = 0, drift_ticks: int = 1200,
    realtime: bool = False,
) -> RobotEnv:  # fmt: skip
    """The environment of this file.

    Args:
        size: edge of the picture in pixels.
        sensor_delay: ticks that a reading takes; with the next four see `worldformula.envs.simulated.Link`.
        actuation_delay: ticks that a command takes.
        jitter: probability that a reading takes a tick more.
        loss: probability that a reading never arrives.
        smooth: share of the command before in what the motor gets.
        patience: ticks without a reading after which the robot counts as silent.
        noise: of the numbers that are read, as a part of their range.
        pushes: probability of a push a tick.
        push: what a push adds to or takes from θ̇, in rad/s.
        push_from: the first tick that may have a push.
        fade: what the light loses in the end.
        wear: what the motor's gain loses in the end.
        drift_from: the tick at which both begin to fall.
        drift_ticks: over how many ticks they fall.
        realtime: a tick takes its 0.05 s, as that of a robot that is none of a simulation.
    """
    rod = Rod(
        size=size, noise=noise, pushes=pushes, push=push, push_from=push_from, fade=fade, wear=wear,
        drift_from=drift_from, drift_ticks=drift_ticks,
    )  # fmt: skip
    link = Link(sensor_delay, actuation_delay, jitter, loss, smooth)
    env = RobotEnv(SimulatedRobot(rod, link), patience=patience)
    if realtime:
        env.keep_time()
    return env


def reference(state: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """The pendulum's own controller, from where the rod will be once the commands on their way have worked."""
    sine, cosine = (float(v) for v in state["angle"])
    theta, speed = float(np.arctan2(sine, cosine)), float(state["velocity"][0])
    for torque in np.asarray(state["pending"], np.float64)[:, 0]:
        speed = float(np.clip(speed + (15.0 * np.sin(theta) + 3.0 * torque) / RATE, -FASTEST, FASTEST))
        theta += speed / RATE
    ahead = {"angle": np.array([np.sin(theta), np.cos(theta)]), "velocity": np.array([speed])}
    return pendulum.reference(ahead)


ENVIRONMENTS = (Entry("PendulumNoReset", "pendulum_noreset", make, 200, reference),)
