"""The folder of a run: what it is (`config.json`), what happened (`metrics.jsonl`), and what to go on from.

config.json      every setting, resolved
metrics.jsonl    one line of numbers per log step; no clock in it, so equal runs write equal files
timing.jsonl     the seconds that belong to those lines
tensorboard/     the same numbers as events, and the pictures of the page, where TensorBoard is installed
checkpoints/     see `worldformula.training.checkpoint`
best/            the weights of the best evaluation on the way, where a run is evaluated on the way
replay/          the rows of experience
episodes.npz     what `fit_world` was given
videos/, report.html
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from worldformula.errors import NonFiniteError, RunFolderError, WorldformulaError

EPISODES = "episodes.npz"  # what a world was given in Python, written before the run begins


class RunFolder:
    """The paths of one run, and the files that are not checkpoints."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.timing_file = self.path / "timing.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.replay = self.path / "replay"
        self.videos = self.path / "videos"
        self.tensorboard = self.path / "tensorboard"
        self.report = self.path / "report.html"

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    def create(self, config: Mapping[str, Any]) -> None:
        """Makes the folder and writes the configuration.

        Raises:
            RunFolderError: the folder cannot be written, or holds files of something else.
        """
        with writing(self.path):
            if self.path.is_dir() and not self.exists and not self._only_leftovers():
                raise RunFolderError(f"{self.path} holds files, but no config.json of a run. Choose a new folder.")
            self.path.mkdir(parents=True, exist_ok=True)
            draft = self.config_file.with_suffix(".draft")
            with draft.open("w", encoding="utf-8") as file:
                file.write(json.dumps(config, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.config_file)
            self.videos.mkdir(exist_ok=True)

    def keep_video(self, name: str, webp: bytes) -> Path:
        """Writes a video; returns its path."""
        path = self.videos / f"{name}.webp"
        with writing(self.path):
            self.videos.mkdir(exist_ok=True)
            path.write_bytes(webp)
        return path

    def _only_leftovers(self) -> bool:
        """Whether nothing is here but what a kill in the first moments of a run leaves behind."""
        return {p.name for p in self.path.iterdir()} <= {".lock", "config.draft", EPISODES}

    def config(self) -> dict[str, Any]:
        """What `config.json` holds.

        Raises:
            RunFolderError: there is no run here, or the file is damaged.
        """
        try:
            values = json.loads(self.config_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = "it is a file" if self.path.exists() else "there is no such folder"
            why = "it has no config.json" if self.path.is_dir() else missing
            if runs := sorted(str(file.parent) for file in self.path.glob("*/config.json")):
                why += f", but runs lie in it: {', '.join(runs)}"
            raise RunFolderError(f"{self.path} is not a run folder: {why}") from error
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.config_file} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise RunFolderError(f"{self.config_file} cannot be read: expected an object, got {type(values).__name__}")
        return values

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the lock ends with the process, however it ends.

        Raises:
            RunFolderError: another process trains in this folder, or it cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w", encoding="utf-8")
        with file:
            self._alone(file)
            yield

    def free(self) -> None:
        """Looks, before any work is done, whether `locked` would be refused now; writes nothing.

        Raises:
            RunFolderError: another process trains in this folder.
        """
        if not (self.path / ".lock").is_file():
            return
        with writing(self.path), (self.path / ".lock").open(encoding="utf-8") as file:
            self._alone(file)

    def _alone(self, file: IO[str]) -> None:
        """Takes the lock, which ends where the file is closed."""
        if importlib.util.find_spec("fcntl"):  # elsewhere (Windows) the folder is not guarded
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(f"another process is training in {self.path}; wait for it or stop it") from error


class MetricsLog:
    """Appends numbers to `metrics.jsonl` (and `timing.jsonl`, and TensorBoard), going on at a known position.

    Args:
        folder: the run.
        position: bytes of `metrics.jsonl` that count; what a killed run wrote behind them is cut off.
        step: the step of that position.
        tensorboard: write events too, if TensorBoard is installed.
    """

    def __init__(self, folder: RunFolder, *, position: int = 0, step: int = 0, tensorboard: bool = True) -> None:
        self.folder = folder
        with writing(folder.path):
            _cut(folder.metrics_file, position)
            _cut(folder.timing_file, _lines_until(folder.timing_file, step))
            self._lines: IO[str] = folder.metrics_file.open("a", encoding="utf-8")
            self._timing: IO[str] = folder.timing_file.open("a", encoding="utf-8")
        self._started = time.perf_counter()
        self._events = events(folder.tensorboard, step) if tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of numbers for one step.

        Raises:
            NonFiniteError: a number is NaN or infinite; the message names the first one.
            RunFolderError: the disk is full or refuses.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value} at step {step}. The last checkpoint is from before; look at the terms of the "
                    "loss in metrics.jsonl, lower the learning rate, or check the environment's rewards."
                )
        with writing(self.folder.path):
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            self._lines.flush()
            self._timing.write(json.dumps({"step": step, "seconds": time.perf_counter() - self._started}) + "\n")
            self._timing.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def position(self) -> int:
        """Bytes written so far, now on the disk: a checkpoint keeps this number."""
        with writing(self.folder.path):
            self._lines.flush()
            os.fsync(self._lines.fileno())
            return self._lines.tell()

    def close(self) -> None:
        """Closes the files.

        Raises:
            RunFolderError: the disk is full or refuses.
        """
        with writing(self.folder.path):
            try:
                with self._lines, self._timing:
                    pass
            finally:
                if self._events is not None:
                    self._events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(RunFolderError) if kind else contextlib.nullcontext():  # the first error counts
            self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out.

    Raises:
        RunFolderError: a line is damaged; the message gives its number.
    """
    found: list[dict[str, float]] = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            values = json.loads(line) if line else None
        except ValueError as error:
            raise RunFolderError(f"line {number} of {path} cannot be read: {error}. Correct or delete it.") from error
        found += [] if values is None else [values]
    return found


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says about a folder into the library's error."""
    try:
        yield
    except WorldformulaError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "Free some space, or choose" if full else "Choose"
        raise RunFolderError(
            f"the run folder {path} cannot be written: {error.strerror or error}. {advice} another folder with --run."
        ) from error


def _cut(path: Path, size: int) -> None:
    """Cuts off what is behind ``size``; of a file that somebody cut shorter, its last line where that is half a one."""
    held = path.stat().st_size if path.exists() else 0
    if held > size:
        os.truncate(path, size)
    elif held and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _lines_until(path: Path, step: int) -> int:
    """Bytes of the leading lines that belong to steps up to ``step``."""
    size = 0
    if path.exists() and step:
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or _step(line) > step:
                break
            size += len(line)
    return size


def _step(line: bytes) -> float:
    """The step of a line of a log; infinity where it is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def events(path: Path, step: int) -> Any:
    """A TensorBoard writer that hides events behind ``step``; None where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path), purge_step=step or None)
