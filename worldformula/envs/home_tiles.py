"""The sprites of homes: floor, walls, things, bins, furniture, and a figure that faces somewhere. Our own drawings."""

from __future__ import annotations

import numpy as np

from worldformula.envs.tiles import Floats, Shape, glyph

THINGS = ("bottle", "fruit", "papers", "plates")
BINS = ("recycling", "trash", "compost")
FACINGS = ("left", "right", "up", "down")
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Of moves and of facings, x to the right and y down."""

_WOOD, _EDGE, _GREY, _INK, _PAPER = (214, 186, 150), (160, 128, 96), (96, 100, 116), (40, 40, 52), (248, 248, 240)
_LEAF, _SEAT, _TABLE, _METAL, _CUP = (60, 150, 70), (110, 90, 170), (150, 100, 60), (190, 196, 206), (120, 76, 44)
BIN_COLOURS = ((50, 110, 220), (70, 70, 80), (90, 140, 50))
RED = (230, 40, 40)

FLOOR = glyph(("rod", (-1.0, -1.0, 1.0, -1.0, 0.06), _EDGE), ground=_WOOD)
WALL = glyph(("rod", (-1.0, 0.0, 1.0, 0.0, 0.08), _INK), ("rod", (0.0, 0.0, 0.0, 1.0, 0.08), _INK), ground=_GREY)
THING_GLYPHS = (
    glyph(("rod", (0.0, -0.5, 0.0, 0.1, 0.28), (40, 160, 120)), ("rod", (0.0, 0.3, 0.0, 0.65, 0.11), (40, 160, 120))),
    glyph(("disc", (0.0, -0.1, 0.5), (240, 120, 30)), ("rod", (0.0, 0.4, 0.2, 0.65, 0.09), _LEAF)),
    glyph(
        ("box", (0.0, 0.0, 0.45, 0.6), _PAPER), ("rod", (-0.25, 0.3, 0.25, 0.3, 0.06), _INK),
        ("rod", (-0.25, 0.0, 0.25, 0.0, 0.06), _INK), ("rod", (-0.25, -0.3, 0.25, -0.3, 0.06), _INK),
    ),
    glyph(("disc", (0.0, 0.0, 0.6), (240, 240, 255)), ("disc", (0.0, 0.0, 0.35), (150, 180, 230))),
)  # fmt: skip
FIGURE = glyph(("rod", (0.0, -0.5, 0.0, -0.2, 0.4), (70, 60, 190)), ("disc", (0.0, 0.35, 0.34), (250, 214, 176)))


def _bin(number: int, open_: bool) -> Floats:
    body: tuple[Shape, ...] = (("box", (0.0, -0.25, 0.55, 0.6), BIN_COLOURS[number]),)
    lid: Shape = ("rod", (-0.6, 0.5, -0.5, 0.85, 0.12), _INK) if open_ else ("rod", (-0.6, 0.5, 0.6, 0.5, 0.13), _INK)
    inside: tuple[Shape, ...] = (("box", (0.0, 0.3, 0.45, 0.12), (16, 16, 20)),) if open_ else ()
    mark: Shape = ("disc", (0.0, -0.25, 0.12 + 0.1 * number), (240, 240, 240))
    return glyph(*body, mark, *inside, lid)


def turned(sprite: Floats) -> Floats:
    """A sprite, turned by a quarter: a bin that is broken."""
    return np.ascontiguousarray(np.rot90(sprite))


BIN_GLYPHS = tuple((_bin(k, False), _bin(k, True), turned(_bin(k, False))) for k in range(len(BINS)))
"""Of each bin: closed, open, broken."""


def _facing(dx: int, dy: int) -> Floats:
    tip, middle = (0.85 * dx, -0.85 * dy), (0.6 * dx, -0.6 * dy)
    left, right = ((0.5 * dx + s * 0.3 * dy, -0.5 * dy + s * 0.3 * dx) for s in (-1, 1))
    return glyph(
        ("rod", (*tip, *left, 0.12), RED), ("rod", (*tip, *right, 0.12), RED), ("rod", (*left, *right, 0.12), RED),
        ("disc", (*middle, 0.12), RED),
    )  # fmt: skip


FACING_GLYPHS = tuple(_facing(*step) for step in STEPS)
"""A red triangle that points where the figure faces: left, right, up, down."""

FURNITURE: dict[str, Floats] = {
    "plant": glyph(("disc", (0.0, 0.25, 0.55), _LEAF), ("box", (0.0, -0.6, 0.3, 0.3), _CUP)),
    "sofa": glyph(("box", (0.0, -0.1, 0.95, 0.75), _SEAT), ("box", (0.0, 0.7, 0.95, 0.2), (80, 60, 140))),
    "coffee table": glyph(("box", (0.0, 0.0, 0.85, 0.5), _TABLE)),
    "cabinet": glyph(("box", (0.0, 0.0, 0.85, 0.9), _CUP), ("rod", (0.0, -0.9, 0.0, 0.9, 0.05), _INK)),
    "sofa side": glyph(("box", (0.15, 0.0, 0.75, 0.95), _SEAT), ("box", (-0.75, 0.0, 0.2, 0.95), (80, 60, 140))),
    "rug": glyph(("box", (0.0, 0.0, 1.0, 0.85), (190, 90, 90)), ("box", (0.0, 0.0, 0.7, 0.5), (220, 150, 130))),
    "cupboard": glyph(("box", (0.0, 0.0, 0.95, 0.9), (170, 130, 90)), ("disc", (0.4, 0.0, 0.12), _INK)),
    "stove": glyph(
        ("box", (0.0, 0.0, 0.95, 0.95), _METAL), ("disc", (-0.4, 0.3, 0.28), _INK), ("disc", (0.4, 0.3, 0.28), _INK),
    ),
    "fridge": glyph(("box", (0.0, 0.0, 0.85, 0.98), (226, 232, 240)), ("rod", (-0.85, 0.2, 0.85, 0.2, 0.06), _INK)),
    "chair": glyph(("box", (0.0, -0.2, 0.5, 0.45), _TABLE), ("box", (0.0, 0.5, 0.5, 0.3), _CUP)),
    "table": glyph(("box", (0.0, 0.0, 1.0, 0.85), _TABLE), ("rod", (-1.0, -0.3, 1.0, -0.3, 0.05), _CUP)),
    "countertop": glyph(("box", (0.0, 0.0, 1.0, 0.95), _METAL), ("rod", (-1.0, 0.6, 1.0, 0.6, 0.06), _GREY)),
}  # fmt: skip
"""What stands in a room and is not walked on."""


def small(sprite: Floats) -> Floats:
    """A sprite at half its size in the lower right corner: what is carried."""
    found = np.zeros_like(sprite)
    half = len(sprite) // 2
    found[half:, half:] = sprite[::2, ::2]
    return found
