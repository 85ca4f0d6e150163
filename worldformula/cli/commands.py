"""The sub-commands: one frozen dataclass each, whose fields are its options and whose `run` does the work.

`run` returns the exit code. What can go wrong is raised as a `WorldformulaError`; `main` turns it into one message.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Protocol

import tyro

from worldformula import cards, catalogue
from worldformula.cards import demo
from worldformula.cli import fit, header
from worldformula.cli.display import Display
from worldformula.envs import Score
from worldformula.errors import ConfigError
from worldformula.model.run import open_model
from worldformula.report.yardsticks import yardsticks
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.contract import Agent, Batch
from worldformula.run.counters import Result
from worldformula.run.estimate import seconds_left
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import RunFolder, writing
from worldformula.run.interact import Interact
from worldformula.run.kinds import expect, kind_of
from worldformula.run.saved import load_agent, open_run, record
from worldformula.training import devices, settings
from worldformula.training.progress import duration

Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Card = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CARD", help=f"One of {', '.join(cards.names())}.")]
Device = Annotated[str, tyro.conf.arg(metavar="NAME")]
DEFAULT_MODEL = "dreamer_v3"
DEFAULT_PRESET = "tiny"


def option(metavar: str, default: str) -> Any:
    """How an option is shown whose default is decided later, by the run folder."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


class Command(Protocol):
    """A sub-command with its options."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        ...


@dataclass(frozen=True)
class Train:
    """Train an agent, or go on exactly where an interrupted run stopped.

    For example: worldformula train --env cartpole_swingup --pixels --run runs/first

    In a folder that holds a run, everything that is not given here is taken from that run; what is given must agree
    with it, except for --steps and --device. So after Ctrl-C, or after a crash: worldformula train --run runs/first
    """

    run_folder: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")]
    """The run folder, e.g. runs/first."""
    env: Annotated[str | None, option("ID", "that of the run folder")] = None
    """A name that `worldformula envs` lists, any Gymnasium id, or module:ID where a module of yours registers it."""
    pixels: Annotated[Flag, tyro.conf.arg(help_behavior_hint="(the same as --set env.pixels=true)")] = False
    """Observe pictures of the environment instead of its own numbers."""
    no_pixels: Annotated[Flag, tyro.conf.arg(help_behavior_hint="(default; env.pixels=false)")] = False
    """Observe the environment's own numbers."""
    env_arg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """An argument of the environment, e.g. --env-arg render_mode=rgb_array; may be given several times."""
    wrap: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="MODULE:WRAPPER")] = ()
    """A wrapper around the environment, from a module, in the current folder too; the first one is innermost."""
    log_info: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY")] = ()
    """A key of the environment's info, e.g. success: its value at the end of episodes is logged as episode/KEY."""
    model: Annotated[str | None, option("NAME", DEFAULT_MODEL)] = None
    """A system that `worldformula models` lists."""
    preset: Annotated[str | None, option("NAME", DEFAULT_PRESET)] = None
    """A preset of that system."""
    settings: Settings = ()
    """Any setting of the list below, e.g. --set agent.imagine=10 --set env.num=8."""
    steps: Annotated[str | None, option("N", "20000")] = None
    """Environment steps of the whole run: actions × env.action_repeat."""
    seed: Annotated[str | None, option("N", "0")] = None
    """Where all randomness comes from."""
    device: Annotated[str | None, option("NAME", "auto")] = None
    """auto, cpu, cuda, cuda:N or mps."""

    def config(self) -> RunConfig:
        """The configuration that was asked for, on top of that of the run folder where there is one."""
        given = {"steps": self.steps, "seed": self.seed, "device": self.device}
        options = [f"{key}={value}" for key, value in given.items() if value is not None]
        if RunFolder(self.run_folder).exists:
            config = open_run(self.run_folder, "worldformula train").config
            config = dataclasses.replace(config, model=self.model or config.model, preset=self.preset or config.preset)
        else:
            if self.env is None:
                raise ConfigError(f"{self.run_folder} holds no run yet: say what to train on, e.g. --env pendulum")
            system = catalogue.find(self.model or DEFAULT_MODEL)
            if system.kind != "agents":
                agents = ", ".join(catalogue.names("agents"))
                raise ConfigError(f"{system.name} is one of the {system.kind}; train expects an agent: {agents}")
            preset = self.preset or DEFAULT_PRESET
            config = RunConfig(system.name, preset, EnvConfig(self.env), system.sizes(preset))
        env = [f"env.id={self.env}"] if self.env is not None else []
        if self.pixels or self.no_pixels:
            if self.pixels and self.no_pixels:
                raise ConfigError("got both --pixels and --no-pixels; write one of them")
            env.append(f"env.pixels={self.pixels}")
        given_env = {"args": self.env_arg, "wrap": self.wrap, "log_info": self.log_info}
        changes: dict[str, Any] = {name: values for name, values in given_env.items() if values}
        config = dataclasses.replace(config, env=dataclasses.replace(config.env, **changes))
        return settings.override(config, [*env, *options, *self.settings])

    def run(self) -> int:
        """Trains."""
        train(self.config(), self.run_folder)
        return 0


@dataclass(frozen=True)
class Demo:
    """Minutes on a laptop: DreamerV3 learns to swing up a pendulum from pixels, then writes a page about its dreams.

    Interrupted, the same command goes on where it stopped.
    """

    run_folder: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")] = Path("runs/demo")
    """The run folder; started again, the demo goes on there."""
    steps: Number = demo.STEPS
    """Environment steps."""
    seed: Number = 0
    """Where all randomness comes from."""

    def run(self) -> int:
        """Trains and reports."""
        train(demo.config(self.steps, self.seed), self.run_folder)
        return 0


@dataclass(frozen=True)
class Eval:
    """Play complete episodes with a trained agent; the mean return stands beside floor and best known."""

    folder: Folder
    """The run folder."""
    episodes: Number = 100
    """Complete episodes."""
    seed: Number = 1
    """Of the environments; the same seed plays the same episodes."""
    explore: Flag = False
    """Sample actions as in training, instead of the policy's mode."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> int:
        """Evaluates."""
        at_least(0, seed=self.seed)
        at_least(1, episodes=self.episodes)
        run = open_run(self.folder, "worldformula eval")
        agent, found, _ = load_agent(run, self.device)
        warn(found.rejected)
        env = run.config.env
        score = evaluate(agent, env, episodes=self.episodes, seed=self.seed, explore=self.explore)
        print(
            f"{run.config.model} on {env.id} after {found.step:,} steps (training seed {run.config.seed}): "
            f"return {Score(score.mean, score.error, self.episodes)}, mean ± standard error"
        )
        print(yardsticks(env, run.config.seed, run.folder))
        return 0


@dataclass(frozen=True)
class Dream:
    """Write videos/dream.webp: what happened beside what the world model imagines from the same start.

    An agent plays anew for it; a world that was fitted dreams windows of its data that it did not learn from.
    """

    folder: Folder
    """The run folder."""
    context: Number = 5
    """Steps that the model sees before it dreams."""
    length: Number = 50
    """Steps of the video, the context included."""
    sequences: Number = 4
    """How many sequences, side by side."""
    seed: Number = 1
    """Of the environments."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> int:
        """Dreams."""
        if not 0 < self.context < self.length:
            raise ConfigError(f"expected 0 < context < length, got context={self.context}, length={self.length}")
        at_least(0, seed=self.seed)
        at_least(1, sequences=self.sequences)
        folder = RunFolder(self.folder)
        if kind_of(expect(folder, ("fit", "interact"), "worldformula dream"), folder.path) == "fit":
            print(fit.dream(open_model(self.folder, self.device), self.context, self.length, self.sequences, self.seed))
            return 0
        run = open_run(self.folder)
        agent, found, _ = load_agent(run, self.device)
        warn(found.rejected)
        batch = record(agent, run.config.env, sequences=self.sequences, length=self.length, seed=self.seed)
        print(write_dream(agent, batch, self.context, run.folder))
        return 0


@dataclass(frozen=True)
class Report:
    """Measure the newest checkpoint of a run and write its report.html: curves, formula, dreams or samples."""

    folder: Folder
    """The run folder."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def run(self) -> int:
        """Writes the page."""
        folder = RunFolder(self.folder)
        if kind_of(expect(folder, ("fit", "interact"), "worldformula report"), folder.path) == "fit":
            fit.report(open_model(self.folder, self.device))
            return 0
        run = open_run(self.folder)
        agent, found, _ = load_agent(run, self.device)
        warn(found.rejected)
        write_report(run.folder, agent, devices.describe(devices.choose(self.device)))
        return 0


@dataclass(frozen=True)
class Models:
    """List every system of the catalogue: its presets, its paper, its file, and what was measured last."""

    kind: Annotated[str | None, option("KIND", "all")] = None
    """models, worlds, planners or agents."""

    def run(self) -> int:
        """Lists."""
        from worldformula.cards.results import latest

        claims = [cards.load(name) for name in cards.names()]
        width = max(shutil.get_terminal_size().columns, 40) if sys.stdout.isatty() else sys.maxsize  # whole, for grep
        for kind in catalogue.KINDS if self.kind is None else (self.kind,):
            for system in catalogue.discover(kind):
                own = [card for card in claims if card.covers(system.name)]
                print(f"{system.name} ({kind}; presets: {', '.join(system.presets)})")
                for line in (
                    system.summary,
                    system.paper,
                    f"worldformula/{kind}/{system.name}.py",
                    *(str(latest(card) or f"not measured: {card.command}") for card in own),
                    *([] if own else ["no card"]),
                ):
                    print(fill(line, width, initial_indent="    ", subsequent_indent="      ", break_long_words=False))
        return 0


@dataclass(frozen=True)
class Envs:
    """List the environments of this package; any other Gymnasium id works too."""

    scores: Flag = False
    """Measure floor and best known return of each; takes a while."""

    def run(self) -> int:
        """Lists."""
        from worldformula.envs import registry

        for entry in registry.entries():
            scores = f"; {yardsticks(EnvConfig(entry.alias), seed=0)}" if self.scores else ""
            print(f"{entry.alias} ({entry.id}, {entry.max_steps} steps per episode){scores}")
        return 0


@dataclass(frozen=True)
class Reproduce:
    """Measure the card of a claimed result; the last line says PASS or FAIL, and so does the exit code."""

    name: Card
    seeds: Annotated[str | None, option("S,S,…", "the card's own")] = None
    """Instead of the card's own, e.g. 1,2,3."""
    json: Annotated[Path | None, option("FILE", "none")] = None
    """Also write everything that was measured into this file."""
    record: Flag = False
    """Keep the result in the package, where `worldformula models` shows it; needs a checkout of the source, and the
    card's own seeds."""

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
        return 0 if reproduce(self.name, seeds, files) else 1


def at_least(least: int, **values: int) -> None:
    """Refuses options below ``least``.

    Raises:
        ConfigError: names the first of them.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"--{name} expects a whole number of at least {least}, got {value}")


def writable(path: Path) -> None:
    """Refuses a file that cannot be written, before minutes of work are lost on it.

    Raises:
        ConfigError: it is a folder, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--json expects a file that can be written, got {path}: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--json expects a file that can be written, got {path}")


def train(config: RunConfig, folder: Path) -> Result:
    """Runs a configuration with its header, its display and its report."""
    with Display() as display:
        loop = Interact(config, catalogue.find(config.model).build, folder, show=display)
        for line in header.lines(loop):
            print(line, flush=True)
        display.expected = seconds_left(loop)
        print(header.time_line(loop, display.expected), flush=True)
        result = loop.run()
    count = result.counters
    print(
        f"{count.steps:,} steps, {count.updates:,} updates, {count.episodes} episodes in {duration(result.seconds)}"
        + (f"; the environment failed {count.failures} times and was made anew" if count.failures else "")
        + (f"; {count.cut} episodes were cut where the run went on" if count.cut else "")
    )
    write_report(loop.folder, loop.agent, devices.describe(loop.device))
    return result


def write_report(folder: RunFolder, agent: Agent, device: str) -> None:
    """Measures the agent, writes report.html, and prints what was reached and where the page is."""
    from worldformula.report.evidence import Evidence, load
    from worldformula.report.write import write

    page = write(folder.path, agent, device=device)
    found = load(folder.path) or Evidence()
    best = "not known" if found.best is None else found.best
    floor = "not known" if found.floor is None else found.floor
    print(f"reached: return {found.reached}; floor (random policy) {floor}; best known {best}")
    print(f"report: {page}")


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
    path = folder.videos / "dream.webp"
    with writing(folder.path):
        folder.videos.mkdir(exist_ok=True)
        path.write_bytes(webp(dream_video(frames["truth"], frames["dream"], context), fps=8, scale=3))
    return path


def warn(rejected: tuple[str, ...]) -> None:
    """Says which checkpoints were unreadable."""
    for line in rejected:
        print(f"warning: {line}; an older checkpoint is used")
