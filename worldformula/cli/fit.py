"""``worldformula fit``: trains a model or a world, goes on with it, and writes its page."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldformula import catalogue, data
from worldformula.cli.many import DEFAULT_PRESET, Trains, option
from worldformula.data import DataSet
from worldformula.data.own import is_own, located, short
from worldformula.errors import ConfigError, RunFolderError
from worldformula.model.config import ModelConfig, read, start
from worldformula.model.run import ModelRun, build, evaluating, loaded, sized
from worldformula.model.through_time import ThroughTime
from worldformula.run.folder import RunFolder
from worldformula.run.kinds import expect
from worldformula.run.run import kept
from worldformula.training import devices, settings
from worldformula.training.optimiser import trainable
from worldformula.training.progress import Progress, duration
from worldformula.training.seeding import derived
from worldformula.training.source import repeated


@dataclass(frozen=True)
class FitOptions:
    """What it takes beside `Trains`."""

    name: Annotated[str | None, tyro.conf.Positional, option("NAME", "that of the run folder")] = None
    """A model or a world that `worldformula models` lists, e.g. vae or rssm."""
    data: Annotated[str | None, option("NAME|PATH", "that of the run folder")] = None
    """What to train on, e.g. digits; or your own: a folder of pictures (a class per subfolder), x.npz, t.csv, t.txt, or
    module:function of the current folder. `worldformula data` lists and shows them. For a world: episodes.npz with
    arrays [N, T, …], minari:ID, module:function, or a data set whose rows are series."""
    steps: Annotated[str | None, option("N", "that of the preset")] = None
    """Updates."""
    batch: Annotated[str | None, option("N", "that of the preset")] = None
    """Rows of a batch."""
    out: Annotated[Path | None, option("DIR", "runs/NAME-DATA", aliases=["--run"])] = None
    """The run folder."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in the folder."""


@dataclass(frozen=True)
class Fit(Trains, FitOptions):
    """Train a model, or a world on episodes, or go on exactly where an interrupted run stopped.

    For example: worldformula fit vae --data digits --set latent=8 --set lr=3e-4

    Or a world: worldformula fit rssm --data episodes.npz

    The run folder gets the configuration, metrics.jsonl, checkpoints, and report.html with samples, reconstructions and
    traversals. After Ctrl-C, or after a crash: the same command with --resume. What is not given is then taken from
    the folder; what is given must agree with it, except for --steps and --device. So --run DIR --resume is enough.
    """

    in_file = {"model": "name", "run": "out"} | {
        name: name
        for name in ("data", "preset", "steps", "batch", "seed", "seeds", "device", "resume", "init", "freeze", "quiet")
    }

    def folder(self) -> Path:
        """Where the run lies."""
        if self.out is not None:
            return self.out
        if self.data is None:
            raise self._without_data()
        return Path("runs") / f"{self.system()}-{short(self.data) if is_own(self.data) else self.data}"

    def _without_data(self) -> ConfigError:
        """What fits the system."""
        found = catalogue.find(self.system())
        if self.resume:
            return ConfigError("say which run goes on, e.g. --run runs/vae-digits --resume")
        such = found.data or ("digits" if found.kind == "models" else "episodes.npz")
        return ConfigError(
            f"say what to train on, e.g. --data {such}. There are: {', '.join(data.names())}. "
            "Data of your own go in by their path; `worldformula data --help` says which."
        )

    def system(self) -> str:
        """The name of the model; only a run folder can go without it."""
        if self.name is None:
            raise ConfigError("say which model, e.g. worldformula fit vae; `worldformula models` lists them.")
        return catalogue.find(self.name).name

    def config(self) -> ModelConfig:
        """What was asked for, on top of what the folder holds."""
        return self.prepared()[0]

    def prepared(self) -> tuple[ModelConfig, DataSet]:
        """`config`, and the data, which a new run takes the sizes of the model from."""
        folder = RunFolder(self.folder())
        folder.free()
        if folder.exists and kept(folder) and not self.resume:
            raise RunFolderError(f"{folder.path} holds a run: add --resume to go on with it, or choose another --run")
        if folder.exists and self.resume:
            config = read(expect(folder, ("fit",), "worldformula fit"), folder.path)
            if self.name is not None and self.system() != config.model:
                raise RunFolderError(
                    f"{folder.path} holds a run of {config.model}, got {self.system()}: leave the name out to go on "
                    f"with it, or choose another --run"
                )
            config = dataclasses.replace(
                config,
                data=config.data if self.data is None else located(self.data),
                preset=self.preset or config.preset,
            )
        elif self.resume:
            raise RunFolderError(f"{folder.path} holds no run to go on with; leave --resume out to begin one")
        else:
            if self.data is None:
                raise self._without_data()
            config = start(self.system(), self.preset or DEFAULT_PRESET, self.data)
        if self.resume_with and not (self.resume and kept(folder)):
            raise ConfigError("--resume-with changes a run that goes on: add --resume, or write --set for a new run")
        if self.init is not None:
            config = dataclasses.replace(config, init=str(self.init.expanduser().resolve()))
        config = dataclasses.replace(config, freeze=self.freeze or config.freeze)
        options = {"seed": self.seed, "device": self.device}
        config = settings.override(config, [f"{k}={v}" for k, v in options.items() if v is not None])
        lengths = {"fit.steps": self.steps, "fit.batch": self.batch}
        texts = [*(f"{k}={v}" for k, v in lengths.items() if v is not None), *self.settings]
        symbols = build(config).coefficients if texts else ()
        again = set(config.changes)  # a resumed run repeats its settings
        config = config.changed([text for text in texts if text not in again], symbols)
        found = loaded(config)
        return config if self.resume else sized(config, found), found

    def one(self) -> dict[str, float]:
        """One run; what it reached on the test data."""
        devices.keep_memory()
        config, found = self.prepared()
        if self.resume and not kept(RunFolder(self.folder())):
            print(f"{self.folder()} has no checkpoint: the run begins anew", flush=True)
        run = ModelRun(config, self.folder(), print, found, self.resume_with)
        for line in (*(() if self.quiet else header(run)), repeated(run.fitting.source)):
            if line:
                print(line, flush=True)
        shown = None if self.quiet else Progress(run.config.fit.steps, max(kept(run.folder), default=0))
        with contextlib.nullcontext() if shown is None else shown:
            run.run(shown)
        print(f"{run.fitting.step:,} steps in {duration(run.fitting.history.seconds)}")
        return report(run)


def dream(run: ModelRun, context: int, length: int, sequences: int, seed: int) -> Path:
    """Writes videos/dream.webp of a fitted world; returns its path.

    Raises:
        ConfigError: it is no world, or observes no pictures.
    """
    from worldformula.report.dreams import dreams

    if not isinstance(run.model, ThroughTime):
        raise ConfigError(
            f"{run.config.model} is no world, it has no time to dream in; its page: "
            f"worldformula report {run.folder.path}"
        )
    rows = {key: value[:, :length] for key, value in run.test_rows.items()}
    with evaluating(run.fitting):
        video = dreams(run.model, rows, context=context, seed=seed).video(sequences)
    return run.folder.keep_video("dream", video)


def header(run: ModelRun) -> list[str]:
    """The first lines of a run: where, what, on what."""
    config, first = run.config, next(iter(run.test_rows.values()))
    weights = trainable(run.model.loss.parameters())
    rows, seen = len(next(iter(run.data.train.values()))), list[str]()
    what = "windows" if run.data.window else "rows"
    if isinstance(run.model, ThroughTime):
        unread = "" if "a" in run.model.inputs or run.model.actions is None else "; this world reads no action"
        seen = [f"observed {', '.join(run.model.names)}{unread}"]
    sizes = [text.removeprefix("sizes.") for text in config.changes]
    return [
        f"device {devices.describe(run.device)}, {config.threads} CPU thread(s)",
        f"model {config.model}, preset {config.preset}, seed {config.seed}: {weights:,} parameters",
        f"data {run.data.name}: {rows:,} rows to train on, {len(first):,} {what} to test on. {run.data.note}",
        *seen,
        *([f"sizes {', '.join(sizes)}"] if sizes else []),
    ]


def report(run: ModelRun) -> dict[str, float]:
    """Measures the model, writes its page, and prints where it is; what is minimised, on the test data.

    Of a world that decodes also the error of its dreams, in those of repeating what was seen last; of one that reads
    words also their perplexity.
    """
    from worldformula.report.dreams import FAR, dreams
    from worldformula.report.model import REPORT, write_model

    shown = ("test/loss", *(f"test/loss/{player}" for player in run.fitting.players))
    reached = {name: value for name, value in run.tested().items() if name in shown}
    if isinstance(run.model, ThroughTime) and run.model.world.heads:
        with evaluating(run.fitting):
            words = run.model.words is not None
            found = None if words else dreams(run.model, run.test_rows, seed=derived(run.config.seed, REPORT)).measured
        if found is not None:
            far = min(FAR, found.horizon)
            reached[f"error_{far}/persistence"] = found.ratio(far)
        reached |= {name: value for name, value in run.watched().items() if name.startswith("words/")}
    print("reached: " + ", ".join(f"{name} {value:.5g}" for name, value in reached.items()))
    print(f"report: {write_model(run)}")
    return reached
