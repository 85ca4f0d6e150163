"""Fit: updates of a loss on data, as a task for `worldformula.run.run.Run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worldformula.run.alarm import Alarm
from worldformula.run.contract import Write
from worldformula.training.minimise import Fitting
from worldformula.training.validation import Validation


class Fit:
    """A `Fitting` in parts of ``every`` updates; after each the data that it does not learn from are measured.

    What is written about it and how it goes on is added by those that inherit: `ModelRun`, and `fit` in Python.
    """

    kind = "fit"
    threads: int | None = None
    tensorboard = True

    def __init__(
        self, fitting: Fitting, every: int, judge: Validation | None, say: Callable[[str], None] = print
    ) -> None:
        self.fitting, self.every, self.judge = fitting, every, judge
        self.show: Callable[[Fitting], None] | None = None
        self.alarm = Alarm(say)
        self._told = 0  # rows of the history that are in the metrics

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.fitting.step

    @property
    def goal(self) -> int:
        """Updates of the whole run."""
        return self.fitting.goal

    @property
    def place(self) -> str:
        """Where it is, in words: among the updates of what comes before it, where these go on."""
        first = self.fitting.first
        return f"step {self.step:,}" if first is None or not first.step else f"step {first.step:,} of {first.name}"

    def begin(self) -> None:
        """Nothing is left behind by a fit that never reached a checkpoint."""

    def kept(self) -> None:
        """Nothing else is stored."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to there; the history starts anew."""
        self.fitting.load_state_dict(state["fit"])
        self._told = 0

    def state(self) -> dict[str, Any]:
        """Weights, optimisers, place in the data, random numbers."""
        return {"fit": self.fitting.state_dict()}

    def advance(self, until: int, write: Write, asked: Callable[[], bool]) -> None:
        """Updates; their rows are written once those of the other data stand beside them. In what comes before the
        first of them, as many as lie between two checkpoints.
        """
        before = 0

        def ended(*_: object) -> bool:
            nonlocal before
            before += self.fitting.first is not None
            return asked() or (before >= self.every and self.fitting.first is not None)

        self.fitting.advance(until, show=self.show, callback=ended)
        if self.fitting.step >= min(until, self.goal):
            self.test()
        rows = self.fitting.history.rows
        for row in rows[self._told :]:
            write(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
        self._told = len(rows)

    def test(self) -> Mapping[str, float]:
        """Value and terms on data that it does not learn from, which the history then has too."""
        found = {} if self.judge is None else self.judge.measure()
        if told := self.watched():
            self.fitting.history.note(self.fitting.step, told)
            self.alarm.of(told, f"update {self.step:,}", self.step >= self.goal)
        return {**found, **told}

    def watched(self) -> Mapping[str, float]:
        """What else is logged at every test, of the latents of a world that nothing decodes."""
        return {}
