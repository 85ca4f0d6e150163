"""Uniform replay of sequences, in memory or in memory-mapped files, with exact resume.

Every stream (one environment) writes its rows one after another into a ring. A sequence of length T is ``T``
neighbouring rows of one stream; its start is uniform over all starts whose rows are all held. Sequences may cross
episodes: the model resets its state where ``is_first``.
"""

from __future__ import annotations

import json
import mmap
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldformula.data.bounds import bounds
from worldformula.data.storage import allocate
from worldformula.errors import ConfigError, ReplayError, table

Spec = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
Batch = dict[str, NDArray[Any]]

NEEDED = ("is_first", "is_last")
DESCRIPTION = "replay.json"
RESERVE_BYTES = 8 * 2**20  # disk is reserved this far ahead of the newest row
RELEASE_BYTES = 128 * 2**20  # touched file pages count as memory of the process; they are given back after this many


class Replay:
    """The last ``capacity`` rows of experience, sampled as sequences.

    With ``directory``, rows live in sparse memory-mapped files that grow as they fill: they cost disk, not memory, and
    survive the death of the process. Disk is reserved a few megabytes ahead of the newest row, for a disk that fills
    up under a mapped page would kill the process without a word. A checkpoint then holds only :meth:`state`. Rows that
    were valid at the last two checkpoints are never overwritten: the ring in the file is ``slack`` rows longer than
    ``capacity``. Without ``directory``, rows live in memory and :meth:`state` contains them.

    A row whose episode was abandoned (the next row of its stream has ``is_first``, but no end was recorded) is sampled
    with ``is_last`` set and its action zeroed, for that action was never executed.

    Args:
        capacity: rows over all streams; each stream keeps ``capacity // streams``.
        spec: shape and dtype of every column, as ``Envs.row_spec``: observation keys, reward, is_first, is_last,
            is_terminal, action.
        streams: number of environments, which add one row each at a time.
        directory: folder for the files, created if missing.
        slack: extra rows over all streams in the files; at least the number of rows added during two checkpoint
            intervals.
        seed: of the sampler.

    Raises:
        ConfigError: impossible sizes.
        ReplayError: the files in ``directory`` belong to another description, or the disk is too small.
    """

    def __init__(
        self,
        capacity: int,
        spec: Spec,
        *,
        streams: int = 1,
        directory: str | Path | None = None,
        slack: int = 10_000,
        seed: int = 0,
    ) -> None:
        if streams < 1 or capacity < streams or slack < 0:
            raise ConfigError(
                f"expected streams ≥ 1, capacity ≥ streams and slack ≥ 0; got {streams=}, {capacity=}, {slack=}"
            )
        missing = [key for key in NEEDED if key not in spec]
        self._actions = tuple(key for key in spec if key == "action" or key.startswith("action/"))
        if missing or not self._actions:
            missing += [] if self._actions else ["action"]
            raise ReplayError(f"the description of the rows lacks {missing}; pass Envs.row_spec")
        self.spec = {key: (tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in spec.items()}
        self.streams = streams
        self.rows_per_stream = capacity // streams
        self.directory = None if directory is None else Path(directory)
        self._slack = 0 if directory is None else -(-slack // streams)
        self._ring = self.rows_per_stream + self._slack
        self._count = 0  # rows ever added to each stream
        self._marks: tuple[int, ...] = ()  # count at the last two checkpoints
        self._rng = np.random.default_rng(seed)
        self._touched = 0
        self._reserved = 0  # rows of each stream that surely have their place on the disk
        self._maps: list[mmap.mmap] = []
        self._files: dict[str, Path] = {}
        self._reopened = False
        self._bounds: tuple[int, NDArray[np.int64]] | None = None  # of the episodes held when so many rows were added
        self._columns = self._in_memory() if self.directory is None else self._in_files(self.directory)

    # ------------------------------------------------------------------------------------------------------- storage

    @property
    def nbytes(self) -> int:
        """Bytes of all columns once the ring is full."""
        return sum(self._column_bytes(key) for key in self.spec)

    def _shape(self, key: str) -> tuple[int, ...]:
        return (self.streams, self._ring, *self.spec[key][0])

    def _column_bytes(self, key: str) -> int:
        return int(np.prod(self._shape(key), dtype=np.int64)) * self.spec[key][1].itemsize

    def _in_memory(self) -> dict[str, NDArray[Any]]:
        return {key: np.zeros(self._shape(key), dtype) for key, (_, dtype) in self.spec.items()}

    def _in_files(self, directory: Path) -> dict[str, NDArray[Any]]:
        path = directory / DESCRIPTION
        columns = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._reopened = path.exists()
            if self._reopened:
                self._check_description(path)
            else:
                self._check_disk(directory)
            for index, (key, (_, dtype)) in enumerate(self.spec.items()):
                file = self._files[key] = directory / f"{index:02d}_{re.sub(r'[^A-Za-z0-9_]', '_', key)}.bin"
                columns[key] = self._map(file, self._column_bytes(key), dtype).reshape(self._shape(key))
            if not self._reopened:
                path.write_text(json.dumps(self._description(), indent=1))
        except OSError as error:
            raise ReplayError(f"the replay files in {directory} cannot be made: {error.strerror or error}") from error
        return columns

    def _description(self) -> dict[str, Any]:
        return {
            "streams": self.streams,
            "rows_per_stream": self.rows_per_stream,
            "slack_per_stream": self._slack,
            "columns": {key: [list(shape), dtype.name] for key, (shape, dtype) in self.spec.items()},
        }

    def _check_description(self, path: Path) -> None:
        """Compare what the files were created for with what is wanted now."""
        mine = self._description()
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ReplayError(f"{path} cannot be read ({error}); delete the folder to start anew") from error
        rows = [(name, found.get(name), mine[name]) for name in mine if found.get(name) != mine[name]]
        if rows:
            raise ReplayError(
                f"the replay files in {path.parent} were made for other rows:\n"
                f"{table(('setting', 'in the folder', 'wanted now'), rows)}\nUse another folder or these settings."
            )

    def _check_disk(self, directory: Path) -> None:
        free = shutil.disk_usage(directory).free
        if free < self.nbytes:
            raise ReplayError(
                f"the replay grows to {self.nbytes / 1e9:.1f} GB and {directory} has {free / 1e9:.1f} GB free; lower "
                "its capacity or choose another folder"
            )

    def _map(self, path: Path, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        with path.open("a+b") as file:
            length = file.seek(0, 2)
            if length != size and (self._reopened or length != 0):
                raise ReplayError(
                    f"{path} has {length} bytes, expected {size}: the file is damaged, and the run cannot go on "
                    "without it. Restore it from a backup, or start a new run in another folder."
                )
            file.truncate(size)  # a hole: takes disk only where rows are written
            mapped = mmap.mmap(file.fileno(), size)
        self._maps.append(mapped)
        return np.frombuffer(mapped, dtype)

    def _reserve(self) -> None:
        """Give the next rows their place on the disk, so that it is full here and not under a mapped page.

        Raises:
            ReplayError: the disk is full; nothing was added, and everything that was added is safe.
        """
        position = self._count % self._ring
        if self._count < self._reserved or self._count >= self._ring:  # every later round overwrites the first one
            return
        row = {key: int(np.prod(shape)) * dtype.itemsize for key, (shape, dtype) in self.spec.items()}
        rows = min(max(1, RESERVE_BYTES // (sum(row.values()) * self.streams)), self._ring - position)
        try:
            for key, file in self._files.items():
                starts = [(stream * self._ring + position) * row[key] for stream in range(self.streams)]
                allocate(file, starts, rows * row[key])
        except OSError as error:
            raise ReplayError(
                f"the disk has no room for more rows in {self.directory} ({error.strerror or error}); the replay holds "
                f"{len(self)} rows and grows to {self.nbytes / 1e9:.3g} GB. Free some space and go on, or start a new "
                "run with a smaller capacity. What was stored before is safe."
            ) from error
        self._reserved = self._count + rows

    def _release(self, touched: int) -> None:
        """Give file pages back to the system's cache now and then, or all of the file would count as our memory."""
        self._touched += touched
        if self._touched > RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0

    # -------------------------------------------------------------------------------------------------------- writing

    def __len__(self) -> int:
        """Rows held, over all streams."""
        return self._held * self.streams

    @property
    def _held(self) -> int:
        return min(self._count, self.rows_per_stream)

    def add(self, rows: Mapping[str, NDArray[Any]], actions: NDArray[Any] | Mapping[str, NDArray[Any]]) -> None:
        """Append one row to each stream.

        Args:
            rows: ``[N, …]`` per column, as ``Envs`` answers.
            actions: chosen at these rows, ``[N, …]``: the single one, or by column, as ``Envs.stored`` answers. Zero is
                stored where ``is_last``, for there nothing is executed.

        Raises:
            ReplayError: wrong keys, shapes or dtypes; the row would overwrite one that a checkpoint still needs; or
                the disk is full.
        """
        values = {**rows, **(actions if isinstance(actions, Mapping) else {"action": actions})}
        self._check(values)
        self._protect()
        if self._maps:
            self._reserve()
        position = self._count % self._ring
        for key, column in self._columns.items():
            column[:, position] = values[key]
        for key in self._actions:
            self._columns[key][rows["is_last"], position] = 0
        self._count += 1
        self._release(sum(column[:, 0].nbytes for column in self._columns.values()) if self._maps else 0)

    def fill(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Put whole columns ``[N, R, …]``, actions included, into an empty replay in memory that has room for R rows.

        Raises:
            ReplayError: it is not empty, lies in files, or has less room; wrong keys, shapes or dtypes.
        """
        count = next(iter(columns.values())).shape[1]
        if self._count or self._maps or not 0 < count <= self._ring:
            raise ReplayError(f"expected an empty replay in memory with room for {count} rows, not {self._ring}")
        self._check({key: value[:, 0] for key, value in columns.items()})
        for key, column in self._columns.items():
            column[:, :count] = columns[key]
        for key in self._actions:
            self._columns[key][:, :count][columns["is_last"]] = 0
        self._count = count

    def _check(self, values: Mapping[str, NDArray[Any]]) -> None:
        if values.keys() != self.spec.keys():
            missing, extra = sorted(self.spec.keys() - values.keys()), sorted(values.keys() - self.spec.keys())
            raise ReplayError(f"expected the columns {sorted(self.spec)}; missing are {missing}, unknown are {extra}")
        wrong = []
        for key, (shape, dtype) in self.spec.items():
            value, wanted = np.asarray(values[key]), (self.streams, *shape)
            if value.dtype != dtype or value.shape != wanted:
                wrong.append((key, f"{dtype} {wanted}", f"{value.dtype} {value.shape}"))
        if wrong:
            raise ReplayError(f"rows do not fit the replay:\n{table(('column', 'declared', 'got'), wrong)}")

    def _protect(self) -> None:
        """Refuse to overwrite a row that was valid at the older of the last two checkpoints."""
        overwritten = self._count - self._ring
        if self._maps and self._marks and overwritten >= max(0, self._marks[0] - self.rows_per_stream):
            since = (self._count - self._marks[0]) * self.streams
            raise ReplayError(
                f"{since} rows were added since the older of the last two checkpoints, and a slack of "
                f"{self._slack * self.streams} rows protects no more of them; checkpoint more often or create the "
                "replay with a larger slack"
            )

    # ------------------------------------------------------------------------------------------------------- sampling

    def sample(self, batch: int, length: int, where: Literal["any", "start", "end"] = "any") -> Batch:
        """Random sequences.

        Args:
            batch: number of sequences B.
            length: rows per sequence T.
            where: "any" begins anywhere and crosses episodes; "start" begins with an episode and "end" stops with one.

        Returns:
            Every column as ``[B, T, …]``, copies. ``is_first`` is as recorded: the first row of a sequence is usually
            in the middle of an episode. At starts and ends a sequence stays within one episode; there is a further
            column ``valid`` ``[B, T]``, and where an episode is shorter, the rows behind it are zero and not valid.

        Raises:
            ReplayError: no stream holds ``length`` rows, or no episode begins or ends in what is held.
        """
        if batch < 1 or length < 1:
            raise ReplayError(f"expected at least one sequence of at least one row, got {batch} of {length}")
        if where != "any":
            return self._sample_episodes(batch, length, where)
        starts = self._held - length + 1
        if starts < 1:
            raise ReplayError(
                f"the replay holds {self._held} rows in each of its {self.streams} streams, {len(self)} in all; "
                f"sequences of {length} rows need {length} per stream, {length * self.streams} in all: collect more, "
                "or sample shorter sequences"
            )
        stream, start = np.divmod(self._rng.integers(starts * self.streams, size=batch), starts)
        return self._gather(stream, start + self._count - self._held, length)

    def _sample_episodes(self, batch: int, length: int, where: str) -> Batch:
        if self._bounds is None or self._bounds[0] != self._count:
            held = np.arange(self._count - self._held, self._count)
            first, last = (self._columns[key][:, held % self._ring] for key in ("is_first", "is_last"))
            self._bounds = self._count, bounds(first, last, held)
        found = self._bounds[1]
        choices = found[found[:, 3 if where == "start" else 4] == 1]
        if where not in ("start", "end") or not len(choices):
            raise ReplayError(f'expected where="any", "start" or "end", and an episode with one in the rows; {where=}')
        stream, start, stop = choices[self._rng.integers(len(choices), size=batch), :3].T
        rows = np.minimum(stop - start, length)
        out = self._gather(stream, start if where == "start" else stop - rows, length)
        out["valid"] = valid = np.arange(length) < rows[:, None]
        for value in out.values():
            value[~valid] = 0
        return out

    def _gather(self, stream: NDArray[np.int64], start: NDArray[np.int64], length: int) -> Batch:
        rows = start[:, None] + np.arange(length + 1)
        index = stream[:, None], rows[:, :-1] % self._ring
        out = {key: column[index] for key, column in self._columns.items()}
        following = rows[:, 1:]
        abandoned = self._columns["is_first"][stream[:, None], following % self._ring] & (following < self._count)
        out["is_last"] |= abandoned
        for key in self._actions:
            out[key][abandoned] = 0
        self._release(sum(value.nbytes for value in out.values()) if self._maps else 0)
        return out

    # ---------------------------------------------------------------------------------------------------- exact resume

    def flush(self) -> None:
        """Write the files through to the disk. Needed against power failures only: a killed process loses nothing.

        Raises:
            ReplayError: the disk refuses.
        """
        try:
            for mapped in self._maps:
                mapped.flush()
        except OSError as error:
            raise ReplayError(f"{self.directory} cannot be written: {error.strerror or error}") from error

    def checkpointed(self) -> None:
        """A checkpoint with the present :meth:`state` is safe on disk: protect the rows that it refers to."""
        self._marks = (*self._marks, self._count)[-2:]

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: JSON values, and without ``directory`` the rows as arrays under "columns"."""
        state: dict[str, Any] = {
            "count": self._count,
            "marks": list(self._marks),
            "rng": self._rng.bit_generator.state,
            "streams": self.streams,
            "rows_per_stream": self.rows_per_stream,
        }
        if not self._maps:
            held = np.arange(self._count - self._held, self._count) % self._ring
            state["columns"] = {key: column[:, held] for key, column in self._columns.items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a checkpoint; sampling and adding then go on as they did after it, bit for bit.

        Rows that were added to the files after the checkpoint stay there, unseen, and are overwritten.

        Raises:
            ReplayError: the state belongs to a replay of another size or kind.
        """
        for name, mine in (("streams", self.streams), ("rows_per_stream", self.rows_per_stream)):
            if state[name] != mine:
                raise ReplayError(f"the checkpoint has {name} = {state[name]}, this replay {mine}; use equal settings")
        if ("columns" in state) == bool(self._maps):
            raise ReplayError("a replay with a directory and one in memory cannot restore each other's checkpoints")
        if self._maps and not self._reopened and state["count"] > self._count:
            assert self.directory is not None
            (self.directory / DESCRIPTION).unlink()  # or the next attempt would take our empty files for those rows
            raise ReplayError(
                f"the checkpoint needs {state['count']} rows per stream, and {self.directory} held no replay files. "
                "Bring back the replay folder of the interrupted run, or start a new run in another folder."
            )
        self._count, self._bounds = int(state["count"]), None
        self._reserved = self._count
        if not self._maps:
            held = np.arange(self._count - self._held, self._count) % self._ring
            for key, column in self._columns.items():
                column[:, held] = state["columns"][key]
        self._marks = (*(int(mark) for mark in state["marks"]), self._count)[-2:]
        self._rng.bit_generator.state = state["rng"]
