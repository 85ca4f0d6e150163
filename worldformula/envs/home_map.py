"""HomeGrid's map, things, tasks and sentences. Cells are (x, y), x to the right and y down, on 14 × 12."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldformula.envs.home_tiles import BINS, FURNITURE, THINGS
from worldformula.vocabulary import Vocabulary

Cell = tuple[int, int]

WIDTH, HEIGHT = 14, 12
OPENING = ("pedal", "grasp", "lift")
MOVES, PICKUP, DROP, GET, OPEN_WITH = 4, 4, 5, 6, 7
"""Actions: left, right, up, down, pickup, drop, get, and from 7 on pedal, grasp, lift."""

ABSENT, VISIBLE, COMING, CARRIED, INSIDE = range(5)
"""Where a thing is: nowhere, on a cell, on a cell but not yet seen, with the figure, in bin k (4 + k)."""

NO_BIN, CLOSED, OPEN, BROKEN = -1, 0, 1, 2
ROOMS = ("living room", "dining room", "kitchen")
FIND, TAKE, PUT, MOVE, UNLOCK = range(5)
NO = "no, turn around"

PLACES: dict[str, tuple[Cell, ...]] = {
    "plant": ((7, 1),), "sofa": ((8, 1), (10, 1)), "coffee table": ((9, 1),), "cabinet": ((12, 1),),
    "sofa side": ((7, 2), (7, 3)), "rug": ((9, 3), (10, 3)), "cupboard": ((1, 6), (2, 6), (5, 6)),
    "stove": ((3, 6), (4, 6)), "fridge": ((6, 6),), "chair": ((9, 8), (9, 9), (11, 8), (11, 9)),
    "table": ((10, 8), (10, 9)), "countertop": tuple((x, 10) for x in range(1, 7)),
}  # fmt: skip
"""Furniture, which nobody walks on and things may lie on."""

THING_CELLS: tuple[Cell, ...] = (
    (9, 1), (8, 2), (12, 2), (7, 4), (2, 6), (5, 6), (10, 8), (10, 9), (2, 10), (3, 10)
)  # fmt: skip
BIN_CELLS: tuple[Cell, ...] = ((11, 1), (1, 9), (12, 10))
STARTS: tuple[Cell, ...] = (
    *((x, y) for y in (2, 3, 4, 5, 6, 7, 10) for x in range(8, 13)), *((x, 7) for x in range(1, 8)),
    *((x, y) for y in (8, 9) for x in (*range(1, 9), 12)),
)  # fmt: skip


def _walls() -> NDArray[np.bool_]:
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[0, 6:], found[11] = True, True
    found[1:5, [6, 13]], found[5, :8], found[5, 13] = True, True, True
    found[[6, 10], 0], found[[6, 10], 7], found[[6, 10], 13] = True, True, True
    found[7:10, 0], found[7:10, 13] = True, True
    found[:5, :6] = True  # nobody gets there
    return found


def _rooms() -> NDArray[np.int64]:
    found = np.full((HEIGHT, WIDTH), -1)
    found[1:5, 7:13], found[5, 8:13] = 0, 0
    found[6:11, 8:13] = 1
    found[6:11, 1:7], found[7:10, 7] = 2, 2
    return found


WALLS, ROOM_OF = _walls(), _rooms()
"""Where walls are, and the number of the room of a cell, −1 for none; ``[12, 14]``."""

PIECE_OF = np.full((HEIGHT, WIDTH), -1)
for _number, _name in enumerate(FURNITURE):
    for _x, _y in PLACES[_name]:
        PIECE_OF[_y, _x] = _number
WALKABLE = ~WALLS & (PIECE_OF < 0)
_DOWN, _ACROSS = np.indices((HEIGHT, WIDTH))
FAR_FROM = np.stack(
    [
        np.min([abs(_DOWN - y) + abs(_ACROSS - x) for y, x in np.argwhere((r == ROOM_OF) & WALKABLE)], 0)
        for r in range(len(ROOMS))
    ]
)
"""Cells between a cell and a room, sideways and up or down; ``[3, 12, 14]``."""

for _shared in (WALLS, ROOM_OF, PIECE_OF, WALKABLE, FAR_FROM):
    _shared.setflags(write=False)


def named(number: int) -> str:
    """The word of a thing 0 … 3, or of a bin 4 … 6."""
    return THINGS[number] if number < len(THINGS) else f"{BINS[number - len(THINGS)]} bin"


def task_text(task: tuple[int, int, int]) -> str:
    """A task, its number of five, its first and its second argument, as it is said."""
    kind, first, second = task
    name = named(first)
    return {
        FIND: f"find the {name}", TAKE: f"get the {name}", PUT: f"put the {name} in the {BINS[second]} bin",
        MOVE: f"move the {name} to the {ROOMS[second]}", UNLOCK: f"open the {name}",
    }[kind]  # fmt: skip


def tasks(things: tuple[int, ...], bins: tuple[int, ...]) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Of each of the five kinds, every task with things and bins that are there."""
    cans = tuple(len(THINGS) + b for b in bins)
    return (
        tuple((FIND, what, -1) for what in (*things, *cans)),
        tuple((TAKE, what, -1) for what in things),
        tuple((PUT, what, b) for what in things for b in bins),
        tuple((MOVE, what, room) for what in things for room in range(len(ROOMS))),
        tuple((UNLOCK, can, -1) for can in cans),
    )


def is_in(what: int, room: int) -> str:
    """Where something is."""
    return f"{named(what)} is in the {ROOMS[room]}"


def was_moved(what: int, room: int) -> str:
    """A thing has jumped."""
    return f"i moved the {named(what)} to the {ROOMS[room]}"


def will_be(what: int, room: int) -> str:
    """A thing is coming."""
    return f"there will be {named(what)} in the {ROOMS[room]} later"


def opens(bin_: int, action: int) -> str:
    """How a bin is opened."""
    return f"{OPENING[action]} to open the {BINS[bin_]} bin"


def sentences() -> list[str]:
    """All that is ever said."""
    everything = tuple(range(len(THINGS))), tuple(range(len(BINS)))
    found = [task_text(task) for group in tasks(*everything) for task in group] + [NO]
    rooms = range(len(ROOMS))
    found += [is_in(what, room) for what in range(len(THINGS) + len(BINS)) for room in rooms]
    found += [text(what, room) for text in (was_moved, will_be) for what in everything[0] for room in rooms]
    return found + [opens(b, a) for b in everything[1] for a in range(len(OPENING))]


VOCABULARY = Vocabulary.of(sentences())
