"""Line charts as inline SVG, drawn by hand: no library, no script, sharp on paper.

A chart takes its colours from CSS variables of the page (``--c0`` … ``--c3``, ``--muted``), with fallbacks of its own.
Points carry their numbers as hover titles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

STYLE = (
    ".wf-chart{display:block;max-width:100%;height:auto;font-size:12px;font-variant-numeric:tabular-nums}"
    ".wf-chart text{fill:var(--muted,#6b7280)}.wf-chart .grid{stroke:var(--rule,#d9dce1);stroke-width:1}"
    ".wf-chart .line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".wf-chart .faint{stroke-opacity:.3;stroke-width:1.25}.wf-chart .band{fill:var(--c);fill-opacity:.14}"
    ".wf-chart .dot{fill:var(--c)}.wf-chart .bar{stroke:var(--c);stroke-width:1.5}"
    ".wf-chart .hover{fill:var(--c);fill-opacity:0}.wf-chart .hover:hover{fill-opacity:1}"
    ".wf-chart .level{stroke:var(--c);stroke-width:1.25;stroke-dasharray:5 4}"
    ".wf-chart text.title{fill:var(--ink,#1c2024);font-weight:600}.wf-chart text.label{fill:var(--c);font-weight:500;"
    "paint-order:stroke;stroke:var(--paper,#fff);stroke-width:4px}"
    ".wf-chart .c0{--c:var(--c0,#2f5fd0)}.wf-chart .c1{--c:var(--c1,#c2571a)}"
    ".wf-chart .c2{--c:var(--c2,#25855a)}.wf-chart .c3{--c:var(--c3,#7a818c)}"
)
_HOVERS = 80  # points with a title; more would only weigh
_WIDE = 560  # from this width on there is room for long names beside the lines; in narrower ones, for short names
_BESIDE = 0.2  # of a narrow chart's width, that names may take
_POINTS = 600  # points of a line; more are thinned by means of neighbours


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        label: printed at the line's end and in hover titles; empty for none.
        x: positions.
        y: values, same length; not finite ones are left out.
        colour: 0–3.
        error: half-height of a band (or of bars, with ``dots``) around every value.
        dots: single measurements: dots with error bars, joined by a line.
        faint: thin and pale, for raw values behind their mean.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    error: Sequence[float] | None = None
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Level:
    """A labelled horizontal line: a floor, a best known value."""

    label: str
    y: float
    colour: int = 3


@dataclass(frozen=True)
class _Frame:
    """From values to pixels. ``beside``: names stand to the right of the lines, in narrow charts on them."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool
    beside: bool
    lone: bool = False  # all points have one x, in the middle

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def py(self, value: float) -> float:
        low, high = self.y
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten) that lie in [low, high].

    >>> ticks(0, 970)
    [0.0, 200.0, 400.0, 600.0, 800.0]
    >>> ticks(-1.2, 0.7, 4)
    [-1.0, -0.5, 0.0, 0.5]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    digits = max(0, -math.floor(math.log10(step)) + 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; where there are fewer than three, their doubles and fives too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(tens) >= 3:
        return tens[:: max(1, len(tens) // 5)]
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def short(value: float) -> str:
    """A number as a reader wants it: ``12 500`` -> ``12.5k``, ``0.000031`` -> ``3.1e−5``.

    >>> short(12500), short(0.25), short(-3), short(2e6)
    ('12.5k', '0.25', '−3', '2M')
    """
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size and size < 1e-3:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}".replace("-", "−")
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def line_chart(
    series: Sequence[Series],
    *,
    levels: Sequence[Level] = (),
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    width: int = 860,
    height: int = 340,
    log: bool = False,
) -> str:
    """One chart as ``<svg>``; of series without a finite value, a chart that says so.

    Args:
        series: the lines, drawn in order.
        levels: labelled horizontal lines.
        x_label: under the axis.
        y_label: above the axis.
        title: above the chart, for small multiples.
        width: in pixels.
        height: in pixels.
        log: logarithmic y axis; values must be positive.
    """
    cleaned = [s for s in map(_clean, series) if len(s.x)]
    name = escape(", ".join(filter(None, [title, y_label, *(s.label for s in cleaned)])))
    head = f'<svg class="wf-chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{name}">'  # noqa: E501
    if not cleaned:
        return f'{head}<text x="{width / 2}" y="{height / 2}" text-anchor="middle">no values yet</text></svg>'
    frame = _frame(cleaned, levels, width, height, bool(x_label), bool(y_label or title), log)
    parts = [_axes(frame, x_label, y_label, title)]
    parts += [_level(level, frame) for level in levels]
    parts += [_series(s, frame) for s in cleaned]
    parts.append(_labels(cleaned, levels, frame))
    parts += [_hovers(s, frame, x_label) for s in cleaned if not s.faint]
    return head + "".join(parts) + "</svg>"


def _clean(series: Series) -> Series:
    """Finite values alone, thinned to what the eye can tell apart."""
    x, y = np.asarray(series.x, float), np.asarray(series.y, float)
    error = None if series.error is None else np.nan_to_num(np.asarray(series.error, float))
    keep = np.isfinite(x) & np.isfinite(y)
    columns = [c[keep] for c in (x, y, *(() if error is None else (error,)))]
    if keep.sum() > _POINTS:
        columns = [np.array([part.mean() for part in np.array_split(c, _POINTS)]) for c in columns]
    return Series(
        series.label, columns[0].tolist(), columns[1].tolist(), series.colour,
        columns[2].tolist() if error is not None else None, series.dots, series.faint,
    )  # fmt: skip


def _frame(
    series: Sequence[Series], levels: Sequence[Level], width: int, height: int, below: bool, above: bool, log: bool
) -> _Frame:
    xs = [v for s in series for v in s.x]
    ys = [level.y for level in levels]
    for s in series:
        errors = s.error or [0.0] * len(s.y)
        ys += [y + sign * e for y, e in zip(s.y, errors, strict=True) for sign in (-1, 1) if not log or y - e > 0]
        ys += s.y
    low, high = min(ys), max(ys)
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        low, high = (low if low == 0 else low - pad), high + pad
    marks = log_ticks(low, high) if log else ticks(low, high, _rows(height))
    left = 14 + 7.2 * max((len(short(m)) for m in marks), default=1)
    x = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, min(xs) + 0.5)
    names = [s.label for s in series] + [_named(level) for level in levels]
    room = 7.4 * max(map(len, names)) + 12  # wide letters, as in "dream", take more than the mean
    beside = any(names) and (width >= _WIDE or room <= _BESIDE * width)
    right = width - (room if beside else 18)
    top, bottom, lone = 34 if above else 12, height - (42 if below else 24), min(xs) == max(xs)
    return _Frame(left, right, top, bottom, x, (low, high), log, beside, lone)


def _rows(pixels: float) -> int:
    """How many horizontal lines a chart of this height has room for."""
    return max(3, int(pixels) // 52)


def _axes(frame: _Frame, x_label: str, y_label: str, title: str) -> str:
    low, high = frame.y
    parts = []
    for value in log_ticks(low, high) if frame.log else ticks(low, high, _rows(frame.bottom - frame.top)):
        y = frame.py(value)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<text x="{frame.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    count = max(3, int(frame.right - frame.left) // 110)
    for value in [sum(frame.x) / 2] if frame.lone else ticks(*frame.x, count=count):
        x = frame.px(value)
        parts.append(f'<text x="{x:.1f}" y="{frame.bottom + 18:.1f}" text-anchor="middle">{short(value)}</text>')
    if x_label:
        x, y = (frame.left + frame.right) / 2, frame.bottom + 36
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(x_label)}</text>')
    if title:
        room = int((frame.right - 2) / 6.6)  # letters of the bold title
        cut = title if len(title) <= room else f"{title[: room - 1]}…"
        parts.append(f'<text class="title" x="2" y="15">{escape(cut)}<title>{escape(title)}</title></text>')
    elif y_label:
        parts.append(f'<text x="2" y="15">{escape(y_label)}</text>')
    return "".join(parts)


def _series(s: Series, frame: _Frame) -> str:
    points = [(frame.px(x), frame.py(y)) for x, y in zip(s.x, s.y, strict=True)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = []
    if s.error is not None and s.dots:
        for x, y, e in zip(s.x, s.y, s.error, strict=True):
            at = frame.px(x)
            parts.append(f'<path class="bar" d="M{at:.1f} {frame.py(y - e):.1f}V{frame.py(y + e):.1f}"/>')
    elif s.error is not None:
        up = [(x, y + e) for x, y, e in zip(s.x, s.y, s.error, strict=True)]
        down = [(x, y - e) for x, y, e in zip(s.x, s.y, s.error, strict=True)][::-1]
        corners = " ".join(f"{frame.px(x):.1f},{frame.py(y):.1f}" for x, y in up + down)
        parts.append(f'<polygon class="band" points="{corners}"/>')
    if len(points) > 1:
        parts.append(f'<path class="line{" faint" if s.faint else ""}" d="{path}"/>')
    if s.dots or len(points) == 1:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
    return f'<g class="c{s.colour}">{"".join(parts)}</g>'


def _level(level: Level, frame: _Frame) -> str:
    y = frame.py(level.y)
    return f'<g class="c{level.colour}"><path class="level" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/></g>'


def _labels(series: Sequence[Series], levels: Sequence[Level], frame: _Frame) -> str:
    """Names of lines and levels at their right ends, moved apart where they would overlap."""
    lift = -4 if frame.beside else 7
    wanted = [(frame.py(s.y[-1]) - lift, s.label, s.colour) for s in series if s.label]
    wanted += [(frame.py(level.y) - lift, _named(level), level.colour) for level in levels]
    placed: list[tuple[float, str, int]] = []
    for y, label, colour in sorted(wanted):
        at = max(y, frame.top + 4, placed[-1][0] + 15 if placed else -math.inf)
        placed.append((at, label, colour))
    spare = placed[-1][0] - (frame.bottom - 4) if placed else 0.0
    for i in range(len(placed) - 1, -1, -1):  # the lowest may have been pushed out: push back upwards
        if spare > 0:
            limit = placed[i + 1][0] - 15 if i + 1 < len(placed) else frame.bottom - 4
            placed[i] = (min(placed[i][0], limit), *placed[i][1:])
    x, anchor = (frame.right + 8, "start") if frame.beside else (frame.right, "end")
    return "".join(
        f'<g class="c{colour}"><text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(label)}</text></g>"
        for y, label, colour in placed
    )


def _named(level: Level) -> str:
    return f"{level.label} {short(level.y)}"


def _hovers(s: Series, frame: _Frame, x_label: str) -> str:
    every = max(1, math.ceil(len(s.x) / _HOVERS))
    errors = s.error or [0.0] * len(s.x)
    parts = []
    for x, y, e in list(zip(s.x, s.y, errors, strict=True))[::-every]:
        spread = f" ± {short(e)}" if e else ""
        text = f"{s.label + ' ' if s.label else ''}{short(y)}{spread} at {x_label + ' ' if x_label else ''}{short(x)}"
        at = f'cx="{frame.px(x):.1f}" cy="{frame.py(y):.1f}"'
        parts.append(f'<circle class="hover" {at} r="5"><title>{escape(text)}</title></circle>')
    return f'<g class="c{s.colour}">{"".join(parts)}</g>'


def smoothed(y: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` values at every point (of fewer at the beginning).

    >>> smoothed([1, 2, 3, 4], 2)
    [1.0, 1.5, 2.5, 3.5]
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(y, float))])
    last = np.arange(1, len(y) + 1)
    first = np.maximum(last - max(window, 1), 0)
    return ((total[last] - total[first]) / (last - first)).tolist() if len(y) else []
