"""``fit`` for everything: your model or loss on your data, with epochs, validation, a run folder and its page.

history = fit(loss, loader, epochs=20, batch=64, optimizer=torch.optim.SGD, validation=held, run="runs/x")
history.plot()
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from worldformula.data import DataSet, load
from worldformula.data.base import digest
from worldformula.errors import CheckpointError, ConfigError, RunFolderError, ShapeError, WorldformulaError, table
from worldformula.formula.expressions.expression import Expression
from worldformula.model import Model
from worldformula.model.contract import in_shape
from worldformula.report.fitted import write_fit
from worldformula.training import checkpoint, settings
from worldformula.training.chosen import chosen
from worldformula.training.fit import Best, FitConfig, Fitting, History, pursue, updates
from worldformula.training.game import Game
from worldformula.training.progress import Progress
from worldformula.training.run import MetricsLog, RunFolder, read_metrics
from worldformula.training.seeding import derived
from worldformula.training.source import per_epoch, readied
from worldformula.training.stop import Stop
from worldformula.training.validation import Validation

COMMAND = "worldformula.fitting.fit"
Loss = Expression | Game | Model


def fit(
    loss: Loss, data: Any, *, batch: int = FitConfig.batch, steps: int | None = None, epochs: int | None = None,
    lr: float | None = None, seed: int = 0, names: Sequence[str] = ("x", "y"), inputs: Any = None, symbols: Any = None,
    optimizer: Any = None, validation: Any = None, run: str | Path | None = None, resume: bool = False,
    progress: bool = True, **more: Any,
) -> History:  # fmt: skip
    """Fits a loss, a game or a model; the weights change in place.

    Everything that `worldformula.training.fit.fit` takes, and more: a `Model` brings its coefficients and reads data in
    its shapes; data may be a path or the name of a data set; with ``run`` there are checkpoints, metrics and a page.

    Args:
        loss: an expression with a scalar value, a `Game`, or a `Model`.
        data: arrays or tensors by name, one array, a TensorDataset, a Dataset, rows as dicts, a DataLoader, a function,
            a `DataSet`, or the name or path of one, whose test part then is the validation data.
        batch: rows of a batch; a DataLoader decides itself.
        steps: updates; or
        epochs: passes over the data. One of both.
        lr: step size.
        seed: of everything that is random.
        names: of the columns of tuples and of single arrays.
        inputs: input of the loss -> column of the data, or a function from a batch to the inputs.
        symbols: named coefficients of the formula.
        optimizer: a class of torch.optim, a function of the parameters, or an optimiser; instead of AdamW.
        validation: data of the same kinds, measured after every epoch or twenty times: ``history.best``.
        run: folder for config.json, metrics.jsonl, checkpoints and report.html. Ctrl-C then leaves a checkpoint.
        resume: go on with the run in the folder: exactly, except on a DataLoader or iterable, which is refused.
        progress: show a bar, or a line every few seconds.
        more: the fields of `FitConfig`: clip, schedule, ema, weight_decay, betas, log_every.

    Raises:
        ConfigError: what cannot be; the message says what to write instead. Also ShapeError, FormulaError.
        RunFolderError: the folder holds a run, or one with other settings.
        NonFiniteError: a value was NaN or infinite.
    """
    found = load(str(data)) if isinstance(data, str | Path) else data
    if isinstance(found, DataSet) and validation is None:
        validation = found.test
    ready, held = (_for(loss, part, names) for part in (found, validation))
    length = None if epochs is None else per_epoch(ready, batch)
    config = FitConfig(updates(steps, epochs, length), batch, FitConfig.lr if lr is None else lr, **_known(more))
    objective = loss.loss if isinstance(loss, Model) else loss
    fitting = Fitting(
        objective, ready, config, seed=seed, inputs=_inputs(loss, inputs), names=names, short=epochs is not None,
        symbols={**(loss.symbols if isinstance(loss, Model) else {}), **(symbols or {})},
        make=None if optimizer is None else chosen(optimizer, config, lr),
    )  # fmt: skip
    judge = None if held is None else Validation(fitting, held, batch, names, derived(seed, 2))
    every = length or max(1, config.steps // 20)
    if run is None:
        with Progress(config.steps) if progress else _silent() as show:
            return pursue(fitting, every, judge, show=show)
    written = {
        "command": COMMAND, "formula": _formulas(objective), "data": _said(ready), "seed": seed, "epochs": epochs,
        "optimizer": "AdamW" if optimizer is None else _name(optimizer), "fit": settings.to_dict(config),
    }  # fmt: skip
    folder = Folder(RunFolder(run), written, fitting, resume=resume)
    folder.fill(every, judge, progress=progress)
    write_fit(folder.paths, fitting, written, loss, found, held)
    return fitting.history


class Folder:
    """The run folder of a fit in Python: what is written on the way, and what it goes on from."""

    def __init__(self, paths: RunFolder, written: dict[str, Any], fitting: Fitting, *, resume: bool) -> None:
        self.paths, self.written, self.fitting = paths, written, fitting
        kept = bool(checkpoint.steps_in(paths.checkpoints))
        if kept and not resume:
            raise RunFolderError(f"{paths.path} holds a run: pass resume=True to go on with it, or choose another run=")
        if resume and not kept:
            raise RunFolderError(f"{paths.path} holds no run to go on with; leave resume out to begin one")

    def fill(self, every: int, judge: Validation | None, *, progress: bool) -> None:
        """Trains to the end, or goes on to it; Ctrl-C leaves a checkpoint.

        Raises:
            KeyboardInterrupt: says how to go on.
        """
        fitting = self.fitting
        with self.paths.locked():
            if checkpoint.steps_in(self.paths.checkpoints):
                self._agree()
            self.paths.create(self.written)
            position = self._restore()
            with MetricsLog(self.paths, position=position, step=fitting.step) as metrics, Stop() as stop:
                fitting.history.rows = read_metrics(self.paths.metrics_file)
                told = len(fitting.history.rows)

                def after() -> None:
                    nonlocal told
                    for row in fitting.history.rows[told:]:
                        metrics.write(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
                    told = len(fitting.history.rows)
                    state = {"fit": fitting.state_dict(), "metrics": metrics.position(), "best": self._best()}
                    checkpoint.save(self.paths.checkpoints, fitting.step, state)

                with Progress(fitting.config.steps, fitting.step) if progress else _silent() as show:
                    pursue(fitting, every, judge, after=after, callback=lambda *_: stop.asked, show=show)
        if stop.asked and fitting.step < fitting.config.steps:
            raise KeyboardInterrupt(
                f"interrupted after step {fitting.step:,}, which {self.paths.path} holds; "
                "the same call with resume=True goes on"
            )

    def _best(self) -> dict[str, Any] | None:
        best = self.fitting.history.best
        return None if best is None else {"step": best.step, "value": best.value, "weights": dict(best.weights)}

    def _agree(self) -> None:
        checkpoint.refuse_fewer(self.paths.checkpoints, self.fitting.config.steps, "steps=")
        stored, wanted = self.paths.config(), self.written
        steps = {**wanted["fit"], "steps": stored.get("fit", {}).get("steps")}
        asked = {**wanted, "fit": steps, "epochs": stored.get("epochs")}
        if changed := {k: (stored.get(k), v) for k, v in asked.items() if stored.get(k) != _json(v)}:
            rows = table(("setting", "in the folder", "wanted now"), [(k, *pair) for k, pair in changed.items()])
            raise RunFolderError(f"{self.paths.path} holds a run with other settings:\n{rows}\nChoose another run=.")

    def _restore(self) -> int:
        """Bytes of the metrics that count."""
        found = checkpoint.load_latest(self.paths.checkpoints)
        if found is None:
            return 0
        try:
            self.fitting.load_state_dict(found.state["fit"])
            best = found.state["best"]
        except WorldformulaError:
            raise
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"the checkpoint {found.path} does not fit this loss: {error}") from error
        if best is not None:
            self.fitting.history.best = Best(
                int(best["step"]), float(best["value"]), best["weights"], self.fitting.loss
            )
        return int(found.state["metrics"])


def _known(more: Mapping[str, Any]) -> Mapping[str, Any]:
    """The further settings, if there are such."""
    known = {field.name for field in dataclasses.fields(FitConfig)} - {"steps", "batch", "lr"}
    if wrong := sorted(more.keys() - known):
        raise ConfigError(f"fit takes no {wrong[0]!r}; the settings of the fit are {', '.join(sorted(known))}")
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
    players = {name: player.loss for name, player in loss.players.items()} if isinstance(loss, Game) else {"loss": loss}
    return {name: str(formula) for name, formula in players.items()}


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


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    yield None
