"""Lever and door: the way to the goal begins in the opposite direction.

A point in the unit square, in whose middle, at x = 0.5, a wall stands; its door, at y between 0.4 and 0.6, is closed
until the point comes within 0.1 of the lever at (0.1, 0.9), and then open for good. The point begins at
x ∈ [0.3, 0.45], y ∈ [0.1, 0.3], and moves by 0.05 of its action from [−1, 1]². Where the wall is in the way, it moves
along it. Within 0.1 of (0.9, 0.5) it earns 1, which ends the episode; it is cut at 80 steps.

From the start the lever is 10 steps away at least, and the goal more than 20: no plan of 12 steps meets a reward. With
``hidden_door`` the door is seen within 0.25 of its middle alone, and memory has to say elsewhere whether it is open.
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
from worldformula.envs.spaces import finite, taken

Floats = NDArray[np.floating]

WALL, REACH, NEAR, SEEN, STEPS = 0.5, 0.05, 0.1, 0.25, 80
GAP = (0.4, 0.6)
LEVER, DOOR, GOAL = np.array([0.1, 0.9]), np.array([0.5, 0.5]), np.array([0.9, 0.5])
LOW, HIGH = np.array([0.3, 0.1]), np.array([0.45, 0.3])
GROUND, STONE, SHUT, UNSEEN = (24, 28, 44), (120, 126, 150), (200, 80, 50), (70, 74, 96)
POINT, HANDLE, TARGET = (255, 176, 46), (220, 90, 200), (64, 200, 120)
RADIUS, THICK = 0.08, 1 / 16  # in the picture: half of two pixels of 32


def moved(position: Floats, open_: NDArray[np.bool_], action: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Points ``[..., 2]`` and whether the door is open ``[...]``, after actions ``[..., 2]``."""
    ahead = np.clip(position + REACH * np.clip(finite(action), -1.0, 1.0), 0.0, 1.0)
    step = ahead - position
    crosses = (position[..., 0] < WALL) != (ahead[..., 0] < WALL)
    share = np.where(crosses, (WALL - position[..., 0]) / np.where(step[..., 0] == 0, 1.0, step[..., 0]), 0.0)
    height = position[..., 1] + share * step[..., 1]
    stopped = crosses & ~(open_ & (height > GAP[0]) & (height < GAP[1]))
    x = np.where(stopped, position[..., 0], ahead[..., 0])
    position = np.stack((x, ahead[..., 1]), -1)
    return position, open_ | (np.linalg.norm(position - LEVER, axis=-1) < NEAR)


class LeverDoor(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The environment of this file.

    Observation: x, y, and the door: 1 open, −1 closed, 0 not seen; float32 ``[3]``. Action: float32 ``[2]``. Events:
    lever, door_pass, goal.

    Args:
        size: edge of the picture in pixels.
        hidden_door: whether the door is seen from near alone.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 20,
        "events": ("lever", "door_pass", "goal"),
    }  # fmt: skip

    def __init__(self, size: int = 32, hidden_door: bool = False, render_mode: str | None = "rgb_array") -> None:
        self.render_mode, self.hidden_door = render_mode, hidden_door
        self.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.position: Floats = LOW
        self.open = np.array(False)
        plain = Canvas(size, GROUND)
        walls = [plain.box(0.0, side * 0.6, THICK, 0.4) for side in (-1, 1)]
        layers = [(wall, STONE) for wall in walls]
        layers += [
            (plain.box(2 * LEVER[0] - 1, 2 * LEVER[1] - 1, 0.1, 0.1), HANDLE),
            (plain.disc(2 * GOAL[0] - 1, 2 * GOAL[1] - 1, 2 * NEAR), TARGET),
        ]
        self._canvas = Canvas(size, plain.frames(layers)[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.open = self.np_random.uniform(LOW, HIGH), np.array(False)
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        left, before = bool(self.position[0] < WALL), bool(self.open)
        self.position, self.open = moved(self.position, self.open, np.asarray(action, np.float64))
        reached = self._reached()
        happened = {
            "lever": bool(self.open) and not before,
            "door_pass": left != bool(self.position[0] < WALL),
            "goal": reached,
        }
        event = [name for name, true in happened.items() if true]
        return self._observation(), float(reached), reached, False, self._info(event)

    def _reached(self) -> bool:
        return bool(np.linalg.norm(self.position - GOAL) < NEAR)

    def _info(self, event: list[str]) -> dict[str, Any]:
        door = np.array(self.open, np.float32)
        state = {"position": self.position.astype(np.float32), "open": door[None]}
        hidden = {} if self._observation()[2] else {"door": door}
        return {"state": state, "hidden": hidden, "event": event, "success": self._reached()}

    def _observation(self) -> NDArray[np.float32]:
        seen = not self.hidden_door or np.linalg.norm(self.position - DOOR) < SEEN
        door = (1.0 if self.open else -1.0) if seen else 0.0
        return np.array([*self.position, door], np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current observation, uint8 ``[size, size, 3]``; y points up."""
        return self._draw(self._observation()[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many observations ``[N, 3]``, uint8 ``[N, size, size, 3]``; a door that is not seen is grey."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        canvas, door = self._canvas, states[:, 2].astype(np.float32)[:, None]
        gap = canvas.box(0.0, 0.0, THICK, GAP[1] - GAP[0])
        point = canvas.disc(2 * states[:, 0] - 1, 2 * states[:, 1] - 1, RADIUS)
        return canvas.frames([(gap * (door < 0), SHUT), (gap * (door == 0), UNSEEN), (point, POINT)])


def reference(state: Mapping[str, Floats]) -> NDArray[np.float32]:
    """To the lever, then to the door's height, through it, and to the goal."""
    position = np.asarray(state["position"], np.float64)
    if not state["open"][0]:
        target = LEVER
    elif position[0] < WALL and not GAP[0] + 0.05 < position[1] < GAP[1] - 0.05:
        target = np.array([min(position[0], WALL - 0.1), DOOR[1]])
    else:
        target = GOAL
    return np.clip((target - position) / REACH, -1.0, 1.0).astype(np.float32)


ENVIRONMENTS = (Entry("LeverDoor", "lever_door", LeverDoor, STEPS, reference),)
