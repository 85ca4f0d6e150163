"""Experience of one's own, from arrays and dictionaries of episodes, as a replay.

>>> import numpy as np
>>> walk = {"place": np.zeros((5, 2)), "action": np.ones((4, 1)), "reward": np.ones(4)}
>>> replay = from_episodes([walk, walk])
>>> replay.sample(8, 3)["place"].shape
(8, 3, 2)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.data.replay import Replay
from worldformula.errors import ReplayError

FLAGS = ("is_first", "is_last", "is_terminal")
ENDS = ("terminated", "truncated")


def from_episodes(episodes: Iterable[Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]], *, seed: int = 0) -> Replay:
    """A replay in memory that holds episodes of one's own.

    Args:
        episodes: a list or a dictionary of them. An episode is a dictionary of arrays: observations ``[T, …]`` under
            any name, ``action`` (or ``action/<name>``) and, where there is one, ``reward``. Actions and rewards have T
            entries, row by row as in experience (a reward belongs to the arriving step), or T − 1, as Gymnasium
            returns them: the first is what the first action led to. ``terminated`` says whether the task was over at
            the end; an episode ends with its last row in any case. Keys ``label/…`` and ``mask/…`` are kept.
        seed: of the sampler.

    Returns:
        The replay, with numbers as float32, whole numbers as int64, pictures as uint8 and booleans.

    Raises:
        ReplayError: there are none, or one lacks a column, has another shape, other lengths, or NaN; it is told which.
    """
    named = episodes.items() if isinstance(episodes, Mapping) else enumerate(episodes)
    rows = [(name, as_rows(episode, f"episode {name!r}")) for name, episode in named]
    if not rows:
        raise ReplayError("expected at least one episode, got none")
    spec = {key: (value.shape[1:], value.dtype) for key, value in rows[0][1].items()}
    for name, columns in rows:
        other = {key: (value.shape[1:], value.dtype) for key, value in columns.items()}
        if other != spec:
            raise ReplayError(f"episode {name!r} has other columns than the first: {_told(other)} for {_told(spec)}")
    joined = {key: np.concatenate([columns[key] for _, columns in rows])[None] for key in spec}
    replay = Replay(joined["is_first"].shape[1], spec, seed=seed)
    replay.fill(joined)
    return replay


def split(columns: Mapping[str, Any]) -> list[dict[str, NDArray[Any]]]:
    """One long table of rows ``[R, …]`` as episodes, by its column ``is_first`` or ``is_last``; for `from_episodes`.

    Raises:
        ReplayError: neither column is there, or the lengths differ.
    """
    found = {key: np.asarray(value) for key, value in columns.items()}
    lengths = {len(value) for value in found.values()}
    if len(lengths) != 1 or not {"is_first", "is_last"} & found.keys():
        raise ReplayError(
            f"expected columns of one length with is_first or is_last among them, got lengths {sorted(lengths)} of "
            f"{', '.join(found)}"
        )
    if "is_first" in found:
        cuts = np.flatnonzero(found["is_first"])
    else:
        cuts = np.flatnonzero(found["is_last"]) + 1
    parts = np.split(np.arange(lengths.pop()), np.setdiff1d(cuts, [0]))
    over = found.get("is_terminal", found.get("terminated"))
    kept = {key: value for key, value in found.items() if key not in (*FLAGS, *ENDS)}
    ends = [{} if over is None else {"terminated": over[part[-1:]]} for part in parts if len(part)]
    cut = [{key: value[part] for key, value in kept.items()} for part in parts if len(part)]
    return [episode | end for episode, end in zip(cut, ends, strict=True)]


def _action(key: str) -> bool:
    return key == "action" or key.startswith("action/")


def as_rows(episode: Mapping[str, Any], name: str, *, acts: bool = True) -> dict[str, NDArray[Any]]:
    """One episode as rows of experience; without ``acts`` it needs no action."""
    given = {key: np.asarray(value) for key, value in episode.items() if key not in (*FLAGS, *ENDS)}
    observed = [key for key in given if not _action(key) and key != "reward"]
    actions = [key for key in given if _action(key)]
    if not observed or (acts and not actions):
        raise ReplayError(f"{name}: expected observations and an action, got {', '.join(given) or 'nothing'}")
    length = len(given[observed[0]])
    given.setdefault("reward", np.zeros(length, np.float32))
    columns = {}
    for key in (*observed, "reward", *actions):
        value = _typed(given[key], f"{name}: {key!r}", missing=key.startswith("label/"))
        if len(value) == length - 1 and key not in observed:
            nothing = np.zeros((1, *value.shape[1:]), value.dtype)
            value = np.concatenate([nothing, value] if key == "reward" else [value, nothing])
        if len(value) != length or not length:
            raise ReplayError(f"{name}: {key!r} has {len(value)} rows, and {observed[0]!r} has {length}")
        columns[key] = value
    columns["reward"] = columns["reward"].astype(np.float32).reshape(length)
    index = np.arange(length)
    over = bool(np.asarray(episode.get("terminated", episode.get("is_terminal", False))).reshape(-1)[-1])
    columns |= {"is_first": index == 0, "is_last": index == length - 1}
    return columns | {"is_terminal": columns["is_last"] & over}


def _typed(value: NDArray[Any], name: str, *, missing: bool) -> NDArray[Any]:
    if value.dtype.kind not in "fiub" or not value.ndim:
        raise ReplayError(f"{name}: expected an array of numbers, one row per step, got {value.dtype} {value.shape}")
    if value.dtype.kind == "f":
        value = value.astype(np.float32)
        if not missing and not np.isfinite(value).all():
            row = int(np.flatnonzero(~np.isfinite(value).reshape(len(value), -1).all(1))[0])
            raise ReplayError(
                f"{name} is not finite in row {row}; leave such rows out, or mark them in a column label/…"
            )
    return value.astype(np.int64) if value.dtype.kind in "iu" and value.dtype != np.uint8 else value


def _told(spec: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{key} {dtype} {shape}" for key, (shape, dtype) in spec.items())
