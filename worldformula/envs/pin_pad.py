"""Visual PinPad: pads have to be stepped on in their order, 1 to n.

A black figure walks on 16 × 14 cells with walls around, x to the right and y down, where coloured blocks are the pads.
Standing on a pad that is not the last one of the history adds it to the history, which holds the last n. A history of
1, 2, … n earns 10 and begins a countdown of 10 steps, in which the ground is green and nothing more is earned; as it
ends, the figure is put on any cell that is no wall, the history is emptied, and the step goes on from there. Order of a
step: countdown, move, pad, reward. It never ends and is cut at 2 000 steps.

The lowest two rows of the picture show the history: no memory is needed here. Rules of the environment of Director
(Hafner et al. 2022, arXiv:2206.04114) with the boards of the authors of THICK.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import LARGEST, SMALLEST, Frames
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.tiles import way
from worldformula.errors import ConfigError, near

Ids = NDArray[np.int64]

WIDTH, HEIGHT, ROWS, WALL = 16, 14, 16, -1
REWARD, WAIT, STEPS = 10.0, 10, 2000
MOVES = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # none, down, up, right, left
_SEVEN = (
    ("1", 1, 3, 1, 2), ("1", 1, 2, 3, 3), ("4", 12, 14, 1, 2), ("4", 13, 14, 3, 3), ("3", 1, 2, 5, 8),
    ("5", 13, 14, 5, 8), ("6", 1, 2, 10, 10), ("6", 1, 3, 11, 12), ("2", 13, 14, 10, 10), ("2", 12, 14, 11, 12),
    ("7", 6, 9, 11, 12),
)  # fmt: skip
BOARDS = {
    "three": (("1", 1, 4, 1, 4), ("3", 11, 14, 1, 4), ("2", 6, 9, 9, 12)),
    "four": (("1", 1, 4, 1, 4), ("4", 11, 14, 1, 4), ("3", 1, 4, 9, 12), ("2", 11, 14, 9, 12)),
    "five": (("1", 1, 3, 2, 5), ("4", 11, 14, 1, 3), ("5", 12, 14, 5, 8), ("3", 1, 3, 8, 11), ("2", 11, 14, 10, 12)),
    "six": (
        ("1", 1, 3, 1, 3), ("5", 12, 14, 1, 3), ("3", 1, 2, 5, 8), ("6", 13, 14, 5, 8), ("4", 1, 3, 10, 12),
        ("2", 12, 14, 10, 12),
    ),
    "seven": _SEVEN,
    "eight": (*_SEVEN, ("8", 6, 9, 1, 2)),
}  # fmt: skip
"""Pads as blocks: number, x from and to, y from and to."""

COLOURS = np.array(
    ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (128, 0, 128), (0, 128, 128))
)
WHITE, GREEN, GREY, BLACK, TINT = (255, 255, 255), (223, 255, 223), (192, 192, 192), (0, 0, 0), 0.1


@functools.cache
def board(name: str) -> Ids:
    """A board ``[14, 16]``: −1 walls, 0 ground, k the pad k.

    Raises:
        ConfigError: no such board.
    """
    if name not in BOARDS:
        raise ConfigError(f"expected pads as one of {', '.join(BOARDS)}, got {name!r}.{near(name, BOARDS)}")
    cells = np.zeros((HEIGHT, WIDTH), np.int64)
    cells[[0, -1]], cells[:, [0, -1]] = WALL, WALL
    for number, left, right, top, low in BOARDS[name]:
        cells[top : low + 1, left : right + 1] = int(number)
    cells.setflags(write=False)
    return cells


class PinPad(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """The environment of this file.

    Observation: the picture, uint8 ``[size, size, 3]``. Action: none, down, up, right, left. ``info["state"]``: x and
    y, the board ``[14, 16]``, the history padded with zeros ``[n]``, and the countdown. Events: pad_1 …,
    sequence_done, respawn. ``info["success"]``: whether the history is complete now.

    Args:
        size: edge of the picture in pixels; 64 has 4 for each cell.
        pads: "three" to "eight".
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 8,
        "events": (*(f"pad_{i}" for i in range(1, 9)), "sequence_done", "respawn"),
    }  # fmt: skip

    def __init__(self, size: int = 32, pads: str = "three", render_mode: str | None = "rgb_array") -> None:
        if not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
            raise ConfigError(f"expected a picture size between {SMALLEST} and {LARGEST} pixels, got {size!r}")
        self.render_mode, self.size, self.board = render_mode, size, board(pads)
        self.count = int(self.board.max())
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(5)
        self.x, self.y, self.countdown = 1, 1, 0
        self.history: deque[int] = deque(maxlen=self.count)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._begin()
        return self.render(), self._info([])

    def _begin(self) -> None:
        cells = np.argwhere(self.board != WALL)
        self.y, self.x = map(int, cells[self.np_random.integers(len(cells))])
        self.history.clear()
        self.countdown = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        event, reward = list[str](), 0.0
        if self.countdown:
            self.countdown -= 1
            if not self.countdown:
                self._begin()
                event.append("respawn")
        dx, dy = MOVES[int(action)]
        if self.board[self.y + dy, self.x + dx] != WALL:
            self.x, self.y = self.x + dx, self.y + dy
        pad = int(self.board[self.y, self.x])
        if pad and (not self.history or self.history[-1] != pad):
            self.history.append(pad)
            event.append(f"pad_{pad}")
        if self._done() and not self.countdown:
            reward, self.countdown = REWARD, WAIT
            event.append("sequence_done")
        return self.render(), reward, False, False, self._info(event)

    def _done(self) -> bool:
        return list(self.history) == list(range(1, self.count + 1))

    def _info(self, event: list[str]) -> dict[str, Any]:
        entries = np.zeros(self.count)
        entries[: len(self.history)] = self.history
        numbers = {"figure": (self.x, self.y), "board": self.board, "history": entries, "countdown": (self.countdown,)}
        state = {key: np.array(value, np.float32) for key, value in numbers.items()}
        return {"state": state, "hidden": {}, "event": event, "success": self._done()}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        entries = np.zeros((1, self.count))
        entries[0, : len(self.history)] = self.history
        return self.batch_render(np.concatenate(([[self.x, self.y, self.countdown]], entries), 1))[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 3 + n]``: x, y, countdown, history; uint8 ``[N, size, size, 3]``."""
        rows = np.asarray(states, np.int64)
        cells = np.empty((len(rows), ROWS, WIDTH, 3))
        cells[:] = np.where(rows[:, 2, None] > 0, GREEN, WHITE)[:, None, None]
        ground, each = cells[:, :HEIGHT], np.arange(len(rows))
        on = self.board[rows[:, 1], rows[:, 0]]
        for pad in range(1, self.count + 1):
            share = np.where(on == pad, 1.0, TINT)[:, None, None]
            mine = self.board == pad
            ground[:, mine] = (1 - share) * ground[:, mine] + share * COLOURS[pad - 1]
        ground[:, self.board == WALL] = GREY
        cells[:, HEIGHT:] = GREY
        cells[each, rows[:, 1], rows[:, 0]] = BLACK
        for place in range(self.count):
            entry = rows[:, 3 + place]
            cells[entry > 0, HEIGHT, 2 * place + 1] = COLOURS[entry[entry > 0] - 1]
        at = ((np.arange(self.size) + 0.5) * ROWS / self.size).astype(int)
        return np.ascontiguousarray(cells.astype(np.uint8)[:, at[:, None], at])


def wanted(history: NDArray[np.floating]) -> int:
    """The pad to step on next: one more than the longest 1, 2, … that the history ends in."""
    entries = [int(k) for k in history if k]
    known = next(n for n in range(len(entries), -1, -1) if entries[len(entries) - n :] == list(range(1, n + 1)))
    return known % len(history) + 1


@functools.lru_cache(4096)
def _steps(cells: bytes, x: int, y: int, pad: int) -> int:
    """The first move of a shortest way to a pad, over no other one; the own pad may be left."""
    layout = np.frombuffer(cells, np.int64).reshape(HEIGHT, WIDTH)
    on = layout[y, x]
    path = way((layout == 0) | (layout == on), (x, y), layout == pad)
    return MOVES.index((path[0][0] - x, path[0][1] - y)) if path else 0


def reference(state: Mapping[str, NDArray[np.floating]]) -> int:
    """The shortest way to the next pad of the sequence that crosses no other."""
    x, y = (int(k) for k in state["figure"])
    return _steps(state["board"].astype(np.int64).tobytes(), x, y, wanted(state["history"]))


ENVIRONMENTS = tuple(
    Entry(f"PinPad{name.capitalize()}", f"pin_pad_{name}", PinPad, STEPS, reference, {"pads": name}) for name in BOARDS
)
