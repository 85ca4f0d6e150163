"""Columns of fixed length, one ring per stream, in memory or in memory-mapped files."""

from __future__ import annotations

import json
import mmap
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worldformula.data.storage import allocate
from worldformula.errors import ReplayError, table

Spec = Mapping[str, tuple[tuple[int, ...], DTypeLike]]

DESCRIPTION = "replay.json"
RESERVE_BYTES = 8 * 2**20  # disk is reserved this far ahead of the newest row
RELEASE_BYTES = 128 * 2**20  # touched file pages count as memory of the process; they are given back after this many


class Ring:
    """Arrays ``[streams, length, *shape]`` by column.

    In files they cost disk, not memory, and survive the death of the process: sparse files that grow as they fill, with
    disk reserved a few megabytes ahead of the newest row, for a disk that fills up under a mapped page would kill the
    process without a word.

    spec: shape and dtype of every column. said: what a folder tells of itself besides its columns.

    Raises:
        ReplayError: the files in ``directory`` belong to another description, or the disk is too small.
    """

    def __init__(
        self,
        spec: Spec,
        streams: int,
        length: int,
        directory: Path | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = {key: (tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in spec.items()}
        self.streams, self.length, self.directory, self._said = streams, length, directory, dict(said or {})
        self._touched = 0
        self.reserved = 0  # rows of each stream that surely have their place on the disk
        self._maps: list[mmap.mmap] = []
        self._files: dict[str, Path] = {}
        self.reopened = False
        self.columns = self._in_memory() if directory is None else self._in_files(directory)

    @property
    def in_files(self) -> bool:
        """Whether the columns lie in files."""
        return bool(self._maps)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns once the ring is full."""
        return sum(self._column_bytes(key) for key in self.spec)

    def _shape(self, key: str) -> tuple[int, ...]:
        return (self.streams, self.length, *self.spec[key][0])

    def _column_bytes(self, key: str) -> int:
        return int(np.prod(self._shape(key), dtype=np.int64)) * self.spec[key][1].itemsize

    def _in_memory(self) -> dict[str, NDArray[Any]]:
        return {key: np.zeros(self._shape(key), dtype) for key, (_, dtype) in self.spec.items()}

    def _in_files(self, directory: Path) -> dict[str, NDArray[Any]]:
        path = directory / DESCRIPTION
        columns = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.reopened = path.exists()
            if self.reopened:
                self._check_description(path)
            else:
                self._check_disk(directory)
            for index, (key, (_, dtype)) in enumerate(self.spec.items()):
                file = self._files[key] = directory / f"{index:02d}_{re.sub(r'[^A-Za-z0-9_]', '_', key)}.bin"
                columns[key] = self._map(file, self._column_bytes(key), dtype).reshape(self._shape(key))
            if not self.reopened:
                path.write_text(json.dumps(self._description(), indent=1))
        except OSError as error:
            raise ReplayError(f"the replay files in {directory} cannot be made: {error.strerror or error}") from error
        return columns

    def _description(self) -> dict[str, Any]:
        columns = {key: [list(shape), dtype.name] for key, (shape, dtype) in self.spec.items()}
        return {"streams": self.streams, **self._said, "columns": columns}

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
            if length != size and (self.reopened or length != 0):
                raise ReplayError(
                    f"{path} has {length} bytes, expected {size}: the file is damaged, and the run cannot go on "
                    "without it. Restore it from a backup, or start a new run in another folder."
                )
            file.truncate(size)  # a hole: takes disk only where rows are written
            mapped = mmap.mmap(file.fileno(), size)
        self._maps.append(mapped)
        return np.frombuffer(mapped, dtype)

    def reserve(self, count: int, held: int) -> None:
        """Give row ``count`` and those behind it their place on the disk, so that it is full here and not later.

        ``held``: the rows that are valid, over all streams, for the message.

        Raises:
            ReplayError: the disk is full; nothing was added, and everything that was added is safe.
        """
        if not self._maps or count < self.reserved or count >= self.length:  # later rounds overwrite the first one
            return
        row = {key: int(np.prod(shape)) * dtype.itemsize for key, (shape, dtype) in self.spec.items()}
        rows = min(max(1, RESERVE_BYTES // (sum(row.values()) * self.streams)), self.length - count)
        try:
            for key, file in self._files.items():
                starts = [(stream * self.length + count) * row[key] for stream in range(self.streams)]
                allocate(file, starts, rows * row[key])
        except OSError as error:
            raise ReplayError(
                f"the disk has no room for more rows in {self.directory} ({error.strerror or error}); the replay holds "
                f"{held} rows and grows to {self.nbytes / 1e9:.3g} GB. Free some space and go on, or "
                "start a new run with a smaller capacity. What was stored before is safe."
            ) from error
        self.reserved = count + rows

    def release(self, touched: int) -> None:
        """Give file pages back to the system's cache now and then, or all of the file would count as our memory."""
        if not self._maps:
            return
        self._touched += touched
        if self._touched > RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0

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

    def forget(self) -> None:
        """The next one to open the folder finds no replay in it, instead of empty files."""
        assert self.directory is not None
        (self.directory / DESCRIPTION).unlink()
