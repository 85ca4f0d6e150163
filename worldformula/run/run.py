"""`Run`: one task in one folder. Killed at any moment, it goes on as if nothing had happened.

It locks the folder, compares what is asked for with what is stored, restores the newest good checkpoint, goes on with
the metrics where that checkpoint left them, stores the task at every ``task.every`` steps, and lets Ctrl-C end it with
a checkpoint, from which the same run goes on.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worldformula.errors import CheckpointError, RunFolderError, WorldformulaError, table
from worldformula.run.contract import Halting, Placed, Task
from worldformula.run.folder import MetricsLog, RunFolder
from worldformula.run.kinds import expect
from worldformula.training import checkpoint, devices
from worldformula.training.stop import Stop

SAID = 300  # characters of what torch says of weights that do not fit, which may name hundreds


class Run:
    """A task and its folder.

    Args:
        task: what is done.
        folder: where.
        say: called with a line of text where something needs saying, such as a damaged checkpoint.
        changed: deliberate changes of the settings of a run that goes on, ``{"fit.lr": (1e-3, 1e-4)}``.
    """

    def __init__(
        self, task: Task, folder: RunFolder, *, say: Callable[[str], None] = print,
        changed: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.task, self.folder, self.say, self.changed = task, folder, say, changed or {}
        self._stored = ""  # where the task was when it was stored last

    def go(self, asked: Callable[[], bool] = lambda: False) -> None:
        """Works to the end, or goes on to it; at once if it was reached before. ``asked``: also stop when that says so.

        Raises:
            KeyboardInterrupt: the run was interrupted; a checkpoint was written, and the message says how to go on.
            RunFolderError: the folder holds another run, or cannot be written.
            CheckpointError: there are checkpoints, and none is readable; or it is one of another task.
            NonFiniteError: a number was NaN or infinite.
        """
        task, folder = self.task, self.folder
        with folder.locked(), devices.threads(task.threads), halted(task):
            agree(folder, task)
            found = self._found()
            before = folder.config().get("changed", []) if found and folder.exists else []
            now = [{"step": self._step(found), "setting": k, "from": a, "to": b} for k, (a, b) in self.changed.items()]
            more = {"changed": [*before, *now]} if before or now else {}
            position = self._restored(found) if found else 0  # before anything is written: it may be refused
            folder.create({"kind": task.kind, **task.written(), **more})
            if not found:
                task.begin()
            events = task.tensorboard
            with MetricsLog(folder, position=position, step=task.step, tensorboard=events) as log, Stop() as stop:
                try:
                    while task.step < task.goal:
                        self._part(log, lambda: stop.asked or asked())
                except KeyboardInterrupt:  # pressed twice, it comes at once, and the last part is lost
                    steps = kept(folder)
                    stored = self._stored or (f"step {steps[-1]:,}" if steps else "")
                    after = f"go on after {stored}" if steps else "start again, as it had no checkpoint yet"
                    raise KeyboardInterrupt(f"interrupted at {place(task)}; {after}: {task.resume_hint()}") from None

    def _part(self, log: MetricsLog, asked: Callable[[], bool]) -> None:
        """Up to the next checkpoint, which is written."""
        task = self.task
        task.advance(min((task.step // task.every + 1) * task.every, task.goal), log.write, asked)
        state = task.state()
        checkpoint.save(self.folder.checkpoints, task.step, {**state, "metrics": log.position()})
        self._stored = place(task)
        task.kept()
        if asked() and task.step < task.goal:
            raise KeyboardInterrupt

    def open(self) -> checkpoint.Checkpoint | None:
        """Restores the task from the newest good checkpoint, where there is one, without going on."""
        with halted(self.task):
            found = self._found()
            if found is not None:
                self._restored(found)
        return found

    def _found(self) -> checkpoint.Checkpoint | None:
        found = checkpoint.load_latest(self.folder.checkpoints)
        for line in found.rejected if found else ():
            self.say(f"warning: {line}; going on from step {self._step(found)}")
        return found

    @staticmethod
    def _step(found: checkpoint.Checkpoint | None) -> int:
        return found.step if found else 0

    def _restored(self, found: checkpoint.Checkpoint) -> int:
        """Puts a checkpoint into the task; the bytes of the metrics that count."""
        with checked(found):
            self.task.restore(found.state)
            return int(found.state["metrics"])


def place(task: Task) -> str:
    """Where a task is, in words."""
    return task.place if isinstance(task, Placed) else f"step {task.step:,}"


@contextlib.contextmanager
def halted(task: Task) -> Iterator[None]:
    """Behind the block nothing of a task goes on by itself."""
    try:
        yield
    finally:
        if isinstance(task, Halting):
            task.halt()


@contextlib.contextmanager
def checked(found: checkpoint.Checkpoint) -> Iterator[None]:
    """What a checkpoint of something else raises inside the block becomes one error."""
    try:
        yield
    except WorldformulaError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        said = textwrap.shorten(" ".join(str(error).split()), SAID, placeholder=" …")
        raise CheckpointError(
            f"the checkpoint {found.path} does not fit this run: {said}\nIf nothing of the run was changed, another "
            f"version of worldformula wrote it: open it with that one, or train again"
        ) from error


def newest(folder: RunFolder, train: str) -> checkpoint.Checkpoint:
    """The newest good checkpoint of a run; ``train`` is the command that would make the first one.

    Raises:
        CheckpointError: there is none yet, or none can be read.
    """
    found = checkpoint.load_latest(folder.checkpoints)
    if found is None:
        raise CheckpointError(f"{folder.path} has no checkpoint yet; train it first: {train}")
    return found


def best(folder: RunFolder) -> checkpoint.Checkpoint:
    """The weights of the best evaluation on the way of a run of an agent.

    Raises:
        CheckpointError: there are none.
    """
    found = checkpoint.load_latest(folder.best)
    if found is None:
        raise CheckpointError(
            f"{folder.path} keeps no best weights: a run that is evaluated on the way does, such as --set "
            "eval_every=5000 when it begins; its newest weights are there without asking for the best"
        )
    return found


def kept(folder: RunFolder) -> list[int]:
    """The steps of the checkpoints in a folder, oldest first."""
    return [int(path.name) for path in checkpoint.steps_in(folder.checkpoints)]


def agree(folder: RunFolder, task: Task) -> None:
    """The folder holds nothing yet that could be contradicted, or this very run.

    Raises:
        RunFolderError: it holds a run of another kind, or with other settings; the message lists them.
    """
    if not folder.exists or not kept(folder):
        return
    stored = expect(folder, (task.kind,), "this run")
    if changed := task.differences(stored):
        rows = table(("setting", "in the folder", "wanted now"), [(key, *pair) for key, pair in changed.items()])
        raise RunFolderError(
            f"{folder.path} holds a run with other settings:\n{rows}\n"
            "Choose another folder for a new run, or leave these settings out to go on with this one."
        )
