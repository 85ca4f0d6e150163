"""A room where questions are asked: look which colour a thing has, and say it at the right moment.

Every row has one word of the environment. It is silent for 5 to 9 rows, asks "what color is the ball ?", is silent for
10, says "it is red", and is silent for 5 to 9; then colours and question are drawn anew. An action has two parts: a
step (none, down, up, right, left) and a word. The word is compared with the one that the environment says in that same
step: the colour at the right moment earns 1, another word at that moment −0.1, a word at any other −0.01, silence
nothing.

    lang_room         9 × 9 cells with walls; ball, rug, table and vase in the corners, whose colours are a permutation
                      of four; the figure begins in the middle and sees 5 × 5 cells; 200 steps
    lang_room_mini    5 × 5 cells and walls around; ball and vase in opposite corners, two colours; 3 × 3 cells are
                      seen; 60 steps. To guess at the right moment earns 0.45 a question, to look before it 1

``extra`` adds words that are never right: with many of them, a policy hardly finds the right one by chance. With
``again`` the question is asked so many times more before its answer, in the last of the ten rows, or in more of them:
what is heard then asks what was heard before.

LangRoom of Lin et al. 2024 (arXiv:2308.01399), whose pictures are 60 of 64 pixels wide; the small one is ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Colour, Frames
from worldformula.envs.home_tiles import FIGURE, FLOOR, WALL
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.tiles import NOTHING, Floats, Mosaic, crop, glyph
from worldformula.errors import ConfigError, near
from worldformula.vocabulary import Vocabulary

Row = dict[str, NDArray[Any] | np.int64]

SILENCE = "<silence>"
COLOURS: dict[str, Colour] = {
    "red": (220, 50, 40), "green": (50, 170, 70), "blue": (50, 90, 220), "yellow": (240, 210, 50)
}  # fmt: skip
ASKING = ("what", "color", "is", "the", "?", "it")
MOVES = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # none, down, up, right, left
RIGHT, WRONG, ELSEWHERE = 1.0, -0.1, -0.01
PAUSE, THINK = (5, 10), 10
WALL_, FLOOR_, THING = 0, 1, 2


@dataclass(frozen=True)
class Plan:
    """A room: cells along its edge, walls included, the things and where they stand (x, y), colours, and the view."""

    cells: int
    things: Mapping[str, tuple[int, int]]
    colours: tuple[str, ...]
    radius: int


PLANS = {
    "full": Plan(9, {"ball": (1, 1), "rug": (7, 1), "table": (1, 7), "vase": (7, 7)}, tuple(COLOURS), 2),
    "mini": Plan(7, {"ball": (1, 1), "vase": (5, 5)}, ("red", "green"), 1),
}


def vocabulary(plan: Plan, extra: int = 0) -> Vocabulary:
    """Silence, the colours, the things, the words of questions, and so many that are never right."""
    return Vocabulary((SILENCE, *plan.colours, *plan.things, *ASKING, *(f"word{k}" for k in range(extra))))


def _drawn(name: str, colour: Colour) -> Floats:
    shapes = {
        "ball": (("disc", (0.0, 0.0, 0.65), colour),),
        "rug": (("box", (0.0, 0.0, 0.95, 0.6), colour), ("box", (0.0, 0.0, 0.6, 0.3), (230, 220, 200))),
        "table": (("box", (0.0, 0.4, 0.9, 0.2), colour), ("box", (-0.6, -0.3, 0.12, 0.6), colour),
                  ("box", (0.6, -0.3, 0.12, 0.6), colour)),
        "vase": (("disc", (0.0, -0.3, 0.5), colour), ("rod", (0.0, 0.0, 0.0, 0.7, 0.18), colour)),
    }  # fmt: skip
    return glyph(*shapes[name])


class LangRoom(gymnasium.Env[Any, Any]):
    """The environment of this file.

    Observation: ``view``, whole numbers ``[K, K]`` (0 wall, 1 floor, then things, each in every colour), and ``token``,
    the word said. Action: ``move`` and ``talk``, by name. ``info["state"]`` holds ``next``, the word that the
    environment will say, and ``answer``, the colour that is asked for (0 while there is none). Hidden: the colours
    (0 the first one) of things out of sight. Events: question, answer_due, correct, wrong.

    Args:
        size: edge of the picture in pixels.
        room: "full" or "mini".
        extra: words that are never right.
        again: how often a question is said once more before its answer, six rows each time.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 5,
        "events": ("question", "answer_due", "correct", "wrong"),
    }  # fmt: skip
    beside_pictures = ("token",)

    def __init__(
        self, size: int = 32, room: str = "mini", extra: int = 0, again: int = 0,
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        if room not in PLANS:
            raise ConfigError(f"expected room as one of {', '.join(PLANS)}, got {room!r}.{near(room, PLANS)}")
        if extra < 0:
            raise ConfigError(f"expected a number of extra words of at least 0, got {extra}")
        if isinstance(again, bool) or not isinstance(again, int) or again < 0:
            raise ConfigError(f"expected again as a whole number of at least 0, got {again!r}")
        self.render_mode, self.plan, self.again = render_mode, PLANS[room], again
        self.vocabulary = vocabulary(self.plan, extra)
        self.metadata = {**type(self).metadata, "vocabulary": self.vocabulary}
        plan, words, edge = self.plan, len(self.vocabulary), 2 * self.plan.radius + 1
        view = spaces.MultiDiscrete(np.full((edge, edge), THING + len(plan.things) * len(plan.colours)))
        self.observation_space = spaces.Dict({"view": view, "token": spaces.Discrete(words)})
        self.action_space = spaces.Dict({"move": spaces.Discrete(len(MOVES)), "talk": spaces.Discrete(words)})
        drawn = [_drawn(name, COLOURS[colour]) for name in plan.things for colour in plan.colours]
        self._mosaic = Mosaic([WALL, FLOOR, *drawn, FIGURE], size)
        self._figure = THING + len(drawn)
        self.x = self.y = plan.cells // 2
        self.colours: NDArray[np.int64] = np.zeros(len(plan.things), np.int64)
        self.answer, self.token = 0, 0
        self._script: deque[int] = deque()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Row, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.y = self.plan.cells // 2
        self._script.clear()
        self._ask()
        self.token = self._script.popleft()
        return self._observation(), self._info([])

    def _ask(self) -> None:
        """Colours, a question, and what is said until the next ones."""
        rng, words = self.np_random, self.vocabulary.number
        self.colours = rng.permutation(len(self.plan.colours))[: len(self.plan.things)]
        thing = int(rng.integers(len(self.plan.things)))
        before, behind = (int(rng.integers(*PAUSE)) for _ in range(2))
        self.answer = 1 + int(self.colours[thing])
        question = [words(w) for w in ("what", "color", "is", "the", list(self.plan.things)[thing], "?")]
        heard = question * self.again
        awaited = [*([0] * (THINK - len(heard))), *heard]
        self._script.extend([0] * before + question + awaited + [words("it"), words("is"), self.answer])
        self._script.extend([0] * behind)

    def step(self, action: Any) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        parts: Any = self.action_space  # of a Dict
        move, talk = (taken(parts[part], action[part], f"the action {part!r}") for part in ("move", "talk"))
        dx, dy = MOVES[move]
        if self._tiles()[self.y + dy, self.x + dx] == FLOOR_:
            self.x, self.y = self.x + dx, self.y + dy
        self.token = self._script.popleft()
        said, due = talk, 1 <= self.token <= len(self.plan.colours)
        event = ["question"] if self.vocabulary.words[self.token] == "what" and self._left() == self.again else []
        reward = ELSEWHERE if said else 0.0
        if due:
            reward = RIGHT if said == self.token else WRONG if said else 0.0
            event = ["answer_due", *(["correct" if said == self.token else "wrong"] if said else [])]
        if not self._script:
            self._ask()
        return self._observation(), reward, False, False, self._info(event)

    def _tiles(self) -> NDArray[np.int64]:
        tiles = np.zeros((self.plan.cells, self.plan.cells), np.int64)
        tiles[1:-1, 1:-1] = FLOOR_
        for place, ((x, y), colour) in enumerate(zip(self.plan.things.values(), self.colours, strict=True)):
            tiles[y, x] = THING + place * len(self.plan.colours) + int(colour)
        return tiles

    def _observation(self) -> Row:
        return {"view": self._view(), "token": np.int64(self.token)}

    def _view(self) -> NDArray[np.int64]:
        return crop(self._tiles(), self.x, self.y, self.plan.radius, WALL_)

    def _info(self, event: list[str]) -> dict[str, Any]:
        away = {
            name: np.array(colour, np.float32)
            for (name, (x, y)), colour in zip(self.plan.things.items(), self.colours, strict=True)
            if max(abs(x - self.x), abs(y - self.y)) > self.plan.radius
        }
        asked = self.answer if self._asked() else 0
        numbers = {"figure": (self.x, self.y), "colours": self.colours, "next": [self._script[0]], "answer": [asked]}
        state = {key: np.array(value, np.float32) for key, value in numbers.items()}
        return {"state": state, "hidden": away, "event": event, "success": "correct" in event}

    def _asked(self) -> bool:
        """Whether the question has begun and its answer is still to come."""
        return self.answer in self._script and self._left() <= self.again

    def _left(self) -> int:
        """How often the question is still to begin."""
        return self._script.count(self.vocabulary.number("what"))

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current view, the figure in its middle, uint8 ``[size, size, 3]``."""
        return self.batch_render(self._view())

    def batch_render(self, views: ArrayLike) -> Frames:
        """Pictures of many views ``[…, K, K]``, as observed, uint8 ``[…, size, size, 3]``."""
        seen = np.asarray(views, np.int64)
        middle = np.full(seen.shape, NOTHING)
        middle[..., self.plan.radius, self.plan.radius] = self._figure
        return self._mosaic(np.minimum(seen, FLOOR_), np.where(seen >= THING, seen, NOTHING), middle)


def reference(state: Mapping[str, NDArray[np.floating]]) -> dict[str, int]:
    """Says the colour in the step in which the environment does, and is silent else."""
    following = int(state["next"][0])
    colour = 1 <= following <= len(state["colours"])
    return {"move": 0, "talk": following if colour else 0}


ENVIRONMENTS = (
    Entry("LangRoom", "lang_room", LangRoom, 200, reference, {"room": "full"}),
    Entry("LangRoomMini", "lang_room_mini", LangRoom, 60, reference, {"room": "mini"}),
)
