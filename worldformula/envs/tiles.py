"""Pictures of grids: flat glyphs, one per kind of tile, laid side by side and over each other.

A glyph is drawn once from discs, boxes and rods; coordinates run from −1 to 1 over its tile, y up. A picture of a grid
takes them at 16 pixels a tile and keeps the nearest pixel where another size is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import LARGEST, SMALLEST, Canvas, Colour, Frames
from worldformula.errors import ConfigError

Floats = NDArray[np.float32]
Ids = NDArray[np.integer]
Shape = tuple[str, tuple[float, ...], Colour]
"""The name of a method of `Canvas` (disc, box, rod), its numbers, and a colour."""

PIXELS, NOTHING = 16, -1


def glyph(*shapes: Shape, ground: Colour | None = None) -> Floats:
    """A tile ``[16, 16, 4]``: colours times their coverage, and the coverage; all of it is covered if it has a ground.

    >>> glyph(("disc", (0.0, 0.0, 0.5), (255, 0, 0))).shape
    (16, 16, 4)
    """
    canvas = Canvas(PIXELS, (0, 0, 0))
    found = np.zeros((PIXELS * PIXELS, 4), np.float32)
    if ground is not None:
        found[:] = (*ground, 1.0)
    for name, numbers, colour in shapes:
        covered = getattr(canvas, name)(*numbers).reshape(-1, 1)
        found = found * (1 - covered) + np.array((*colour, 1.0), np.float32) * covered
    return found.reshape(PIXELS, PIXELS, 4)


class Mosaic:
    """Draws square grids of tiles.

    Args:
        glyphs: by number, as `glyph` gives them.
        size: edge of the picture in pixels.
        ground: the colour under everything.

    >>> red = glyph(ground=(255, 0, 0))
    >>> Mosaic([red], 32)([[0, -1], [-1, -1]])[0, 0].tolist()
    [255, 0, 0]
    """

    def __init__(self, glyphs: Sequence[Floats], size: int, ground: Colour = (0, 0, 0)) -> None:
        if not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
            raise ConfigError(f"expected a picture size between {SMALLEST} and {LARGEST} pixels, got {size!r}")
        empty = np.zeros((PIXELS, PIXELS, 4), np.float32)
        self.size, self.ground = size, np.array(ground, np.float32)
        self.glyphs = np.stack([*glyphs, empty])  # the last one is what −1 names

    def __call__(self, *layers: ArrayLike) -> Frames:
        """Grids of tiles ``[…, K, K]``, the lowest first, −1 for nothing, as pictures uint8 ``[…, size, size, 3]``."""
        grids: list[Ids] = [np.asarray(layer) for layer in layers]
        whole = grids[0].shape[-1] * PIXELS
        edge = min(self.size, whole)  # painted at so many pixels, which are repeated where more are asked for
        place = ((np.arange(edge) + 0.5) * whole / edge).astype(int)
        row, within = place // PIXELS, place % PIXELS
        painted = np.broadcast_to(self.ground, (*grids[0].shape[:-2], edge, edge, 3))
        for grid in grids:
            if (grid != NOTHING).any():
                chosen = self.glyphs[grid[..., row[:, None], row], within[:, None], within]
                painted = painted * (1 - chosen[..., 3:]) + chosen[..., :3]
        found: Frames = (painted + 0.5).astype(np.uint8)
        if edge == self.size:
            return found
        place = ((np.arange(self.size) + 0.5) * edge / self.size).astype(int)
        return np.ascontiguousarray(found[..., place[:, None], place, :])


def crop(grid: NDArray[np.int64], x: int, y: int, radius: int, outside: int) -> NDArray[np.int64]:
    """What lies around (x, y) of a map ``[H, W]``, ``[2·radius + 1, 2·radius + 1]``; ``outside`` beyond its edges."""
    wide = np.pad(grid, radius, constant_values=outside)
    return wide[y : y + 2 * radius + 1, x : x + 2 * radius + 1]


def way(open_: NDArray[np.bool_], start: tuple[int, int], ends: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """A shortest way over the free cells of a map ``[H, W]`` from ``start`` (x, y), which it leaves out, to one of the
    cells ``ends`` ``[H, W]``, which need not be free. Empty where it starts at one, or where none can be reached.
    """
    height, width = open_.shape
    before: dict[tuple[int, int], tuple[int, int]] = {start: start}
    front = [start]
    while front:
        found, front = front, []
        for x, y in found:
            if ends[y, x]:
                return _back(before, (x, y))
            for next_ in ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y)):
                inside = 0 <= next_[0] < width and 0 <= next_[1] < height
                if inside and next_ not in before and (open_[next_[1], next_[0]] or ends[next_[1], next_[0]]):
                    before[next_] = (x, y)
                    front.append(next_)
    return []


def _back(before: dict[tuple[int, int], tuple[int, int]], end: tuple[int, int]) -> list[tuple[int, int]]:
    found = []
    while before[end] != end:
        found.append(end)
        end = before[end]
    return found[::-1]
