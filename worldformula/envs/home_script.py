"""HomeGrid's controller: it sees the whole state, and takes the shortest way to what the task asks for next."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worldformula.envs import home_map as home
from worldformula.envs.home_tiles import STEPS, THINGS

Cells = NDArray[np.bool_]
WAIT = home.PICKUP  # what does nothing where nothing lies


class Scene:
    """``info["state"]`` of HomeGrid, read."""

    def __init__(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        self.x, self.y = (int(k) for k in state["figure"])
        self.facing = int(state["facing"][0])
        self.things, self.bins = state["things"].astype(int), state["bins"].astype(int)
        self.task = tuple(int(k) for k in state["task"])
        self.carried = next((k for k, row in enumerate(self.things) if row[2] == home.CARRIED), None)
        self.open = home.WALKABLE.copy()  # where one can walk
        self.free = ~home.WALLS  # where one can lay something down
        for x, y, where in self.things:
            if where in (home.VISIBLE, home.COMING):
                self.free[y, x] = False
                self.open[y, x] &= where == home.COMING
        for x, y, state_, _ in self.bins:
            if state_ != home.NO_BIN:
                self.open[y, x] = self.free[y, x] = False

    def cell(self, x: int, y: int) -> Cells:
        """The one cell."""
        found = np.zeros_like(self.open)
        found[y, x] = True
        return found

    def face(self, targets: Cells) -> int | None:
        """The first move of a shortest way to face one of some cells; None where one is faced."""
        start = self.x, self.y, self.facing
        front: list[tuple[tuple[int, int, int], int | None]] = [(start, None)]
        known = {start}
        for (x, y, facing), first in front:  # grows as it is read
            if targets[y + STEPS[facing][1], x + STEPS[facing][0]]:
                return first
            for turn, (dx, dy) in enumerate(STEPS):
                ahead = (x + dx, y + dy, turn) if self.open[y + dy, x + dx] else (x, y, turn)
                if ahead not in known:
                    known.add(ahead)
                    front.append((ahead, turn if first is None else first))
        return WAIT

    def then(self, targets: Cells, action: int) -> int:
        """Faces one of some cells, and acts there."""
        move = self.face(targets)
        return action if move is None else move

    def lay(self, where: Cells | None = None) -> int:
        """Lays down what is carried, anywhere or there."""
        return self.then(self.free if where is None else self.free & where, home.DROP)

    def at_bin(self, number: int) -> Cells:
        """Where a bin is."""
        return self.cell(self.bins[number][0], self.bins[number][1])

    def take(self, thing: int) -> int:
        """What leads to carrying a thing."""
        x, y, where = self.things[thing]
        if self.carried is not None:
            return self.lay()
        if where >= home.INSIDE:
            return self.then(self.at_bin(where - home.INSIDE), home.GET)
        return self.then(self.cell(x, y), home.PICKUP)

    def unlock(self, number: int) -> int:
        """What leads to an open bin; a broken one is waited for."""
        _, _, state, action = self.bins[number]
        return WAIT if state == home.BROKEN else self.then(self.at_bin(number), home.OPEN_WITH + action)

    def put(self, thing: int, number: int) -> int:
        """What leads to a thing in a bin."""
        inside = next((k for k, row in enumerate(self.things) if row[2] == home.INSIDE + number), None)
        if inside not in (None, thing):
            return self.take(inside) if self.carried is None else self.lay()
        if self.carried != thing:
            return self.take(thing)
        return self.then(self.at_bin(number), home.DROP) if self.bins[number][2] == home.OPEN else self.unlock(number)


def reference(state: Mapping[str, NDArray[np.floating]]) -> int:
    """The next action for the current task; it knows how bins are opened, and things before they appear."""
    scene = Scene(state)
    kind, first, second = scene.task
    bin_ = first - len(THINGS)
    if kind == home.UNLOCK:
        return scene.unlock(bin_)
    if kind == home.PUT:
        return scene.put(first, second)
    if kind == home.FIND and first >= len(THINGS):
        return scene.then(scene.at_bin(bin_), WAIT)
    if scene.carried == first:
        return scene.lay(np.asarray(second == home.ROOM_OF)) if kind == home.MOVE else scene.lay()
    if kind == home.FIND and scene.things[first][2] < home.INSIDE:
        return scene.then(scene.cell(*scene.things[first][:2]), WAIT)
    return scene.take(first)
