"""Real handwritten digits, 8 × 8 pixels, that come with scikit-learn: no download.

Three sets of the same rows, named after what ``x`` is: ``digits`` 0 or 1 (1 where a pixel is at least half of the
maximum), ``digits-grey`` in [0, 1], ``digits-17`` the levels 0 to 16 as they were scanned. Digest of ``digits``:
``1bf8cc8207e07a9f``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldformula.data.base import (
    TEST_DIGITS,
    Array,
    Arrays,
    DataSet,
    Floats,
    Integers,
    Loader,
    digit_levels,
    digit_split,
)
from worldformula.errors import ConfigError

LEVELS = 17
HALF = 8


@dataclass(frozen=True, repr=False)
class Digits(Arrays):
    """Images ``[N, 64]`` float32 and labels ``[N]`` int64, split into training and test.

    ``train_x`` and ``test_x`` are binary or grey, as asked for; ``train_levels`` and ``test_levels`` are the same rows
    as they were scanned, int64 from 0 to 16.
    """

    train_x: Floats
    train_y: Integers
    test_x: Floats
    test_y: Integers
    train_levels: Integers
    test_levels: Integers


def digits(*, binarise: bool = True, test: int = TEST_DIGITS, seed: int = 0, stratified: bool = False) -> Digits:
    """The 1797 digits of the UCI optical recognition set (Alpaydin and Kaynak 1998).

    Args:
        binarise: 1 where a pixel is at least half of the maximum, else 0; otherwise grey values in [0, 1].
        test: size of the test set.
        seed: of the shuffle before the split; the same seed gives the same split everywhere.
        stratified: the fixed split of ``load("digits")`` instead, with every class in its share; ``test`` and ``seed``
            then stay as they are.

    Raises:
        ConfigError: scikit-learn is not installed, the test set takes everything, or a fixed split is to be changed.
    """
    levels, labels = digit_levels()
    if stratified and (test, seed) != (TEST_DIGITS, 0):
        raise ConfigError(f"the stratified split is fixed at {TEST_DIGITS} test digits, seed 0; got {test=}, {seed=}")
    if not 0 < test < len(levels):
        raise ConfigError(f"expected a test set between 1 and {len(levels) - 1} digits, got {test}")
    if stratified:
        train_rows, test_rows = digit_split()
    else:
        order = np.random.default_rng(seed).permutation(len(levels))
        train_rows, test_rows = order[:-test], order[-test:]
    x = (levels >= HALF if binarise else levels / (LEVELS - 1)).astype(np.float32)
    return Digits(
        x[train_rows], labels[train_rows], x[test_rows], labels[test_rows], levels[train_rows], levels[test_rows]
    )


def _load(name: str, x: str, note: str) -> DataSet:
    """The stratified split with all three readings of a pixel; ``x`` is the one that the set is named after."""
    levels, labels = digit_levels()

    def part(rows: Integers) -> dict[str, Array]:
        scanned = levels[rows]
        readings: dict[str, Array] = {
            "binary": (scanned >= HALF).astype(np.float32),
            "grey": (scanned / (LEVELS - 1)).astype(np.float32),
            "levels": scanned,
        }
        return {"x": readings[x], "y": labels[rows], **readings}

    train, test = (part(rows) for rows in digit_split())
    return DataSet(name, train, test, (8, 8), note)


DATA: Mapping[str, Loader] = {
    "digits": lambda: _load("digits", "binary", "1797 handwritten digits, 8 × 8 pixels of 0 or 1 (UCI, 1998)."),
    "digits-grey": lambda: _load("digits-grey", "grey", "1797 handwritten digits, 8 × 8 grey values in [0, 1]."),
    "digits-17": lambda: _load("digits-17", "levels", "1797 handwritten digits, 8 × 8 levels from 0 to 16."),
}
