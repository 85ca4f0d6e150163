"""``report.html`` of a fit in Python: curves, terms, formula, code; of a model with a data set, its pictures too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldformula.data import DataSet
from worldformula.display import grouped
from worldformula.errors import WorldformulaError
from worldformula.model import Model
from worldformula.report.evidence import machine, written
from worldformula.report.model import Told, page
from worldformula.report.parts import duration
from worldformula.report.pictures import Pictures, draw
from worldformula.report.rows import spelt
from worldformula.report.write import seconds
from worldformula.run.folder import RunFolder, read_metrics, writing
from worldformula.training import devices
from worldformula.training.fit import Fitting
from worldformula.training.game import titled
from worldformula.training.optimiser import trainable
from worldformula.training.seeding import forked

SEED = 3


def write_fit(
    folder: RunFolder, fitting: Fitting, config: Mapping[str, Any], loss: Any, data: Any, held: Any
) -> Path:  # fmt: skip
    """Writes the page into the run folder; returns its path. The networks are as before afterwards."""
    objective = fitting.loss
    pictures, more = _drawn(fitting, loss, data, held)
    best, spent = fitting.history.best, seconds(folder)
    facts = (
        *more,
        ("updates", grouped(fitting.step)),
        ("parameters", grouped(trainable(objective.parameters()))),
        ("data", str(config["data"])),
        *([("best on validation data", f"{best.value:.5g} after update {grouped(best.step)}")] if best else []),
        ("training time", "–" if spent is None else duration(spent)),
        ("device", devices.describe(fitting.device)),
    )
    told = Told(
        name=folder.path.resolve().name,
        title=type(loss).__name__ + (f" · {data.note}" if isinstance(data, DataSet) else ""),
        config=config,
        metrics=read_metrics(folder.metrics_file),
        facts=facts,
        formulas={title: written(formula) for title, formula in titled(objective).items()},
        pictures=pictures,
        machine=machine(devices.describe(fitting.device)),
        scheduled=tuple(name for name, value in fitting.symbols.items() if callable(value)),
        held="validation",
        over="fit in Python",
    )
    with writing(folder.path):
        draft = folder.report.with_suffix(".draft")
        draft.write_text(page(told), encoding="utf-8")
        draft.replace(folder.report)
    return folder.report


def _drawn(fitting: Fitting, loss: Any, data: Any, held: Any) -> tuple[Pictures, tuple[tuple[str, str], ...]]:
    """Pictures and facts of a model whose data say what a row shows."""
    if not isinstance(loss, Model) or not isinstance(data, DataSet) or not isinstance(held, dict):
        return Pictures(), ()
    training = fitting.loss.training
    fitting.loss.eval()
    try:
        with forked(SEED), fitting.history.averaged():
            return draw(loss, data, held, SEED), spelt(loss, data, held, SEED)
    except WorldformulaError:  # the run is done and stored; a picture that cannot be drawn must not lose it
        return Pictures(), ()
    finally:
        fitting.loss.train(training)
