"""A table as numbers: numeric columns scaled, columns of texts one-hot."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldformula.data.base import Array, DataSet, Floats
from worldformula.data.split import split
from worldformula.errors import ConfigError, near

EMPTY = {"", "na", "n/a", "nan", "null", "none", "?"}
MOST_TEXTS = 50  # different ones in a column; more are names or sentences
MISSING = "missing"
Cells = list[str]


def table_file(
    path: Path, scale: str, label: str, skip: Sequence[str], missing: str, test: float
) -> DataSet:  # fmt: skip
    """``x [N, columns]`` float32; ``y [N]`` int64, the classes of the column ``label``.

    Means, deviations and extremes that a column is scaled by are those of the training rows.

    Raises:
        ConfigError: no table, an empty cell (unless ``missing`` says what to do), or a column of too many texts.
    """
    names, columns = _columns(path)
    for name in [*skip, *([label] if label else [])]:
        if name not in names:
            raise ConfigError(f"{path.name} has no column {name!r}.{near(name, names)} It has: {', '.join(names)}.")
    known = {name: column for name, column in zip(names, columns, strict=True) if name not in skip}
    known, dropped = _complete(known, missing, path)
    arrays: dict[str, Array] = {}
    said = [f"{path.name}: {len(next(iter(known.values()), []))} rows"]
    if label:
        cells = known.pop(label)
        classes = sorted(set(cells), key=lambda c: (_number(c) is None, _number(c) or 0.0, c))
        arrays["y"] = np.array([classes.index(cell) for cell in cells], np.int64)
        said.append(f"y is {label}, {len(classes)} classes")
    if not known:
        raise ConfigError(f"{path.name} has no column left to learn from")
    made = {name: _encoded(name, cells, path) for name, cells in known.items()}
    numeric = [name for name, (kind, _) in made.items() if kind is None]
    shown = [t for name, (kind, _) in made.items() for t in ([name] if kind is None else [f"{name}={k}" for k in kind])]
    arrays["x"] = np.concatenate([values for _, values in made.values()], 1)
    found = split(path.name, arrays, test, (len(shown),), "")
    units = [(0.0, 1.0)] * len(shown)
    if numeric and scale != "none":
        places = [shown.index(name) for name in numeric]
        for place, unit in zip(places, _scaled(found, places, scale), strict=True):
            units[place] = unit
        how = {"standard": "less their mean over their deviation", "unit": "from 0 to 1"}[scale]
        said.append(f"{len(numeric)} numeric column{'s' * (len(numeric) > 1)}, {how}")
    if texts := len(made) - len(numeric):
        said.append(f"{texts} column{'s' * (texts > 1)} of texts as {len(shown) - len(numeric)} of 0 or 1")
    if dropped:
        said.append(f"{dropped} {'rows with empty cells left out' if missing == 'drop' else 'empty cells filled in'}")
    return DataSet(path.name, found.train, found.test, (len(shown),), "; ".join(said) + ".", tuple(shown), tuple(units))


def _columns(path: Path) -> tuple[Cells, list[Cells]]:
    """Names and cells; a first row of numbers alone is no header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = [row for row in csv.reader(file, delimiter=max("\t;,", key=first.count)) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no table in UTF-8: {error}") from error
    if not rows:
        raise ConfigError(f"{path} is empty")
    header = [cell.strip() for cell in rows[0]]
    if all(_number(cell) is not None for cell in header):
        header = [f"column{i + 1}" for i in range(len(header))]
    else:
        rows = rows[1:]
    if len(set(header)) != len(header) or "" in header:
        raise ConfigError(f"{path}: expected a first row of different names, got {', '.join(header)}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(row)} cells, and there are {len(header)} columns")
    return header, [[row[i].strip() for row in rows] for i in range(len(header))]


def _complete(known: dict[str, Cells], missing: str, path: Path) -> tuple[dict[str, Cells], int]:
    """The cells without empty ones, and how many rows (``drop``) or cells (``fill``) that concerned."""
    holes = {name: [i for i, cell in enumerate(cells) if cell.lower() in EMPTY] for name, cells in known.items()}
    count = sum(map(len, holes.values()))
    if not count:
        return known, 0
    if missing == "refuse":
        some = ", ".join(f"{name} ({len(rows)})" for name, rows in holes.items() if rows)
        raise ConfigError(
            f"{path.name} has {count} empty cell{'s' * (count > 1)}: {some}. Leave their rows out with "
            "--set data.missing=drop, fill them in with data.missing=fill, or leave the columns out with data.skip=NAME"
        )
    if missing == "drop":
        gone = {i for rows in holes.values() for i in rows}
        return {name: [c for i, c in enumerate(cells) if i not in gone] for name, cells in known.items()}, len(gone)
    return {name: _filled(cells, set(holes[name])) for name, cells in known.items()}, count


def _filled(cells: Cells, holes: set[int]) -> Cells:
    """With the mean of a numeric column, or a text of its own, in the holes."""
    numbers = [_number(cell) for i, cell in enumerate(cells) if i not in holes]
    known = [number for number in numbers if number is not None]
    text = repr(sum(known) / len(known)) if known and len(known) == len(numbers) else MISSING
    return [text if i in holes else cell for i, cell in enumerate(cells)]


def _encoded(name: str, cells: Cells, path: Path) -> tuple[list[str] | None, Floats]:
    """None and ``[N, 1]`` of a numeric column; the different texts and ``[N, K]`` of another."""
    numbers = [_number(cell) for cell in cells]
    if all(number is not None for number in numbers):
        return None, np.array(numbers, np.float32)[:, None]
    kinds = sorted(set(cells))
    if len(kinds) > MOST_TEXTS:
        odd = next(cell for cell, number in zip(cells, numbers, strict=True) if number is None)
        raise ConfigError(
            f"{path.name}: the column {name} has {len(kinds)} different texts, such as {odd!r}; at most {MOST_TEXTS} "
            f"become columns of 0 and 1. Leave it out with --set data.skip={name}"
        )
    places = {kind: place for place, kind in enumerate(kinds)}
    return kinds, np.eye(len(kinds), dtype=np.float32)[[places[cell] for cell in cells]]


def _scaled(found: DataSet, places: list[int], scale: str) -> list[tuple[float, float]]:
    """Scales columns of both parts in place, by what the training rows say; less what, and over what, of each."""
    x = found.train["x"][:, places].astype(np.float64)
    low = x.mean(0) if scale == "standard" else x.min(0)
    wide = x.std(0) if scale == "standard" else np.ptp(x, axis=0)
    wide[wide == 0] = 1.0
    for part in (found.train, found.test):
        part["x"][:, places] = ((part["x"][:, places] - low) / wide).astype(np.float32)
    return list(zip(low.tolist(), wide.tolist(), strict=True))


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
