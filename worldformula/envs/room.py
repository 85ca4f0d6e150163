"""Room: a point in an empty room, which random steps hardly get to know.

A point at (x, y) ∈ [−1, 1]² begins at (−0.8, −0.8) and moves by 0.05 of its action, a number from −1 to 1 for each
axis; walls stop it. An episode lasts 60 steps. Each that arrives where both x and y are above 0.44 earns 1, so that
going straight there earns 36. With ``goal=False`` no place is worth anything: one can explore first and be told the
task afterwards.

Random steps have a deviation of 0.05/√3 along each axis, and 60 of them of 0.22: they stay in the corner. How much of
the room somebody has been to is counted in 10 × 10 squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken

START, REACH, GOAL, STEPS, SQUARES = -0.8, 0.05, 0.44, 60, 10
FLOOR, FIGURE, RADIUS = (24, 28, 44), (255, 176, 64), 0.1


def square(position: ArrayLike) -> NDArray[np.int64]:
    """The number of the square, from 0 to 99, that positions ``[..., 2]`` lie in."""
    x, y = np.moveaxis(np.clip(np.floor((np.asarray(position) + 1) * SQUARES / 2), 0, SQUARES - 1), -1, 0)
    return (SQUARES * y + x).astype(np.int64)


def rewarded(position: ArrayLike) -> NDArray[np.bool_]:
    """Where arriving earns 1, of positions ``[..., 2]``."""
    return np.all(np.asarray(position) > GOAL, -1)  # type: ignore[no-any-return]


class Room(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The environment of this file.

    Observation: x and y, float32 ``[2]``. Action: float32 ``[2]`` in [−1, 1]; what is beyond is clipped.

    Args:
        size: edge of the picture in pixels.
        goal: whether a place earns something.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, size: int = 32, goal: bool = True, render_mode: str | None = "rgb_array") -> None:
        self.render_mode, self.goal = render_mode, goal
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.position = np.full(2, START)
        self._canvas = Canvas(size, FLOOR)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = np.full(2, START)
        return self._observation(), {"state": {"position": self._observation()}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        moved = self.position + REACH * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self.position = np.clip(moved, -1.0, 1.0)
        reward = float(self.goal and bool(rewarded(self.position)))
        return self._observation(), reward, False, False, {"state": {"position": self._observation()}}

    def _observation(self) -> NDArray[np.float32]:
        return self.position.astype(np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``; y points up."""
        return self._draw(self.position[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 2]``, as observed, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        return self._canvas.frames([(self._canvas.disc(states[:, 0], states[:, 1], RADIUS), FIGURE)])


def reference(state: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """Straight to the corner that earns something, and to stay there."""
    return np.clip((0.7 - state["position"]) / REACH, -1.0, 1.0).astype(np.float32)


ENVIRONMENTS = (Entry("Room", "room", Room, STEPS, reference),)
