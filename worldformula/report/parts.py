"""What all pages are made of: the document, sections, pictures, the formula in all its forms, settings, the foot.

Everything that comes from a run (names, settings, numbers) is escaped; a content security policy forbids scripts and
requests even to what a foreign run folder may hold.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from worldformula.charts import Series, line_chart
from worldformula.report.evidence import Written
from worldformula.report.highlight import highlight
from worldformula.report.style import STYLE
from worldformula.training.settings import flat

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

Measured = Sequence[Mapping[str, float]]


def document(name: str, body: str) -> str:
    """The whole page: one HTML file without a script and without anything to load."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} – worldformula</title><style>{STYLE}</style></head><body><main>"
        f"{body}</main></body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A part of the page under a heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, side by side."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in rows) + "</dl>"


def column(metrics: Measured, key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the lines that have this number."""
    lines = [line for line in metrics if key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def duration(seconds: float) -> str:
    """In the largest two units.

    >>> duration(42), duration(754), duration(9000)
    ('42 s', '12 min 34 s', '2 h 30 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def both(draw: Callable[[int, int], str]) -> str:
    """One chart twice: for wide pages, and for narrow ones with letters of the same size."""
    return f'<figure><div class="wide">{draw(952, 360)}</div><div class="narrow">{draw(364, 280)}</div></figure>'


def picture(data: bytes, alt: str) -> str:
    """A WebP picture inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/webp;base64,{base64.b64encode(data).decode()}">'


_LEGEND = (
    ("latent", '<circle cx="10" cy="10" r="8"/>'),
    ("observed", '<circle cx="10" cy="10" r="8" style="fill:currentColor;fill-opacity:.17"/>'),
    (
        "observed in part",
        '<circle cx="10" cy="10" r="8"/><path d="M10 2A8 8 0 0 1 10 18Z" style="fill:currentColor;fill-opacity:.17"/>',
    ),
    ("deterministic", '<circle cx="10" cy="10" r="8"/><circle cx="10" cy="10" r="5.5"/>'),
    ("plate", '<rect x="2" y="4" width="16" height="12" rx="3"/>'),
    ("generative", '<path d="M1 10H19"/>'),
    ("inference", '<path d="M1 10H19" stroke-dasharray="4 3"/>'),
)


def formulas(formula: Written | None, title: str) -> str:
    """A loss as mathematics, as a graph and as code."""
    if formula is None:
        return ""
    drawn = 'width="20" height="20" viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="1.3"'
    legend = "".join(f"<span><svg {drawn}>{shape}</svg>{name}</span>" for name, shape in _LEGEND)
    return (
        section(
            title,
            f'<div class="formula">{formula.mathml}</div>',
            f"<details><summary>as LaTeX and as text</summary><pre>{escape(formula.latex)}</pre>"
            f"<pre>{escape(formula.text)}</pre></details>",
        )
        + section("The graphical model", f'<div class="graph">{formula.graph}</div><div class="legend">{legend}</div>')
        + section(
            "The code that runs",
            '<p class="note">Emitted from the formula: this is the function that training calls.</p>',
            f"<pre><code>{highlight(formula.code)}</code></pre>",
        )
    )


def small(metrics: Measured, names: Sequence[str]) -> str:
    """A small chart per number; a logarithmic axis where the values span more than a factor of thirty."""
    charts = []
    for name in names:
        steps, values = column(metrics, name)
        log = len(values) > 1 and min(values) > 0 and max(values) > 30 * min(values)
        label = name.removeprefix("loss/") + (" (log)" if log else "")
        charts.append(line_chart([Series("", steps, values)], title=label, width=300, height=170, log=log))
    return f'<div class="many">{"".join(charts)}</div>'


def settings(config: Mapping[str, Any]) -> str:
    """Every setting of a run."""
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in flat(config))
    return section("Settings", f'<div class="settings"><table>{rows}</table></div>') if rows else ""


def foot(machine: Mapping[str, str]) -> str:
    """Where and when it was measured."""
    facts = " · ".join(f"{k} {v}" for k, v in machine.items() if v)
    return f"<footer>{escape(facts or 'Not measured with the agent: numbers come from the log alone.')}</footer>"
