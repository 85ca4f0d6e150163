"""Small homes in which a sentence says what cannot be seen: how a bin opens, where a thing is, that the way is wrong.

    home_dynamics      a room of 4 × 4 cells and a closed bin at its border. One of pedal, grasp, lift opens it and
                       earns 1; another one breaks it; both end the episode. 12 steps. Read before: "lift to open the
                       trash bin". Whoever cannot read opens one in three
    home_future        four arms of 4 cells around a middle; a thing lies at the end of one, and facing it earns 1.
                       8 steps are enough for one arm. Read before: "there will be fruit in the north later". Whoever
                       cannot read looks into the right arm one time in four
    home_corrections   6 × 6 cells, all in sight, but one of them is the hidden target, where arriving earns 1. 60
                       steps. A step that leads away from it is followed, with probability 0.5 and unless words wait,
                       by "no, turn around"

An action turns the figure and moves it by a cell where that is free. Every row has one word, the number 0 where nothing
is said. What is read before is said with the figure frozen (``info["is_read_step"]``): actions do nothing, no step of
the limit passes, and pictures are dark. Then the task is said, word by word, while the figure acts.

``hint`` is "true", "none", or "swapped": then what is said is false (another way to open, another arm, and "no" to
steps that lead to the target), which shows whether somebody follows the words. ``home_dynamics`` takes ``room``, the
cells along an edge of its room, and ``sight``, how many cells are seen on either side (3: all of the room). Both of the
first two take ``again``: then the sentence, which contains the task, is said again and again while the figure acts, as
HomeGrid repeats its facts.

Small versions, of our design, of HomeGrid (Lin et al. 2024, arXiv:2308.01399).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Frames
from worldformula.envs.home_tiles import (
    BIN_GLYPHS,
    FACING_GLYPHS,
    FIGURE,
    FLOOR,
    STEPS,
    THING_GLYPHS,
    THINGS,
    WALL,
)
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.speech import Speech, hinted
from worldformula.envs.tiles import NOTHING, Mosaic, crop, way
from worldformula.errors import ConfigError
from worldformula.vocabulary import Vocabulary

Row = dict[str, NDArray[Any] | np.int64]
State = Mapping[str, NDArray[np.floating]]

OPENING = ("pedal", "grasp", "lift")
ARMS = ("west", "east", "north", "south")  # in the order of the moves
WALL_, FLOOR_, BIN, OPEN, BROKEN, THING, FACING = 0, 1, 2, 3, 4, 5, 9
CLASSES = FACING + 4
_TRASH = BIN_GLYPHS[1]
GLYPHS = (WALL, FLOOR, *_TRASH, *THING_GLYPHS, *(FIGURE for _ in STEPS), *FACING_GLYPHS)
NO = "no, turn around"
SENTENCES = (
    *(f"{how} to open the trash bin" for how in OPENING), "open the trash bin",
    *(f"find the {thing}" for thing in THINGS), NO, "find the target",
    *(f"there will be {thing} in the {arm} later" for thing in THINGS for arm in ARMS),
)  # fmt: skip
VOCABULARY = Vocabulary.of(SENTENCES)


class HomeMini(gymnasium.Env[Any, np.int64]):
    """What the three have in common.

    Observation: ``view``, whole numbers ``[K, K]`` from 0 to 12 (wall, floor, bin closed, open, broken, bottle, fruit,
    papers, plates, figure that faces left, right, up, down), and ``token``, the number of a word of `VOCABULARY`.

    Args:
        size: edge of the picture in pixels.
        hint: "true", "none" or "swapped".
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 5, "vocabulary": VOCABULARY,
        "events": ("open", "break", "success", "correction"),
    }  # fmt: skip
    beside_pictures = ("token",)
    radius: int | None = 1
    again = False  # whether the sentence is said again and again, in the place of the task; without one, the task is
    actions = len(STEPS)
    cells: int  # along an edge of the map, walls included
    limit: int

    def __init__(
        self, size: int = 32, hint: Literal["true", "none", "swapped"] = "true", render_mode: str | None = "rgb_array"
    ) -> None:
        self.render_mode, self.hint, self.vocabulary = render_mode, hinted(hint), VOCABULARY
        edge = self.cells if self.radius is None else 2 * self.radius + 1
        view = spaces.MultiDiscrete(np.full((edge, edge), CLASSES))
        self.observation_space = spaces.Dict({"view": view, "token": spaces.Discrete(len(VOCABULARY))})
        self.action_space = spaces.Discrete(self.actions)
        self.tiles: NDArray[np.int64] = np.zeros((self.cells, self.cells), np.int64)
        self.x, self.y, self.facing = 0, 0, 0
        self.secret, self.told = 0, 0  # the hidden fact, and what the words say of it
        self.speech, self._mosaic = Speech(VOCABULARY), Mosaic(GLYPHS, size)
        self._reading, self._acted = 0, 0

    @abstractmethod
    def _begin(self) -> int:
        """Draws an episode: tiles, figure, secret; how many secrets there are."""

    @abstractmethod
    def _texts(self) -> tuple[str, str]:
        """What is read before, and the task."""

    @abstractmethod
    def _after(self, action: int, before: tuple[int, int]) -> list[str]:
        """What happened with an action, once the figure has moved: "success", "break", others."""

    def _state(self) -> dict[str, Any]:
        """The true state, but for the figure."""
        return {"secret": [self.secret], "told": [self.told]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Row, dict[str, Any]]:
        super().reset(seed=seed)
        many = self._begin()
        false = (self.secret + 1 + int(self.np_random.integers(many - 1))) % many
        self.told = false if self.hint == "swapped" else self.secret
        self.facing, self._acted = int(self.np_random.integers(4)), 0
        self.speech.interrupt(self._texts()[0] if self.hint != "none" else "")
        self._reading = len(self.speech)
        if not self._reading:
            self._go_on()
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        event = list[str]()
        if self._reading:
            self._reading -= 1
            if not self._reading:
                self._go_on()
        else:
            self._acted += 1
            before = self.x, self.y
            if action < len(STEPS):
                self._move(int(action))
            event = self._after(int(action), before)
            if self.again and self.speech.idle:
                self._go_on()
        done = "success" in event or "break" in event
        cut = not done and self._acted >= self.limit
        return self._observation(), float("success" in event), done, cut, self._info(event)

    def _go_on(self) -> None:
        """What is said once nothing waits that is read before."""
        before, task = self._texts()
        self.speech.say(before if self.again and self.hint != "none" else task)

    def _move(self, action: int) -> None:
        self.facing = action
        x, y = self.faced
        if self.tiles[y, x] == FLOOR_:
            self.x, self.y = x, y

    @property
    def faced(self) -> tuple[int, int]:
        """The cell in front of the figure."""
        return self.x + STEPS[self.facing][0], self.y + STEPS[self.facing][1]

    def _view(self) -> NDArray[np.int64]:
        seen = self.tiles.copy()
        seen[self.y, self.x] = FACING + self.facing
        return seen if self.radius is None else crop(seen, self.x, self.y, self.radius, WALL_)

    def _observation(self) -> Row:
        return {"view": self._view(), "token": np.int64(self.speech.word())}

    def _info(self, event: list[str]) -> dict[str, Any]:
        numbers = {"figure": (self.x, self.y), "facing": [self.facing], "tiles": self.tiles, **self._state()}
        state = {key: np.array(value, np.float32) for key, value in numbers.items()}
        hidden = {"secret": np.array(self.secret, np.float32)}
        reading = {"is_read_step": self._reading > 0, "sentence": self.speech.sentence}
        return {"state": state, "hidden": hidden, "event": event, "success": "success" in event, **reading}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current view, uint8 ``[size, size, 3]``; half as bright while something is read."""
        frame = self.batch_render(self._view())
        return frame // 2 if self._reading else frame

    def batch_render(self, views: ArrayLike) -> Frames:
        """Pictures of many views ``[…, K, K]``, as observed, uint8 ``[…, size, size, 3]``."""
        seen = np.asarray(views, np.int64)
        figure = np.where(seen >= FACING, seen, NOTHING)
        ground, on_it = np.minimum(seen, FLOOR_), np.where(seen > FLOOR_, seen, NOTHING)
        return self._mosaic(ground, on_it, np.where(figure >= 0, figure + len(STEPS), NOTHING))


@final
class HomeDynamics(HomeMini):
    """See the head of this file. Actions: left, right, up, down, pedal, grasp, lift.

    Args:
        sight: cells that are seen on either side of the figure.
        again: whether the sentence is said again and again, in the place of the task; without one, the task is.
        room: cells along an edge of the room, walls not counted.
    """

    actions = len(STEPS) + len(OPENING)
    cells, limit = 6, 12

    def __init__(
        self, size: int = 32, hint: Literal["true", "none", "swapped"] = "true", sight: int = 1, again: bool = False,
        room: int = 4, render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        for name, value, least, most in (("sight", sight, 1, 3), ("room", room, 2, 4)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"expected {name} from {least} to {most} cells, got {value!r}")
        self.radius, self.again, self.cells = sight, again, room + 2
        super().__init__(size, hint, render_mode)

    def _begin(self) -> int:
        last = self.cells - 2
        self.tiles[:] = WALL_
        self.tiles[1:-1, 1:-1] = FLOOR_
        inner = [(x, y) for y in range(1, last + 1) for x in range(1, last + 1)]
        border = [(x, y) for x, y in inner if x in (1, last) or y in (1, last)]
        bin_ = border[self.np_random.integers(len(border))]
        self.tiles[bin_[1], bin_[0]] = BIN
        rest = [cell for cell in inner if cell != bin_]
        self.x, self.y = rest[self.np_random.integers(len(rest))]
        self.secret = int(self.np_random.integers(len(OPENING)))
        return len(OPENING)

    def _texts(self) -> tuple[str, str]:
        return f"{OPENING[self.told]} to open the trash bin", "open the trash bin"

    def _after(self, action: int, before: tuple[int, int]) -> list[str]:
        x, y = self.faced
        if action < len(STEPS) or self.tiles[y, x] != BIN:
            return []
        right = action - len(STEPS) == self.secret
        self.tiles[y, x] = OPEN if right else BROKEN
        return ["open", "success"] if right else ["break"]


@final
class HomeFuture(HomeMini):
    """See the head of this file. Actions: left, right, up, down.

    Args:
        again: as for `HomeDynamics`.
    """

    cells, limit = 11, 8
    middle, arm = 5, 4

    def __init__(
        self, size: int = 32, hint: Literal["true", "none", "swapped"] = "true", again: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        self.again = again
        super().__init__(size, hint, render_mode)

    def _begin(self) -> int:
        self.tiles[:] = WALL_
        self.tiles[self.middle, 1:-1] = self.tiles[1:-1, self.middle] = FLOOR_
        self.x, self.y = self.middle, self.middle
        self.secret, self.thing = (int(self.np_random.integers(4)) for _ in range(2))
        dx, dy = STEPS[self.secret]
        self.tiles[self.middle + self.arm * dy, self.middle + self.arm * dx] = THING + self.thing
        return len(ARMS)

    def _texts(self) -> tuple[str, str]:
        thing = THINGS[self.thing]
        return f"there will be {thing} in the {ARMS[self.told]} later", f"find the {thing}"

    def _after(self, action: int, before: tuple[int, int]) -> list[str]:
        return ["success"] if self.tiles[self.faced[1], self.faced[0]] >= THING else []


@final
class HomeCorrections(HomeMini):
    """See the head of this file. Actions: left, right, up, down. ``hidden["secret"]`` is 8·y + x of the target."""

    cells, limit, radius = 8, 60, None
    chance = 0.5

    def _begin(self) -> int:
        self.tiles[:] = WALL_
        self.tiles[1:-1, 1:-1] = FLOOR_
        start, target = self.np_random.choice(36, 2, replace=False)
        self.x, self.y = 1 + int(start) % 6, 1 + int(start) // 6
        self.secret = self.cells * (1 + int(target) // 6) + 1 + int(target) % 6
        return self.cells**2

    def _texts(self) -> tuple[str, str]:
        return "", "find the target"

    def _far(self, cell: tuple[int, int]) -> int:
        return abs(cell[0] - self.secret % self.cells) + abs(cell[1] - self.secret // self.cells)

    def _after(self, action: int, before: tuple[int, int]) -> list[str]:
        longer = self._far((self.x, self.y)) - self._far(before)
        drawn = self.np_random.random() < self.chance
        wrong = longer < 0 if self.hint == "swapped" else longer > 0
        if self._far((self.x, self.y)) == 0:
            return ["success"]
        if self.hint != "none" and wrong and drawn and self.speech.idle:
            self.speech.say(NO)
            return ["correction"]
        return []


def walk(state: State, ends: NDArray[np.bool_]) -> int:
    """The first step of a shortest way to one of the cells."""
    x, y = (int(k) for k in state["figure"])
    path = way(state["tiles"] == FLOOR_, (x, y), ends)
    return STEPS.index((path[0][0] - x, path[0][1] - y)) if path else 0


def open_bin(state: State) -> int:
    """To the bin, and the right action in front of it."""
    x, y = (int(k) for k in state["figure"])
    dx, dy = STEPS[int(state["facing"][0])]
    if state["tiles"][y + dy, x + dx] == BIN:
        return len(STEPS) + int(state["secret"][0])
    return walk(state, state["tiles"] == BIN)


def find_thing(state: State) -> int:
    """Into the arm with the thing."""
    return walk(state, state["tiles"] >= THING)


def find_target(state: State) -> int:
    """Straight to the target."""
    cells = np.arange(state["tiles"].size).reshape(state["tiles"].shape)
    return walk(state, cells == int(state["secret"][0]))


ENVIRONMENTS = (
    Entry("HomeGridMiniDynamics", "home_dynamics", HomeDynamics, 40, open_bin),
    Entry("HomeGridMiniFuture", "home_future", HomeFuture, 40, find_thing),
    Entry("HomeGridMiniCorrections", "home_corrections", HomeCorrections, 80, find_target),
)
