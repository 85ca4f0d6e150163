"""A run of a static model: data, fit, test, checkpoints; killed at any moment, it goes on bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula import catalogue, data
from worldformula.data import DataSet, load
from worldformula.errors import (
    CatalogueError,
    CheckpointError,
    ConfigError,
    MissingInputError,
    RunFolderError,
    ShapeError,
    SupportError,
    WorldformulaError,
    table,
)
from worldformula.model.config import ModelConfig, differences, read, start
from worldformula.model.contract import Model
from worldformula.model.sizes import inferred
from worldformula.training import checkpoint, devices
from worldformula.training.fit import Fitting, measured
from worldformula.training.game import Game
from worldformula.training.run import MetricsLog, RunFolder
from worldformula.training.seeding import derived, forked
from worldformula.training.stop import Stop

BUILD, TRAIN, TEST = 0, 1, 2  # what `derived` seeds are for
TEST_ROWS, TEST_BATCH = 10_000, 1_000


class ModelRun:
    """One model, one data set, one run folder.

    Args:
        config: what to do.
        folder: where it is written; nothing is written before `run`.
        say: called with a line of warning.
        data: where they were read already.

    Raises:
        CatalogueError: no such data set, or the system's ``build`` does not return a `Model`.
        ShapeError: the data do not have the shapes of the model. Also MissingInputError: they lack one of its inputs.
        ConfigError: a named coefficient of the formula has no value.
    """

    def __init__(
        self,
        config: ModelConfig,
        folder: str | Path,
        say: Callable[[str], None] = lambda _: None,
        data: DataSet | None = None,
    ) -> None:
        self.config, self.folder, self.say = config, RunFolder(folder), say
        self.device = devices.choose(config.device)
        self.data = load(config.data, config.reading) if data is None else data
        self.model = build(config)
        if reason := self.model.before_fit:
            raise ConfigError(f"{config.model} cannot be trained by one fit: {reason}")
        self.model.loss.to(self.device)
        rows, test = (self._rows(part) for part in (self.data.train, self.data.test))
        self.test = {k: v[:TEST_ROWS] for k, v in test.items()}
        symbols = {**self.model.symbols, **config.symbols}
        if missing := [name for name in self.model.coefficients if name not in symbols]:
            raise ConfigError(f"the formula of {config.model} has the coefficient {missing[0]}: --set {missing[0]}=1.0")
        self.fitting = Fitting(
            self.model.loss,
            rows,
            config.fit,
            seed=derived(config.seed, TRAIN),
            inputs=self.model.given,
            symbols=symbols,
        )

    def _rows(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        """A part of the data for this model, or an error that ends in the data sets that would fit."""
        try:
            return self.model.rows(arrays, self.data.name)
        except (ShapeError, MissingInputError) as error:
            models = ", ".join(takers(self.data)) or "none of the catalogue"
            sets = ", ".join(suitable(self.model)) or "none of this package"
            raise type(error)(
                f"{error}{self._options(error)}\nThese data sets fit: {sets}. Or change the sizes, see --set. "
                f"These models take {self.data.name}: {models}."
            ) from None

    def _options(self, error: WorldformulaError) -> str:
        """Which options of a table may make its rows those that the model reads, as one line to write."""
        reading = self.config.reading
        if not self.data.columns:
            return ""
        if isinstance(error, MissingInputError) and "y" in self.model.inputs and not reading.label:
            texts = [name.partition("=")[0] for name in self.data.columns if "=" in name]
            return f"\ny is the column of classes: name it, as in --set data.label={(*texts, *self.data.columns)[0]}"
        if isinstance(error.__cause__, SupportError) and reading.scale != "unit":
            return "\nNumeric columns go from 0 to 1 with --set data.scale=unit"
        return ""

    def run(self, show: Callable[[Fitting], None] | None = None) -> None:
        """Trains to the end, or goes on to it; Ctrl-C ends it after the update, with a checkpoint.

        Raises:
            KeyboardInterrupt: the run was interrupted.
            RunFolderError: the folder holds another run, or cannot be written.
            NonFiniteError: a value was NaN or infinite.
        """
        with self.folder.locked(), _threads(self.config.threads):
            self._agree()
            self.folder.create(self.config.to_dict())
            position, fitting, steps = self.restore(same_data=True), self.fitting, self.config.fit.steps
            every = max(1, steps // self.config.checkpoints)
            with MetricsLog(self.folder, position=position, step=fitting.step) as metrics, Stop() as stop:
                while fitting.step < steps:
                    known, goal = len(fitting.history.rows), min((fitting.step // every + 1) * every, steps)
                    fitting.advance(goal, show=show, callback=lambda *_: stop.asked)
                    for row in fitting.history.rows[known:]:
                        metrics.write(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
                    if fitting.step == goal:
                        metrics.write(fitting.step, self.tested())
                    state = {"fit": fitting.state_dict(), "metrics": metrics.position(), "data": self.data.digest()}
                    checkpoint.save(self.folder.checkpoints, fitting.step, state)
                    if stop.asked and fitting.step < steps:
                        raise KeyboardInterrupt

    def restore(self, *, same_data: bool = False) -> int:
        """Goes back to the newest good checkpoint, where there is one; the bytes of the metrics that count.

        Raises:
            CheckpointError: there are checkpoints, and none is readable; or it is one of another model.
            ConfigError: with ``same_data``, the data have changed since.
        """
        found = checkpoint.load_latest(self.folder.checkpoints)
        if found is None:
            return 0
        for line in found.rejected:
            self.say(f"warning: {line}; going on from step {found.step}")
        if same_data and found.state.get("data", self.data.digest()) != self.data.digest():
            raise ConfigError(
                f"{self.config.data} has changed since step {found.step} of {self.folder.path}: the run cannot go on "
                "exactly. Put the old data back, or begin a new run with another --run."
            )
        try:
            self.fitting.load_state_dict(found.state["fit"])
            return int(found.state["metrics"])
        except WorldformulaError:
            raise
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"the checkpoint {found.path} does not fit this model: {error}") from error

    @torch.no_grad()
    def tested(self) -> dict[str, float]:
        """Value and terms on the test data, ``test/loss``, by the averaged weights where there are any."""
        loss, total = self.model.loss, dict[str, Tensor]()
        n = len(next(iter(self.test.values())))
        coefficients = {k: s(self.fitting.step) if callable(s) else s for k, s in self.fitting.symbols.items()}
        with forked(derived(self.config.seed, TEST)), evaluating(self):
            for first in range(0, n, TEST_BATCH):
                rows = {k: v[first : first + TEST_BATCH].to(self.device) for k, v in self.test.items()}
                inputs = {**self.model.given(rows), **coefficients}
                outs = loss.evaluate(inputs) if isinstance(loss, Game) else {"loss": loss(**inputs)}
                share = len(next(iter(rows.values()))) / n
                for name, value in measured(outs, isinstance(loss, Game)).items():
                    total[name] = total.get(name, torch.zeros_like(value)) + share * value
        return {f"test/{name}": float(value) for name, value in total.items()}

    def _agree(self) -> None:
        """The folder holds nothing yet, or this very run."""
        if not self.folder.exists or not checkpoint.steps_in(self.folder.checkpoints):
            return
        checkpoint.refuse_fewer(self.folder.checkpoints, self.config.fit.steps, "--steps ")
        stored = read(self.folder.config(), self.folder.path)
        if changed := differences(stored, self.config):
            rows = table(("setting", "in the folder", "wanted now"), [(k, *pair) for k, pair in changed.items()])
            raise RunFolderError(
                f"{self.folder.path} holds a run with other settings:\n{rows}\n"
                "Choose another folder for a new run, or leave these settings out to go on with this one."
            )


def build(config: ModelConfig) -> Model:
    """The model of a configuration, with new weights that its seed decides.

    Raises:
        CatalogueError: the system's ``build`` returns something else.
    """
    with forked(derived(config.seed, BUILD)):
        model = catalogue.find(config.model).build(config.sizes)
    if not isinstance(model, Model):
        raise CatalogueError(
            f"{config.model}: expected its build to return a Model, got {type(model).__name__}; "
            "write `class Name(Model)` with a field `loss`"
        )
    return model


def open_model(path: str | Path, device: str = "auto") -> ModelRun:
    """The run in a folder, with the weights of its newest good checkpoint.

    Raises:
        RunFolderError: no run of `worldformula fit` is there.
        CheckpointError: there is no checkpoint yet, none can be read, or none fits.
    """
    folder = RunFolder(path)
    run = ModelRun(dataclasses.replace(read(folder.config(), folder.path), device=device), path)
    if not checkpoint.steps_in(folder.checkpoints):
        raise CheckpointError(f"{folder.path} has no checkpoint yet; train it first: worldformula fit …")
    run.restore()
    return run


def sized(config: ModelConfig, found: DataSet) -> ModelConfig:
    """The configuration with the sizes that its data need, except for those that were set."""
    given = {text.partition("=")[0].strip().removeprefix("sizes.") for text in config.changes}
    return config.changed(inferred(config.sizes, found, given))


def takers(found: DataSet) -> list[str]:
    """The models that can be trained on these data, with the sizes of their preset ``tiny`` and of the data."""
    names = []
    few = {key: array[:8] for key, array in found.train.items()}
    for name in catalogue.names("models"):
        with contextlib.suppress(WorldformulaError, ValueError):
            config = sized(start(name, "tiny", ""), found)
            model = build(config)
            if not model.before_fit:
                model.rows(few)
                names.append(name)
    return names


def suitable(model: Model) -> list[str]:
    """The data sets that a model can be trained on; those whose files are missing here are left out."""
    found = []
    for name in data.names():
        with contextlib.suppress(WorldformulaError):
            model.rows(_few(name))
            found.append(name)
    return found


@functools.cache
def _few(name: str) -> dict[str, NDArray[Any]]:
    """The first rows of a data set of the package: some take seconds to make."""
    return {key: array[:8].copy() for key, array in data.load(name).train.items()}


@contextlib.contextmanager
def evaluating(run: ModelRun) -> Iterator[None]:
    """The networks as they are judged: averaged weights where there are any, no dropout; as before afterwards."""
    loss = run.model.loss
    before = loss.training
    loss.eval()
    try:
        with run.fitting.history.averaged():
            yield
    finally:
        loss.train(before)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
