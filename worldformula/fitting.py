"""``fit`` for everything: your model or loss on your data, with epochs, validation, a run folder and its page.

history = fit(loss, loader, epochs=20, batch=64, optimizer=torch.optim.SGD, validation=held, run="runs/x")
history.plot()
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from worldformula import catalogue
from worldformula.data import DataSet, load
from worldformula.data.base import digest
from worldformula.data.sequences import episodes as listed
from worldformula.data.sequences import table
from worldformula.errors import CatalogueError, ConfigError, RunFolderError, ShapeError
from worldformula.formula.expressions.expression import Expression
from worldformula.model import Model, recipe
from worldformula.model.config import start
from worldformula.model.contract import in_shape
from worldformula.model.run import TEST_WINDOWS, ModelRun, evaluating, loaded, sized
from worldformula.model.through_time import ThroughTime
from worldformula.report.fitted import write_fit
from worldformula.report.model import write_model
from worldformula.run.fit import Fit
from worldformula.run.folder import EPISODES, RunFolder, read_metrics, writing
from worldformula.run.run import Run, kept
from worldformula.training import checkpoint, settings
from worldformula.training.chosen import chosen
from worldformula.training.config import parted
from worldformula.training.fit import Best, FitConfig, Fitting, History, pursue, updates
from worldformula.training.game import Game, losses
from worldformula.training.progress import Progress
from worldformula.training.seeding import derived
from worldformula.training.source import per_epoch, readied, repeated
from worldformula.training.validation import Validation

Loss = Expression | Game | Model


def fit(
    loss: Loss, data: Any, *, batch: int = FitConfig.batch, steps: int | None = None, epochs: int | None = None,
    lr: float | None = None, seed: int = 0, names: Sequence[str] = ("x", "y"), inputs: Any = None, symbols: Any = None,
    optimizer: Any = None, validation: Any = None, run: str | Path | None = None, resume: bool = False,
    progress: bool = True, **more: Any,
) -> History:  # fmt: skip
    """Fits a loss, a game or a model; the weights change in place.

    What `worldformula.training.fit.fit`, the loop alone, takes but its callback, and more: a `Model` brings its
    coefficients and reads data in its shapes; data may be a path or the name of a data set; with ``run`` there are
    checkpoints, metrics and a page.

    Args:
        loss: an expression with a scalar value, a `Game`, or a `Model`.
        data: arrays or tensors by name, one array, a TensorDataset, a Dataset, rows as dicts, a DataLoader, a function,
            a `DataSet`, or the name or path of one, whose test part then is the validation data.
        batch: rows of a batch; a DataLoader decides itself. Where there are fewer, each stands in it several times, and
            that is told.
        steps: updates; or
        epochs: passes over the data. One of both.
        lr: step size.
        seed: of everything that is random but what a model begins with, which torch's generator draws as it does its
            weights: ``torch.manual_seed`` before both.
        names: of the columns of tuples and of single arrays.
        inputs: input of the loss -> column of the data, or a function from a batch to the inputs.
        symbols: named coefficients of the formula.
        optimizer: a class of torch.optim, a function of the parameters, or an optimiser; instead of AdamW.
        validation: data of the same kinds, measured after every epoch or twenty times: ``history.best``.
        run: folder for config.json, metrics.jsonl, checkpoints and report.html. Ctrl-C then leaves a checkpoint.
        resume: go on with the run in the folder: exactly, except on a DataLoader or iterable, which is refused.
        progress: show a bar, or a line every few seconds, and warnings.
        more: the fields of `FitConfig`: clip, schedule, ema, weight_decay, betas, log_every, held, judge_every,
            patience; and ``before``: of a model that is trained after others, theirs by name,
            ``{"stage": {"steps": 500}}``.

    Raises:
        ConfigError: what cannot be; the message says what to write instead. Also ShapeError, FormulaError.
        RunFolderError: the folder holds a run, or one with other settings.
        NonFiniteError: a value was NaN or infinite.
    """
    if run is not None:
        _resumable(RunFolder(run), resume=resume)
    made = task(
        loss, data, run, batch=batch, steps=steps, epochs=epochs, lr=lr, seed=seed, names=names, inputs=inputs,
        symbols=symbols, optimizer=optimizer, validation=validation, **more,
    )  # fmt: skip
    if progress and (warning := repeated(made.fitting.source)):
        print(warning, flush=True)  # noqa: T201
    if run is None:
        with Progress(made.goal) if progress else contextlib.nullcontext() as show:
            return pursue(made.fitting, made.every, made.judge, show=show)
    made.run(resume=resume, progress=progress)
    write_fit(made.folder, made.fitting, made.written(), *made.told)
    return made.fitting.history


def task(
    loss: Loss, data: Any, run: str | Path | RunFolder | None, *, batch: int = FitConfig.batch,
    steps: int | None = None, epochs: int | None = None, lr: float | None = None, seed: int = 0,
    names: Sequence[str] = ("x", "y"), inputs: Any = None, symbols: Any = None, optimizer: Any = None,
    validation: Any = None, **more: Any,
) -> PythonFit:  # fmt: skip
    """What `fit` does, as a task, e.g. for a phase of `worldformula.run.phases`; arguments as there."""
    found = load(str(data)) if isinstance(data, str | Path) else data
    if isinstance(found, DataSet) and validation is None:
        validation = found.test
    ready, held = (_for(loss, part, names) for part in (found, validation))
    length = None if epochs is None else per_epoch(ready, batch)
    own, before = parted(more)
    known = list(loss.before) if isinstance(loss, Model) else []
    if wrong := [name for name in before if name not in known]:
        has = ", ".join(known) or "nothing"
        raise ConfigError(f"before= names {wrong[0]!r}, and what is trained before this loss is {has}")
    config = FitConfig(updates(steps, epochs, length), batch, FitConfig.lr if lr is None else lr, **_known(own))
    made: dict[str, Any] = {
        "seed": seed, "inputs": _inputs(loss, inputs), "names": names, "short": epochs is not None,
        "make": None if optimizer is None else chosen(optimizer, config, lr),
    }  # fmt: skip
    if isinstance(loss, Model):
        objective = loss.loss
        together = {**loss.symbols, **(symbols or {})}
        fitting = recipe.fitting(loss, ready, config, before, symbols=together, **made)
    else:
        objective = loss
        fitting = Fitting(loss, ready, config, symbols=symbols, **made)
    judge = None if held is None else Validation(fitting, held, batch, names, derived(seed, 2))
    written = {
        "formula": _formulas(objective), "data": _said(ready), "seed": seed, "epochs": epochs,
        "optimizer": "AdamW" if optimizer is None else _name(optimizer), "fit": settings.to_dict(config),
        **({"before": {name: settings.to_dict(how) for name, how in before.items()}} if before else {}),
    }  # fmt: skip
    folder = run if isinstance(run, RunFolder) else RunFolder("" if run is None else run)
    return PythonFit(fitting, length or max(1, config.steps // 20), judge, folder, written, (loss, found, held))


def fit_world(
    world: str, episodes: Any, run: str | Path, *, preset: str = "tiny", steps: int = FitConfig.steps,
    change: Sequence[str] = (), seed: int = 0, resume: bool = False, progress: bool = True,
) -> Any:  # fmt: skip
    """Fits a world of the catalogue to episodes, as ``worldformula fit rssm --data episodes.npz`` does; the `World`.

    The episodes are kept in the run folder, so that the command line goes on with it and makes its page again.

    Args:
        world: its name, e.g. ``"rssm"``.
        episodes: a dictionary of arrays ``[N, T, …]``, with ``lengths`` ``[N]`` or ``valid`` ``[N, T]`` where they end
            earlier; one table ``[R, …]`` with ``is_first``; or a list of dictionaries of arrays ``[T, …]``. Columns:
            ``action``, ``reward``, ``terminated``; everything else is observed.
        run: the run folder, with checkpoints, metrics and a page of dreams.
        preset: of the world.
        steps: updates.
        change: ``key=value`` texts, as ``--set``: sizes, settings of the fit, ``data.length=32``.
        seed: of everything that is random.
        resume: go on with the run in the folder, with the episodes that it has.
        progress: show a bar, or a line every few seconds.

    Raises:
        ConfigError: what cannot be; the message says what to write instead. Also ReplayError, ShapeError.
        RunFolderError: the folder holds a run, or one with other settings.
    """
    folder = RunFolder(run)
    _resumable(folder, resume=resume)
    path = folder.path.resolve() / EPISODES
    config = start(world, preset, str(path)).changed([*change, f"fit.steps={steps}"])
    if catalogue.find(world).kind != "worlds":
        raise CatalogueError(f"{world} is no world; fit_world expects one of {', '.join(catalogue.names('worlds'))}")
    if not resume:
        columns = table(listed(episodes))
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            np.savez(path, allow_pickle=False, **columns)
    config = dataclasses.replace(config, seed=seed)
    data = loaded(config)
    made = ModelRun(sized(config, data), folder.path, data=data)
    with Progress(steps, max(kept(folder), default=0)) if progress else contextlib.nullcontext() as show:
        made.run(show)
    write_model(made)
    made.model.loss.eval()
    return cast("ThroughTime", made.model).world


def _resumable(folder: RunFolder, *, resume: bool) -> None:
    """Nobody works in the folder; going on is asked for where there is something, and there alone."""
    folder.free()
    held = bool(kept(folder))
    if held and not resume:
        raise RunFolderError(f"{folder.path} holds a run: pass resume=True to go on with it, or choose another run=")
    if resume and not held:
        raise RunFolderError(f"{folder.path} holds no run to go on with; leave resume out to begin one")


class PythonFit(Fit):
    """The run folder of a fit in Python: what is written on the way, and what it goes on from."""

    kind = "python"

    def __init__(
        self, fitting: Fitting, every: int, judge: Validation | None, folder: RunFolder, written: dict[str, Any],
        told: tuple[Any, Any, Any],
    ) -> None:  # fmt: skip
        super().__init__(fitting, every, judge)
        self.folder, self._written, self.told = folder, written, told

    def run(self, *, resume: bool, progress: bool) -> None:
        """Trains to the end, or goes on to it; Ctrl-C leaves a checkpoint. See `Run.go`."""
        with (
            Progress(self.goal, max(kept(self.folder), default=0))
            if progress
            else contextlib.nullcontext() as self.show
        ):
            Run(self, self.folder).go()

    def watched(self) -> Mapping[str, float]:
        """Of a world, on the windows that it does not learn from."""
        model, rows = self.told[0], None if self.judge is None else self.judge.data
        if not isinstance(model, ThroughTime) or not isinstance(rows, dict):
            return {}
        with evaluating(self.fitting):
            return model.watched({k: v[:TEST_WINDOWS] for k, v in rows.items()}, self.fitting.device)

    def written(self) -> Mapping[str, Any]:
        """As in ``config.json``."""
        return self._written

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """Against the settings of the folder; it may have become longer."""
        checkpoint.refuse_fewer(self.folder.checkpoints, self.fitting.config.steps, "steps=")
        wanted = self._written
        steps = {**wanted["fit"], "steps": stored.get("fit", {}).get("steps")}
        asked = {**wanted, "fit": steps, "epochs": stored.get("epochs")}
        return {k: (stored.get(k), v) for k, v in asked.items() if stored.get(k) != _json(v)}

    def resume_hint(self) -> str:
        """The call."""
        return "the same call with resume=True"

    def state(self) -> dict[str, Any]:
        """With the weights that were best on validation data."""
        best = self.fitting.history.best
        held = None if best is None else {"step": best.step, "value": best.value, "weights": dict(best.weights)}
        return {**super().state(), "best": held}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to there, with the rows that were written until then."""
        super().restore(state)
        history, best = self.fitting.history, state["best"]
        written = self.folder.metrics_file
        history.rows = [r for r in read_metrics(written) if r["step"] <= self.step] if written.is_file() else []
        self._told = len(history.rows)
        if best is not None:
            history.best = Best(int(best["step"]), float(best["value"]), best["weights"], self.fitting.loss)


def _known(more: Mapping[str, Any]) -> Mapping[str, Any]:
    """The further settings, if there are such."""
    known = {field.name for field in dataclasses.fields(FitConfig)} - {"steps", "batch", "lr"}
    if wrong := sorted(more.keys() - known):
        hint = "; that of worldformula.training.fit, the loop alone, does" if wrong[0] == "callback" else ""
        raise ConfigError(f"fit takes no {wrong[0]!r}{hint}; the settings of the fit are {', '.join(sorted(known))}")
    return more


def _for(loss: Loss, data: Any, names: Sequence[str]) -> Any:
    """Data as the loss reads them: those of a model in its shapes."""
    if data is None:
        return None
    ready = readied(data, names)
    if not isinstance(loss, Model) or not isinstance(ready, dict):
        return ready
    return loss.rows({name: value.numpy(force=True) for name, value in ready.items()})


def _inputs(loss: Loss, inputs: Any) -> Any:
    """What makes the inputs of a batch; of a model, its own way, on rows in its shapes."""
    if inputs is not None or not isinstance(loss, Model):
        return inputs
    events = loss.events

    def given(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: in_shape(value, events.get(name)) for name, value in rows.items()}
        if wrong := [name for name, value in found.items() if value is None]:
            raise ShapeError(f"{wrong[0]} is {list(rows[wrong[0]].shape)}, and the model reads [N, {events[wrong[0]]}]")
        return loss.given({name: value for name, value in found.items() if value is not None})

    return given


def _formulas(loss: Expression | Game) -> dict[str, str]:
    return {name or "loss": str(formula) for name, formula in losses(loss).items()}


def _said(ready: Any) -> str:
    """What tells two data apart: their digest, or what they are and how many."""
    if isinstance(ready, dict):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in ready.items())
        return f"{shapes}, digest {digest({k: v.numpy(force=True) for k, v in ready.items()})}"
    kind = type(getattr(ready, "data", ready)).__name__
    return f"{kind} of {len(ready)}" if hasattr(ready, "__len__") else kind


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))


def _json(value: Any) -> Any:
    """As config.json gives it back."""
    return json.loads(json.dumps(value))
