"""Sequences for worlds: episodes of your own, of Minari, or data sets whose rows are series; windows are cut from them.

    episodes.npz          arrays [N, T, …] by name, with `lengths` [N] or `valid` [N, T] where they differ in length;
                          or one table [R, …] with `is_first` (or `is_last`) [R]
    module:function       returns the same arrays, or a list of episodes as dictionaries of arrays [T, …]
    minari:ID             a data set that the package `minari` has on this machine
    rolling, digits …     a data set of the list: the first axis of a row is time

Columns: `action`, `reward`, `terminated`; everything else is observed. A window holds `length` rows; it lies within one
episode where episodes are that long, and shorter ones follow each other in it, each beginning with `is_first`. What is
learnt from begins at any row, drawn anew each time; what is tested on is cut one window after the other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldformula import data
from worldformula.data.base import Array, DataSet
from worldformula.data.episodes import FLAGS, as_rows, split
from worldformula.data.own import MINARI, Reading, called, is_function, is_own
from worldformula.errors import ConfigError, ReplayError

NOT_OBSERVED = (*FLAGS, "reward", "action")
EXPECTED = f"episodes.npz, module:function, {MINARI}ID, or a data set of the list"
MARKS = ("valid", "lengths")
FEW_STEPS = 8  # fewer are hardly the steps of an episode, and rather the columns of a table
LEAST_ROWS = 8  # of a single episode, whose last ones are tested on
Episode = dict[str, Array]


def load(text: str, how: Reading | None = None) -> DataSet:
    """The rows of episodes ``[R, …]``, by column, and how long a window is; a part of the episodes is kept for tests.

    Args:
        text: a path, ``module:function``, ``minari:ID`` or the name of a data set.
        how: ``length`` of a window, and the share for ``test``.

    Raises:
        ConfigError: nothing is there, or it cannot be read; the message says what to write instead.
        ReplayError: an episode lacks a column, has other shapes than the first, or NaN.
    """
    how = how or Reading()
    if text.startswith(MINARI):
        found, note = minari(text.removeprefix(MINARI)), f"{text}, as it lies on this machine."
    elif is_function(text):
        found, note = episodes(called(text)), f"What {text} returned."
    elif Path(text).suffix == ".npz" and Path(text).expanduser().is_file():
        with np.load(Path(text).expanduser(), allow_pickle=False) as file:
            found, note = episodes(dict(file)), f"{Path(text).name}."
    elif not is_own(text):
        return _of_set(data.load(text), how)
    elif not Path(text).expanduser().exists():
        raise ConfigError(f"{text} does not exist. A world learns from {EXPECTED}.")
    else:
        more = (
            "\nof a table in time: np.savez('episodes.npz', x=rows[None])"
            if Path(text).suffix in (".csv", ".tsv")
            else ""
        )
        raise ConfigError(f"a world learns from sequences: expected {EXPECTED}, got {text!r}{more}")
    return sequences(text, found, how, note)


def episodes(made: Any) -> list[Episode]:
    """Episodes as dictionaries of arrays ``[T, …]`` from any of the forms that the head of this file names.

    Raises:
        ConfigError: another form, or lengths that do not fit.
    """
    if not isinstance(made, Mapping):
        if isinstance(made, np.ndarray):
            return episodes({"x": made})
        listed = list(made) if isinstance(made, Iterable) else [made]
        if not all(isinstance(episode, Mapping) for episode in listed):
            raise ConfigError(
                "expected episodes as a dictionary of arrays [N, T, …] or a list of dictionaries of arrays [T, …], got "
                f"{type(made).__name__}"
            )
        return [{k: np.asarray(v) for k, v in episode.items()} for episode in listed]
    arrays = {key: np.asarray(value) for key, value in made.items()}
    flags = [arrays[key] for key in ("is_first", "is_last") if key in arrays]
    if flags and flags[0].ndim == 1:
        return split(arrays)
    columns = {key: value for key, value in arrays.items() if key not in MARKS}
    if not columns or min(value.ndim for key, value in columns.items() if key != "terminated") < 2:
        shown = ", ".join(f"{key} {list(value.shape)}" for key, value in arrays.items()) or "nothing"
        raise ConfigError(f"expected arrays [N, T, …], or one table [R, …] with is_first [R]; got {shown}")
    _refuse_a_table(columns)
    count = {key: len(value) for key, value in arrays.items()}
    if len(set(count.values())) != 1:
        raise ConfigError(f"expected one number of episodes in all arrays, got {count}")
    found: list[Episode] = []
    for i, length in enumerate(_lengths(arrays)):
        ends = {k: length + v.shape[1] - _steps(columns) for k, v in columns.items() if v.ndim > 1}
        episode = {k: v[i][: ends[k]] if k in ends else v[i : i + 1] for k, v in columns.items()}
        found += split(episode) if flags else [episode]
    return found


def _refuse_a_table(columns: Mapping[str, Array]) -> None:
    """The rows of a table in time are no episodes of as many steps as it has columns."""
    steps, key = max((value.shape[1], key) for key, value in columns.items() if value.ndim > 1)
    n = len(columns[key])
    if max(value.ndim for value in columns.values()) == 2 and steps < min(FEW_STEPS, n):
        raise ConfigError(
            f"{key} {[n, steps]} would be {n} episodes of one number at {steps} steps\nof a table of {n} rows in time "
            f"write {key}=rows[None], and of that many episodes {key}=rows[..., None]"
        )


def minari(name: str) -> list[Episode]:
    """The episodes of a Minari data set; observations that are dictionaries become a column per key.

    Raises:
        ConfigError: the package or the data set is missing here.
    """
    if importlib.util.find_spec("minari") is None:
        raise ConfigError(f"{MINARI}{name} is read by the package minari: pip install 'worldformula[minari]'")
    import minari as package

    try:
        found = package.load_dataset(name)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"{MINARI}{name} is not on this machine: {error}. Get it with: minari download {name}"
        ) from error
    return [
        {
            **_named(episode.observations, "observation"),
            **_named(episode.actions, "action"),
            "reward": np.asarray(episode.rewards),
            "terminated": np.asarray(episode.terminations)[-1:],
        }
        for episode in found.iterate_episodes()
    ]


def sequences(name: str, found: list[Episode], how: Reading, note: str) -> DataSet:
    """The rows of episodes, one behind the other. Of a single one, such as a long series, the last rows are tested on.

    Raises:
        ConfigError: no episode, or too short ones.
    """
    if not found:
        raise ConfigError(f"{name}: expected an episode or more, got none")
    acts = any(key == "action" or key.startswith("action/") for key in found[0])
    rows = [as_rows(episode, f"{name}: episode {i}", acts=acts) for i, episode in enumerate(found)]
    spec = {key: (value.shape[1:], value.dtype) for key, value in rows[0].items()}
    for i, columns in enumerate(rows):
        if (other := {key: (value.shape[1:], value.dtype) for key, value in columns.items()}) != spec:
            raise ReplayError(f"{name}: episode {i} has other columns than the first: {other} for {spec}")
    if len(rows) == 1:
        rows, note = list(_end_apart(rows[0], how, name)), f"{note} Its last rows are tested on:"
    lengths = [len(columns["is_first"]) for columns in rows]
    length = min(how.length, max(lengths))
    if length < 2:
        raise ConfigError(f"{name}: expected episodes of two rows or more, got {max(lengths)}")
    order = np.random.default_rng(0).permutation(len(rows)) if len(found) > 1 else np.array([1, 0])
    tests = min(len(rows) - 1, max(1, round(how.test * len(rows))))
    parts = [[rows[i] for i in sorted(chosen)] for chosen in (order[tests:], order[:tests])]
    span = " to ".join(dict.fromkeys(map(str, (min(lengths), max(lengths)))))
    said = f"{note} {len(rows)} episodes of {span} rows, windows of {length}"
    without = sum("reward" not in episode for episode in found)
    if without:
        said += f"; {'no' if without == len(found) else f'in {without} of them no'} column reward, so that it is 0"
    train, test = ({key: np.concatenate([e[key] for e in part]) for key in part[0]} for part in parts)
    return DataSet(name, train, test, (), said, window=length)


def _end_apart(columns: Episode, how: Reading, name: str) -> tuple[Episode, Episode]:
    """The rows of one episode as two, the last share of them, or a window of them, as an episode to test on."""
    rows = len(columns["is_first"])
    if rows < LEAST_ROWS:
        raise ConfigError(
            f"{name}: expected two episodes, one of them to test on, or one of {LEAST_ROWS} rows or more, whose last "
            f"ones are; got one of {rows}"
        )
    cut = rows - max(round(how.test * rows), min(how.length, rows // 4))
    before, behind = (
        {key: value[part].copy() for key, value in columns.items()} for part in (np.s_[:cut], np.s_[cut:])
    )
    before["is_last"][-1] = behind["is_first"][0] = True
    return before, behind


class Windows:
    """Where the windows of a table of episodes lie.

    Args:
        first: ``is_first`` of its rows, ``[R]``; the first row begins an episode in any case.
        length: rows of a window.

    Attributes:
        starts: every place where a window may begin. Those of a long episode lie between its first row and the last one
            that leaves a whole window; both stand there as often as a window would begin before or end behind it, so
            that its ends are drawn as often as its middle. Short episodes are joined in a ring.
        joined: whether there are short ones, so that a window may hold parts of two episodes.
    """

    def __init__(self, first: Array, length: int) -> None:
        begins = np.union1d(np.flatnonzero(first), [0])
        episodes = np.split(np.arange(len(first)), begins[1:])
        long, short = ([e for e in episodes if (len(e) < length) is few] for few in (False, True))
        self._order = np.concatenate([*long, *short])
        self._long = [(int(o), len(e)) for o, e in zip(np.cumsum([0, *map(len, long)]), long, strict=False)]
        self._length, self._ring = length, sum(map(len, long))
        inside = [begin + np.arange(1 - length, rows).clip(0, rows - length) for begin, rows in self._long]
        self.starts = np.concatenate([*inside, np.arange(self._ring, len(first))]).astype(np.int64)
        self.joined = bool(short)

    def rows(self, starts: Array) -> Array:
        """The rows of the windows that begin there, ``[B, length]``."""
        place = starts[:, None] + np.arange(self._length)
        round_ = max(1, len(self._order) - self._ring)
        in_ring = self._ring + (place - self._ring) % round_
        return np.asarray(self._order[np.where(starts[:, None] < self._ring, place, in_ring)])

    def cut(self) -> Array:
        """All rows as windows ``[M, length]``: of a long episode one after the other, the last up to its end."""
        inside = [o + np.union1d(np.arange(0, n - self._length + 1, self._length), [n - self._length])
                  for o, n in self._long]  # fmt: skip
        ring = np.arange(self._ring, len(self._order), self._length)  # the last one goes on with the first episodes
        return self.rows(np.concatenate([*inside, ring]).astype(np.int64))


def table(found: list[Episode]) -> Episode:
    """Episodes as one table ``[R, …]`` with ``is_first``, as a file holds them.

    Raises:
        ReplayError: an episode lacks a column, or has other shapes than the first.
    """
    acts = bool(found) and any(key == "action" or key.startswith("action/") for key in found[0])
    rows = [as_rows(episode, f"episode {i}", acts=acts) for i, episode in enumerate(found)]
    if wrong := [i for i, columns in enumerate(rows) if columns.keys() != rows[0].keys()]:
        raise ReplayError(
            f"episode {wrong[0]} has the columns {', '.join(rows[wrong[0]])}; the first {', '.join(rows[0])}"
        )
    return {key: np.concatenate([columns[key] for columns in rows]) for key in rows[0]}


def observed(columns: Iterable[str]) -> list[str]:
    """The columns that a world may see."""
    return [k for k in columns if k not in NOT_OBSERVED and not k.startswith(("action/", "label/", "mask/"))]


def _of_set(found: DataSet, how: Reading) -> DataSet:
    """A data set whose rows of x are series: the first axis of its shape is time."""
    if len(found.shape) < 2:
        raise ConfigError(f"{found.name}: a row of x has the shape {found.shape}, and a series needs a time and more")
    series = [list(part["x"].reshape(len(part["x"]), *found.shape)) for part in (found.train, found.test)]
    train, test = (table([{"x": row} for row in part]) for part in series)
    note = f"{found.note} The first axis of a row, {found.shape[0]}, is time."
    return DataSet(found.name, train, test, (), note, window=min(how.length, found.shape[0]))


def _lengths(arrays: Mapping[str, Array]) -> list[int]:
    """Rows of every episode: as `lengths` says, or as far as `valid` is true without a gap, or all."""
    steps = _steps({k: v for k, v in arrays.items() if k not in MARKS})
    n = len(next(iter(arrays.values())))
    if "lengths" in arrays:
        found = [int(length) for length in arrays["lengths"].reshape(-1)]
    elif "valid" in arrays:
        valid = arrays["valid"].astype(bool).reshape(n, -1)
        found = valid.sum(1).tolist()
        if any(valid[i, length:].any() for i, length in enumerate(found)):
            raise ConfigError("valid expects the rows of an episode first and its padding behind, got gaps")
    else:
        found = [steps] * n
    if len(found) != n or min(found) < 1 or max(found) > steps:
        raise ConfigError(f"lengths expects {n} whole numbers from 1 to {steps}, got {found[:8]}")
    return found


def _steps(columns: Mapping[str, Array]) -> int:
    """T of the observations; actions and rewards may be one shorter."""
    return max(value.shape[1] for value in columns.values() if value.ndim > 1)


def _named(value: Any, name: str) -> dict[str, Array]:
    if not isinstance(value, Mapping):
        return {name: np.asarray(value)}
    found: dict[str, Array] = {}
    for key, inner in value.items():
        found |= _named(inner, f"{name}/{key}" if name == "action" else str(key))
    return found
