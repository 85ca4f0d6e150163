"""Rooms with doors, seen from above: a point walks to a goal in another room. Two rooms, or nine in a grid.

A step adds the action, whose length is at most 1, times 2.45 pixels. The way is swept in four parts, and the point
stops at the last free one. It succeeds where it *ends* within 4.5 pixels of the goal; ``info["event"]`` also says when
it first came so near. Reward −(distance to the goal)/(edge of the map) per step.

    two_rooms     65 × 65 pixels, a border of 5; a wall 3 thick at x ∈ [20, 44] with a door of 9 at y ∈ [12, 52];
                  start and goal anywhere in opposite rooms; 200 steps
    rooms_3x3     nine rooms of 30, walls of 3, doors of 9 at the edges of a random spanning tree; the goal lies exactly
                  three doors away; 300 steps

Layout, start and goal are drawn by ``reset(seed)``. x runs to the right and y down, in pixels of the map; walls are
rectangles ``[x0, x1, y0, y1]``. Two-Rooms is the task of PLDM (arXiv:2502.14819), with sizes of the authors' code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import finite, taken
from worldformula.errors import ConfigError

Floats = NDArray[np.floating]

SPEED, SWEEP, NEAR, MARGIN = 2.45, 4, 4.5, 1.0
GROUND, WALL, POINT, GOAL = (24, 28, 44), (120, 126, 150), (255, 176, 46), (64, 200, 120)
RADIUS, THICK = 2.5, 3.0
COLOURS = {"orange": POINT, "blue": (70, 140, 255), "white": (240, 240, 240)}
FACTORS: dict[str, dict[str, Any]] = {
    "colour": {"point": "blue"}, "size": {"radius": 4.0}, "walls": {"thick": 7.0}, "layout": {"layout": "lying"}
}  # fmt: skip
"""Factors of variation of two rooms, each with one value that nothing else of this file has."""


@dataclass(frozen=True)
class Layout:
    """A map of ``edge`` × ``edge`` pixels: its ``walls`` ``[R, 4]``, its ``rooms`` as such rectangles ``[K, 4]``, and
    which rooms a door joins, ``[D, 2]``.
    """

    edge: float
    walls: Floats
    rooms: Floats
    doors: NDArray[np.int64]

    def steps_between(self) -> NDArray[np.int64]:
        """How many doors lie between two rooms, ``[K, K]``."""
        count = len(self.rooms)
        far = np.where(np.eye(count, dtype=bool), 0, count)
        for a, b in self.doors:
            far[a, b] = far[b, a] = 1
        for k in range(count):
            far = np.minimum(far, far[:, k : k + 1] + far[k : k + 1])
        return far


def two_rooms(rng: np.random.Generator, border: float = 5, thick: float = THICK, door: float = 9) -> Layout:
    """Two rooms with a wall between them, whose place and door are drawn."""
    edge, x, y = 65.0, float(rng.integers(20, 45)), float(rng.integers(12, 53))
    low, high = border, edge - border
    left, right = x - thick / 2, x + thick / 2
    walls = [*_frame(edge, border), (left, right, low, y - door / 2), (left, right, y + door / 2, high)]
    rooms = [(low, left, low, high), (right, high, low, high)]
    return Layout(edge, np.array(walls), np.array(rooms), np.array([[0, 1]]))


def lying_rooms(rng: np.random.Generator, border: float = 5, thick: float = THICK, door: float = 9) -> Layout:
    """As `two_rooms`, one above the other: the same draws with x and y exchanged."""
    own = two_rooms(rng, border, thick, door)
    return Layout(own.edge, own.walls[:, [2, 3, 0, 1]], own.rooms[:, [2, 3, 0, 1]], own.doors)


def three_by_three(rng: np.random.Generator, room: float = 30, thick: float = THICK, door: float = 9) -> Layout:
    """Nine rooms, joined by doors at the edges of a spanning tree that is drawn (Kruskal's of a random order)."""
    edge = 3 * room + 4 * thick
    starts = thick + np.arange(3) * (room + thick)
    rooms = [(x, x + room, y, y + room) for y in starts for x in starts]
    beside = [(k, k + 1) for k in range(9) if k % 3 < 2] + [(k, k + 3) for k in range(6)]
    group, doors, walls = list(range(9)), [], list(_frame(edge, thick))
    for a, b in (beside[i] for i in rng.permutation(len(beside))):
        x0, x1, y0, y1 = rooms[a]
        upright = b == a + 1
        low, high = (y0, y1) if upright else (x0, x1)
        wall = (x1, x1 + thick) if upright else (y1, y1 + thick)
        pieces = [(low, high)]
        if group[a] != group[b]:
            doors.append((a, b))
            group = [group[a] if g == group[b] else g for g in group]
            at = rng.uniform(low + door / 2 + MARGIN, high - door / 2 - MARGIN)
            pieces = [(low, at - door / 2), (at + door / 2, high)]
        walls += [(*wall, *piece) if upright else (*piece, *wall) for piece in pieces]
    for x in starts[:2] + room:  # where four walls meet
        walls += [(x, x + thick, y, y + thick) for y in starts[:2] + room]
    return Layout(edge, np.array(walls), np.array(rooms), np.array(doors))


MAPS: dict[str, Callable[..., Layout]] = {"two": two_rooms, "lying": lying_rooms, "nine": three_by_three}


def _known(layout: str) -> str:
    if layout not in MAPS:
        raise ConfigError(f"expected layout as 'two', 'lying' or 'nine', got {layout!r}")
    return layout


def _frame(edge: float, thick: float) -> list[tuple[float, float, float, float]]:
    return [(0, thick, 0, edge), (edge - thick, edge, 0, edge), (0, edge, 0, thick), (0, edge, edge - thick, edge)]


def free(walls: Floats, points: Floats) -> NDArray[np.bool_]:
    """Which points ``[..., 2]`` lie in none of the walls ``[..., R, 4]``."""
    x, y = points[..., :1], points[..., 1:]
    inside = (x >= walls[..., 0]) & (x < walls[..., 1]) & (y >= walls[..., 2]) & (y < walls[..., 3])
    return np.asarray(~inside.any(-1))  # walls that touch leave no gap


def moved(walls: Floats, points: Floats, actions: Floats) -> Floats:
    """Points ``[..., 2]`` after actions ``[..., 2]``, between walls ``[..., R, 4]``."""
    actions = finite(actions)
    length = np.linalg.norm(actions, axis=-1, keepdims=True)
    step = SPEED / SWEEP * actions / np.maximum(length, 1.0)
    going = np.ones(points.shape[:-1], bool)
    for _ in range(SWEEP):
        ahead = points + step
        going = going & free(walls, ahead)
        points = np.where(going[..., None], ahead, points)
    return points


def ways(walls: Floats, edge: float, goal: Floats) -> Floats:
    """Steps of one pixel, up, down and to the sides, to the goal ``[2]`` from the middle of every pixel, ``[y, x]``;
    infinite inside walls. The critic that a planner would wish for.
    """
    count = int(np.ceil(edge))
    middles = np.stack(np.meshgrid(np.arange(count) + 0.5, np.arange(count) + 0.5), -1)
    open_ = free(walls, middles)
    found = np.full((count, count), np.inf)
    front = np.zeros_like(open_)
    front[tuple(np.clip(goal[::-1].astype(int), 0, count - 1))] = True
    steps = 0
    while front.any():
        found[front] = steps
        wide = np.pad(front, 1)
        front = (wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]) & open_ & np.isinf(found)
        steps += 1
    return found


class Rooms(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The environment of this file.

    Observation: the point, the goal and the middles of the walls in which doors are, of the map's edge, float32.
    Action: where to go, float32 ``[2]``. ``info["state"]``: position, goal, and walls ``[R, 4]``, in pixels of the map.

    Args:
        size: edge of the picture in pixels.
        layout: "two", "lying", two rooms one above the other, or "nine".
        shown: whether the picture shows the goal.
        hides: doors are seen in the first so many rows of an episode alone; behind them their numbers are 0, and the
            picture shows walls without doors. They stay where they are: who passes them has to remember.
        point: the colour of the point, of `COLOURS`.
        radius: of the point, in pixels of a map of two rooms.
        thick: of the walls between rooms (of nine, of all), in pixels of the map.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 20,
        "events": ("reached",),
    }  # fmt: skip

    def __init__(
        self, size: int = 33, layout: str = "two", shown: bool = True, hides: int | None = None,
        point: str = "orange", radius: float = RADIUS, thick: float = THICK,
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        _known(layout)
        if point not in COLOURS or not 0 < radius <= 10 or not 0 < thick <= 15:
            raise ConfigError(
                f"expected point as one of {', '.join(COLOURS)}, radius in (0, 10] and thick in (0, 15], got "
                f"{point!r}, {radius} and {thick}"
            )
        if hides is not None and hides < 1:
            raise ConfigError(f"expected hides as a number of rows of at least 1, or None, got {hides}")
        self.render_mode, self.size, self.kind, self.shown = render_mode, size, layout, shown
        self.point, self.radius, self.thick = COLOURS[point], radius, thick
        doors = 8 if layout == "nine" else 1
        self.observation_space = spaces.Box(0.0, 1.0, (4 + 2 * doors,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.layout = self._drawn_layout(np.random.default_rng(0))
        self.position: Floats = np.zeros(2)
        self.goal: Floats = np.zeros(2)
        self.hides, self._rows, self._reached = hides, 0, False
        self._canvases = self._drawn_canvases()

    def _drawn_canvases(self) -> tuple[Canvas, Canvas]:
        """The walls as they are, and as they are shown where doors are hidden."""
        shut = np.concatenate((self.layout.walls, _doorways(self.layout)))
        closed = Layout(self.layout.edge, shut, self.layout.rooms, self.layout.doors)
        plain = canvas(self.layout, self.size)
        return plain, plain if self.hides is None else canvas(closed, self.size)

    @property
    def _hidden(self) -> bool:
        """Whether this row shows no doors."""
        return self.hides is not None and self._rows >= self.hides

    def _drawn_layout(self, rng: np.random.Generator) -> Layout:
        return MAPS[self.kind](rng, thick=self.thick)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self.layout = self._drawn_layout(rng)
        far, doors = self.layout.steps_between(), 3 if self.kind == "nine" else 1
        pairs = np.argwhere(far == doors)  # a spanning tree of 3 × 3 has a path of three doors at least
        begin, end = pairs[rng.integers(len(pairs))]
        self.position, self.goal = (within(rng, self.layout.rooms[k]) for k in (begin, end))
        self._rows, self._reached, self._canvases = 0, False, self._drawn_canvases()
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        self.position = moved(self.layout.walls, self.position, np.asarray(action, np.float64))
        self._rows += 1
        first = self._near() and not self._reached
        self._reached = self._reached or first
        far = float(np.linalg.norm(self.position - self.goal))
        return self._observation(), -far / self.layout.edge, False, False, self._info(["reached"] if first else [])

    def _near(self) -> bool:
        return bool(np.linalg.norm(self.position - self.goal) <= NEAR)

    def _info(self, event: list[str]) -> dict[str, Any]:
        walls = self.layout.walls.astype(np.float32)
        state = {"position": self.position.astype(np.float32), "goal": self.goal.astype(np.float32), "walls": walls}
        return {"state": state, "event": event, "success": self._near()}

    def _observation(self) -> NDArray[np.float32]:
        doors = middles(self.layout) * (not self._hidden)
        return (np.concatenate((self.position, self.goal, doors.flatten())) / self.layout.edge).astype(np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self.batch_render(np.concatenate((self.position, self.goal))[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of points ``[N, 2]``, or of points and goals ``[N, 4]``, in pixels of the map, between the walls of
        this episode as the current row shows them, uint8 ``[N, size, size, 3]``.
        """
        seen = self._canvases[self._hidden]
        look: dict[str, Any] = {"point": self.point, "size": self.radius}
        return in_chunks(lambda rows: pictures(seen, self.layout.edge, rows, self.shown, **look), states)


def within(rng: np.random.Generator, room: Floats) -> Floats:
    """A point of a room ``[4]``, somewhat away from its walls."""
    x0, x1, y0, y1 = room
    return np.array([rng.uniform(x0 + MARGIN, x1 - MARGIN), rng.uniform(y0 + MARGIN, y1 - MARGIN)])


def middles(layout: Layout) -> Floats:
    """Where the doors are, ``[D, 2]``: between the two pieces of a wall, in the order of the rooms."""
    found = []
    for a, b in sorted(map(tuple, layout.doors)):
        (ax0, ax1, ay0, ay1), (bx0, _, by0, _) = layout.rooms[a], layout.rooms[b]
        upright = bx0 >= ax1
        at = (ax1 + bx0) / 2 if upright else (ay1 + by0) / 2
        low, high = (ay0, ay1) if upright else (ax0, ax1)
        line = np.linspace(low, high, 301)
        points = np.stack((np.full_like(line, at), line) if upright else (line, np.full_like(line, at)), -1)
        found.append(points[free(layout.walls, points)].mean(0))
    return np.array(found)


def _doorways(layout: Layout) -> Floats:
    """The strips between rooms that a door joins, ``[D, 4]``: walls without their doors."""
    found = []
    for a, b in layout.doors:
        (ax0, ax1, ay0, ay1), (bx0, _, by0, _) = layout.rooms[a], layout.rooms[b]
        found.append((ax1, bx0, ay0, ay1) if bx0 >= ax1 else (ax0, ax1, ay1, by0))
    return np.array(found)


def canvas(layout: Layout, size: int) -> Canvas:
    """What stands still in a picture: the walls."""
    plain = Canvas(size, GROUND)
    scale = 2.0 / layout.edge
    boxes = [
        plain.box((x0 + x1) / 2 * scale - 1, 1 - (y0 + y1) / 2 * scale, (x1 - x0) / 2 * scale, (y1 - y0) / 2 * scale)
        for x0, x1, y0, y1 in layout.walls
    ]
    return Canvas(size, plain.frames([(box, WALL) for box in boxes])[0])


def pictures(
    drawn: Canvas, edge: float, states: Floats, goals: bool, *, point: tuple[int, int, int] = POINT,
    size: float = RADIUS,
) -> Frames:  # fmt: skip
    """Points ``[N, 2]`` or points and goals ``[N, 4]`` over what stands still."""
    scale, radius = 2.0 / edge, size * 2.0 / 65.0  # as large in a picture of either map
    at = [(states[:, 0] * scale - 1, 1 - states[:, 1] * scale)]
    layers = [(drawn.disc(*at[0], radius), point)]
    if goals and states.shape[1] == 4:
        layers.insert(0, (drawn.disc(states[:, 2] * scale - 1, 1 - states[:, 3] * scale, radius), GOAL))
    return drawn.frames(layers)


def reference(state: Mapping[str, Floats]) -> NDArray[np.float32]:
    """Straight to the farthest pixel of the shortest way that can be seen, half a pixel away from walls."""
    walls, position, goal = (np.asarray(state[k], np.float64) for k in ("walls", "position", "goal"))
    wide = walls + 0.5 * np.array([-1, 1, -1, 1])
    path = _down(_known_ways(wide.tobytes(), float(walls[0, 3]), goal.tobytes()), position)
    path = [*path[:8], *path[8::4], goal]
    target = next((point for point in reversed(path) if _seen(wide, position, point)), path[0])
    step = target - position
    return (step / max(SPEED, float(np.linalg.norm(step)))).astype(np.float32)


@functools.lru_cache(64)
def _known_ways(walls: bytes, edge: float, goal: bytes) -> Floats:
    return ways(np.frombuffer(walls).reshape(-1, 4), edge, np.frombuffer(goal))


def _down(way: Floats, position: Floats) -> list[Floats]:
    """The middles of the pixels on the shortest way, from the nearest free pixel on."""
    rows, columns = np.nonzero(np.isfinite(way))
    near = np.argmin((rows + 0.5 - position[1]) ** 2 + (columns + 0.5 - position[0]) ** 2)
    row, column, found = int(rows[near]), int(columns[near]), []
    while way[row, column] > 0:
        found.append(np.array([column + 0.5, row + 0.5]))
        beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        row, column = min(beside, key=lambda pixel: way[pixel])
    return found


def _seen(walls: Floats, begin: Floats, end: Floats) -> bool:
    """Whether nothing stands on the straight line, but for its first pixel."""
    far = float(np.linalg.norm(end - begin))
    parts = np.linspace(min(1, 1 / max(far, 1e-9)), 1, 2 + int(2 * far))[:, None]
    return bool(free(walls, begin + parts * (end - begin)).all())


def wander(
    seed: int, episodes: int, steps: int, layout: str | Layout | Sequence[Layout] = "two", turn: float = 0.3
) -> tuple[list[Layout], Floats, NDArray[np.float32]]:
    """Data without a goal: points that keep their heading, which drifts by N(0, turn²) a step and is drawn anew where
    they hit a wall. ``layout`` is "two", "lying" or "nine", of which each episode draws one, the one that all are in,
    or one for each.

    Returns:
        The layouts, positions ``[episodes, steps, 2]``, and the actions taken there, ``[episodes, steps, 2]``.
    """
    rng = np.random.default_rng(seed)
    if isinstance(layout, str):
        layouts = [MAPS[_known(layout)](rng) for _ in range(episodes)]
    else:
        layouts = [layout] * episodes if isinstance(layout, Layout) else list(layout)
    if len(layouts) != episodes:
        raise ConfigError(f"expected a layout for each of {episodes} episodes, got {len(layouts)}")
    most = max(len(own.walls) for own in layouts)
    walls = np.stack([np.concatenate((own.walls, np.zeros((most - len(own.walls), 4)))) for own in layouts])
    starts = [within(rng, own.rooms[rng.integers(len(own.rooms))]) for own in layouts]
    at, heading = np.stack(starts), rng.uniform(-np.pi, np.pi, episodes)
    speed = rng.uniform(0.3, 1.0, (episodes, 1))
    positions, actions = [], []
    for _ in range(steps):
        action = speed * np.stack((np.cos(heading), np.sin(heading)), -1)
        positions.append(at)
        actions.append(action)
        after = moved(walls, at, action)
        hit = np.linalg.norm(after - at - SPEED * action, axis=-1) > 1e-6
        at = after
        heading = np.where(hit, rng.uniform(-np.pi, np.pi, episodes), heading + rng.normal(0, turn, episodes))
        speed = np.where(hit[:, None], rng.uniform(0.3, 1.0, (episodes, 1)), speed)
    return layouts, np.stack(positions, 1), np.stack(actions, 1).astype(np.float32)


ENVIRONMENTS = (
    Entry("TwoRooms", "two_rooms", Rooms, 200, reference, factors=FACTORS),
    Entry("Rooms3x3", "rooms_3x3", Rooms, 300, reference, {"layout": "nine"}),
)
