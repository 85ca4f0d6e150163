"""Pendulum swing-up from pixels: the dynamics of Gymnasium's Pendulum-v1, unchanged, with a fast NumPy picture.

Reward −(θ² + 0.1 θ̇² + 0.001 u²), θ = 0 upright, torque u ∈ [−2, 2], 200 steps of 0.05 s, no termination. A random
policy reaches about −1230, the reference controller about −150 (``python -m worldformula.envs.reference`` measures).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken

BACKGROUND, ROD, HUB = (24, 28, 44), (255, 176, 46), (235, 240, 255)
ROD_LENGTH, ROD_RADIUS, HUB_RADIUS = 0.8, 0.11, 0.1


class Pendulum(PendulumEnv):
    """Pendulum-v1 with ``render()`` drawn at ``size`` × ``size`` pixels and the true state in ``info["state"]``.

    As in Gymnasium, θ grows counter-clockwise: at θ = π/2 the rod points to the left.

    Args:
        size: edge of the picture in pixels.
        g: gravity; 10 as in Pendulum-v1.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, size: int = 32, g: float = 10.0, render_mode: str | None = "rgb_array") -> None:
        super().__init__(render_mode=render_mode, g=g)
        self._canvas = Canvas(size, BACKGROUND)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "state": self._named_state()}

    def step(self, u: NDArray[np.floating]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(taken(self.action_space, u))
        return observation, float(reward), terminated, truncated, {**info, "state": self._named_state()}

    def _named_state(self) -> dict[str, NDArray[np.float32]]:
        theta, velocity = self.state
        return {
            "angle": np.array([np.sin(theta), np.cos(theta)], np.float32),
            "velocity": np.array([velocity], np.float32),
        }

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self._draw(self.state[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 2]`` (θ, θ̇), uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        theta, canvas = states[:, 0], self._canvas
        tip_x, tip_y = -ROD_LENGTH * np.sin(theta), ROD_LENGTH * np.cos(theta)
        rod = canvas.rod(0.0, 0.0, tip_x, tip_y, ROD_RADIUS)
        return canvas.frames([(rod, ROD), (canvas.disc(0.0, 0.0, HUB_RADIUS), HUB)])


def reference(state: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """Pump energy until the rod is close to upright, then hold it with a linear controller.

    The energy of the rod is E = θ̇²/6 + g/2 · cos θ (a uniform rod of mass and length 1), g/2 at rest upright.
    """
    sine, cosine = (float(v) for v in state["angle"])
    velocity = float(state["velocity"][0])
    theta = np.arctan2(sine, cosine)
    if cosine > 0.9 and abs(velocity + 3.0 * theta) < 2.0:
        torque = -(10.0 * theta + 2.0 * velocity)
    else:
        missing = 5.0 - (velocity**2 / 6.0 + 5.0 * cosine)
        torque = 2.0 * np.sign(missing) * (np.sign(velocity) or 1.0) if abs(missing) > 0.3 else 0.0
    return np.array([np.clip(torque, -2.0, 2.0)], np.float32)


ENVIRONMENTS = (Entry("Pendulum", "pendulum", Pendulum, 200, reference),)
