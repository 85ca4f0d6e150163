"""What rows that are no pictures look like, those of the test data beside those of a model: the columns of a table as
histograms, lines of a text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldformula.charts import short
from worldformula.data import DataSet
from worldformula.errors import WorldformulaError
from worldformula.metrics.likelihood import bits_per_dim, categorical_table
from worldformula.model import Model

X = "x"  # the variable that the columns and the alphabet of a data set speak of
ROWS = 2000  # of a table
MOST = 24  # columns that are drawn
LINES, SPELT = 8, 256  # of a text: those that are shown, those that are measured
BINS, WIDTH, HEIGHT, EDGE = 24, 190, 84, 16  # of a histogram, in pixels
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Columns:
    """The numbers of a table, in the units of its file.

    Attributes:
        names: of the columns.
        data: test rows, ``[N, columns]``.
        drawn: as many draws of the model, or fewer; None where it draws no rows.
    """

    names: tuple[str, ...]
    data: Numbers
    drawn: Numbers | None


def columns_of(model: Model, data: DataSet, test: Mapping[str, Tensor], seed: int) -> Columns | None:
    """Those of a table; None of other data, or where the model reads them in another form."""
    if not data.columns or X not in test or test[X][0].numel() != len(data.columns):
        return None
    seen = test[X][:ROWS].flatten(1)
    drawn = drawn_rows(model, test, len(seen), seed)
    same = drawn is not None and drawn[0].numel() == seen.shape[1]
    made = data.unscaled(_numbers(drawn.flatten(1))) if same and drawn is not None else None
    return Columns(data.columns, data.unscaled(_numbers(seen)), made)


def lines_of(
    model: Model, data: DataSet, test: Mapping[str, Tensor], seed: int
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Lines of a text by what they are: test rows, what the model makes of them, its draws; none of other data."""
    if not data.alphabet or X not in test:
        return ()
    rows = {name: value[:LINES].to(model.device) for name, value in test.items()}
    found: dict[str, Tensor | None] = {"test data": rows[X], "made of them": None}
    with contextlib.suppress(WorldformulaError, NotImplementedError, KeyError):
        found["made of them"] = model.reconstruct(**model.given(rows))[X]
    found["drawn"] = drawn_rows(model, test, LINES, seed)
    shown = {what: values for what, values in found.items() if values is not None}
    return tuple((what, said(values, data.alphabet)) for what, values in shown.items())


def spelt(model: Model, data: DataSet, test: Mapping[str, Tensor], seed: int) -> tuple[tuple[str, str], ...]:
    """A fact about a text: its bits per character by the model's bound of log p(x), beside those by the frequencies of
    the characters alone; none of other data, and of a model without a density of characters.
    """
    if not data.alphabet or X not in test or test[X].is_floating_point():
        return ()
    rows = {name: value[:SPELT].to(model.device) for name, value in test.items()}
    try:
        given: dict[str, Any] = {**model.given(rows)}
        bound = float(model.bound(1, seed=seed, **given).double().mean())
    except (WorldformulaError, NotImplementedError, KeyError):
        return ()
    seen, held = (np.asarray(part[X]).reshape(-1, 1) for part in (data.train, data.test))
    alone = float(categorical_table(seen, held, len(data.alphabet)).mean())
    bits, floor = bits_per_dim(bound, rows[X][0].numel()), bits_per_dim(alone, 1)
    return (("bits per character", f"{short(bits)} on {len(rows[X])} rows of test data; {short(floor)} by frequency"),)


def drawn_rows(model: Model, test: Mapping[str, Tensor], n: int, seed: int) -> Tensor | None:
    """``n`` draws of x; what the model is conditioned on, such as labels, is taken from the test data."""
    others = {k: v[:n].to(model.device) for k, v in test.items() if k != X and k in model.inputs}
    for given in ({}, others):
        count = min([n, *(len(v) for v in given.values())])
        with contextlib.suppress(WorldformulaError, NotImplementedError, TypeError):
            return model.generate(count, seed=seed, generator=None, mean=False, **given).get(X)
    return None


def said(values: Tensor, alphabet: str) -> tuple[str, ...]:
    """The characters of rows of numbers, ``[N, L]``; the end of a line is shown as ↵."""
    numbers = values.detach().float().cpu().nan_to_num().round().clamp(0, len(alphabet) - 1).long().flatten(1)
    return tuple("".join(alphabet[i] for i in row).replace("\n", "↵") for row in numbers.tolist())


def _numbers(values: Tensor) -> Numbers:
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)


# ------------------------------------------------------------------------------------------------------- as a page


def histograms(found: Columns) -> tuple[str, str]:
    """The picture, and its caption."""
    shown = range(min(len(found.names), MOST))
    drawn = [None if found.drawn is None else found.drawn[:, i] for i in shown]
    each = "".join(histogram(found.names[i], found.data[:, i], drawn[i]) for i in shown)
    caption = f"How often the numbers of each column occur in {len(found.data):,} rows of test data, filled"
    if found.drawn is not None:
        caption += f", and in {len(found.drawn):,} draws of the model, the line; draws beyond the data lie at the edges"
    more = f" The first {MOST} of {len(found.names)} columns." if len(found.names) > MOST else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{each}</div>', f"{caption}.{more}"


def histogram(name: str, data: Numbers, drawn: Numbers | None) -> str:
    """One column as ``<svg>``."""
    low, high = float(data.min()), float(data.max())
    edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    heights = [_shares(values, edges) for values in (data, drawn) if values is not None]
    top, wide = max(float(h.max()) for h in heights) or 1.0, WIDTH / (len(edges) - 1)
    bars = "".join(
        f'<rect class="bin" x="{i * wide:.1f}" y="{HEIGHT * (1 - h / top):.1f}" width="{wide:.1f}" '
        f'height="{HEIGHT * h / top:.1f}"/>'
        for i, h in enumerate(heights[0])
        if h > 0
    )
    line = ""
    if drawn is not None:
        tops = [(i, HEIGHT * (1 - h / top)) for i, h in enumerate(heights[1])]
        points = [f"{(i + side) * wide:.1f},{y:.1f}" for i, y in tops for side in (0, 1)]
        line = f'<polyline class="line c0" points="0,{HEIGHT} {" ".join(points)} {WIDTH},{HEIGHT}"/>'
    ends = (("0", "start", low), (str(WIDTH), "end", high))
    marks = "".join(f'<text x="{x}" y="{HEIGHT + 13}" text-anchor="{to}">{v:.3g}</text>' for x, to, v in ends)
    title = f'<text class="title" x="{WIDTH / 2}" y="{HEIGHT + 13}" text-anchor="middle">{escape(name)}</text>'
    return (
        f'<svg class="wf-chart" viewBox="0 -2 {WIDTH} {HEIGHT + EDGE + 4}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(name)}"><g class="c3" fill="var(--c)" fill-opacity=".45">{bars}</g>{line}{marks}{title}'
        f"</svg>"
    )


def _shares(values: Numbers, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the rows in every bin; what lies beyond is counted in the outer ones, and what is no number nowhere."""
    known = values[np.isfinite(values)]
    counts = np.histogram(np.clip(known.astype(np.float64), edges[0], edges[-1]), edges)[0]
    return counts / max(len(values), 1)


def texts(found: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Lines under each other, headed by what they are."""
    parts = (f"<h4>{escape(what)}</h4><pre>{escape(chr(10).join(lines))}</pre>" for what, lines in found)
    return "".join(parts)
