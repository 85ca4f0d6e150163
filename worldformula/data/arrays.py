"""Arrays by name: ``.npz``, ``.npy``, and what a function of the user's returned."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldformula.data.base import Array, DataSet
from worldformula.data.split import split
from worldformula.errors import ConfigError

CHANNELS = (1, 3)


class Prepared(NamedTuple):
    """Arrays as models read them, the shape of a row of ``x``, and sentences about what was changed."""

    arrays: dict[str, Array]
    shape: tuple[int, ...]
    said: tuple[str, ...]


def array_file(path: Path, new: Mapping[str, str], test: float) -> DataSet:
    """The arrays of a file; those called ``x_train`` and ``x_test`` are parts already.

    Raises:
        ConfigError: it is damaged, holds Python objects, or arrays of different lengths.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        found = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        with path.open("rb") as file:
            begin = file.read(6)
        if not begin.startswith((b"PK", b"\x93NUMPY")):  # which NumPy takes for a pickle, and advises to allow it
            raise ConfigError(
                f"{path} is no file of NumPy, whatever its name ends in; np.savez('{path.stem}.npz', x=...) writes one"
            ) from error
        raise ConfigError(f"{path} cannot be read as arrays of numbers: {error}") from error
    found = {new.get(name, name): array for name, array in found.items()}
    learnt, kept = _part(found, "train"), _part(found, "test")
    if learnt and learnt.keys() == kept.keys() and len(found) == 2 * len(learnt):
        return parted(path.name, learnt, kept, f"The arrays of {path.name}.")
    return from_arrays(path.name, found, test, f"The arrays of {path.name}.")


def from_arrays(name: str, arrays: Mapping[str, Any], test: float, note: str) -> DataSet:
    """A data set of arrays, a part of whose rows is kept for tests."""
    if not arrays:
        raise ConfigError(f"{name} holds no arrays")
    found = prepared(arrays, name)
    return split(name, found.arrays, test, found.shape, " ".join([note, *found.said]))


def parted(name: str, train: Mapping[str, Any], test: Mapping[str, Any], note: str) -> DataSet:
    """A data set whose two parts are given.

    Raises:
        ConfigError: arrays of other names or shapes in one part than in the other.
    """
    parts = [{key: np.asarray(value) for key, value in part.items()} for part in (train, test)]
    rows = {key: value.shape[1:] for key, value in parts[0].items()}
    if rows != {key: value.shape[1:] for key, value in parts[1].items()} or not rows:
        shown = [", ".join(f"{k} {list(v.shape)}" for k, v in part.items()) for part in parts]
        raise ConfigError(f"{name}: expected the same arrays to learn from and to test on, got {shown[0]}; {shown[1]}")
    found = prepared({key: np.concatenate([part[key] for part in parts]) for key in rows}, name)
    first = len(next(iter(parts[0].values())))
    learnt, kept = ({k: v[at] for k, v in found.arrays.items()} for at in (slice(first), slice(first, None)))
    return DataSet(name, learnt, kept, found.shape, " ".join([note, *found.said]))


def prepared(arrays: Mapping[str, Any], name: str) -> Prepared:
    """Floats as float32, whole numbers as int64, bytes of pictures in [0, 1], texts of ``y`` as classes.

    Raises:
        ConfigError: an array without rows, with numbers that are not finite, or of texts that are no classes.
    """
    said: list[str] = []
    made = {key: _prepared(key, np.asarray(value), name, said) for key, value in arrays.items()}
    x = made.get("x")
    if x is None:
        return Prepared(made, (), tuple(said))
    shape = tuple(x.shape[1:])
    if len(shape) == 3 and shape[0] in CHANNELS and shape[-1] not in CHANNELS:
        x, shape = np.moveaxis(x, 1, -1), (*shape[1:], shape[0])
        said.append("The channels of x were first and are last now.")
    if len(shape) == 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) in (2, 3):
        x = np.ascontiguousarray(x).reshape(len(x), -1)  # a row of numbers; `DataSet.shape` says what it shows
    return Prepared({**made, "x": x}, shape or (1,), tuple(said))


def _prepared(key: str, array: Array, name: str, said: list[str]) -> Array:
    if array.ndim == 0 or not len(array):
        raise ConfigError(f"{name}: {key} has no rows; expected an array [N, …]")
    if array.dtype.kind in "US" and key == "y" and array.ndim == 1:
        classes, index = np.unique(array, return_inverse=True)
        said.append(f"y: {len(classes)} classes, {_listed([str(c) for c in classes])}.")
        return index.astype(np.int64)
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"{name}: {key} holds {array.dtype}; expected numbers (or texts of classes, called y)")
    if array.dtype == np.uint8 and key != "y":
        said.append(f"{key}: bytes, divided by 255.")
        return array.astype(np.float32) / np.float32(255)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = np.unique(np.argwhere(~np.isfinite(array))[:, 0])
        raise ConfigError(f"{name}: {key} has values that are not finite in {len(rows)} rows, the first is {rows[0]}")
    if key == "y" and array.ndim == 1 and array.dtype.kind == "f" and (array == array.round()).all():
        array = array.astype(np.int64)  # classes that were stored as floats
    if key == "y" and array.ndim == 1 and array.dtype.kind in "iu" and array.min() < 0:
        raise ConfigError(f"{name}: y has the class {array.min()}; expected classes 0, 1, 2, …")
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)


def _part(arrays: Mapping[str, Array], part: str) -> dict[str, Array]:
    return {key.removesuffix(f"_{part}"): value for key, value in arrays.items() if key.endswith(f"_{part}")}


def _listed(words: list[str], most: int = 6) -> str:
    return ", ".join(words[:most]) + (", …" if len(words) > most else "")
