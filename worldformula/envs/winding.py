"""Winding: a corridor one cell wide that winds through a square, which random steps hardly get along.

Nine cells to the right, one down, nine to the left, one down, and so on: 49 cells in five rows. An episode begins in
the first cell and lasts 60 steps, each to a neighbouring cell, or to none where there is a wall. A step costs and earns
nothing but in the last row, where each earns 1: who goes straight there earns 21. With ``goal=False`` no place is worth
anything, so that one can explore first and be told the task afterwards.

A walk of 60 random steps ends where one of about eight steps straight on would.
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

COLUMNS, ROWS, STEPS = 9, 5, 60
MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up
WALL, FLOOR, FIGURE = (24, 28, 44), (96, 104, 128), (255, 176, 64)
HIGH = 2 * ROWS - 1  # lines of cells, those between two rows included


def _path() -> list[tuple[int, int]]:
    """The cells from the first to the last, column and line."""
    found: list[tuple[int, int]] = []
    for row in range(ROWS):
        cells = [(column, 2 * row) for column in range(COLUMNS)]
        found += cells[::-1] if row % 2 else cells
        if row < ROWS - 1:
            found.append((found[-1][0], 2 * row + 1))
    return found


PATH = _path()
PLACE = {cell: number for number, cell in enumerate(PATH)}
LAST_ROW = len(PATH) - COLUMNS  # the number of its first cell


def centre(cell: ArrayLike) -> NDArray[np.float32]:
    """Column and line ``[..., 2]`` as x to the right and y up, from −1 to 1."""
    column, line = np.moveaxis(np.asarray(cell, np.float32), -1, 0)
    return np.stack((2 * (column + 0.5) / COLUMNS - 1, 1 - 2 * (line + 0.5) / HIGH), -1).astype(np.float32)


def number(position: ArrayLike) -> NDArray[np.int64]:
    """The number along the corridor of positions ``[..., 2]`` as observed."""
    x, y = np.moveaxis(np.asarray(position, np.float64), -1, 0)
    column, line = np.rint((x + 1) * COLUMNS / 2 - 0.5), np.rint((1 - y) * HIGH / 2 - 0.5)
    places = [PLACE[int(c), int(r)] for c, r in zip(column.flat, line.flat, strict=True)]
    return np.array(places, np.int64).reshape(column.shape)


class Winding(gymnasium.Env[NDArray[np.float32], np.int64]):
    """The environment of this file.

    Observation: x and y of the cell, float32 ``[2]``. Action: 0 right, 1 down, 2 left, 3 up.

    Args:
        size: edge of the picture in pixels.
        goal: whether steps in the last row earn 1.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, size: int = 32, goal: bool = True, render_mode: str | None = "rgb_array") -> None:
        self.render_mode, self.goal = render_mode, goal
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        self.cell = PATH[0]
        cells = Canvas(size, WALL)
        boxes = [(cells.box(*centre(cell)[:, None], 1 / COLUMNS, 1 / HIGH), FLOOR) for cell in PATH]
        self._canvas = Canvas(size, cells.frames(boxes)[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = PATH[0]
        return centre(self.cell), {"state": self._named_state()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        across, down = MOVES[int(action)]
        ahead = (self.cell[0] + across, self.cell[1] + down)
        self.cell = ahead if ahead in PLACE else self.cell
        reward = float(self.goal and PLACE[self.cell] >= LAST_ROW)
        return centre(self.cell), reward, False, False, {"state": self._named_state()}

    def _named_state(self) -> dict[str, NDArray[np.float32]]:
        return {"position": centre(self.cell), "place": np.array([PLACE[self.cell]], np.float32)}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self._draw(centre(self.cell)[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 2]``, as observed, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        figure = self._canvas.disc(states[:, 0], states[:, 1], 1 / max(COLUMNS, HIGH))
        return self._canvas.frames([(figure, FIGURE)])


def reference(state: Mapping[str, NDArray[np.floating]]) -> int:
    """A step towards the end of the corridor; in the last row to and fro."""
    place = int(state["place"][0])
    ahead, here = PATH[place + 1 if place < len(PATH) - 1 else place - 1], PATH[place]
    return MOVES.index((ahead[0] - here[0], ahead[1] - here[1]))


ENVIRONMENTS = (Entry("Winding", "winding", Winding, STEPS, reference),)
