"""What the data sets of this package hold, so that a model can be asked whether it takes them before one is made.

Some take seconds to make, and all of them are tried where data were refused. A test compares this with the sets.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import numpy as np

from worldformula.data import local
from worldformula.data.base import DataSet

Held = tuple[tuple[int, ...], str, float, float]
"""Shape of a row, what its numbers are, the least and the greatest to learn from; of numbers, rounded outwards."""
BIT, NUMBER, CLASS = "bits", "numbers", "classes"
TYPES = {BIT: np.float32, NUMBER: np.float32, CLASS: np.int64}
FEW = 8

_X = {"x": ((64,), BIT, 0, 1)}
_DIGIT = {
    "y": ((), CLASS, 0, 9), "binary": ((64,), BIT, 0, 1), "grey": ((64,), NUMBER, 0, 1),
    "levels": ((64,), CLASS, 0, 16),
}  # fmt: skip
ROWS: Mapping[str, Mapping[str, Held]] = {
    "digits": {**_X, **_DIGIT},
    "digits-17": {"x": ((64,), CLASS, 0, 16), **_DIGIT},
    "digits-grey": {"x": ((64,), NUMBER, 0, 1), **_DIGIT},
    "grid": {"x": ((2,), NUMBER, -4.2, 4.2)},
    "gridworld": {
        "x": ((50, 50), BIT, 0, 1), "a": ((50, 4), BIT, 0, 1), "map": ((8, 8), CLASS, 0, 1),
        "position": ((50, 2), CLASS, 0, 7),
    },
    "moons": {"x": ((2,), NUMBER, -1.3, 2.4)},
    "moving": {
        "x": ((12, 256), BIT, 0, 1), "direction": ((12,), CLASS, 0, 3), "position": ((12, 2), CLASS, 0, 8),
        "y": ((), CLASS, 0, 9),
    },
    "ring": {"x": ((2,), NUMBER, -2.3, 2.2)},
    "rolling": {"x": ((16, 96), BIT, 0, 1), "direction": ((), CLASS, 0, 1), "y": ((), CLASS, 0, 9)},
    "rooms": {
        "x": ((6, 16, 16, 3), NUMBER, 0.1, 0.9), "v": ((6, 7), NUMBER, -1.3, 1.3), "shape": ((), CLASS, 0, 1),
        "colour": ((), CLASS, 0, 3), "wall": ((), CLASS, 0, 2),
    },
    "speech": {"x": ((24,), NUMBER, -10.7, 5.5), "image": ((64,), BIT, 0, 1), "y": ((), CLASS, 0, 9)},
    "sprites": {"x": ((256,), NUMBER, 0, 1), "factors": ((4,), CLASS, 0, 7)},
    "three": {"x": ((2,), NUMBER, -2.8, 3.0)},
    "trimodal": {
        "x": ((64,), BIT, 0, 1), "a": ((64,), BIT, 0, 1), "b": ((64,), BIT, 0, 1), "c": ((24,), NUMBER, -0.3, 2.4),
        "y": ((), CLASS, 0, 9),
    },
    "turned-sprites": {"x": ((1024,), NUMBER, 0, 1), "factors": ((5,), CLASS, 0, 11)},
}  # fmt: skip
SHAPES: Mapping[str, tuple[int, ...]] = {
    "gridworld": (50, 2, 5, 5), "moving": (12, 16, 16), "rolling": (16, 8, 12), "rooms": (6, 16, 16, 3),
    "sprites": (16, 16), "turned-sprites": (32, 32),
    **dict.fromkeys(("digits", "digits-17", "digits-grey", "trimodal"), (8, 8)),
}  # fmt: skip
"""Of a row of x, where it is more than its numbers."""
OF_DIGITS = ("digits", "digits-17", "digits-grey", "moving", "rolling", "speech", "trimodal")


def like(name: str) -> DataSet:
    """Eight rows like those of a data set: its shapes and types; least, greatest and a middle number by turns.

    Raises:
        ConfigError: it lies in local files, and they are missing; `local` reads its first rows.
    """
    if name in local.SOURCES:
        return local.read(name, limit=FEW)
    rows = {}
    for key, (shape, kind, low, high) in ROWS[name].items():
        turns = [low, high, (low + high) / 2][: 3 if kind == NUMBER else 2]
        turn = np.arange(FEW).reshape(FEW, *(1 for _ in shape)) + np.indices((1, *shape)).sum(0)
        rows[key] = np.array(turns)[turn % len(turns)].astype(TYPES[kind])
    return DataSet(name, rows, rows, SHAPES.get(name, ROWS[name]["x"][0]), f"Rows like those of {name}.")


def here() -> list[str]:
    """The sets that can be made on this machine, and those that may lie in local files."""
    digits = importlib.util.find_spec("sklearn") is not None
    return sorted(name for name in (*ROWS, *local.SOURCES) if digits or name not in OF_DIGITS)
