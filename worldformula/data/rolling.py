"""Rolling digits: a binary digit on a torus of 8 × 12 pixels that moves one column per frame, left or right.

Which way it rolls is hidden in any single frame and known from the second one on, so a belief has to carry it. No digit
of the test sequences is in a training sequence. After the rolling MNIST of Gregor et al. 2019 (TD-VAE,
arXiv:1806.03107, section 5). Digest of ``load("rolling")``: ``2f20c14880c826cf``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader, digit_levels, digit_split

HEIGHT, WIDTH, FRAMES = 8, 12, 16


@dataclass(frozen=True, repr=False)
class Rolling(Arrays):
    """Sequences of one part.

    Attributes:
        frames: ``[N, T, 8, 12]`` float32, 0 or 1.
        direction: ``[N]`` int64: 0 left, 1 right.
        labels: ``[N]`` int64, which digit.
    """

    frames: Floats
    direction: Integers
    labels: Integers


def rolling(*, test: bool = False, frames: int = FRAMES, seed: int = 0) -> Rolling:
    """One sequence per digit of the part: 1437 for training, 360 for the test.

    Args:
        test: the test part.
        frames: length T.
        seed: of directions and first columns; another seed is fresh data from the same digits.

    Raises:
        ConfigError: scikit-learn, which carries the digits, is not installed.
    """
    levels, labels = digit_levels()
    rows = digit_split()[int(test)]
    digit = (levels[rows] >= 8).reshape(-1, HEIGHT, 8)
    torus = np.pad(digit, ((0, 0), (0, 0), (0, WIDTH - 8))).astype(np.float32)
    rng = np.random.default_rng([seed, int(test)])
    direction = rng.integers(2, size=len(rows))
    first = rng.integers(WIDTH, size=len(rows))
    shift = first[:, None] + np.arange(frames) * (2 * direction - 1)[:, None]  # [N, T]
    column = (np.arange(WIDTH) - shift[..., None]) % WIDTH  # [N, T, 12]: where each column comes from
    moved = np.take_along_axis(torus[:, None], column[:, :, None, :], axis=-1)
    return Rolling(moved, direction, labels[rows])


def _part(*, test: bool) -> dict[str, Array]:
    part = rolling(test=test)
    flat = part.frames.reshape(len(part.frames), FRAMES, -1)
    return {"x": flat, "direction": part.direction, "y": part.labels}


def _load() -> DataSet:
    note = "Binary digits that roll one column per frame on a torus of 8 × 12 pixels, 16 frames."
    return DataSet("rolling", _part(test=False), _part(test=True), (FRAMES, HEIGHT, WIDTH), note)


DATA: Mapping[str, Loader] = {"rolling": _load}
