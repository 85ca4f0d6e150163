"""The rows of own data that are kept for tests: the same ones at every call, and of every class its share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldformula.data.base import Array, DataSet, Integers
from worldformula.errors import ConfigError


def split(name: str, arrays: Mapping[str, Array], test: float, shape: tuple[int, ...], note: str) -> DataSet:
    """A data set of arrays with one number of rows, at least two.

    Raises:
        ConfigError: arrays of different lengths, or fewer than two rows.
    """
    counts = {key: len(array) for key, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise ConfigError(f"{name}: expected one number of rows in all arrays, got {counts}")
    if (rows := next(iter(counts.values()))) < 2:
        raise ConfigError(f"{name}: expected two rows or more, one to learn from and one to test on, got {rows}")
    labels = arrays.get("y")
    one = labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    kept = _kept(labels if one and labels is not None else np.zeros(rows, np.int64), test)
    learnt = np.setdiff1d(np.arange(rows), kept)
    train, rest = ({key: array[index] for key, array in arrays.items()} for index in (learnt, kept))
    return DataSet(name, train, rest, shape, note)


def _kept(labels: Integers, share: float) -> Integers:
    """Sorted rows of the test part."""
    order = np.random.default_rng(0).permutation(len(labels))
    found: list[int] = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        found += own[: round(share * len(own))].tolist()
    found = found or order[:1].tolist()
    return np.sort(np.array(found if len(found) < len(labels) else found[1:], np.int64))
