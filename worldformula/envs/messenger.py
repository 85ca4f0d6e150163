"""Messenger, first stage: three kinds of figures stand around, and a manual says which one to go to.

On 10 × 10 cells, x to the right and y down, the avatar stands at (5, 5); an enemy, a message and a goal stand on three
of the cells (5, 3), (3, 5), (7, 5), (5, 7), each one of 12 kinds. In one episode of five the avatar begins with the
message. To touch the message without having it, or the goal with it, earns 1; to touch anything else −1; either ends
the episode. So does the fourth step without a touch, with −1. Actions: up, down, left, right, stay.

Which kind plays which role is said by a manual of three sentences, read before anything else while the avatar is
frozen (``info["is_read_step"]``). They are made by a grammar: 12 kinds of three names, 3 roles of four phrasings, 3
ways to move of three words; here all of them stand still. `HELD` are pairs of kind and role that no game and no
manual of the training split has; every game of the test split has one at least. `entropy` is how many nats a manual
of `manuals` has, exactly, and how many words; `blind` what can be earned without reading.

``hint`` is "true", "none", or "swapped": then every figure is said to play another one's role.

Rules of Messenger (Hanjie, Zhong, Narasimhan 2021, arXiv:2101.07393), stage 1; the grammar is ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Frames
from worldformula.envs.home_tiles import FIGURE
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.speech import Speech, hinted
from worldformula.envs.tiles import NOTHING, Floats, Mosaic, glyph
from worldformula.errors import ConfigError, near
from worldformula.vocabulary import Vocabulary

Row = dict[str, NDArray[Any] | np.int64]

KINDS = {
    "airplane": ("airplane", "plane", "jet"), "mage": ("mage", "wizard", "sorcerer"), "dog": ("dog", "hound", "puppy"),
    "bird": ("bird", "crow", "sparrow"), "fish": ("fish", "trout", "salmon"),
    "scientist": ("scientist", "researcher", "chemist"), "thief": ("thief", "robber", "burglar"),
    "ship": ("ship", "boat", "ferry"), "ball": ("ball", "sphere", "orb"), "robot": ("robot", "android", "machine"),
    "queen": ("queen", "empress", "ruler"), "sword": ("sword", "blade", "sabre"),
}  # fmt: skip
ROLES = {
    "enemy": ("is the deadly enemy", "will hurt you", "is an opponent to avoid", "brings harm"),
    "message": ("carries the message", "holds the secret letter", "has the note you need", "keeps the document"),
    "goal": ("is the goal", "waits for the delivery", "is where you must go", "is the final target"),
}
MOVEMENTS = {
    "chase": ("approaching", "chasing", "nearing"), "flee": ("fleeing", "escaping", "retreating"),
    "stay": ("motionless", "unmoving", "still"),
}  # fmt: skip
ENEMY, MESSAGE, GOAL = range(3)
HELD = frozenset(((0, 0), (1, 1), (2, 2)))
SPLITS = ("train", "test", "all")
CELLS, START, SPOTS, LIMIT = 10, (5, 5), ((5, 3), (3, 5), (7, 5), (5, 7)), 4
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0))  # up, down, left, right, stay
EMPTY, FIRST, AVATAR, LADEN, CLASSES = 0, 2, 15, 16, 17
CARRIES = 0.2

Cast = tuple[tuple[int, int], ...]
"""Three pairs of kind and role."""


def sentence(kind: int, role: int, movement: int, name: int, phrasing: int, word: int) -> str:
    """One sentence of a manual, of the numbers of its choices."""
    told = [*MOVEMENTS.values()][movement][word]
    return f"the {told} {[*KINDS.values()][kind][name]} {[*ROLES.values()][role][phrasing]}"


VOCABULARY = Vocabulary.of(
    [text for group in (KINDS, ROLES, MOVEMENTS) for choices in group.values() for text in choices] + ["the", "."]
)


def casts(split: str = "train") -> list[Cast]:
    """Every choice of three different kinds for enemy, message and goal, in this order.

    Raises:
        ConfigError: no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"expected split as one of {', '.join(SPLITS)}, got {split!r}.{near(split, SPLITS)}")
    found = [tuple((kind, role) for role, kind in enumerate(p)) for p in itertools.permutations(range(len(KINDS)), 3)]
    return [cast for cast in found if split == "all" or (split == "test") == any(pair in HELD for pair in cast)]


def manuals(seed: int, count: int, split: str = "train") -> list[str]:
    """Manuals alone, to learn the language from: casts, ways to move, words and the order of sentences at random."""
    rng, known = np.random.default_rng(seed), casts(split)
    return [". ".join(_told(rng, known[rng.integers(len(known))], None)) + "." for _ in range(count)]


def _told(rng: np.random.Generator, cast: Cast, movement: int | None) -> list[str]:
    """The sentences of a cast in random order."""
    sentences = []
    for kind, role in (cast[k] for k in rng.permutation(3)):
        moves = int(rng.integers(3)) if movement is None else movement
        sentences.append(sentence(kind, role, moves, int(rng.integers(3)), int(rng.integers(4)), int(rng.integers(3))))
    return sentences


def entropy(split: str = "train") -> tuple[float, float]:
    """Nats of a manual of `manuals`, log of the number of its equally probable choices; and its words in the mean."""
    nats = math.log(len(casts(split)) * math.factorial(3)) + 3 * math.log(3 * 4 * 3 * 3)
    phrases = [len(text.split()) for choices in ROLES.values() for text in choices]
    return nats, 3 * (3 + sum(phrases) / len(phrases) + 1)


def blind(split: str = "train") -> float:
    """The mean return of who sees the three kinds, knows the split, and does not read."""
    total, known = 0.0, casts(split)
    groups: dict[frozenset[int], list[Cast]] = {}
    for cast in known:
        groups.setdefault(frozenset(kind for kind, _ in cast), []).append(cast)
    for trio, group in groups.items():
        for role, share in ((MESSAGE, 1 - CARRIES), (GOAL, CARRIES)):
            best = max(sum(cast[role][0] == kind for cast in group) for kind in trio)
            total += share * (2 * best - len(group)) / len(known)
    return total


def _portrait(number: int) -> Floats:
    colour = ((220, 60, 50), (50, 130, 220), (60, 160, 80), (200, 120, 30))[number % 4]
    dark = (30, 30, 40)
    shapes = (
        (("disc", (0.0, 0.0, 0.7), colour), ("disc", (0.0, 0.0, 0.25), dark)),
        (("box", (0.0, 0.0, 0.6, 0.6), colour), ("rod", (-0.4, 0.0, 0.4, 0.0, 0.12), dark)),
        (("rod", (-0.5, -0.5, 0.5, 0.5, 0.22), colour), ("rod", (-0.5, 0.5, 0.5, -0.5, 0.22), colour)),
    )
    return glyph(*shapes[number // 4])


_GROUND = glyph(("box", (0.0, 0.0, 0.95, 0.95), (236, 236, 226)), ground=(214, 214, 204))
_LETTER = glyph(("box", (0.55, -0.5, 0.4, 0.3), (255, 255, 255)), ("rod", (0.2, -0.3, 0.55, -0.55, 0.07), (60, 60, 60)))
_LADEN = np.where(_LETTER[..., 3:] > 0, _LETTER, FIGURE)


class Messenger(gymnasium.Env[Any, np.int64]):
    """The environment of this file.

    Observation: ``view``, whole numbers ``[10, 10]`` (0 nothing, 2 … 13 the kinds, 15 the avatar, 16 with the message),
    and ``token``, a word of `VOCABULARY`. ``info["state"]``: avatar, ``carries``, and of enemy, message, goal in this
    order their ``kinds`` and ``places`` ``[3, 2]``. Hidden: the kinds that are enemy, message and goal. Events:
    got_message, won, died, timeout.

    Args:
        size: edge of the picture in pixels.
        hint: "true", "none" or "swapped".
        split: "train", "test" or "all".
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 4, "vocabulary": VOCABULARY,
        "events": ("got_message", "won", "died", "timeout"),
    }  # fmt: skip
    beside_pictures = ("token",)

    def __init__(
        self, size: int = 32, hint: Literal["true", "none", "swapped"] = "true", split: str = "train",
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        self.render_mode, self.hint, self.vocabulary = render_mode, hinted(hint), VOCABULARY
        self._casts = casts(split)
        view = spaces.MultiDiscrete(np.full((CELLS, CELLS), CLASSES))
        self.observation_space = spaces.Dict({"view": view, "token": spaces.Discrete(len(VOCABULARY))})
        self.action_space = spaces.Discrete(len(MOVES))
        self.cast: Cast = self._casts[0]
        self.places: tuple[tuple[int, int], ...] = SPOTS[:3]  # of enemy, message, goal
        self.x, self.y, self.carries = *START, False
        self.speech, self._reading, self._acted = Speech(VOCABULARY), 0, 0
        empty = np.zeros_like(_GROUND)
        self._mosaic = Mosaic([empty, empty, *map(_portrait, range(len(KINDS))), _GROUND, FIGURE, _LADEN], size)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Row, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self.cast = self._casts[int(rng.integers(len(self._casts)))]
        self.places = tuple(SPOTS[k] for k in rng.permutation(len(SPOTS))[:3])
        (self.x, self.y), self.carries, self._acted = START, bool(rng.random() < CARRIES), 0
        shift = 1 + int(rng.integers(2))
        told = self.cast
        if self.hint == "swapped":
            told = tuple((kind, (role + shift) % 3) for kind, role in self.cast)
        self.speech.interrupt()
        for text in _told(rng, told, [*MOVEMENTS].index("stay")) if self.hint != "none" else ():
            self.speech.say(text)
        self._reading = len(self.speech)
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        event, reward = list[str](), 0.0
        if self._reading:
            self._reading -= 1
        else:
            self._acted += 1
            dx, dy = MOVES[int(action)]
            self.x, self.y = (int(np.clip(k, 0, CELLS - 1)) for k in (self.x + dx, self.y + dy))
            event = self._touched()
            reward = 0.0 if not event else 1.0 if event[0] in ("got_message", "won") else -1.0
        return self._observation(), reward, bool(event), False, self._info(event)

    def _touched(self) -> list[str]:
        for role, place in enumerate(self.places):
            if place == (self.x, self.y):
                if role == MESSAGE and not self.carries:
                    return ["got_message"]
                return ["won"] if role == GOAL and self.carries else ["died"]
        return ["timeout"] if self._acted == LIMIT else []

    def _view(self) -> NDArray[np.int64]:
        view = np.zeros((CELLS, CELLS), np.int64)
        for (kind, _), (x, y) in zip(self.cast, self.places, strict=True):
            view[y, x] = FIRST + kind
        view[self.y, self.x] = LADEN if self.carries else AVATAR
        return view

    def _observation(self) -> Row:
        return {"view": self._view(), "token": np.int64(self.speech.word())}

    def _info(self, event: list[str]) -> dict[str, Any]:
        kinds = [kind for kind, _ in self.cast]
        numbers = {"avatar": (self.x, self.y), "carries": [self.carries], "kinds": kinds, "places": self.places}
        state = {key: np.array(value, np.float32) for key, value in numbers.items()}
        hidden = {role: np.array(kind, np.float32) for role, kind in zip(ROLES, kinds, strict=True)}
        reading = {"is_read_step": self._reading > 0, "sentence": self.speech.sentence}
        success = bool(event) and event[0] in ("got_message", "won")
        return {"state": state, "hidden": hidden, "event": event, "success": success, **reading}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of all cells, uint8 ``[size, size, 3]``; half as bright while the manual is read."""
        frame = self.batch_render(self._view())
        return frame // 2 if self._reading else frame

    def batch_render(self, views: ArrayLike) -> Frames:
        """Pictures of many views ``[…, 10, 10]``, as observed, uint8 ``[…, size, size, 3]``."""
        seen = np.asarray(views, np.int64)
        return self._mosaic(np.full(seen.shape, 14), np.where(seen > EMPTY, seen, NOTHING))


def reference(state: Mapping[str, NDArray[np.floating]]) -> int:
    """To the message, or with it to the goal, along the longer axis: they stand two steps away in different directions,
    from where whoever goes astray has both axes to go.
    """
    dx, dy = state["places"][GOAL if state["carries"][0] else MESSAGE] - state["avatar"]
    return MOVES.index((int(np.sign(dx)), 0) if abs(dx) >= abs(dy) else (0, int(np.sign(dy))))


ENVIRONMENTS = (Entry("Messenger", "messenger", Messenger, 60, reference),)
