"""Dodge: balls fly at a figure on the floor, which steps aside; in the manner of VizDoom's TakeCover.

The figure stands at x ∈ [0.05, 0.95] and steps 0.05 to the left, not at all, or to the right. In every step, with
probability 0.15, a ball appears at the top, x uniform on [0.05, 0.95], and flies straight to x_figure + N(0, 0.06²) on
the floor, which it reaches in 25 steps. Height y runs from 0 at the top to 1 on the floor; the figure is hit where
abs(x_ball − x_figure) < 0.08 at 0.9 ≤ y ≤ 1. Order of a step: figure, balls, hit, new ball. Reward 1 per step; a
hit ends the episode, which is cut at 300 steps.

One picture does not show where the balls fly: that takes two, or a memory. At most one ball appears in a step, so age
and height name it: of every age 0 … 24, the state holds whether there is a ball, where it is and where it will land.
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

LEFT, RIGHT, STEP, START = 0.05, 0.95, 0.05, 0.5
FLIGHT, APPEARS, AIM, REACH = 25, 0.15, 0.06, 0.08
LOW = np.array([23, 24, 25])  # ages at which a ball is as low as the figure: 0.9 ≤ age / 25 ≤ 1
BACKGROUND, BALL, FIGURE = (24, 28, 44), (255, 96, 64), (64, 160, 255)
THERE, NOW, LANDS = range(3)  # of a ball: is there one of this age, its x now, the x where it lands; else zeros


AFTER = np.clip(np.arange(19) + np.array([[0], [-1], [1]]), 0, 18)  # place after staying, left, right: [3, 19]
STEPS = np.array([0.0, 0.001, 0.001])[:, None]  # what a step costs the reference


class Dodge(gymnasium.Env[NDArray[np.float32], np.int64]):
    """The environment of this file.

    Observation: x of the figure and the state of the balls in order of age, float32 ``[76]``. Action: 0 left, 1 stay,
    2 right.

    Args:
        size: edge of the picture in pixels.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, size: int = 32, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (1 + 3 * FLIGHT,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.figure, self.balls = START, np.zeros((FLIGHT, 3))
        self._canvas = Canvas(size, BACKGROUND)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.figure, self.balls = START, np.zeros((FLIGHT, 3))
        return self._observation(), {"state": self._named_state()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        self.figure = float(np.clip(self.figure + STEP * (int(action) - 1), LEFT, RIGHT))
        hit = self._fly()
        if self.np_random.random() < APPEARS:
            begins, lands = self.np_random.uniform(LEFT, RIGHT), self.figure + self.np_random.normal(0.0, AIM)
            self.balls[0] = 1.0, begins, lands
        return self._observation(), 1.0, hit, False, {"state": self._named_state()}

    def _fly(self) -> bool:
        """Moves the balls on by a step; whether one hits the figure."""
        left = (FLIGHT - np.arange(FLIGHT))[:, None]  # steps to the floor
        self.balls[:, NOW:LANDS] += (self.balls[:, LANDS:] - self.balls[:, NOW:LANDS]) / left
        low = self.balls[LOW - 1]  # as low as the figure now
        hit = (low[:, THERE] > 0) & (np.abs(low[:, NOW] - self.figure) < REACH)
        self.balls = np.concatenate((np.zeros((1, 3)), self.balls[:-1]))
        return bool(hit.any())

    def _named_state(self) -> dict[str, NDArray[np.float32]]:
        return {"position": np.array([self.figure], np.float32), "balls": self.balls.astype(np.float32)}

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate(([self.figure], self.balls.flatten())).astype(np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self._draw(np.concatenate(([self.figure], self.balls.flatten()))[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 76]``, as observed, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        canvas, balls = self._canvas, states[:, 1:].reshape(-1, FLIGHT, 3)
        layers = [(canvas.box(2 * states[:, 0] - 1, -0.9, REACH, 0.1), FIGURE)]
        for age in np.flatnonzero(balls[..., THERE].any(0)):
            x = np.where(balls[:, age, THERE] > 0, 2 * balls[:, age, NOW] - 1, 9.0)  # 9: beyond the edge
            layers.append((canvas.disc(x, 1 - 2 * age / FLIGHT, REACH), BALL))
        return canvas.frames(layers)


def reference(state: Mapping[str, NDArray[np.floating]]) -> int:
    """The first step of the best path through the balls in the air, by dynamic programming over 25 steps and 19 places.

    A hit costs 1000; how near a low ball passes, how far the figure is from the middle, and steps cost a little.
    """
    places, balls = LEFT + STEP * np.arange(19), np.asarray(state["balls"], np.float64)
    cost = np.tile(0.02 * np.abs(places - START), (FLIGHT, 1))  # of a place, one step from now and later
    for age in np.flatnonzero(balls[:, THERE]):
        for steps in LOW[age < LOW] - age:
            x = balls[age, NOW] + steps / (FLIGHT - age) * (balls[age, LANDS] - balls[age, NOW])
            far = np.abs(x - places)
            cost[steps - 1] += 1000.0 * (far < REACH + 1e-6) + np.maximum(0.2 - far, 0.0)
    ahead, found = np.zeros(19), np.zeros((3, 19))
    for here in cost[::-1]:
        found = (here + ahead)[AFTER] + STEPS
        ahead = found.min(0)
    place = round((float(state["position"][0]) - LEFT) / STEP)
    return (1, 0, 2)[int(found[:, place].argmin())]  # of what costs the same, staying


ENVIRONMENTS = (Entry("Dodge", "dodge", Dodge, 300, reference),)
