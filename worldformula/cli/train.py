"""``worldformula train`` and ``demo``: an agent in environments, with its header, its display and its report."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldformula import catalogue
from worldformula.cards import demo
from worldformula.cli import header
from worldformula.cli.display import Display
from worldformula.cli.many import DEFAULT_PRESET, Trains, option
from worldformula.errors import ConfigError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.contract import Agent
from worldformula.run.estimate import seconds_left
from worldformula.run.folder import RunFolder
from worldformula.run.interact import Interact
from worldformula.run.run import kept
from worldformula.run.saved import open_run
from worldformula.training import devices, settings
from worldformula.training.progress import duration

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Device = Annotated[str, tyro.conf.arg(metavar="NAME")]
DEFAULT_MODEL = "dreamer_v3"


@dataclass(frozen=True)
class TrainOptions:
    """What it takes beside `Trains`."""

    out: Annotated[Path | None, tyro.conf.arg(name="run", metavar="DIR", help_behavior_hint="(required)")] = None
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
    steps: Annotated[str | None, option("N", "20000")] = None
    """Environment steps of the whole run: actions × env.action_repeat."""
    compile: Annotated[Flag, tyro.conf.arg(help_behavior_hint="(the same as --set compile=true)")] = False
    """Compile updates with torch.compile: faster ones, after a first one that takes minutes."""
    resume: Flag = False
    """Not needed: a run that lies in its folder always goes on; as `fit` has it."""

    agent: Annotated[str | None, tyro.conf.Positional, option("AGENT", DEFAULT_MODEL)] = None
    """The agent, as --model."""


@dataclass(frozen=True)
class Train(Trains, TrainOptions):
    """Train an agent, or go on exactly where an interrupted run stopped.

    For example: worldformula train --env cartpole_swingup --pixels --run runs/first

    Or another agent: worldformula train planet --env pendulum --pixels --run runs/planet

    In a folder that holds a run, everything that is not given here is taken from that run; what is given must agree
    with it, except for --steps and --device. So after Ctrl-C, or after a crash: worldformula train --run runs/first
    """

    in_file = {"run": "out", "env-arg": "env_arg", "log-info": "log_info"} | {
        name: name
        for name in (
            "env",
            "pixels",
            "wrap",
            "model",
            "preset",
            "steps",
            "seed",
            "seeds",
            "device",
            "compile",
            "init",
            "freeze",
            "quiet",
        )
    }

    def __post_init__(self) -> None:
        if self.agent is not None:
            if self.model not in (None, self.agent):
                raise ConfigError(f"got the agents {self.agent} and --model {self.model}; write one of them")
            object.__setattr__(self, "model", self.agent)

    def config(self) -> RunConfig:
        """The configuration that was asked for, on top of that of the run folder where there is one."""
        given = {"steps": self.steps, "seed": self.seed, "device": self.device}
        options = [f"{key}={value}" for key, value in given.items() if value is not None]
        options += ["compile=true"] if self.compile else []
        folder = self.folder()
        if RunFolder(folder).exists:
            config = open_run(folder, "worldformula train").config
            config = dataclasses.replace(config, model=self.model or config.model, preset=self.preset or config.preset)
        else:
            if self.env is None:
                raise ConfigError(f"{folder} holds no run yet: say what to train on, e.g. --env pendulum")
            config = new(self.model or DEFAULT_MODEL, self.preset or DEFAULT_PRESET, self.env)
        env = [f"env.id={self.env}"] if self.env is not None else []
        if self.pixels or self.no_pixels:
            if self.pixels and self.no_pixels:
                raise ConfigError("got both --pixels and --no-pixels; write one of them")
            env.append(f"env.pixels={self.pixels}")
        given_env = {"args": self.env_arg, "wrap": self.wrap, "log_info": self.log_info}
        changes: dict[str, Any] = {name: values for name, values in given_env.items() if values}
        more: dict[str, Any] = {"freeze": self.freeze} if self.freeze else {}
        more |= {} if self.init is None else {"init": str(self.init.expanduser().resolve())}
        config = dataclasses.replace(config, env=dataclasses.replace(config.env, **changes), **more)
        return settings.override(config, [*env, *options, *self.settings])

    def folder(self) -> Path:
        """Where the run lies."""
        if self.out is None:
            raise ConfigError("say where the run shall lie, e.g. --run runs/first")
        return self.out

    def one(self) -> dict[str, float]:
        """One run; the mean return that its report measured."""
        if self.resume_with and not kept(RunFolder(self.folder())):
            raise ConfigError("--resume-with changes a run that goes on; write --set for a new run")
        return {"return": train(self.config(), self.folder(), self.resume_with, quiet=self.quiet)}


def new(model: str, preset: str, env: str) -> RunConfig:
    """The configuration of a new run: sizes of the preset, and what else belongs to it.

    Raises:
        ConfigError: no agent. CatalogueError: no such system or preset.
    """
    system = catalogue.find(model, "agents")
    if system.kind != "agents":
        agents = ", ".join(catalogue.names("agents"))
        raise ConfigError(f"{system.name} is one of the {system.kind}; train expects an agent: {agents}")
    config = RunConfig(system.name, preset, EnvConfig(env), system.sizes(preset))
    return settings.override(config, system.runs.get(preset, ()))


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
    quiet: Flag = False
    """Print what was reached, and warnings, alone: nothing at the start and on the way."""

    def run(self) -> int:
        """Trains and reports."""
        config = demo.config(self.steps, self.seed)
        if self.steps <= (least := config.agent.prefill):
            raise ConfigError(f"the demo learns after {least:,} steps: expected --steps above that, got {self.steps:,}")
        train(config, self.run_folder, quiet=self.quiet)
        return 0


def train(config: RunConfig, folder: Path, resume_with: tuple[str, ...] = (), *, quiet: bool = False) -> float:
    """Runs a configuration with its header and its display, unless it is to be ``quiet``, and its report; the mean
    return that was reached.
    """
    devices.keep_memory()
    build = catalogue.find(config.model).build
    if quiet:
        loop = Interact(config, build, folder, resume_with=resume_with)
        result = loop.run()
    else:
        with Display() as display:
            loop = Interact(config, build, folder, show=display, resume_with=resume_with)
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
    return write_report(loop.folder, loop.agent, devices.describe(loop.device), quiet=quiet)


def write_report(folder: RunFolder, agent: Agent, device: str, *, quiet: bool = False) -> float:
    """Measures the agent, writes report.html, prints what was reached and where the page is; the mean return."""
    from worldformula.report.evidence import Evidence, load
    from worldformula.report.write import write

    if not quiet:
        print("measuring what the page shows, and writing it …", flush=True)
    page = write(folder.path, agent, device=device)
    found = load(folder.path) or Evidence()
    best = "not known" if found.best is None else found.best
    floor = "not known" if found.floor is None else found.floor
    reached = "not measured" if found.reached is None else f"return {found.reached}"
    print(f"reached: {reached}; floor (random policy) {floor}; best known {best}")
    print(f"report: {page}")
    return math.nan if found.reached is None else found.reached.mean
