"""Cart-poles from pixels: Gymnasium's CartPole-v1, a swing-up, and a continuous balancing task.

=================== ============ ============================== ==================================== ===============
alias               actions      start                          reward                               end
=================== ============ ============================== ==================================== ===============
cartpole            left, right  upright (as CartPole-v1)       1 per step                           falls; 500 steps
cartpole_swingup    [−1, 1]      hanging, θ = π + N(0, 0.05)    (1+cos θ)/2 · (1+e^{−x²})/2          250 steps
cartpole_balance    [−1, 1]      upright, all four N(0, 0.05)   as the swing-up                      250 steps
=================== ============ ============================== ==================================== ===============

The two continuous tasks share one model: cart 1 kg, pole 0.1 kg, half-length 0.5 m, g = 9.8, force 10·a, two
semi-implicit Euler steps of 0.02 s per action, walls at x = ±2.4 that stop the cart; they never terminate.
``cartpole_balance`` follows the spirit of the balance task of dm_control (dense reward, no termination, so a fallen
pole may be swung up again), not its numbers. θ = 0 is upright; the pole leans to the right at positive θ.

The picture is not to scale, on purpose: the pole is drawn long enough to read its angle at 32 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken

TRACK = 2.4  # the cart's centre stays within ± this many metres
BACKGROUND, RAIL, CART, POLE, AXLE = (24, 28, 44), (96, 104, 128), (64, 160, 255), (255, 176, 46), (235, 240, 255)


@dataclass(frozen=True)
class View:
    """Height of the rail, length of the pole, end of the track: in units of half the picture."""

    rail: float
    pole: float
    track: float


BALANCE = View(rail=-0.62, pole=1.35, track=0.72)  # the pole never falls far: a long one shows small angles
SWING = View(rail=0.0, pole=0.68, track=0.5)  # the pole turns all the way round


class Painter:
    """Draws cart-pole states ``[N, 4]`` (x, ẋ, θ, θ̇); only x and θ are visible."""

    def __init__(self, size: int, view: View) -> None:
        self.view = view
        plain = Canvas(size, BACKGROUND)
        layers = [(plain.rod(-view.track, view.rail, view.track, view.rail, 0.03), RAIL)]
        layers += [(plain.box(end * view.track, view.rail, 0.04, 0.1), RAIL) for end in (-1.0, 1.0)]
        self.canvas = Canvas(size, plain.frames(layers)[0])

    def __call__(self, states: NDArray[np.floating]) -> Frames:
        view, canvas = self.view, self.canvas
        x, theta = states[:, 0] * (view.track / TRACK), states[:, 2]
        tip_x, tip_y = x + view.pole * np.sin(theta), view.rail + view.pole * np.cos(theta)
        cart = canvas.box(x, view.rail, 0.2, 0.11)
        pole = canvas.rod(x, view.rail, tip_x, tip_y, 0.075)
        return canvas.frames([(cart, CART), (pole, POLE), (canvas.disc(x, view.rail, 0.07), AXLE)])


def named_state(state: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """The state (x, ẋ, θ, θ̇) as ``info["state"]`` shows it: the angle as sine and cosine."""
    x, x_velocity, theta, velocity = np.asarray(state, np.float32)
    return {
        "position": np.array([x], np.float32),
        "angle": np.array([np.sin(theta), np.cos(theta)], np.float32),
        "velocity": np.array([x_velocity, velocity], np.float32),
    }


class CartPole(CartPoleEnv):
    """CartPole-v1 with ``render()`` drawn at ``size`` × ``size`` pixels and the true state in ``info["state"]``."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, size: int = 32, render_mode: str | None = "rgb_array") -> None:
        super().__init__(render_mode=render_mode)
        self._painter = Painter(size, BALANCE)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "state": named_state(np.asarray(self.state))}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(taken(self.action_space, action))
        return observation, float(reward), terminated, truncated, {**info, "state": named_state(np.asarray(self.state))}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self._painter(np.asarray(self.state)[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 4]``, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._painter, states)


class ContinuousCartPole(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The model of ``cartpole_swingup`` and ``cartpole_balance``.

    Observation: (x, ẋ, cos θ, sin θ, θ̇), float32. Action: a ∈ [−1, 1], the force on the cart is 10·a newton.

    Args:
        size: edge of the picture in pixels.
        start: mean angle of the start, π hanging or 0 upright.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}
    CART_MASS, POLE_MASS, HALF_LENGTH, GRAVITY, FORCE = 1.0, 0.1, 0.5, 9.8, 10.0
    DT, SUBSTEPS, START_SPREAD = 0.02, 2, 0.05

    def __init__(self, size: int = 32, start: float = np.pi, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode
        self.start = start
        high = np.array([TRACK, np.inf, 1.0, 1.0, np.inf], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.state = np.array([0.0, 0.0, start, 0.0])
        self._painter = Painter(size, SWING)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.normal(0.0, self.START_SPREAD, 4) + np.array([0.0, 0.0, self.start, 0.0])
        return self._observation(), {"state": named_state(self.state)}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        force = self.FORCE * float(np.clip(taken(self.action_space, action)[0], -1.0, 1.0))
        for _ in range(self.SUBSTEPS):
            self.state = self._euler(self.state, force)
        x, _, theta, _ = self.state
        reward = 0.25 * (1.0 + np.cos(theta)) * (1.0 + np.exp(-(x**2)))
        return self._observation(), float(reward), False, False, {"state": named_state(self.state)}

    def _euler(self, state: NDArray[np.floating], force: float) -> NDArray[np.floating]:
        """One Euler step of the cart-pole equations (Barto, Sutton and Anderson 1983, without friction).

        Velocities first, then positions with the new velocities: the explicit order would pump energy into the pole,
        so that it swung up by itself.
        """
        x, x_velocity, theta, velocity = state
        sine, cosine = np.sin(theta), np.cos(theta)
        total, moment = self.CART_MASS + self.POLE_MASS, self.POLE_MASS * self.HALF_LENGTH
        push = (force + moment * velocity**2 * sine) / total
        inertia = self.HALF_LENGTH * (4.0 / 3.0 - self.POLE_MASS * cosine**2 / total)
        acceleration = (self.GRAVITY * sine - cosine * push) / inertia
        x_acceleration = push - moment * acceleration * cosine / total
        x_velocity += self.DT * x_acceleration
        velocity += self.DT * acceleration
        x += self.DT * x_velocity
        if abs(x) > TRACK:
            x, x_velocity = np.sign(x) * TRACK, 0.0
        return np.array([x, x_velocity, theta + self.DT * velocity, velocity])

    def _observation(self) -> NDArray[np.float32]:
        x, x_velocity, theta, velocity = self.state
        return np.array([x, x_velocity, np.cos(theta), np.sin(theta), velocity], np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self._painter(self.state[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 4]``, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._painter, states)


def _unpack(state: Mapping[str, NDArray[np.floating]]) -> tuple[float, float, float, float]:
    sine, cosine = (float(v) for v in state["angle"])
    x_velocity, velocity = (float(v) for v in state["velocity"])
    return float(state["position"][0]), x_velocity, float(np.arctan2(sine, cosine)), velocity


def _hold(state: Mapping[str, NDArray[np.floating]]) -> float:
    """The linear-quadratic regulator of the upright cart-pole, as a force in newton (towards +x)."""
    x, x_velocity, theta, velocity = _unpack(state)
    return 1.0 * x + 2.4 * x_velocity + 32.0 * theta + 8.0 * velocity


def reference_discrete(state: Mapping[str, NDArray[np.floating]]) -> int:
    """Push to the side on which the regulator asks for force."""
    return int(_hold(state) > 0.0)


def reference_continuous(state: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """Pump energy into the pole until it passes close to upright, then hold it with the regulator."""
    x, x_velocity, theta, velocity = _unpack(state)
    if np.cos(theta) > 0.3 and abs(velocity + 2.6 * theta) < 1.2:
        return np.array([np.clip(_hold(state) / 10.0, -1.0, 1.0)], np.float32)
    # Energy of the pole, zero at rest upright (uniform rod: moment of inertia 4/3 m l²).
    energy = 0.1 * 0.5 * (0.5 * 4.0 / 3.0 * 0.5 * velocity**2 + 9.8 * (np.cos(theta) - 1.0))
    pump = 20.0 * energy * velocity * np.cos(theta)
    return np.array([np.clip(pump - 0.05 * x - 0.7 * x_velocity, -1.0, 1.0)], np.float32)


ENVIRONMENTS = (
    Entry("CartPole", "cartpole", CartPole, 500, reference_discrete),
    Entry("CartPoleSwingup", "cartpole_swingup", ContinuousCartPole, 250, reference_continuous, {"start": np.pi}),
    Entry("CartPoleBalance", "cartpole_balance", ContinuousCartPole, 250, reference_continuous, {"start": 0.0}),
)
