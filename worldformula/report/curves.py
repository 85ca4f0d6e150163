"""Numbers that were dreamt, beside those that were: lines of one window, for worlds that observe no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worldformula.charts import Series, line_chart
from worldformula.report.evidence import Curve
from worldformula.report.parts import both

MOST = 4


def varying(truth: NDArray[np.floating], dream: NDArray[np.floating], names: Sequence[str]) -> tuple[Curve, ...]:
    """The numbers ``[T, D]`` of a window that vary most, the one that does first, by their names."""
    order = np.argsort(-truth.std(0), kind="stable")[:MOST].tolist()
    return tuple(Curve(names[i], tuple(truth[:, i].tolist()), tuple(dream[:, i].tolist())) for i in order)


def lines(curves: Sequence[Curve], context: int) -> str:
    """A chart per number; the dream begins at the last row that the world saw."""
    return "".join(both(partial(_chart, curve, context)) for curve in curves)


def _chart(curve: Curve, context: int, width: int, height: int) -> str:
    last = context - 1
    rows = list(range(-last, len(curve.truth) - last))
    series = [Series("truth", rows, curve.truth), Series("dream", rows[last:], curve.dream[last:], 1)]
    x = "steps since the last row that the world saw"
    return line_chart(series, x_label=x, y_label=curve.name, width=width, height=height * 2 // 3)
