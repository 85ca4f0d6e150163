"""``report.html`` of a run of `worldformula fit`: test value, curves, samples, reconstructions, formula, code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula import catalogue
from worldformula.charts import Series, line_chart, short
from worldformula.display import grouped
from worldformula.metrics.collapse import CODES
from worldformula.model.run import ModelRun, evaluating
from worldformula.model.through_time import ThroughTime
from worldformula.report.codes import alarm, codes
from worldformula.report.dreams import dreams, dreamt
from worldformula.report.evidence import Written, machine, written
from worldformula.report.parts import (
    Measured,
    both,
    column,
    document,
    duration,
    foot,
    formulas,
    pairs,
    picture,
    section,
    settings,
    small,
)
from worldformula.report.pictures import REACH, Pictures, draw
from worldformula.report.rows import histograms, spelt, texts
from worldformula.report.video import stills
from worldformula.report.words import fitted_part
from worldformula.report.write import seconds
from worldformula.run.folder import read_metrics, writing
from worldformula.training import devices
from worldformula.training.game import titled
from worldformula.training.optimiser import trainable
from worldformula.training.seeding import derived, forked

REPORT = 3  # what `derived` seeds are for; 0 to 2 are those of the run


@dataclass(frozen=True)
class Told:
    """What the page says.

    Attributes:
        name: of the folder.
        title: of the system, ``"vae"``, and where it was published.
        config: as in ``config.json``.
        metrics: the lines of ``metrics.jsonl``.
        facts: names and values beside the result.
        formulas: heading -> loss; one of a model, one per player of a game.
        pictures: what could be drawn.
        machine: where and when.
        dreams: of a world, a part of the page that is written already.
        scheduled: coefficients of the loss that changed during training.
        held: what the rows are called that are not learnt from.
        over: what made the run, above its name.
    """

    name: str
    title: str
    config: Mapping[str, Any]
    metrics: Measured
    facts: tuple[tuple[str, str], ...]
    formulas: Mapping[str, Written]
    pictures: Pictures
    machine: Mapping[str, str]
    dreams: str = ""
    scheduled: tuple[str, ...] = ()
    held: str = "test"
    over: str = "worldformula fit"


def write_model(run: ModelRun) -> Path:
    """Draws the model's pictures, writes them and the page into the run folder; returns the page's path.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    folder = run.folder
    told = gather(run)
    with writing(folder.path):
        for name, data in told.pictures.files().items():
            path = folder.path / "pictures" / f"{name}.webp"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        stills(folder, told.pictures.files())
        draft = folder.report.with_suffix(".draft")
        draft.write_text(page(told), encoding="utf-8")
        draft.replace(folder.report)
    return folder.report


def gather(run: ModelRun) -> Told:
    """Measures and draws; the run is as before afterwards."""
    config, folder, loss = run.config, run.folder, run.model.loss
    seed = derived(config.seed, REPORT)
    with forked(seed), evaluating(run.fitting):
        through = run.model if isinstance(run.model, ThroughTime) else None
        sees = through is not None and through.words is None
        shown = dreamt(dreams(through, run.test_rows, seed=seed)) if through and sees else ""
        pictures = Pictures() if through else draw(run.model, run.data, run.test_rows, seed)
        more = () if through else spelt(run.model, run.data, run.test_rows, seed)
    shown += fitted_part(run, seed)
    spent = seconds(folder)
    rows = len(next(iter(run.data.train.values())))
    facts = (
        *more,
        ("updates", grouped(run.fitting.step)),
        ("parameters", grouped(trainable(loss.parameters()))),
        ("training rows", grouped(rows) + (f", in windows of {run.data.window}" if run.data.window else "")),
        ("training time", "–" if spent is None else duration(spent)),
        ("device", devices.describe(run.device)),
        ("seed", str(config.seed)),
    )
    return Told(
        name=folder.path.resolve().name,
        title=f"{config.model} {config.preset} · {run.data.note} · {catalogue.find(config.model).paper}",
        config=config.to_dict(),
        metrics=read_metrics(folder.metrics_file) if folder.metrics_file.is_file() else [],
        facts=facts,
        formulas={title: written(formula) for title, formula in titled(loss).items()},
        pictures=pictures,
        dreams=shown,
        machine=machine(devices.describe(run.device)),
        scheduled=tuple(name for name, value in run.fitting.symbols.items() if callable(value)),
    )


def page(told: Told) -> str:
    """The whole document."""
    body = "".join(
        [
            _head(told),
            _learning(told.metrics, told.scheduled, told.held),
            codes(told.metrics),
            told.dreams,
            _pictures(told.pictures),
            *(formulas(formula, title) for title, formula in told.formulas.items()),
            _terms(told.metrics, told.held),
            settings(told.config),
            foot(told.machine),
        ]
    )
    return document(told.name, body)


def values(metrics: Measured) -> list[str]:
    """The names of what is minimised: ``loss``, or ``loss/d`` and ``loss/g`` of a game."""
    names = dict.fromkeys(key for line in metrics for key in line)
    return ["loss"] if "loss" in names else [n for n in names if n.startswith("loss/")]


def _head(told: Told) -> str:
    measured = [(name, column(told.metrics, f"{told.held}/{name}")[1]) for name in values(told.metrics)]
    results = [
        f'<div><div class="big">{short(found[-1])}</div><p class="what">{escape(name)} on {told.held} data</p></div>'
        for name, found in measured
        if found
    ]
    result = "".join(results) or f'<p class="what">The {told.held} data were not measured yet.</p>'
    return (
        f'<header><p class="over">{escape(told.over)}</p><h1>{escape(told.name)}</h1>'
        f'<p class="lead">{escape(told.title)}</p>{alarm(told.metrics, "update")}</header>'
        f'<div class="hero"><div class="beside">{result}</div>{pairs(told.facts)}</div>'
    )


def _learning(metrics: Measured, scheduled: Sequence[str] = (), held: str = "test") -> str:
    """Value against updates, of training and of what is not learnt from."""
    annealed = f" It may rise, since {escape(', '.join(scheduled))} changed on the way." if scheduled else ""
    series: list[Series] = []
    for colour, name in enumerate(values(metrics)[:3]):
        player = name.removeprefix("loss/") if name != "loss" else ""
        steps, trained = column(metrics, name)
        late = len(trained) // 20
        series.append(Series(player or "training", steps[late:], trained[late:], colour))
        label, own = ("", colour) if player else (held, 1)
        series.append(Series(label, *column(metrics, f"{held}/{name}"), own, dots=True))
    if not any(s.x for s in series):
        return ""
    return section(
        "Learning curve",
        '<p class="note">The value that is minimised against updates, with natural logarithms; dots are the '
        f"{held} data. "
        f"The first twentieth, which is steep, is left out.{annealed}</p>",
        both(lambda w, h: line_chart(series, x_label="updates", y_label="loss", width=w, height=h)),
    )


def _pictures(pictures: Pictures) -> str:
    figures = []
    if pictures.samples is not None:
        caption = "Draws of the model; where it has latents, the mean of the data given the drawn ones."
        figures.append(f"<h3>Samples</h3>{_figure(picture(pictures.samples, 'samples'), caption)}")
    if pictures.reconstructions is not None:
        caption = "Rows of the test data, and what the model makes of them."
        image = _rows(["data", "model"] * pictures.paired, picture(pictures.reconstructions, "reconstructions"))
        figures.append(f"<h3>Reconstructions</h3>{_figure(image, caption)}")
    if pictures.panels is not None:
        caption = "In each column a row of the test data, and what the model makes of parts of it."
        image = _rows([escape(name) for name in pictures.captions], picture(pictures.panels, "what is made of parts"))
        figures.append(f"<h3>From parts</h3>{_figure(image, caption)}")
    if pictures.traversals is not None:
        names = [f"{escape(name)}<sub>{latent + 1}</sub>" for name, latent in pictures.traversed]
        image = _rows(names, picture(pictures.traversals, "traversals"))
        caption = (
            f"One test row; in each line one latent goes from −{REACH} to {REACH} while the others stay. "
            "The latents that vary most over the test data come first."
        )
        figures.append(f"<h3>Traversals</h3>{_figure(image, caption)}")
    if pictures.points is not None:
        data, drawn = pictures.points
        caption = f"{len(data)} rows of test data, and as many draws of the model."
        figures.append(
            _figure(f'<div class="beside">{scatter(data, "data")}{scatter(drawn, "model", data)}</div>', caption)
        )
    if pictures.columns is not None:
        figures.append(f"<h3>Columns</h3>{_figure(*histograms(pictures.columns))}")
    if pictures.lines:
        figures.append(f"<h3>Lines</h3>{_figure(texts(pictures.lines), 'Rows of the text; ↵ is the end of a line.')}")
    return section("What it makes", *figures) if figures else ""


def _rows(names: Sequence[str], image: str) -> str:
    """A picture with the names of its rows to the left."""
    labels = "".join(f"<span>{name}</span>" for name in names)
    return f'<div class="dream"><div class="rows">{labels}</div>{image}</div>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def scatter(points: NDArray[np.float32], label: str, frame: NDArray[np.float32] | None = None) -> str:
    """Points in the plane as ``<svg>``; ``frame`` are the points that decide its borders."""
    size, edge = 420, 12
    of = points if frame is None else frame
    low, high = of.min(0), of.max(0)
    middle, half = (low + high) / 2, float((high - low).max()) * 0.55 or 1.0
    at = (points - middle) / half
    at = at[np.isfinite(at).all(1) & (np.abs(at) <= 1).all(1)] * (size / 2 - edge) + size / 2
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{size - y:.1f}" r="2"/>' for x, y in at)
    return (
        f'<svg class="wf-chart" viewBox="0 0 {size} {size + 18}" width="{size}" role="img" '
        f'aria-label="{escape(label)}">'
        f'<g class="c0" fill-opacity=".55">{dots}</g>'
        f'<text x="{size / 2}" y="{size + 14}" text-anchor="middle">{escape(label)}</text></svg>'
    )


def _terms(metrics: Measured, held: str = "test") -> str:
    """A small chart per term, training and test beside each other where both were measured."""
    names = list(dict.fromkeys(key for line in metrics for key in line))
    shown = [n for n in names if n not in ("step", *values(metrics)) and not n.startswith((f"{held}/", CODES))]
    return section("Terms of the loss", small(metrics, shown)) if shown else ""
