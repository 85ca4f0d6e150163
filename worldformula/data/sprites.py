"""Mini-sprites: one shape on 16 × 16 pixels, all 768 combinations of its four factors. NumPy alone.

A shape of radius ``r = .09 + .035·scale`` lies at ``.25 + .5·position/7`` on the unit square; a pixel is
``clip(.5 − 16 d, 0, 1)`` of the signed distance ``d`` of its centre, so edges are smooth. Small relative of dSprites
(Matthey et al. 2017). Digest of ``load("sprites")``: ``5463fd64e3cc644b``.
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


@dataclass(frozen=True, repr=False)
class Sprites(Arrays):
    """All images, ``[768, 256]`` float32 in [0, 1], and their factors, ``[768, 4]`` int64 in the order of `FACTORS`."""

    images: Floats
    factors: Integers


def sprites() -> Sprites:
    """Every combination once, the last factor moving fastest; measures of disentanglement take the whole set."""
    factors = np.stack(np.meshgrid(*(np.arange(n) for n in FACTORS.values()), indexing="ij"), -1).reshape(-1, 4)
    images = np.clip(0.5 - SIZE * _distance(factors), 0.0, 1.0)
    return Sprites(images.reshape(len(factors), -1).astype(np.float32), factors.astype(np.int64))


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
    whole = sprites()
    order = np.random.default_rng(0).permutation(len(whole.images))

    def part(rows: Integers) -> dict[str, Array]:
        return {"x": whole.images[rows], "factors": whole.factors[rows]}

    note = "Three shapes × 4 scales × 8 × 8 positions on 16 × 16 pixels, 640 of the 768 combinations for training."
    return DataSet("sprites", part(order[TEST:]), part(order[:TEST]), (SIZE, SIZE), note)


DATA: Mapping[str, Loader] = {"sprites": _load}
