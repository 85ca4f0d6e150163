"""Moving digits: a binary digit of 8 × 8 pixels that bounces in a frame of 16 × 16 pixels.

It moves one or two pixels per frame along each axis and turns at the walls, so the frames to come are determined by the
last two. No digit of the test sequences is in a training sequence. Small relative of moving MNIST (Srivastava et al.
2015, arXiv:1502.04681). Digest of ``load("moving")``: ``c3e21952941b17de``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader, digit_levels, digit_split

SIZE, DIGIT, FRAMES = 16, 8, 12
ROOM = SIZE - DIGIT  # positions from 0 to ROOM along each axis


@dataclass(frozen=True, repr=False)
class Moving(Arrays):
    """Sequences of one part.

    Attributes:
        frames: ``[N, T, 16, 16]`` float32, 0 or 1.
        direction: ``[N, T]`` int64, where it is heading: 0 up-left, 1 up-right, 2 down-left,
            3 down-right.
        position: ``[N, T, 2]`` int64, row and column of the digit's upper left corner, 0 to 8.
        labels: ``[N]`` int64, which digit.
    """

    frames: Floats
    direction: Integers
    position: Integers
    labels: Integers


def moving(*, test: bool = False, frames: int = FRAMES, seed: int = 0) -> Moving:
    """One sequence per digit of the part: 1437 for training, 360 for the test.

    Args:
        test: the test part.
        frames: length T.
        seed: of first positions and velocities; another seed is fresh data from the same digits.

    Raises:
        ConfigError: scikit-learn, which carries the digits, is not installed.
    """
    levels, labels = digit_levels()
    rows = digit_split()[int(test)]
    rng = np.random.default_rng([seed, int(test)])
    speed = rng.integers(1, 3, size=(len(rows), 1, 2))
    phase = rng.integers(2 * ROOM, size=(len(rows), 1, 2)) + speed * np.arange(frames)[None, :, None]
    phase %= 2 * ROOM  # a walk on a circle, folded at its two ends, bounces
    position = np.minimum(phase, 2 * ROOM - phase)
    forward = phase < ROOM
    direction = 2 * forward[..., 0] + forward[..., 1]
    pixel = np.arange(SIZE)
    row, column = (pixel - position[..., axis, None] for axis in (0, 1))  # [N, T, 16], inside the digit 0 to 7
    canvas = np.pad((levels[rows] >= 8).reshape(-1, DIGIT, DIGIT), ((0, 0), (0, 1), (0, 1)))  # row and column 8: blank
    row, column = (np.where((at >= 0) & (at < DIGIT), at, DIGIT) for at in (row, column))
    sequence = np.arange(len(rows))[:, None, None, None]
    pictures = canvas[sequence, row[..., :, None], column[..., None, :]].astype(np.float32)
    return Moving(pictures, direction.astype(np.int64), position, labels[rows])


def _part(*, test: bool) -> dict[str, Array]:
    part = moving(test=test)
    flat = part.frames.reshape(len(part.frames), FRAMES, -1)
    return {"x": flat, "direction": part.direction, "position": part.position, "y": part.labels}


def _load() -> DataSet:
    note = "Binary digits that bounce in a frame of 16 × 16 pixels, 12 frames."
    return DataSet("moving", _part(test=False), _part(test=True), (FRAMES, SIZE, SIZE), note)


DATA: Mapping[str, Loader] = {"moving": _load}
