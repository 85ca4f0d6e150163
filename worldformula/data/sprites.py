"""Mini-sprites: one shape on 16 × 16 pixels, all 768 combinations of its four factors. NumPy alone.

A shape of radius ``r = .09 + .035·scale`` lies at ``.25 + .5·position/7`` on the unit square; a pixel is
``clip(.5 − 16 d, 0, 1)`` of the signed distance ``d`` of its centre, so edges are smooth. Small relative of dSprites
(Matthey et al. 2017). Digest of ``load("sprites")``: ``5463fd64e3cc644b``.

Turned sprites are nearer to it: 32 × 32 pixels and the rotation as a fifth factor, all 10 368 combinations of 3 shapes,
4 scales, 6 rotations and 12 × 12 positions. A shape is turned by ``15°·rotation`` about its centre, which lies at
``.25 + .5·position/11``; ``r = .08 + .025·scale``. A quarter of a turn is left out at its end, where a square looks as
it did at first, so that no two images are alike. (dSprites has 40 rotations of a whole turn, and such twins.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader

SIZE = 16
FACTORS = {"shape": 3, "scale": 4, "row": 8, "column": 8}
SHAPES = ("square", "ellipse", "plus")
TEST = 128
TURNED_SIZE = 32
TURNED_FACTORS = {"shape": 3, "scale": 4, "rotation": 6, "row": 12, "column": 12}
TURNED_SHAPES = ("square", "ellipse", "triangle")
TURNED_TEST = 1728


@dataclass(frozen=True, repr=False)
class Sprites(Arrays):
    """All images, ``[N, pixels]`` float32 in [0, 1], and their factors, ``[N, F]`` int64.

    They are ``[768, 256]`` and ``[768, 4]`` in the order of `FACTORS`, or ``[10368, 1024]`` and ``[10368, 5]`` in the
    order of `TURNED_FACTORS`.
    """

    images: Floats
    factors: Integers


def sprites() -> Sprites:
    """Every combination once, the last factor moving fastest; measures of disentanglement take the whole set."""
    factors = _combinations(FACTORS)
    images = np.clip(0.5 - SIZE * _distance(factors), 0.0, 1.0)
    return Sprites(images.reshape(len(factors), -1).astype(np.float32), factors)


def turned_sprites() -> Sprites:
    """Every combination of `TURNED_FACTORS` once, the last factor moving fastest: 42 MB, in a second."""
    factors = _combinations(TURNED_FACTORS)
    parts = np.array_split(factors, 12)  # a twelfth at a time: the distances are in float64
    images = [np.clip(0.5 - TURNED_SIZE * _turned(part), 0.0, 1.0).astype(np.float32) for part in parts]
    return Sprites(np.concatenate(images).reshape(len(factors), -1), factors)


def _combinations(values: Mapping[str, int]) -> NDArray[np.int64]:
    """All of them, ``[N, F]``, the last factor moving fastest."""
    grid = np.meshgrid(*(np.arange(n) for n in values.values()), indexing="ij")
    return np.stack(grid, -1).reshape(-1, len(values)).astype(np.int64)


def _turned(factors: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signed distance of every pixel centre to the outline of a turned shape, ``[N, 32, 32]``, negative inside."""
    shape, scale, rotation, row, column = (factors[:, i, None, None] for i in range(5))
    centre = (np.arange(TURNED_SIZE) + 0.5) / TURNED_SIZE
    dy = centre[:, None] - (0.25 + 0.5 * row / 11)
    dx = centre[None, :] - (0.25 + 0.5 * column / 11)
    angle = np.pi / 12 * rotation
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    r = 0.08 + 0.025 * scale
    square = np.maximum(np.abs(u), np.abs(v)) - r
    ellipse = np.sqrt((u / 1.35) ** 2 + (v * 1.35) ** 2) - r
    sides = (2 * np.abs(u) - v - 1.6 * r) / np.sqrt(5.0)  # of a triangle 2.4 r high and wide, around its centre of mass
    return np.choose(np.broadcast_to(shape, u.shape), [square, ellipse, np.maximum(sides, v - 0.8 * r)])


def _distance(factors: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signed distance of every pixel centre to the outline, ``[N, 16, 16]``, negative inside."""
    shape, scale, row, column = (factors[:, i, None, None] for i in range(4))
    centre = (np.arange(SIZE) + 0.5) / SIZE
    dy = centre[:, None] - (0.25 + 0.5 * row / 7)
    dx = centre[None, :] - (0.25 + 0.5 * column / 7)
    r = 0.09 + 0.035 * scale
    square = np.maximum(np.abs(dx), np.abs(dy)) - r
    ellipse = np.sqrt((dx / 1.35) ** 2 + (dy * 1.35) ** 2) - r
    arms = [np.maximum(np.abs(a) - 1.2 * r, np.abs(b) - 0.4 * r) for a, b in ((dx, dy), (dy, dx))]
    return np.choose(np.broadcast_to(shape, square.shape), [square, ellipse, np.minimum(*arms)])


def _load() -> DataSet:
    note = "Three shapes × 4 scales × 8 × 8 positions on 16 × 16 pixels, 640 of the 768 combinations for training."
    return _parted("sprites", sprites(), TEST, SIZE, note)


def _load_turned() -> DataSet:
    note = "Three shapes × 4 scales × 6 rotations × 12 × 12 positions on 32 × 32 pixels, 8640 of 10 368 for training."
    return _parted("turned-sprites", turned_sprites(), TURNED_TEST, TURNED_SIZE, note)


def _parted(name: str, whole: Sprites, test: int, size: int, note: str) -> DataSet:
    """A random part of the combinations is for tests."""
    order = np.random.default_rng(0).permutation(len(whole.images))

    def part(rows: Integers) -> dict[str, Array]:
        return {"x": whole.images[rows], "factors": whole.factors[rows]}

    return DataSet(name, part(order[test:]), part(order[:test]), (size, size), note)


DATA: Mapping[str, Loader] = {"sprites": _load, "turned-sprites": _load_turned}
