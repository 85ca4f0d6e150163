"""What is where in HomeGrid, what every action does, and what a task earns: the rules of `home_grid`, without words."""

from __future__ import annotations

import numpy as np

from worldformula.envs import home_map as home
from worldformula.envs.home_tiles import BINS, STEPS, THINGS

FOREVER, REPAIR, APPEARS = 10_000, 5, 5
JUMP, NEW, HALF = 0.05, 0.1, 0.5


class Home:
    """The state of a home and its rules, by the published code where ``official``: see `home_grid`.

    Attributes:
        x, y, facing: of the figure.
        things: x, y, where, of each.
        bins: x, y, state, what opens it, of each.
        waits: steps until a bin is repaired, or a thing is seen, by name.
        lasting: the bin that stays broken.
        lost: numbers of things, and of bins behind them, that the figure began on, which nobody finds.
        task, paid: what is asked for, and whether half of it was paid.
    """

    def __init__(self, official: bool = False) -> None:
        self.official, self.rng = official, np.random.default_rng()
        self.x, self.y, self.facing = 8, 5, 0
        self.things = [[-1, -1, home.ABSENT] for _ in THINGS]
        self.bins = [[-1, -1, home.NO_BIN, -1] for _ in BINS]
        self.waits: dict[str, int] = {}
        self.lost: set[int] = set()
        self.lasting, self.task, self.paid = -1, (0, 0, -1), False

    def begin(self, rng: np.random.Generator) -> None:
        """Draws an episode but for its task."""
        self.rng = rng
        self.things, self.waits, self.lost = [[-1, -1, home.ABSENT] for _ in THINGS], {}, set()
        self.bins = [[-1, -1, home.NO_BIN, -1] for _ in BINS]
        kinds, places = rng.choice(len(THINGS), 2, False), rng.choice(len(home.THING_CELLS), 2, False)
        for what, place in zip(kinds, places, strict=True):
            self.things[what] = [*home.THING_CELLS[place], home.VISIBLE]
        kinds, places = rng.choice(len(BINS), 2, False), rng.choice(len(home.BIN_CELLS), 2, False)
        for number, place in zip(kinds, places, strict=True):
            opened, how = int(rng.random() < 0.5), int(rng.integers(len(home.OPENING)))
            self.bins[number] = [*home.BIN_CELLS[place], opened, how]
        self.lasting = int(kinds[0])
        starts = [cell for cell in home.STARTS if self.official or self.walkable(*cell)]
        (self.x, self.y), self.facing = starts[int(rng.integers(len(starts)))], int(rng.integers(4))
        here = self.thing_at(self.x, self.y), self.bin_at(self.x, self.y)
        self.lost = {k + place for k, place in zip(here, (0, len(THINGS)), strict=True) if k is not None}

    def new_task(self) -> None:
        """Draws what is asked for, among what is there."""
        there = tuple(k for k, row in enumerate(self.things) if row[2] != home.ABSENT)
        bins = tuple(k for k, row in enumerate(self.bins) if row[2] != home.NO_BIN)
        group = home.tasks(there, bins)[int(self.rng.integers(5))]
        self.task, self.paid = group[int(self.rng.integers(len(group)))], False

    def ticks(self) -> list[str]:
        """A step passes; what happened by itself."""
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

    def act(self, action: int) -> list[str]:
        """What happens with an action."""
        if action < home.MOVES:
            self.facing = action
            if self.walkable(*self.faced):
                self.x, self.y = self.faced
            return []
        thing, bin_, held = self.thing_at(*self.faced), self.bin_at(*self.faced), self.carried
        if action == home.PICKUP and held is None and thing is not None:
            self.things[thing] = [-1, -1, home.CARRIED]
            return ["pickup"]
        if action == home.DROP and held is not None:
            return self._drop(held, thing, bin_)
        if bin_ is None:
            return []
        inside = self.inside(bin_)
        if action == home.GET and held is None and inside is not None and self.bins[bin_][2] == home.OPEN:
            self.things[inside][2] = home.CARRIED
            return ["get"]
        if action >= home.OPEN_WITH and self.bins[bin_][2] == home.CLOSED:
            return self._unlock(bin_, action - home.OPEN_WITH)
        return []

    def _drop(self, held: int, thing: int | None, bin_: int | None) -> list[str]:
        x, y = self.faced
        if bin_ is not None:
            if self.bins[bin_][2] != home.OPEN or self.inside(bin_) is not None:
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

    def earned(self) -> tuple[float, bool]:
        """The reward of this step, and whether the task is done."""
        kind, first, second = self.task
        x, y, where = self.things[first] if first < len(THINGS) else (-1, -1, home.ABSENT)
        if kind == home.FIND:
            thing, bin_ = self.thing_at(*self.faced), self.bin_at(*self.faced)
            seen = thing is not None and (self.official or self.things[thing][2] == home.VISIBLE)
            done = first == thing if seen else bin_ is not None and first == len(THINGS) + bin_
        elif kind == home.TAKE:
            done = where == home.CARRIED
        elif kind == home.PUT:
            done = where == home.INSIDE + second
        elif kind == home.MOVE:
            lies = where == home.VISIBLE or (self.official and where == home.COMING)
            done = lies and bool(home.ROOM_OF[y, x] == second)
        else:
            done = self.bins[first - len(THINGS)][2] == home.OPEN
        if not done and kind in (home.PUT, home.MOVE) and where == home.CARRIED and not self.paid:
            self.paid = True
            return HALF, False
        return float(done), bool(done)

    def jump(self) -> list[tuple[str, str]]:
        """Whether one thing jumps to another place: the event, and how it is said."""
        lying = [k for k, row in enumerate(self.things) if row[2] == home.VISIBLE]
        places = self.places()
        if self.rng.random() >= JUMP or not lying or not places:
            return []
        what = int(self.rng.choice(lying))
        places = [place for place in places if list(place) != self.things[what][:2]]  # of a lost one its own is free
        x, y = places[int(self.rng.integers(len(places)))]
        self.things[what][:2] = x, y
        self.lost.discard(what)
        return [("teleport", home.was_moved(what, int(home.ROOM_OF[y, x])))]

    def announce(self) -> list[tuple[str, str]]:
        """Whether a thing is announced: the event, and how it is said."""
        missing, places = [k for k, row in enumerate(self.things) if row[2] == home.ABSENT], self.places()
        if self.rng.random() >= NEW * len(missing) or not places:
            return []
        what, (x, y) = int(self.rng.choice(missing)), places[int(self.rng.integers(len(places)))]
        self.things[what] = [x, y, home.COMING]
        self.waits[THINGS[what]] = APPEARS
        return [("spawn", home.will_be(what, int(home.ROOM_OF[y, x])))]

    # ------------------------------------------------------------------------------------------- where things are

    def lying(self) -> list[tuple[int, int, int, int]]:
        """Of each thing on a cell, seen or announced: its number, x, y, where."""
        return [(k, x, y, w) for k, (x, y, w) in enumerate(self.things) if w in (home.VISIBLE, home.COMING)]

    def standing(self) -> list[tuple[int, int, int, int]]:
        """Of each bin: its number, x, y, state."""
        return [(k, x, y, state) for k, (x, y, state, _) in enumerate(self.bins) if state != home.NO_BIN]

    @property
    def faced(self) -> home.Cell:
        """The cell in front of the figure."""
        return self.x + STEPS[self.facing][0], self.y + STEPS[self.facing][1]

    @property
    def carried(self) -> int | None:
        """What is carried."""
        return self._where(home.CARRIED)

    def inside(self, bin_: int) -> int | None:
        """What is in a bin."""
        return self._where(home.INSIDE + bin_)

    def _where(self, where: int) -> int | None:
        return next((k for k, row in enumerate(self.things) if row[2] == where), None)

    def thing_at(self, x: int, y: int) -> int | None:
        """What lies on a cell, seen or announced; nothing that is lost."""
        return next((k for k, *cell, _ in self.lying() if cell == [x, y] and k not in self.lost), None)

    def bin_at(self, x: int, y: int) -> int | None:
        """The bin on a cell, unless it is lost."""
        return next((k for k, *cell, _ in self.standing() if cell == [x, y] and len(THINGS) + k not in self.lost), None)

    def walkable(self, x: int, y: int) -> bool:
        """Whether the figure may be on a cell."""
        thing = self.thing_at(x, y)
        blocked = thing is not None and self.things[thing][2] == home.VISIBLE
        return bool(home.WALKABLE[y, x]) and not blocked and self.bin_at(x, y) is None

    def places(self) -> list[home.Cell]:
        """Where a thing may come to lie."""
        taken = (self.x, self.y)
        return [cell for cell in home.THING_CELLS if cell != taken and self.thing_at(*cell) is None]

    def far(self) -> int:
        """Steps from the figure to what the task asks for next, sideways and up or down."""
        kind, first, second = self.task
        thing = first < len(THINGS)
        held = thing and self.things[first][2] == home.CARRIED
        if held and kind == home.MOVE and not self.official:
            return int(home.FAR_FROM[second, self.y, self.x])
        if not thing:
            x, y = self.bins[first - len(THINGS)][:2]
        elif held and kind == home.PUT:
            x, y = self.bins[second][:2]
        elif self.official:
            x, y = self.things[first][:2]  # of what is carried or in a bin (−1, −1)
        elif held:
            x, y = self.x, self.y
        elif self.things[first][2] >= home.INSIDE:
            x, y = self.bins[self.things[first][2] - home.INSIDE][:2]
        else:
            x, y = self.things[first][:2]
        return int(abs(x - self.x) + abs(y - self.y))
