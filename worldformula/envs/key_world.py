"""Key worlds: a thing that is carried and not seen decides what can be done; after the MiniHack tasks of THICK.

A figure sees the 5 × 5 tiles around it, north up, through walls, and not what it carries. Arriving at the stairs earns
1 and ends the episode. Maps, x to the right and y down:

    key_corridor      floor at x 1 … length, y 2 and 3; the figure starts at (1, 2), right below the locked door (1, 1),
                      behind which are the stairs (1, 0); the key lies at (length, 3), out of sight from the door.
                      The shortest way has 2·length + 4 steps
    key_room          5 × 5 cells; the lower right 2 × 2 are a closet with the stairs, whose door (3, 4) is locked; the
                      figure starts at (1, 1), the key lies anywhere else
    water_crossing    left bank x 1 … 5, y 1 … 5 with figure and ring at random; water at x 6 and 7; right bank
                      x 8 … 11 with the stairs. Without the ring, which is worn as it is picked up, water blocks
    lava_crossing     the same with lava at x 6 and the right bank from x 7: to enter it without the ring is −0.1 and
                      the end

Actions: north, east, south, west, pick up what lies here, and, where there is a door, apply: the key opens a locked
door to the north, east, south or west. ``info["hidden"]`` holds what the crop does not show: what is carried, and
whether the door is open, while it is out of sight.

Rules of MiniHack (arXiv:2109.13202) and of the tasks in THICK (Gumbsch et al. 2024,
openreview.net/forum?id=TjCDNssXKU); the closet of ``key_room`` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Frames
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.tiles import NOTHING, Mosaic, crop, glyph, way
from worldformula.errors import ConfigError, near

Tiles = NDArray[np.int64]

TILES = ("void", "wall", "floor", "stairs", "key", "locked door", "open door", "ring", "water", "lava")
VOID, WALL, FLOOR, STAIRS, KEY, LOCKED, OPEN, RING, WATER, LAVA = range(len(TILES))
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # north, east, south, west
PICKUP, APPLY = 4, 5
RADIUS, BURNT = 2, -0.1
DOORS = (VOID, WALL, FLOOR, STAIRS, KEY, LOCKED, OPEN)

_DARK, _STONE, _SAND, _GOLD, _WOOD = (14, 16, 24), (88, 92, 112), (196, 186, 160), (236, 180, 40), (126, 78, 44)
_FOAM, _BLUE, _HOT = (150, 200, 255), (40, 100, 200), (255, 210, 80)
GLYPHS = (
    glyph(ground=_DARK),
    glyph(("rod", (-1.0, 0.0, 1.0, 0.0, 0.08), _DARK), ("rod", (0.0, 0.0, 0.0, 1.0, 0.08), _DARK), ground=_STONE),
    glyph(ground=_SAND),
    glyph(*(("box", (0.2 * k, -0.5 + 0.33 * k, 0.7 - 0.2 * k, 0.12), (40, 90, 60)) for k in range(4)), ground=_SAND),
    glyph(
        ("disc", (-0.4, 0.3, 0.42), _GOLD), ("disc", (-0.4, 0.3, 0.16), _SAND),
        ("rod", (-0.15, 0.1, 0.6, -0.6, 0.13), _GOLD), ("rod", (0.35, -0.35, 0.65, -0.1, 0.11), _GOLD), ground=_SAND,
    ),
    glyph(("disc", (0.45, 0.0, 0.2), _GOLD), ("rod", (-0.3, -1.0, -0.3, 1.0, 0.08), _DARK), ground=_WOOD),
    glyph(("box", (-0.8, 0.0, 0.2, 1.0), _WOOD), ("box", (0.8, 0.0, 0.2, 1.0), _WOOD), ground=_SAND),
    glyph(("disc", (0.0, 0.0, 0.6), (190, 70, 200)), ("disc", (0.0, 0.0, 0.32), _SAND), ground=_SAND),
    glyph(("rod", (-0.7, 0.2, 0.2, 0.4, 0.1), _FOAM), ("rod", (-0.2, -0.5, 0.7, -0.3, 0.1), _FOAM), ground=_BLUE),
    glyph(("disc", (-0.4, 0.3, 0.3), _HOT), ("disc", (0.4, -0.4, 0.25), _HOT), ground=(214, 62, 24)),
    glyph(("rod", (0.0, -0.45, 0.0, -0.2, 0.55), (40, 70, 220)), ("disc", (0.0, 0.4, 0.42), (250, 214, 176))),
)  # fmt: skip
FIGURE = len(TILES)


@dataclass(frozen=True)
class Map:
    """Where an episode takes place: its tiles ``[H, W]``, with the thing to carry, and the figure's x and y."""

    tiles: Tiles
    figure: tuple[int, int]


def corridor(_: np.random.Generator, length: int) -> Map:
    """See the head of this file."""
    tiles = np.full((5, length + 2), WALL)
    tiles[2:4, 1:-1] = FLOOR
    tiles[1, 1], tiles[0, 1], tiles[3, length] = LOCKED, STAIRS, KEY
    return Map(tiles, (1, 2))


def closet(rng: np.random.Generator, _: int) -> Map:
    """See the head of this file."""
    tiles = np.full((7, 7), WALL)
    tiles[1:6, 1:3], tiles[1:3, 3:6], tiles[4:6, 4:6] = FLOOR, FLOOR, FLOOR
    tiles[4, 3], tiles[5, 5] = LOCKED, STAIRS
    cells = [(x, y) for y in range(1, 6) for x in range(1, 6) if (x < 3 or y < 3) and (x, y) != (1, 1)]
    x, y = cells[rng.integers(len(cells))]
    tiles[y, x] = KEY
    return Map(tiles, (1, 1))


def banks(rng: np.random.Generator, between: int) -> Map:
    """Water or lava between two banks."""
    tiles = np.full((7, 13), WALL)
    tiles[1:6, 1:12], tiles[1:6, 6 : 8 if between == WATER else 7] = FLOOR, between
    figure, ring = rng.choice(25, 2, replace=False)
    wide = 4 if between == WATER else 5
    stairs = int(rng.integers(5 * wide))
    tiles[1 + ring // 5, 1 + ring % 5] = RING
    tiles[1 + stairs // wide, 12 - wide + stairs % wide] = STAIRS
    return Map(tiles, (1 + int(figure) % 5, 1 + int(figure) // 5))


@dataclass(frozen=True)
class Task:
    """How a map is drawn, which tiles are seen in it, and what is carried."""

    draw: Callable[[np.random.Generator, int], Map]
    seen: tuple[int, ...]
    thing: int
    about: int = 0


TASKS = {
    "corridor": Task(corridor, DOORS, KEY),
    "room": Task(closet, DOORS, KEY),
    "water": Task(banks, (VOID, WALL, FLOOR, STAIRS, RING, WATER), RING, WATER),
    "lava": Task(banks, (VOID, WALL, FLOOR, STAIRS, RING, LAVA), RING, LAVA),
}


class KeyWorld(gymnasium.Env[Tiles, np.int64]):
    """The environment of this file.

    Observation: the crop, whole numbers ``[5, 5]`` that count the tiles of the task (`Task.seen`) from 0. Action:
    north, east, south, west, pick up, apply. ``info["state"]``: the figure's x and y, ``map`` ``[H, W]`` in numbers of
    `TILES`, and whether the thing is carried. Events: pickup_key, pickup_ring, door_open, die, exit.

    Args:
        size: edge of the picture in pixels.
        task: "corridor", "room", "water" or "lava".
        length: of the corridor.
        idle: reward of a step in which nothing could be done; MiniHack gives −0.01.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 8,
        "events": ("pickup_key", "pickup_ring", "door_open", "exit", "die"),
    }  # fmt: skip

    def __init__(
        self, size: int = 32, task: str = "corridor", length: int = 4, idle: float = 0.0,
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        if task not in TASKS:
            raise ConfigError(f"expected task as one of {', '.join(TASKS)}, got {task!r}.{near(task, TASKS)}")
        if length < 2:
            raise ConfigError(f"expected a corridor of at least 2 tiles, got length={length}")
        self.render_mode, self.task, self.length, self.idle = render_mode, TASKS[task], length, idle
        classes = len(self.task.seen)
        self.observation_space = spaces.MultiDiscrete(np.full((5, 5), classes))
        self.action_space = spaces.Discrete(6 if LOCKED in self.task.seen else 5)
        self._number = np.full(len(TILES), NOTHING)
        self._number[list(self.task.seen)] = np.arange(classes)
        self._mosaic = Mosaic(GLYPHS, size)
        self.tiles: Tiles = np.zeros((1, 1), np.int64)
        self.x, self.y, self.carried = 0, 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        found = self.task.draw(self.np_random, self.task.about or self.length)
        self.tiles, (self.x, self.y), self.carried = found.tiles, found.figure, False
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        before, event = (self.x, self.y), list[str]()
        if action < PICKUP:
            event = self._move(*MOVES[int(action)])
        elif action == PICKUP and self.tiles[self.y, self.x] == self.task.thing:
            self.tiles[self.y, self.x], self.carried = FLOOR, True
            event = [f"pickup_{TILES[self.task.thing]}"]
        elif action == APPLY and self.carried:
            event = self._unlock()
        reward = {"exit": 1.0, "die": BURNT}.get(event[-1] if event else "", 0.0)
        if not event and before == (self.x, self.y):
            reward = self.idle
        return self._observation(), reward, bool(event) and event[-1] in ("exit", "die"), False, self._info(event)

    def _move(self, dx: int, dy: int) -> list[str]:
        x, y = self.x + dx, self.y + dy
        inside = 0 <= y < self.tiles.shape[0] and 0 <= x < self.tiles.shape[1]
        tile = int(self.tiles[y, x]) if inside else VOID
        if tile in (VOID, WALL, LOCKED) or (tile == WATER and not self.carried):
            return []
        self.x, self.y = x, y
        if tile == LAVA and not self.carried:
            return ["die"]
        return ["exit"] if tile == STAIRS else []

    def _unlock(self) -> list[str]:
        for dx, dy in MOVES:
            if self.tiles[self.y + dy, self.x + dx] == LOCKED:
                self.tiles[self.y + dy, self.x + dx] = OPEN
                return ["door_open"]
        return []

    @property
    def crop(self) -> Tiles:
        """The 5 × 5 tiles around the figure, in numbers of `TILES`."""
        return crop(self.tiles, self.x, self.y, RADIUS, VOID)

    def _info(self, event: list[str]) -> dict[str, Any]:
        state = {"figure": (self.x, self.y), "map": self.tiles, "carried": (self.carried,)}
        hidden = {TILES[self.task.thing]: np.array(self.carried, np.float32)}
        if LOCKED in self.task.seen and not np.isin(self.crop, (LOCKED, OPEN)).any():
            hidden["door"] = np.array(bool((self.tiles == OPEN).any()), np.float32)
        named = {key: np.array(value, np.float32) for key, value in state.items()}
        return {"state": named, "hidden": hidden, "event": event, "success": "exit" in event}

    def _observation(self) -> Tiles:
        return self._number[self.crop]

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the crop, the figure in its middle, uint8 ``[size, size, 3]``."""
        return self.batch_render(self._observation())

    def batch_render(self, crops: ArrayLike) -> Frames:
        """Pictures of many crops ``[…, 5, 5]``, as observed, uint8 ``[…, size, size, 3]``."""
        tiles = np.asarray(self.task.seen)[np.asarray(crops, np.int64)]
        figure = np.full(tiles.shape, NOTHING)
        figure[..., RADIUS, RADIUS] = FIGURE
        return self._mosaic(tiles, figure)


def reference(state: Mapping[str, NDArray[np.floating]]) -> int:
    """The shortest way to the thing, with it to the door, and through it, or over the water, to the stairs."""
    tiles, carried = state["map"].astype(int), bool(state["carried"][0])
    at = int(state["figure"][0]), int(state["figure"][1])
    thing = np.isin(tiles, (KEY, RING))
    if thing[at[1], at[0]]:
        return PICKUP
    ends = thing if thing.any() else np.isin(tiles, LOCKED) if (tiles == LOCKED).any() else np.isin(tiles, STAIRS)
    open_ = np.isin(tiles, (FLOOR, OPEN, KEY, RING, *((WATER, LAVA) if carried else ())))
    path = way(open_, at, ends)
    if len(path) == 1 and tiles[path[0][1], path[0][0]] == LOCKED:
        return APPLY
    x, y = path[0]
    return MOVES.index((x - at[0], y - at[1]))


ENVIRONMENTS = (
    Entry("KeyCorridor", "key_corridor", KeyWorld, 200, reference, {"task": "corridor"}),
    Entry("KeyRoom", "key_room", KeyWorld, 200, reference, {"task": "room"}),
    Entry("WaterCrossing", "water_crossing", KeyWorld, 200, reference, {"task": "water"}),
    Entry("LavaCrossing", "lava_crossing", KeyWorld, 200, reference, {"task": "lava"}),
)
