"""HomeGrid: a home of three rooms, tasks that follow each other, and sentences that help.

A figure sees the 3 × 3 cells around it. In an episode there are two of four things (bottle, fruit, papers, plates) and
two of three bins (recycling, trash, compost), each at one of the places of `home_map`. A bin is open or closed, with
probability 0.5; one of pedal, grasp, lift opens it, and the wrong one breaks a closed one: the first bin for good, the
other for 5 steps, after which it is closed. Order of a step:

    bins and things      a broken bin comes nearer to its repair, a thing that was announced to being seen
    action               left, right, up, down turn the figure and move it where the cell is free; pickup, drop, get
                         (out of an open bin), pedal, grasp, lift act on the cell in front. One thing can be carried; it
                         is dropped where none lies, or into an open, empty bin
    task                 1 for a task that is done now; 0.5, once, for carrying what a task wants put or moved
    jump                 with probability 0.05 one thing that is seen and not carried jumps to another free place
    new thing            with probability 0.1 for each kind that is missing one of them is announced: it can be walked
                         over and taken at once, and is seen after 5 steps

Tasks: find the X (face it), get the X, put the X in the B bin, move the X to the R, open the B bin: 38 in all; its kind
is drawn first, then what it is about among what is there. The next task follows at once; one that is done already is
paid in the next step. 100 steps, what is read before not counted.

Every row has one word. A new task interrupts; it is repeated 20 steps later where nobody speaks. In between, where
nobody speaks, something that happens in this step is said, or, with probability ``chance``, something that is so:

    kind = "task"         tasks alone
    kind = "future"       X is in the R; there will be X in the R later; i moved the X to the R
    kind = "dynamics"     lift to open the B bin
    kind = "corrections"  no, turn around (after a step that leads away from what is wanted)

In "future" and "dynamics" all that is so is read first, in random order and 28 words at most, with the figure frozen
and pictures dark (``info["is_read_step"]``).

Rules: Lin et al. 2024, "Learning to Model the World with Language" (arXiv:2308.01399), section D.1, and their package;
pictures and the vocabulary of whole words are ours. ``rules="official"`` keeps what their package does and we mend:

    start            on any of 60 cells, also one with a thing or a bin on it (in 3 of 100 episodes), which then nobody
                     sees or finds, a thing until it jumps; and on a rug (3 of 100), which nobody can enter
    task             paid behind the jump and the new thing; facing, or having moved, a thing that is only announced
                     counts; that it is there is said as of one that is seen
    corrections      after any action; a thing that is carried or in a bin counts as far as the corner (−1, −1)
    marks            the first row at which the figure acts is dark and marked as read, too
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs import home_map as home
from worldformula.envs import home_tiles as sprites
from worldformula.envs.drawing import Frames
from worldformula.envs.home_map import VOCABULARY
from worldformula.envs.home_rules import HALF, Home
from worldformula.envs.home_script import reference
from worldformula.envs.home_tiles import BINS, THINGS
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.speech import Speech
from worldformula.envs.tiles import NOTHING, Mosaic
from worldformula.errors import ConfigError, near

KINDS = ("task", "future", "dynamics", "corrections")
RULES = ("clean", "official")
STEPS_, REPEAT, READ = 100, 20, 28
RADIUS, LIGHT = 1, 0.3
GLYPHS = (
    sprites.WALL, sprites.FLOOR, *sprites.FURNITURE.values(), *sprites.THING_GLYPHS,
    *(glyph for three in sprites.BIN_GLYPHS for glyph in three), sprites.FIGURE,
    *map(sprites.small, sprites.THING_GLYPHS), *sprites.FACING_GLYPHS,
)  # fmt: skip
_PIECE, _THING = 2, 2 + len(sprites.FURNITURE)
_BIN = _THING + len(THINGS)
_FIGURE = _BIN + 3 * len(BINS)
_HELD, _FACING = _FIGURE + 1, _FIGURE + 1 + len(THINGS)
_GROUND = np.pad(np.where(home.WALLS, 0, 1), RADIUS)
_STANDS = np.pad(np.where(home.PIECE_OF < 0, NOTHING, _PIECE + home.PIECE_OF), RADIUS, constant_values=NOTHING)


class HomeGrid(gymnasium.Env[Any, np.int64]):
    """The environment of this file.

    Observation: ``image``, uint8 ``[size, size, 3]``, and ``token``, the number of a word of `home_map.VOCABULARY`.
    Action: left, right, up, down, pickup, drop, get, pedal, grasp, lift. ``info["state"]``: figure, facing, ``things``
    ``[4, 3]`` (x, y, where: see `home_map`), ``bins`` ``[3, 4]`` (x, y, state, what opens it), ``task`` ``[3]``.
    Hidden: what opens the bins, and x and y of what is not in sight. Events: see ``metadata``.

    Args:
        size: edge of the picture in pixels.
        kind: "task", "future", "dynamics" or "corrections".
        chance: of saying something that is so.
        rules: "clean" or "official".
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 5, "vocabulary": VOCABULARY,
        "events": ("pickup", "drop", "drop_in_bin", "get", "open", "break", "bin_reset", "teleport", "spawn", "appear",
                   "subtask", "task_done"),
    }  # fmt: skip
    beside_pictures = ("token",)

    def __init__(
        self, size: int = 32, kind: str = "task", chance: float = 0.2, rules: str = "clean",
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        for name, value, known in (("kind", kind, KINDS), ("rules", rules, RULES)):
            if value not in known:
                raise ConfigError(
                    f"expected {name} as one of {', '.join(known)}, got {value!r}.{near(str(value), known)}"
                )
        if not 0 <= chance <= 1:
            raise ConfigError(f"expected chance in [0, 1], got {chance}")
        self.render_mode, self.kind, self.chance, self.vocabulary = render_mode, kind, chance, VOCABULARY
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "token": spaces.Discrete(len(VOCABULARY))})
        self.action_space = spaces.Discrete(home.OPEN_WITH + len(home.OPENING))
        self._mosaic, self.speech = Mosaic(GLYPHS, size), Speech(VOCABULARY)
        self.home = Home(rules == "official")
        self._reading, self._acted, self._said = 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.home.begin(self.np_random)
        self._acted = 0
        self.speech.interrupt()
        facts = self._facts()
        for fact in self.np_random.permutation(len(facts)):
            self.speech.say(facts[int(fact)])
        self.speech.cut(READ)
        self._reading = len(self.speech)
        self.home.new_task()
        if not self._reading:
            self._say_task()
        return self._observation(), self._info([])

    # ------------------------------------------------------------------------------------------------------ a step

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        if self._reading:
            self._reading -= 1
            if not self._reading:
                self._say_task()
            return self._observation(), 0.0, False, False, self._info([])
        self._acted += 1
        self._said += 1
        own = self.home
        before = own.far()
        event = own.ticks() + own.act(int(action))
        happened = own.jump() + own.announce() if own.official else []
        # What is done but a move may change what is wanted next; the published code does not mind.
        further = (own.official or action < home.MOVES) and own.far() > before
        reward, done = own.earned()
        event += ["subtask"] * (reward == HALF) + ["task_done"] * done
        if not own.official:
            happened = own.jump() + own.announce()
        event += [name for name, _ in happened]
        if done:
            self.home.new_task()
            self._say_task()
        else:
            self._speak([text for _, text in happened], further)
        return self._observation(), reward, False, self._acted >= STEPS_, self._info(event)

    # ------------------------------------------------------------------------------------------------- what is said

    def _say_task(self) -> None:
        self.speech.interrupt(home.task_text(self.home.task))
        self._said = 0

    def _speak(self, happened: list[str], further: bool) -> None:
        """What is said after a step, where nobody speaks."""
        drawn, facts = self.np_random.random() < self.chance, self._facts()
        which = int(self.np_random.integers(max(len(facts), 1)))
        if not self.speech.idle:
            return
        if self._said >= REPEAT:
            self._say_task()
        elif happened and self.kind == "future":
            self.speech.say(happened[-1])
        elif drawn and further and self.kind == "corrections":
            self.speech.say(home.NO)
        elif drawn and facts:
            self.speech.say(facts[which])

    def _facts(self) -> list[str]:
        """All that is so, of the kind that is told."""
        own = self.home
        if self.kind == "dynamics":
            return [home.opens(b, own.bins[b][3]) for b, *_ in own.standing()]
        if self.kind != "future":
            return []
        found = [
            (home.will_be if where == home.COMING and not own.official else home.is_in)(what, int(home.ROOM_OF[y, x]))
            for what, x, y, where in own.lying()
        ]
        return found + [home.is_in(len(THINGS) + b, int(home.ROOM_OF[y, x])) for b, x, y, _ in own.standing()]

    # -------------------------------------------------------------------------------------------------- what is seen

    def _observation(self) -> dict[str, NDArray[Any] | np.int64]:
        return {"image": self.render(), "token": np.int64(self.speech.word())}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the 3 × 3 cells around the figure, uint8 ``[size, size, 3]``; dark while something is read."""
        own = self.home
        around = slice(own.y, own.y + 3), slice(own.x, own.x + 3)
        lies, figure, held, facing = (np.full((3, 3), NOTHING) for _ in range(4))
        drawn = [(k, x, y, _THING + k) for k, x, y, where in own.lying() if where == home.VISIBLE]
        drawn += [(len(THINGS) + k, x, y, _BIN + 3 * k + state) for k, x, y, state in own.standing()]
        for k, x, y, sprite in drawn:
            if self._near(x, y) and k not in own.lost:
                lies[y - own.y + RADIUS, x - own.x + RADIUS] = sprite
        middle = RADIUS, RADIUS
        figure[middle], facing[middle] = _FIGURE, _FACING + own.facing
        if own.carried is not None:
            held[middle] = _HELD + own.carried
        layers = (_GROUND[around], _STANDS[around], lies, figure, held, facing)
        frame = (self._mosaic(*layers) * (1 - LIGHT) + 255 * LIGHT + 0.5).astype(np.uint8)
        return frame // 2 if self._marked else frame

    @property
    def _marked(self) -> bool:
        """Whether this row is marked as one that is read; where rules are the published ones, so is the next one."""
        return self._reading > 0 or (self.home.official and not self._acted)

    def _near(self, x: int, y: int) -> bool:
        """Whether a cell is in view."""
        return max(abs(x - self.home.x), abs(y - self.home.y)) <= RADIUS

    def _info(self, event: list[str]) -> dict[str, Any]:
        own = self.home
        numbers = {
            "figure": (own.x, own.y), "facing": [own.facing], "things": own.things, "bins": own.bins, "task": own.task,
        }  # fmt: skip
        state = {key: np.array(value, np.float32) for key, value in numbers.items()}
        reading = {"is_read_step": self._marked, "sentence": self.speech.sentence}
        return {"state": state, "hidden": self._hidden(), "event": event, "success": "task_done" in event, **reading}

    def _hidden(self) -> dict[str, Any]:
        own, found = self.home, dict[str, float]()
        lying = [(k, THINGS[k], x, y, where) for k, x, y, where in own.lying()]
        standing = [(len(THINGS) + k, BINS[k], x, y, home.VISIBLE) for k, x, y, _ in own.standing()]
        for k, name, x, y, where in (*lying, *standing):
            if where == home.COMING or not self._near(x, y) or k in own.lost:
                found |= {f"{name}_x": float(x), f"{name}_y": float(y)}
        found |= {f"{BINS[k]}_opens": own.bins[k][3] for k, *_ in own.standing()}
        return {key: np.array(value, np.float32) for key, value in found.items()}


ENVIRONMENTS = (
    Entry("HomeGrid", "home_grid", HomeGrid, 130, reference),
    Entry("HomeGridFuture", "home_grid_future", HomeGrid, 130, reference, {"kind": "future"}),
    Entry("HomeGridDynamics", "home_grid_dynamics", HomeGrid, 130, reference, {"kind": "dynamics"}),
    Entry("HomeGridCorrections", "home_grid_corrections", HomeGrid, 130, reference, {"kind": "corrections"}),
)
