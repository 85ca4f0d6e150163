"""A run of a static model: data, fit, test, checkpoints; killed at any moment, it goes on bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from worldformula import catalogue
from worldformula.data import DataSet, is_own, known, load, sequences
from worldformula.errors import (
    CatalogueError,
    CheckpointError,
    ConfigError,
    MissingInputError,
    ShapeError,
    SupportError,
    WorldformulaError,
)
from worldformula.model import recipe
from worldformula.model.config import ModelConfig, deliberate, differences, read, start, world_of
from worldformula.model.contract import Model
from worldformula.model.sizes import inferred
from worldformula.model.texts import spoken, unread
from worldformula.model.through_time import PLACEHOLDER, ThroughTime, built, columns_of, fitted
from worldformula.run import transfer
from worldformula.run.fit import Fit
from worldformula.run.folder import RunFolder
from worldformula.run.kinds import expect
from worldformula.run.run import Run, kept
from worldformula.training import checkpoint, devices
from worldformula.training.begun import set_begun
from worldformula.training.fit import Fitting
from worldformula.training.seeding import derived, forked
from worldformula.training.validation import Validation

BUILD, TRAIN, TEST, BEGIN = 0, 1, 2, 3  # what `derived` seeds are for
TEST_ROWS, TEST_BATCH = 10_000, 1_000
TEST_WINDOWS = 256  # of a world, each of which is a row of many steps; as many at once as it learns from


class ModelRun(Fit):
    """One model, one data set, one run folder.

    Args:
        config: what to do.
        folder: where it is written; nothing is written before `run`.
        say: called with a line of warning.
        data: where they were read already.
        resume_with: ``key=value`` texts: settings that shall change as the run goes on.

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
        resume_with: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.say, self.asked = RunFolder(folder), say, config
        config, self.changed = deliberate(config, resume_with) if resume_with else (config, {})
        self.config = config
        self.device = devices.choose(config.device)
        self.data = loaded(config) if data is None else data
        self._digest: str | None = self.data.digest()
        self.threads = config.threads
        self.model = build(config)
        transfer.prepare(self.model.loss, "" if kept(self.folder) else config.init, config.freeze, say)
        self.model.loss.to(self.device)
        rows: Any
        if isinstance(self.model, ThroughTime):
            rows, at_once = self.model.drawn(self.data, config.fit.batch), config.fit.batch
            self.test_rows = self.model.tests(self.data, TEST_WINDOWS)
        else:
            rows, at_once = self._rows(self.data.train), TEST_BATCH
            self.test_rows = {k: v[:TEST_ROWS] for k, v in self._rows(self.data.test).items()}
        seed, symbols = config.seed, {**self.model.symbols, **config.symbols}
        if missing := [name for name in self.model.coefficients if name not in symbols]:
            raise ConfigError(f"the formula of {config.model} has the coefficient {missing[0]}: --set {missing[0]}=1.0")
        if config.init:
            set_begun(self.model.loss)  # where the other run ended
        fitting = recipe.fitting(
            self.model, rows, config.fit, config.before, seed=derived(seed, TRAIN), begins=derived(seed, BEGIN),
            symbols=symbols,
        )  # fmt: skip
        judge = Validation(fitting, self.test_rows, at_once, (), derived(seed, TEST), called="test", keep=False)
        super().__init__(fitting, max(1, config.fit.steps // config.checkpoints), judge, say)

    def _rows(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        """A part of the data for this model, or an error that ends in the data sets that would fit."""
        try:
            return taken(self.model, self.data, arrays)
        except (ShapeError, MissingInputError) as error:
            models = ", ".join(takers(self.data)) or "none of the catalogue"
            sets = ", ".join(suitable(self.config.model, self.config.preset, self._chosen())) or "none of this package"
            raise type(error)(
                f"{error}{self._options(error)}\nThese data sets fit: {sets}. Or change the sizes, see --set. "
                f"These models take {self.data.name}: {models}."
            ) from None

    def _chosen(self) -> list[str]:
        """What was set of the model and does not follow from data: other data are to fit it too."""
        preset = start(self.config.model, self.config.preset, "").sizes
        follows = set(map(_size_of, inferred(preset, self.data)))
        return [text for text in self.config.changes if _size_of(text) not in follows]

    def _options(self, error: WorldformulaError) -> str:
        """Which options may make the rows those that the model reads, as one line to write."""
        reading, arrays = self.config.reading, list(self.data.train)
        if isinstance(error, MissingInputError) and arrays and "x" not in arrays and is_own(self.config.data):
            acted = any(name.partition("/")[0] == "action" for name in arrays)
            world = f"; or, of episodes, fit a world: worldformula fit rssm --data {self.config.data}" if acted else ""
            return f"\nx may be another array: name it, as in --set data.names=x={arrays[0]}{world}"
        if not self.data.columns:
            return ""
        if isinstance(error, MissingInputError) and "y" in self.model.inputs and not reading.label:
            texts = [name.partition("=")[0] for name in self.data.columns if "=" in name]
            return f"\ny is the column of classes: name it, as in --set data.label={(*texts, *self.data.columns)[0]}"
        if isinstance(error.__cause__, SupportError) and reading.scale != "none":
            unit = "" if reading.scale == "unit" else "go from 0 to 1 with --set data.scale=unit, and "
            return f"\nNumeric columns {unit}stay as they are with --set data.scale=none"
        return ""

    def run(self, show: Callable[[Fitting], None] | None = None) -> None:
        """Trains to the end, or goes on to it; Ctrl-C ends it after the update, with a checkpoint. See `Run.go`."""
        self.show = show
        Run(self, self.folder, say=self.say, changed=self.changed).go()

    def open(self) -> None:
        """Goes back to the newest good checkpoint, where there is one, whatever the data are now."""
        digest, self._digest = self._digest, None
        Run(self, self.folder, say=self.say).open()
        self._digest = digest

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to there.

        Raises:
            ConfigError: the data have changed since.
        """
        if self._digest is not None and state.get("data", self._digest) != self._digest:
            raise ConfigError(
                f"{self.config.data} has changed since step {state['fit']['step']} of {self.folder.path}: the run "
                "cannot go on exactly. Put the old data back, or begin a new run with another --run."
            )
        super().restore(state)

    def state(self) -> dict[str, Any]:
        """With what tells two versions of the data apart."""
        return {**super().state(), "data": self._digest}

    def tested(self) -> dict[str, float]:
        """Value and terms on the test data, ``test/loss``, by the averaged weights where there are any."""
        assert self.judge is not None
        return self.judge.values()

    def watched(self) -> Mapping[str, float]:
        """Of a world, on the windows of the test data, by the averaged weights where there are any."""
        if not isinstance(self.model, ThroughTime):
            return {}
        with evaluating(self.fitting):
            return self.model.watched(self.test_rows, self.device)

    def written(self) -> Mapping[str, Any]:
        """As in ``config.json``."""
        return self.config.to_dict()

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """Against the settings of the folder."""
        checkpoint.refuse_fewer(self.folder.checkpoints, self.config.fit.steps, "--steps ")
        return differences(read(stored, self.folder.path), self.asked)

    def resume_hint(self) -> str:
        """The command."""
        return shlex.join(["worldformula", "fit", self.config.model, "--run", str(self.folder.path), "--resume"])


def build(config: ModelConfig) -> Model:
    """The model of a configuration, with new weights that its seed decides.

    Raises:
        CatalogueError: the system's ``build`` returns something else.
    """
    with forked(derived(config.seed, BUILD)):
        system, world = catalogue.find(config.model), world_of(config.model)
        if world is not None:
            return built(world, config.sizes, config.columns or PLACEHOLDER)
        model = system.build(config.sizes)
    if not isinstance(model, Model):
        raise CatalogueError(
            f"{config.model}: expected its build to return a Model, got {type(model).__name__}; "
            "write `class Name(Model)` with a field `loss`"
        )
    return model


def open_model(path: str | Path, device: str = "auto", doing: str = "this") -> ModelRun:
    """The run in a folder, with the weights of its newest good checkpoint.

    Raises:
        RunFolderError: no run of `worldformula fit` is there.
        CheckpointError: there is no checkpoint yet, none can be read, or none fits.
    """
    folder = RunFolder(path)
    stored = expect(folder, ("fit",), doing)
    run = ModelRun(dataclasses.replace(read(stored, folder.path), device=device), path)
    if not kept(folder):
        raise CheckpointError(f"{folder.path} has no checkpoint yet; train it first: worldformula fit …")
    run.open()
    return run


def sized(config: ModelConfig, found: DataSet) -> ModelConfig:
    """The configuration with the sizes that its data need, except for those that were set; of a world, its columns."""
    given = set(map(_size_of, config.changes))
    if world_of(config.model) is not None:
        columns = columns_of(found)
        texts = [*fitted(config.sizes, columns, found.train, given), *unread(config.sizes, columns, given)]
        return dataclasses.replace(config.changed(texts), columns=columns)
    return config.changed(inferred(config.sizes, found, given))


def _size_of(text: str) -> str:
    """The key of a ``key=value`` text, as the sizes have it."""
    return text.partition("=")[0].strip().removeprefix("sizes.")


def loaded(config: ModelConfig) -> DataSet:
    """The data of a configuration: rows for a model, windows of episodes for a world."""
    if world_of(config.model) is not None:
        if Path(config.data).suffix == ".txt":
            return spoken(config.data, config.reading)
        return sequences.load(config.data, config.reading)
    return load(config.data, config.reading)


def taken(model: Model, data: DataSet, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """A part of the data as the model reads it, by `Model.rows`. Whole numbers that are neither labels nor characters
    become floats where the model takes them as such alone.
    """
    try:
        return model.rows(arrays, data.name)
    except ShapeError:
        whole = {} if data.alphabet else {key: x for key, x in arrays.items() if x.dtype.kind in "iu"}
        floats = {key: x.astype(np.float32) for key, x in whole.items() if key != "y" or x.ndim > 1}
        if floats:
            with contextlib.suppress(ShapeError):
                return model.rows({**arrays, **floats}, data.name)
        raise


def takers(found: DataSet) -> list[str]:
    """The models that can be trained on these data, with the sizes of their preset ``tiny`` and of the data."""
    few = {key: array[:8] for key, array in found.train.items()}
    return [name for name in catalogue.names("models") if _takes(start(name, "tiny", ""), found, few)]


def suitable(model: str, preset: str, changes: Sequence[str] = ()) -> list[str]:
    """The data sets that a model can be trained on, with their sizes; those whose files are missing are left out.

    ``changes`` are settings of it, ``"coupling=given"``.
    """
    config = start(model, preset, "").changed(changes)
    found = []
    for name in known.here():
        with contextlib.suppress(ConfigError):
            data = known.like(name)
            found += [name] if _takes(config, data, data.train) else []
    return found


def _takes(config: ModelConfig, found: DataSet, rows: Mapping[str, Any]) -> bool:
    """Whether a model that has the sizes of these data can be fitted to them."""
    with contextlib.suppress(WorldformulaError, ValueError):
        taken(build(sized(config, found)), found, rows)
        return True
    return False


@contextlib.contextmanager
def evaluating(fitting: Fitting) -> Iterator[None]:
    """The networks as they are judged: averaged weights where there are any, no dropout; as before afterwards."""
    loss = fitting.loss
    before = loss.training
    loss.eval()
    try:
        with fitting.history.averaged():
            yield
    finally:
        loss.train(before)
