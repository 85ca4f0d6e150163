"""The board's book: tasks, runs with their curves, what is there already, and what may be read off a curve.

A row is one run of one agent on one task: points (environment steps, CPU seconds of acting and learning, mean return of
the same episodes each time, its standard error). It is written the moment it ends, and a run whose row is there at
unchanged settings is not made again. The settings of every row are kept whole, under their `digest`: an option that did
not exist then changes nothing as long as it is left at its default. A curve tells of every budget that is smaller than
its run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worldformula.cards.run import machine, write_json
from worldformula.envs.returns import random_policy_return
from worldformula.run.config import EnvConfig
from worldformula.run.contract import Acting
from worldformula.run.evaluate import Evaluation, evaluate
from worldformula.training.seeding import derived
from worldformula.training.settings import flat, to_dict

RESULT = Path(__file__).parent / "results" / "agents.json"
REACHED = 0.9  # share of the way from the floor to the ceiling
LATE = 1.02  # a run of so many minutes ends between two looks of its agent, a little later than asked
EVALUATION = 1  # what `derived` seeds are for, as in a run
Row = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A value that somebody printed: of what, after how many environment steps (None: not said), where."""

    value: float
    of: str
    steps: int | None
    source: str

    def __str__(self) -> str:
        budget = "budget not stated" if self.steps is None else f"{self.steps:,} steps".replace(",", " ")
        return f"{self.of} {self.value:g} ({budget}; {self.source})".replace(" -", " −")


@dataclass(frozen=True)
class Task:
    """An environment with the budgets that agents get there.

    Attributes:
        name: as in ``--tasks``.
        title: a heading of the page.
        env: the environment, the same for all agents.
        agents: who learns it.
        steps: environment steps of a run.
        minutes: the CPU minutes at which the page compares agents.
        every: environment steps between two points of a curve.
        episodes: of each point.
        published: values of others.
        ceiling: of the published values, or of a reference controller, the one that times to score are told by.
        changes: settings beside the preset ``tiny``, by agent.
        note: what a reader has to know.
        asked: how many times the floor ``by`` are asked to have after ``steps``.
    """

    name: str
    title: str
    env: EnvConfig
    agents: tuple[str, ...]
    steps: int
    minutes: float
    every: int
    episodes: int = 10
    published: tuple[Published, ...] = ()
    ceiling: float | None = None
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    asked: float = 0.0
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """Environment steps, or CPU minutes of acting and learning."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"expected steps or minutes, got {self.steps} and {self.minutes}")

    def spent(self, steps: float, seconds: float) -> bool:
        """Whether a run that is so far has used it up."""
        return steps >= self.steps if self.steps is not None else seconds >= 60 * (self.minutes or 0.0)

    def __str__(self) -> str:
        return f"{self.minutes:g} CPU minutes" if self.steps is None else f"{self.steps:,} steps".replace(",", " ")


@dataclass(frozen=True)
class Settings:
    """What decides a run beside its seed and its budget.

    Attributes:
        values: all of it, nested.
        defaults: of every option that has one, by dotted key.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Their name in the file."""
        return digest(self.values)

    def are(self, measured: Mapping[str, Any]) -> bool:
        """Whether a run of the settings ``measured`` was one of these: every option that it had is the same today, and
        every option that it had not is at its default, which is to say "as before".
        """
        then, now = (dict(flat(json.loads(_text(values)))) for values in (measured, self.values))
        new = {key: value for key, value in now.items() if key not in then}
        defaults = json.loads(_text(self.defaults))
        same = all(key in now and now[key] == value for key, value in then.items())
        return same and all(key in defaults and defaults[key] == value for key, value in new.items())


class Watch:
    """Looks at an agent while it learns: the points of its curve, the CPU time that it took, the end of its budget.

    Args:
        task: what it learns.
        seed: of the run, from which that of the episodes of every look derives.
        budget: when it ends.
        clock: CPU seconds; looks are not counted.
        measure: plays the episodes of a look.
        say: called with a line for each point.
    """

    def __init__(
        self, task: Task, seed: int, budget: Budget, *, clock: Callable[[], float] = time.process_time,
        measure: Callable[[Task, int, Acting], Evaluation] | None = None, say: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.task, self.seed, self.budget = task, seed, budget
        self.points: list[list[float]] = []
        self._clock, self._measure, self._say = clock, measure or played, say
        self._before, self._since = 0.0, clock()

    @property
    def seconds(self) -> float:
        """CPU seconds so far, without looks."""
        return self._before + self._clock() - self._since

    def start(self) -> None:
        """What was done until now, such as building the agent, is not counted."""
        self._since = self._clock()

    def due(self, steps: int) -> bool:
        """Whether a multiple of ``task.every`` was passed since the last look."""
        last = self.points[-1][0] if self.points else 0
        return steps // self.task.every > last // self.task.every

    def spent(self, steps: int) -> bool:
        """Whether the budget is used up."""
        return self.budget.spent(steps, self.seconds)

    def look(self, steps: int, agent: Acting) -> Evaluation:
        """Plays the same episodes as at every look; a point of the curve."""
        seconds = self.seconds
        found = self._measure(self.task, self.seed, agent)
        tenths = math.ceil(10 * seconds) / 10  # never less: a budget that is used up stays so
        self.points.append([steps, tenths, round(found.mean, 4), round(found.error, 4)])
        self._say(f"  {steps} steps, {seconds:.0f} CPU s: {found.mean:.4g} ± {found.error:.2g}")
        self._before, self._since = seconds, self._clock()
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the run has to hold."""
        return {"seconds": self.seconds, "points": [list(point) for point in self.points]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`."""
        self.points = [list(point) for point in state["points"]]
        self._before, self._since = float(state["seconds"]), self._clock()


def played(task: Task, seed: int, agent: Acting) -> Evaluation:
    """The episodes of a look: modes and means, in environments of their own."""
    return evaluate(agent, task.env, episodes=task.episodes, seed=derived(seed, EVALUATION))


# ------------------------------------------------------------------------------------------------------------ the book


class Book:
    """The rows of a file, written at once or not at all, each when it ends."""

    def __init__(self, path: Path = RESULT) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.floors: dict[str, Row] = {}
        self.settings: dict[str, Mapping[str, Any]] = {}  # of rows, by their digest
        if path.is_file():
            held = json.loads(path.read_text(encoding="utf-8"))
            self.rows, self.floors, self.settings = held["rows"], held["floors"], held["settings"]

    def of(self, task: str, agent: str | None = None) -> list[Row]:
        """The rows of a task, by agent and seed."""
        found = [row for row in self.rows if row["task"] == task and agent in (None, row["agent"])]
        return sorted(found, key=lambda row: (row["agent"], row["seed"], row["steps"]))

    def today(self, row: Row, settings: Settings) -> bool:
        """Whether a row is one of these settings."""
        return settings.are(self.settings[row["settings"]])

    def covered(self, task: str, agent: str, seed: int, settings: Settings, budget: Budget) -> Row | None:
        """The row that tells what a run of this budget would: it has the same settings, went as far, and was looked at
        within the budget, or had it.
        """
        for row in self.of(task, agent):
            same = row["seed"] == seed and self.today(row, settings)
            if same and (row["budget"] == asdict(budget) or at(row["curve"], budget) is not None):
                return row
        return None

    def add(self, row: Row, settings: Settings) -> None:
        """Keeps a row, in the place of shorter or earlier ones of the same run, and writes the file."""
        self.settings[row["settings"]] = settings.values
        run = [row[key] for key in ("task", "agent", "seed")]
        self.rows = [
            old
            for old in self.rows
            if [old[key] for key in ("task", "agent", "seed")] != run
            or (self.today(old, settings) and not _within(old, row))
        ]
        self.rows.append(row)
        self.write()

    def floor(self, task: Task, seed: int = 0, episodes: int = 100) -> Row:
        """What random play scores, with the options of the task; measured once and kept."""
        asked = {"env": to_dict(task.env), "seed": seed, "asked": episodes}
        held = self.floors.get(task.name, {})
        if any(held.get(key) != value for key, value in asked.items()):
            options = {"most": 2_000_000, "seconds": 120.0, **task.env.options()}
            score = random_policy_return(task.env.id, episodes, seed, **options)
            self.floors[task.name] = {**asked, **asdict(score)}
            self.write()
        return self.floors[task.name]

    def write(self) -> None:
        """The file, as it stands."""
        rows = sorted(self.rows, key=lambda row: (row["task"], row["agent"], row["seed"], row["steps"]))
        command = "python -m benchmarks.agents"
        used = {row["settings"] for row in rows}
        settings = {name: values for name, values in sorted(self.settings.items()) if name in used}
        head = {"benchmark": "agents", "command": command, "floors": self.floors}
        write_json(self.path, {**head, "rows": rows, "settings": settings})


def _within(old: Row, new: Row) -> bool:
    return old["steps"] <= new["steps"] and old["cpu_seconds"] <= new["cpu_seconds"]


def row(task: Task, agent: str, settings: Settings, watch: Watch, **more: Any) -> Row:
    """What is kept of a run that has ended."""
    steps, seconds, mean, error = watch.points[-1]
    return {
        "task": task.name, "agent": agent, "seed": watch.seed, "budget": asdict(watch.budget),
        "settings": settings.digest, "steps": int(steps), "cpu_seconds": seconds, "return": mean,
        "return_error": error, "episodes": task.episodes, **more, "commit": commit(), **machine(),
        "curve": watch.points,
    }  # fmt: skip


def digest(settings: Mapping[str, Any]) -> str:
    """A name for settings: equal ones have equal names."""
    return hashlib.sha256(_text(settings).encode()).hexdigest()[:12]


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


@functools.cache
def commit() -> str:
    """The commit that this process was started at, with a + where its code was changed since; "unknown" elsewhere.

    Asked for before the first run: a process goes on with what it has loaded.
    """
    try:
        head, changed = _git("rev-parse", "--short=10", "HEAD"), _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    """What it answers at the root of the project."""
    done = subprocess.run(  # noqa: S603 (a command of ours)
        ["git", *arguments],  # noqa: S607 (whichever is installed)
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------- reading off a curve


def at(curve: Sequence[Sequence[float]], budget: Budget) -> Sequence[float] | None:
    """The point that a run of this budget would have ended with: the first one at or behind so many steps, the last
    one within so many minutes (and `LATE`). None where the run was shorter.
    """
    if not curve or not budget.spent(*curve[-1][:2]):
        return None
    if budget.steps is not None:
        return next(point for point in curve if point[0] >= (budget.steps or 0))
    within = [point for point in curve if point[1] <= LATE * 60 * (budget.minutes or 0.0)]
    return within[-1] if within else None


def reached(curve: Iterable[Sequence[float]], score: float) -> Sequence[float] | None:
    """The first point that has the score; None where none has."""
    return next((point for point in curve if point[2] >= score), None)


def score_of(task: Task, floor: float) -> float | None:
    """What times to score are told by: `REACHED` of the way from the floor to the ceiling."""
    return None if task.ceiling is None else floor + REACHED * (task.ceiling - floor)
