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
pictures and the vocabulary of whole words are ours. Deviations: the figure starts on free cells alone, while theirs may
stand on a thing, which then nobody finds; and a correction points to where a carried thing has to be brought.
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
from worldformula.envs.home_script import reference
from worldformula.envs.home_tiles import BINS, STEPS, THINGS
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import taken
from worldformula.envs.speech import Speech
from worldformula.envs.tiles import NOTHING, Mosaic
from worldformula.errors import ConfigError, near

KINDS = ("task", "future", "dynamics", "corrections")
STEPS_, FOREVER, REPAIR, APPEARS, REPEAT, READ = 100, 10_000, 5, 5, 20, 28
JUMP, NEW, HALF = 0.05, 0.1, 0.5
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
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 5, "vocabulary": VOCABULARY,
        "events": ("pickup", "drop", "drop_in_bin", "get", "open", "break", "bin_reset", "teleport", "spawn", "appear",
                   "subtask", "task_done"),
    }  # fmt: skip
    beside_pictures = ("token",)

    def __init__(
        self, size: int = 32, kind: str = "task", chance: float = 0.2, render_mode: str | None = "rgb_array"
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"expected kind as one of {', '.join(KINDS)}, got {kind!r}.{near(kind, KINDS)}")
        if not 0 <= chance <= 1:
            raise ConfigError(f"expected chance in [0, 1], got {chance}")
        self.render_mode, self.kind, self.chance, self.vocabulary = render_mode, kind, chance, VOCABULARY
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "token": spaces.Discrete(len(VOCABULARY))})
        self.action_space = spaces.Discrete(home.OPEN_WITH + len(home.OPENING))
        self._mosaic, self.speech = Mosaic(GLYPHS, size), Speech(VOCABULARY)
        self.x, self.y, self.facing = 8, 5, 0
        self.things = [[-1, -1, home.ABSENT] for _ in THINGS]  # x, y, where
        self.bins = [[-1, -1, home.NO_BIN, -1] for _ in BINS]  # x, y, state, what opens it
        self.waits: dict[str, int] = {}  # steps until a bin is repaired, or a thing is seen, by name
        self.lasting, self.task, self.paid = -1, (0, 0, -1), False
        self._reading, self._acted, self._said = 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self.things, self.waits = [[-1, -1, home.ABSENT] for _ in THINGS], {}
        self.bins = [[-1, -1, home.NO_BIN, -1] for _ in BINS]
        kinds, places = rng.choice(len(THINGS), 2, False), rng.choice(len(home.THING_CELLS), 2, False)
        for what, place in zip(kinds, places, strict=True):
            self.things[what] = [*home.THING_CELLS[place], home.VISIBLE]
        kinds, places = rng.choice(len(BINS), 2, False), rng.choice(len(home.BIN_CELLS), 2, False)
        for number, place in zip(kinds, places, strict=True):
            opened, how = int(rng.random() < 0.5), int(rng.integers(len(home.OPENING)))
            self.bins[number] = [*home.BIN_CELLS[place], opened, how]
        self.lasting = int(kinds[0])
        starts = [cell for cell in home.STARTS if self._walkable(*cell)]
        (self.x, self.y), self.facing = starts[int(rng.integers(len(starts)))], int(rng.integers(4))
        self._acted = 0
        self.speech.interrupt()
        facts = self._facts()
        for fact in rng.permutation(len(facts)):
            self.speech.say(facts[int(fact)])
        self.speech.cut(READ)
        self._reading = len(self.speech)
        self._new_task()
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
        before = self._far()
        event = self._ticks() + self._act(int(action))
        further = action < home.MOVES and self._far() > before  # what else is done may change what is wanted next
        reward, done = self._earned()
        event += ["subtask"] * (reward == HALF) + ["task_done"] * done
        happened = self._jump() + self._announce()
        event += [name for name, _ in happened]
        if done:
            self._new_task()
            self._say_task()
        else:
            self._speak([text for _, text in happened], further)
        return self._observation(), reward, False, self._acted >= STEPS_, self._info(event)

    def _ticks(self) -> list[str]:
        event = []
        self.waits = {name: left - 1 for name, left in self.waits.items()}
        for name in [name for name, left in self.waits.items() if left <= 0]:
            del self.waits[name]
            if name in BINS:
                self.bins[BINS.index(name)][2] = home.CLOSED
                event.append("bin_reset")
            else:
                thing = self.things[THINGS.index(name)]
                if thing[2] == home.COMING:
                    thing[2] = home.VISIBLE
                    event.append("appear")
        return event

    def _act(self, action: int) -> list[str]:
        if action < home.MOVES:
            self.facing = action
            if self._walkable(*self.faced):
                self.x, self.y = self.faced
            return []
        thing, bin_, held = self._thing_at(*self.faced), self._bin_at(*self.faced), self.carried
        if action == home.PICKUP and held is None and thing is not None:
            self.things[thing] = [-1, -1, home.CARRIED]
            return ["pickup"]
        if action == home.DROP and held is not None:
            return self._drop(held, thing, bin_)
        if bin_ is None:
            return []
        inside = self._inside(bin_)
        if action == home.GET and held is None and inside is not None and self.bins[bin_][2] == home.OPEN:
            self.things[inside][2] = home.CARRIED
            return ["get"]
        if action >= home.OPEN_WITH and self.bins[bin_][2] == home.CLOSED:
            return self._unlock(bin_, action - home.OPEN_WITH)
        return []

    def _drop(self, held: int, thing: int | None, bin_: int | None) -> list[str]:
        x, y = self.faced
        if bin_ is not None:
            if self.bins[bin_][2] != home.OPEN or self._inside(bin_) is not None:
                return []
            self.things[held][2] = home.INSIDE + bin_
            return ["drop_in_bin"]
        if thing is not None or home.WALLS[y, x]:
            return []
        self.things[held] = [x, y, home.VISIBLE]
        return ["drop"]

    def _unlock(self, bin_: int, how: int) -> list[str]:
        right = how == self.bins[bin_][3]
        self.bins[bin_][2] = home.OPEN if right else home.BROKEN
        if not right:
            self.waits[BINS[bin_]] = FOREVER if bin_ == self.lasting else REPAIR
        return ["open" if right else "break"]

    def _earned(self) -> tuple[float, bool]:
        """The reward of this step, and whether the task is done."""
        kind, first, second = self.task
        x, y, where = self.things[first] if first < len(THINGS) else (-1, -1, home.ABSENT)
        if kind == home.FIND:
            thing, bin_ = self._thing_at(*self.faced), self._bin_at(*self.faced)
            seen = thing is not None and self.things[thing][2] == home.VISIBLE
            done = first == thing if seen else bin_ is not None and first == len(THINGS) + bin_
        elif kind == home.TAKE:
            done = where == home.CARRIED
        elif kind == home.PUT:
            done = where == home.INSIDE + second
        elif kind == home.MOVE:
            done = where == home.VISIBLE and bool(home.ROOM_OF[y, x] == second)
        else:
            done = self.bins[first - len(THINGS)][2] == home.OPEN
        if not done and kind in (home.PUT, home.MOVE) and where == home.CARRIED and not self.paid:
            self.paid = True
            return HALF, False
        return float(done), bool(done)

    def _jump(self) -> list[tuple[str, str]]:
        lying = [k for k, row in enumerate(self.things) if row[2] == home.VISIBLE]
        places = self._places()
        if self.np_random.random() >= JUMP or not lying or not places:
            return []
        what, (x, y) = int(self.np_random.choice(lying)), places[int(self.np_random.integers(len(places)))]
        self.things[what][:2] = x, y
        return [("teleport", home.was_moved(what, int(home.ROOM_OF[y, x])))]

    def _announce(self) -> list[tuple[str, str]]:
        missing, places = [k for k, row in enumerate(self.things) if row[2] == home.ABSENT], self._places()
        if self.np_random.random() >= NEW * len(missing) or not places:
            return []
        what, (x, y) = int(self.np_random.choice(missing)), places[int(self.np_random.integers(len(places)))]
        self.things[what] = [x, y, home.COMING]
        self.waits[THINGS[what]] = APPEARS
        return [("spawn", home.will_be(what, int(home.ROOM_OF[y, x])))]

    # ------------------------------------------------------------------------------------------- where things are

    @property
    def faced(self) -> home.Cell:
        """The cell in front of the figure."""
        return self.x + STEPS[self.facing][0], self.y + STEPS[self.facing][1]

    @property
    def carried(self) -> int | None:
        """What is carried."""
        return self._where(home.CARRIED)

    def _inside(self, bin_: int) -> int | None:
        return self._where(home.INSIDE + bin_)

    def _where(self, where: int) -> int | None:
        return next((k for k, row in enumerate(self.things) if row[2] == where), None)

    def _thing_at(self, x: int, y: int) -> int | None:
        lies = (home.VISIBLE, home.COMING)
        return next((k for k, row in enumerate(self.things) if row[:2] == [x, y] and row[2] in lies), None)

    def _bin_at(self, x: int, y: int) -> int | None:
        return next((k for k, row in enumerate(self.bins) if row[:2] == [x, y]), None)

    def _walkable(self, x: int, y: int) -> bool:
        thing = self._thing_at(x, y)
        blocked = thing is not None and self.things[thing][2] == home.VISIBLE
        return bool(home.WALKABLE[y, x]) and not blocked and self._bin_at(x, y) is None

    def _places(self) -> list[home.Cell]:
        taken = (self.x, self.y)
        return [cell for cell in home.THING_CELLS if cell != taken and self._thing_at(*cell) is None]

    def _far(self) -> int:
        """Steps from the figure to what the task asks for next, sideways and up or down."""
        kind, first, second = self.task
        thing = first < len(THINGS)
        if thing and self.things[first][2] == home.CARRIED and kind == home.MOVE:
            return int(home.FAR_FROM[second, self.y, self.x])
        if not thing:
            x, y = self.bins[first - len(THINGS)][:2]
        elif self.things[first][2] == home.CARRIED:
            x, y = self.bins[second][:2] if kind == home.PUT else (self.x, self.y)
        elif self.things[first][2] >= home.INSIDE:
            x, y = self.bins[self.things[first][2] - home.INSIDE][:2]
        else:
            x, y = self.things[first][:2]
        return int(abs(x - self.x) + abs(y - self.y))

    # ------------------------------------------------------------------------------------------------- what is said

    def _new_task(self) -> None:
        there = tuple(k for k, row in enumerate(self.things) if row[2] != home.ABSENT)
        bins = tuple(k for k, row in enumerate(self.bins) if row[2] != home.NO_BIN)
        group = home.tasks(there, bins)[int(self.np_random.integers(5))]
        self.task, self.paid = group[int(self.np_random.integers(len(group)))], False

    def _say_task(self) -> None:
        self.speech.interrupt(home.task_text(self.task))
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
        there = [b for b, row in enumerate(self.bins) if row[2] != home.NO_BIN]
        if self.kind == "dynamics":
            return [home.opens(b, self.bins[b][3]) for b in there]
        if self.kind != "future":
            return []
        found = [
            (home.is_in if where == home.VISIBLE else home.will_be)(what, int(home.ROOM_OF[y, x]))
            for what, (x, y, where) in enumerate(self.things)
            if where in (home.VISIBLE, home.COMING)
        ]
        return found + [home.is_in(len(THINGS) + b, int(home.ROOM_OF[self.bins[b][1], self.bins[b][0]])) for b in there]

    # -------------------------------------------------------------------------------------------------- what is seen

    def _observation(self) -> dict[str, NDArray[Any] | np.int64]:
        return {"image": self.render(), "token": np.int64(self.speech.word())}

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the 3 × 3 cells around the figure, uint8 ``[size, size, 3]``; dark while something is read."""
        around = slice(self.y, self.y + 3), slice(self.x, self.x + 3)
        lies, figure, held, facing = (np.full((3, 3), NOTHING) for _ in range(4))
        drawn = [(x, y, _THING + k) for k, (x, y, where) in enumerate(self.things) if where == home.VISIBLE]
        drawn += [(x, y, _BIN + 3 * k + state) for k, (x, y, state, _) in enumerate(self.bins) if state != home.NO_BIN]
        for x, y, sprite in drawn:
            if max(abs(x - self.x), abs(y - self.y)) <= RADIUS:
                lies[y - self.y + RADIUS, x - self.x + RADIUS] = sprite
        middle = RADIUS, RADIUS
        figure[middle], facing[middle] = _FIGURE, _FACING + self.facing
        if self.carried is not None:
            held[middle] = _HELD + self.carried
        layers = (_GROUND[around], _STANDS[around], lies, figure, held, facing)
        frame = (self._mosaic(*layers) * (1 - LIGHT) + 255 * LIGHT + 0.5).astype(np.uint8)
        return frame // 2 if self._reading else frame

    def _info(self, event: list[str]) -> dict[str, Any]:
        numbers = {
            "figure": (self.x, self.y), "facing": [self.facing], "things": self.things, "bins": self.bins,
            "task": self.task,
        }  # fmt: skip
        state = {key: np.array(value, np.float32) for key, value in numbers.items()}
        reading = {"is_read_step": self._reading > 0, "sentence": self.speech.sentence}
        return {"state": state, "hidden": self._hidden(), "event": event, "success": "task_done" in event, **reading}

    def _hidden(self) -> dict[str, Any]:
        found: dict[str, float] = {}
        lying = [(THINGS[k], x, y, w) for k, (x, y, w) in enumerate(self.things) if w in (home.VISIBLE, home.COMING)]
        standing = [(BINS[k], x, y, home.VISIBLE) for k, (x, y, s, _) in enumerate(self.bins) if s != home.NO_BIN]
        for name, x, y, where in (*lying, *standing):
            if where == home.COMING or max(abs(x - self.x), abs(y - self.y)) > RADIUS:
                found |= {f"{name}_x": float(x), f"{name}_y": float(y)}
        found |= {f"{BINS[k]}_opens": row[3] for k, row in enumerate(self.bins) if row[2] != home.NO_BIN}
        return {key: np.array(value, np.float32) for key, value in found.items()}


ENVIRONMENTS = (
    Entry("HomeGrid", "home_grid", HomeGrid, 130, reference),
    Entry("HomeGridFuture", "home_grid_future", HomeGrid, 130, reference, {"kind": "future"}),
    Entry("HomeGridDynamics", "home_grid_dynamics", HomeGrid, 130, reference, {"kind": "dynamics"}),
    Entry("HomeGridCorrections", "home_grid_corrections", HomeGrid, 130, reference, {"kind": "corrections"}),
)
