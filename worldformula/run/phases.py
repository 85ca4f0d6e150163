"""Phases: tasks one after another, each with a run of its own, and with what the earlier ones made.

    collect = Phase("collect", lambda folder, given: Interact(config, build, folder), {"rows": lambda t: t.replay})
    learn = Phase("learn", lambda folder, given: task(loss, given["rows"], folder, steps=1000), takes=("rows",))
    Phases([collect, learn], "runs/chain").run()

As in World Models (Ha & Schmidhuber 2018, arXiv:1803.10122): collect at random, fit V, fit M, evolve C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldformula.errors import ConfigError
from worldformula.run.contract import Task, Write
from worldformula.run.folder import RunFolder
from worldformula.run.run import Run


@dataclass(frozen=True)
class Phase:
    """One task of a chain.

    Attributes:
        name: of the phase and of its folder.
        make: ``make(folder, given)`` makes its task; ``given`` holds what it takes, by name.
        gives: name -> function of the finished task that returns what later phases may take.
        takes: what it needs of earlier phases.
    """

    name: str
    make: Callable[[RunFolder, Mapping[str, Any]], Task]
    gives: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    takes: tuple[str, ...] = ()


class Phases:
    """A chain of phases in one folder, each in a folder of its own below it, with its own checkpoints and metrics.

    A killed chain goes on in the phase that it died in, where that one's checkpoint is. What earlier phases gave is
    made again from their own last checkpoints, so nothing is stored twice.

    Raises:
        ConfigError: two phases of one name, or one that takes what none before it gives.
    """

    kind = "phases"
    every = 1
    threads: int | None = None
    tensorboard = False

    def __init__(
        self, phases: Sequence[Phase], folder: str | Path | RunFolder, *, say: Callable[[str], None] = print
    ) -> None:  # fmt: skip
        self.folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        self.phases, self.say = list(phases), say
        self.made: dict[str, Any] = {}
        self._done = 0
        known: set[str] = set()
        for phase in self.phases:
            if missing := [name for name in phase.takes if name not in known]:
                had = ", ".join(sorted(known)) or "nothing"
                raise ConfigError(f"the phase {phase.name} takes {missing[0]!r}, and those before it give {had}")
            known |= phase.gives.keys()
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names) or any(not name.isidentifier() for name in names):
            raise ConfigError(f"expected phases of different names that can name a folder, got {names}")

    @property
    def step(self) -> int:
        """Finished phases."""
        return self._done

    @property
    def goal(self) -> int:
        """All phases."""
        return len(self.phases)

    def run(self) -> Mapping[str, Any]:
        """Runs every phase to its end, or goes on in the right one; what they gave, by name. See `Run.go`."""
        Run(self, self.folder, say=self.say).go()
        return self.made

    def written(self) -> Mapping[str, Any]:
        """As in ``config.json``."""
        return {"phases": {p.name: {"takes": list(p.takes), "gives": list(p.gives)} for p in self.phases}}

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """Against the chain of the folder."""
        before, now = stored.get("phases"), self.written()["phases"]
        return {} if before == now and list(before) == list(now) else {"phases": (before, now)}

    def begin(self) -> None:
        """Nothing is left behind by a chain that finished no phase but the folder of its first one, which goes on."""

    def kept(self) -> None:
        """Nothing else is stored."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Makes again what the finished phases gave."""
        for phase in self.phases[: int(state["done"])]:
            task, folder = self._task(phase)
            Run(task, folder, say=self.say).open()
            self._finished(phase, task)

    def advance(self, until: int, write: Write, asked: Callable[[], bool]) -> None:
        """The next phase."""
        while self._done < until:
            phase = self.phases[self._done]
            task, folder = self._task(phase)
            Run(task, folder, say=self.say).go(asked)
            write(self._done + 1, {f"{phase.name}/steps": float(task.step)})
            self._finished(phase, task)

    def test(self) -> Mapping[str, float]:
        """Every phase has its own."""
        return {}

    def state(self) -> dict[str, Any]:
        """How many phases are finished."""
        return {"done": self._done}

    def resume_hint(self) -> str:
        """In Python."""
        return "run the same phases in the same folder again"

    def _task(self, phase: Phase) -> tuple[Task, RunFolder]:
        folder = RunFolder(self.folder.path / phase.name)
        return phase.make(folder, {name: self.made[name] for name in phase.takes}), folder

    def _finished(self, phase: Phase, task: Task) -> None:
        self.made |= {name: make(task) for name, make in phase.gives.items()}
        self._done += 1
