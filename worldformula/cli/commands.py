"""The sub-commands: one frozen dataclass each, whose fields are its options and whose `run` does the work.

`run` returns the exit code. What can go wrong is raised as a `WorldformulaError`; `main` turns it into one message.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import tyro

from worldformula import cards, catalogue
from worldformula.cli import fit
from worldformula.cli.many import option
from worldformula.cli.train import Device, Flag, Number, write_report
from worldformula.envs import Score
from worldformula.errors import ConfigError
from worldformula.model.run import ModelRun, open_model
from worldformula.report.yardsticks import yardsticks
from worldformula.run.contract import Agent, Batch
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import RunFolder, writing
from worldformula.run.kinds import expect, kind_of
from worldformula.run.saved import SavedRun, load_agent, open_run, record
from worldformula.training import devices, settings
from worldformula.training.checkpoint import Checkpoint

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
Planner = Annotated[
    str,
    option(
        "PLANNER",
        "the agent's own, or cem",
        help=f"One of {', '.join(catalogue.names('planners'))}.",
    ),
]
Card = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CARD", help=f"One of {', '.join(cards.names())}.")]


class Command(Protocol):
    """A sub-command with its options."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        ...


@dataclass(frozen=True)
class OnFolder:
    """What commands take that open a run."""

    folder: Folder
    """The run folder."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    best: Flag = False
    """Of an agent, the weights of the best evaluation on the way (--set eval_every=N), instead of the newest."""

    def fitted(self) -> ModelRun | None:
        """The run of a model or a world, with its newest weights; None where the folder holds that of an agent.

        Raises:
            RunFolderError: it holds neither.
        """
        folder, doing = RunFolder(self.folder), f"worldformula {type(self).__name__.lower()}"
        kind = kind_of(expect(folder, ("fit", "interact"), doing), folder.path)
        if kind == "fit" and self.best:
            raise ConfigError(
                f"{folder.path} is no run of an agent, whose best weights --best takes; a fit ends with its "
                "own by --set held=0.1"
            )
        return open_model(self.folder, self.device) if kind == "fit" else None

    def opened(self) -> tuple[SavedRun, Agent, Checkpoint]:
        """The run of an agent, and the agent of its newest good checkpoint; says which ones were unreadable."""
        run = open_run(self.folder, f"worldformula {type(self).__name__.lower()}")
        agent, found, _ = load_agent(run, self.device, best=self.best)
        for line in found.rejected:
            print(f"warning: {line}; an older checkpoint is used")
        return run, agent, found


@dataclass(frozen=True)
class Eval(OnFolder):
    """Play complete episodes with a trained agent; the mean return stands beside floor and best known."""

    episodes: Number = 100
    """Complete episodes."""
    seed: Number = 1
    """Of the environments; the same seed plays the same episodes."""
    explore: Flag = False
    """Sample actions as in training, instead of the policy's mode."""

    def run(self) -> int:
        """Evaluates."""
        at_least(0, seed=self.seed)
        at_least(1, episodes=self.episodes)
        run, agent, found = self.opened()
        env = run.config.env
        score = evaluate(agent, env, episodes=self.episodes, seed=self.seed, explore=self.explore)
        print(
            f"{run.config.model} on {env.id} after {found.step:,} steps (training seed {run.config.seed}): "
            f"return {Score(score.mean, score.error, self.episodes)}"
            f"{', mean ± standard error' if self.episodes > 1 else ''}"
        )
        print(yardsticks(env, run.config.seed, run.folder))
        return 0


@dataclass(frozen=True)
class Dream(OnFolder):
    """Write videos/dream.webp: what happened beside what the world model imagines from the same start.

    An agent plays anew for it; a world that was fitted dreams windows of its data that it did not learn from.
    With --text, of an agent that reads or of a world that was fitted to a text: print what it goes on with, and write
    what it imagines seeing meanwhile to videos/said.webp, where it predicts pictures.
    """

    context: Number = 5
    """Steps that the model sees before it dreams."""
    length: Number = 50
    """Steps of the video, the context included."""
    sequences: Number = 4
    """How many sequences, side by side."""
    seed: Number = 1
    """Of the environments."""
    text: Annotated[str | None, option("TEXT", "none")] = None
    """Words that are read first, e.g. --text "lift to open"."""
    steps: Number = 12
    """Of a text: how many words are imagined behind it."""
    temperature: float = 1.0
    """Of a text: of each word; 0 takes the most probable latents and words."""

    def run(self) -> int:
        """Dreams."""
        if self.text is not None:
            return self.say(self.text)
        if not 0 < self.context < self.length:
            raise ConfigError(f"expected 0 < context < length, got context={self.context}, length={self.length}")
        at_least(0, seed=self.seed)
        at_least(1, sequences=self.sequences)
        if (fitted := self.fitted()) is not None:
            print(fit.dream(fitted, self.context, self.length, self.sequences, self.seed))
            return 0
        run, agent, _ = self.opened()
        batch = record(agent, run.config.env, sequences=self.sequences, length=self.length, seed=self.seed)
        print(write_dream(agent, batch, self.context, run.folder))
        return 0

    def say(self, text: str) -> int:
        """Goes on with a text."""
        from worldformula.report.words import of_agent, of_fit, strip

        at_least(0, seed=self.seed)
        at_least(1, steps=self.steps)
        how: dict[str, Any] = {"steps": self.steps, "temperature": self.temperature, "seed": self.seed}
        if (fitted := self.fitted()) is not None:
            found = of_fit(fitted, text, **how)
        else:
            run, agent, _ = self.opened()
            found = of_agent(agent, run.config.env, text, **how)
        print(f"read: {text}\ngoes on: {found.text}")
        if found.reward is not None:
            print(f"imagined reward: {found.reward:.3g}")
        if found.pictures is not None:
            print(RunFolder(self.folder).keep_video("said", strip(found.pictures)))
        return 0


@dataclass(frozen=True)
class Plan(OnFolder):
    """Write plan.html: what a planner makes of the present of a trained agent, and what it imagines on the way.

    The agent plays first; the plan begins where it has come to.
    """

    planner: Planner = ""
    preset: Annotated[str, option("NAME", "tiny")] = ""
    """Of a planner that is named."""
    steps: Number = 20
    """Rows that the agent plays before."""
    seed: Number = 1
    """Of the environment."""

    def run(self) -> int:
        """Plans."""
        at_least(0, seed=self.seed)
        at_least(2, steps=self.steps)
        system = catalogue.find(self.planner or "cem", "planners")
        if system.kind != "planners":
            known = ", ".join(catalogue.names("planners"))
            raise ConfigError(f"{self.planner} is no planner, but one of the {system.kind}; these are: {known}")
        named = system.build(system.sizes(self.preset or "tiny"))
        run, agent, found = self.opened()
        own = None if self.planner else own_planner(agent, self.preset)
        planner = named if own is None else own
        batch = record(agent, run.config.env, sequences=1, length=self.steps, seed=self.seed)
        print(write_plan(agent, planner, batch, run, found.step))
        return 0


@dataclass(frozen=True)
class Report(OnFolder):
    """Measure the newest checkpoint of a run and write its report.html: curves, formula, dreams or samples."""

    quiet: Flag = False
    """Print what was measured, and warnings, alone: nothing on the way."""

    def run(self) -> int:
        """Writes the page."""
        if (fitted := self.fitted()) is not None:
            fit.report(fitted)
            return 0
        run, agent, _ = self.opened()
        write_report(run.folder, agent, devices.describe(devices.choose(self.device)), quiet=self.quiet)
        return 0


@dataclass(frozen=True)
class Reproduce:
    """Measure the card of a claimed result; the last line says PASS or FAIL, and so does the exit code.

    What a seed measured is written when it ends: a killed command goes on with the seeds that are missing. A seed is
    not measured again while its code is unchanged: all files of worldformula that it imported, its measuring file, the
    threads, the versions of Python, torch and NumPy, and the processor. Claim and threshold of the card may change.
    """

    name: Card
    seeds: Annotated[str | None, option("S,S,…", "the card's own")] = None
    """Instead of the card's own, e.g. 1,2,3."""
    json: Annotated[Path | None, option("FILE", "none")] = None
    """Also write everything that was measured into this file."""
    rows: Annotated[Path, option("DIR", "runs/reproduce")] = Path("runs/reproduce")
    """Where the row of each seed is kept, and looked for."""
    again: Flag = False
    """Measure every seed, whatever is kept."""
    record: Flag = False
    """Keep the result in the package, where `worldformula models` shows it; needs a checkout of the source, and the
    card's own seeds."""
    quiet: Flag = False
    """Print the table of what was measured and the verdict alone: nothing on the way."""

    def run(self) -> int:
        """Measures."""
        from worldformula.cards.results import place
        from worldformula.cards.run import reproduce

        seeds = None if self.seeds is None else settings.convert(self.seeds, tuple[int, ...], "seeds")
        at_least(0, seeds=min(seeds or (0,)))
        files = [] if self.json is None else [self.json]
        if self.record:
            if seeds is not None:
                raise ConfigError("--record keeps a measurement of the card's own seeds; leave --seeds out")
            files.append(place(cards.load(self.name).name))
        for file in files:
            writable(file)
        writable(self.rows / "row", "--rows")
        how: dict[str, Any] = {"rows": self.rows, "again": self.again, "quiet": self.quiet}
        return 0 if reproduce(self.name, seeds, files, **how) else 1


def at_least(least: int, **values: int) -> None:
    """Refuses options below ``least``.

    Raises:
        ConfigError: names the first of them.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"--{name} expects a whole number of at least {least}, got {value}")


def writable(path: Path, flag: str = "--json") -> None:
    """Refuses a file that cannot be written, before minutes of work are lost on it.

    Raises:
        ConfigError: it is a folder, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{flag} expects a file that can be written, got {path}: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{flag} expects a file that can be written, got {path}")


def write_dream(agent: Agent, batch: Batch, context: int, folder: RunFolder) -> Path:
    """Writes videos/dream.webp: truth, dream and error of each sequence; returns its path.

    Raises:
        ConfigError: the agent predicts no pictures.
    """
    from worldformula.report.gather import Dreams
    from worldformula.report.video import dream_video, webp

    if not isinstance(agent, Dreams):
        raise ConfigError(f"a {type(agent).__name__} has no open_loop(batch, context): it does not predict pictures")
    frames = agent.open_loop(batch, context)
    if frames["truth"].dtype != np.uint8:
        raise ConfigError(
            "this agent observes numbers, and a video shows pictures; what it dreams of numbers stands on its page: "
            f"worldformula report {folder.path}"
        )
    return folder.keep_video("dream", webp(dream_video(frames["truth"], frames["dream"], context), fps=8, scale=3))


def own_planner(agent: Agent, preset: str = "") -> Any:
    """What an agent plans with by itself; None where it acts by its policy.

    Raises:
        ConfigError: it does, and a preset is asked for, which would not be heard.
    """
    own = getattr(getattr(agent, "configuration", None), "planner", None)
    if own is not None and preset:
        raise ConfigError(
            f"--preset {preset} is of a planner that is named: add --planner cem, or leave --preset out for the "
            f"agent's own, {type(own).__name__}"
        )
    return own


def write_plan(agent: Agent, planner: Any, batch: Batch, run: SavedRun, step: int) -> Path:
    """Writes plan.html, says what the plan costs, and returns the path of the page."""
    from worldformula.report.planned import page, planned

    found = planned(agent, planner, batch)
    steps, calls, took = len(found.costs), found.calls, found.milliseconds
    print(f"{found.name}: {steps} steps, cost {found.total:.4g}, {calls:,} steps of the model, {took:.0f} ms")
    if found.apart:
        print(f"left out of its cost: {', '.join(found.apart)}, bonuses of steps, of which planners are not told")
    if found.violation:
        print(f"no plan that was tried keeps all constraints; this one exceeds them by {found.violation:.4g}")
    facts: list[tuple[str, object]] = [
        ("agent", run.config.model),
        ("environment", run.config.env.id),
        ("trained for", f"{step:,} environment steps"),
    ]
    path = run.folder.path / "plan.html"
    with writing(run.folder.path):
        path.write_text(page(found, f"A plan of {run.config.model} on {run.config.env.id}", facts), encoding="utf-8")
    return path
