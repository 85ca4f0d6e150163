"""What every data set is: named arrays, split into training and test, with a digest that tells two versions apart.

The digits that several sets are made from are read here too, so that every set splits them alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.display import note, stack, tabular, title
from worldformula.errors import ConfigError

Array = NDArray[Any]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

DIGITS, TEST_DIGITS = 1797, 360


class Arrays:
    """What holds arrays says their shapes and types, not their numbers. For dataclasses with ``repr=False``."""

    def _parts(self) -> dict[str, object]:
        """What is shown, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __repr__(self) -> str:
        shown = (f"{name} {' '.join(_described(part))}" for name, part in self._parts().items())
        return f"<{type(self).__name__} {', '.join(shown)}>"

    def _repr_html_(self) -> str:
        rows = [(name, *_described(part)) for name, part in self._parts().items()]
        return stack(title(type(self).__name__), tabular(("", "shape", "type"), rows))


@dataclass(frozen=True, repr=False)
class DataSet(Arrays):
    """Arrays by the name of the variable that a formula reads; axis 0 of every array is the row.

    Attributes:
        name: as ``worldformula.data.load`` knows it.
        train: name -> array; ``"x"`` is what a model without further names models, ``"y"`` a class label.
        test: the same names and event shapes, from other digits, scenes or draws than ``train``.
        shape: of one row of ``x``, as a picture or a sequence of pictures: ``(8, 8)``, ``(16, 8, 12)``.
        note: what it is and where it comes from, one sentence.
        columns: names of the numbers of a row of ``x``, of a table.
        units: of each column, how its numbers were scaled, (low, wide): they were ``x * wide + low``; see `unscaled`.
        alphabet: of a text, the character that each number of ``x`` stands for.
        window: of episodes, whose rows follow each other, how many of them are learnt from at once; 0 of other data.
        words: of sentences, the word that each number of the only column stands for.
        zeros: columns that a world for these data has and they do not: zeros stand in their place. By key, as
            `worldformula.model.through_time.columns_of` gives them.

    Raises:
        ConfigError: parts with different names, or arrays of different lengths.
    """

    name: str
    train: Mapping[str, Array]
    test: Mapping[str, Array]
    shape: tuple[int, ...]
    note: str
    columns: tuple[str, ...] = ()
    units: tuple[tuple[float, float], ...] = ()
    alphabet: str = ""
    window: int = 0
    words: tuple[str, ...] = ()
    zeros: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.train.keys() != self.test.keys():
            raise ConfigError(f"{self.name}: train has the arrays {sorted(self.train)}, test {sorted(self.test)}")
        for part in (self.train, self.test):
            rows = {key: len(array) for key, array in part.items()}
            if len(set(rows.values())) != 1:
                raise ConfigError(f"{self.name}: expected one number of rows in all arrays, got {rows}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {list(array.shape[1:])} {array.dtype}" for name, array in self.train.items())
        return f"<DataSet {self.name}, {self._rows()}: {shown}>"

    def _repr_html_(self) -> str:
        rows = [(name, list(array.shape[1:]), array.dtype) for name, array in self.train.items()]
        shape = " × ".join(map(str, self.shape))
        said = f"{self._rows()}; x is {shape}" if shape else self._rows()
        return stack(title(self.name, self.note), tabular(("array", "shape of a row", "type"), rows), note(said))

    def _rows(self) -> str:
        train, test = (len(next(iter(part.values()), ())) for part in (self.train, self.test))
        return f"{train} rows to learn from, {test} unseen"

    def unscaled(self, x: Floats) -> Floats:
        """Rows of ``x``, ``[N, columns]``, in the units of the file that they came from."""
        if not self.units or x.shape[-1] != len(self.units):
            return x
        low, wide = np.array(self.units).T
        return (x * wide + low).astype(np.float32)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over names, shapes, dtypes and bytes of all arrays."""
        return digest(
            {f"{part}/{key}": array for part in ("train", "test") for key, array in getattr(self, part).items()}
        )

    def batches(self, size: int, seed: int = 0) -> Iterator[dict[str, Array]]:
        """Training batches without end: every pass over the rows is shuffled anew, its remainder left out.

        Raises:
            ConfigError: a batch would be empty or larger than the training set.
        """
        rows = len(next(iter(self.train.values())))
        if not 1 <= size <= rows:
            raise ConfigError(f"expected a batch of 1 to {rows} rows of {self.name}, got {size}")
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(rows)
            for start in range(0, rows - size + 1, size):
                index = order[start : start + size]
                yield {key: array[index] for key, array in self.train.items()}


def _described(part: object) -> tuple[str, str]:
    """Shape and type of an array, or a value and its type."""
    if isinstance(part, np.ndarray):
        return str(list(part.shape)), str(part.dtype)
    return str(part), type(part).__name__


Loader = Callable[[], DataSet]


def digest(arrays: Mapping[str, Array]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over names, dtypes, shapes and little-endian bytes, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def digit_levels() -> tuple[Integers, Integers]:
    """Grey levels ``[1797, 64]`` from 0 to 16 and labels ``[1797]`` of the UCI digits (Alpaydin and Kaynak 1998).

    Raises:
        ConfigError: scikit-learn, which carries them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("the digits come with scikit-learn: pip install 'worldformula[eval]'") from error
    levels, labels = load_digits(return_X_y=True)
    return levels.astype(np.int64), labels.astype(np.int64)


def digit_split() -> tuple[Integers, Integers]:
    """Sorted rows of the 1437 training and the 360 test digits: every class in its share, the same rows everywhere.

    They are those of ``train_test_split(test_size=360, stratify=labels, random_state=0)`` in scikit-learn.
    """
    from sklearn.model_selection import train_test_split

    _, labels = digit_levels()
    train, test = train_test_split(np.arange(DIGITS), test_size=TEST_DIGITS, stratify=labels, random_state=0)
    return np.sort(train), np.sort(test)
