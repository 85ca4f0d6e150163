"""What a notebook shows: texts that stay texts everywhere else, and HTML that needs neither a network nor a theme.

JupyterLab shows the first of ``text/html``, ``text/latex``, ``image/svg+xml`` and ``text/plain`` that a result has. So
formulas are MathML inside HTML, which browsers typeset by themselves, and LaTeX goes along for a PDF. Pictures are HTML
too: as SVG they would stand in an ``<img>``, where they cannot take the colour of the letters around them.

Every style stands in its element, in the colour of the letters, thinned. Colours of code are those of the editor, or
else of a lightness that can be read on white and on black.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape, unescape
from itertools import groupby
from pathlib import Path
from typing import Any

from worldformula.errors import table

_RULE = "rgba(128,128,128,.35)"
_CELL = "text-align:left;padding:.4em 1.1em .4em .5em;max-width:none;border:0"
_SHORT = 48  # characters that a cell keeps on one line
_MUTED = "opacity:.72"
_MONO = "ui-monospace,'SF Mono','Cascadia Code','JetBrains Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace"
# Kind of token in Pygments -> name of its colour in JupyterLab's editor, a colour for white and black, further style.
_TOKENS = (
    ("Comment", "comment", "#408080", "font-style:italic"),
    ("Literal.String", "string", "#cf4446", ""),
    ("Literal.Number", "number", "#2e8b46", ""),
    ("Keyword", "keyword", "#2e8b46", "font-weight:600"),
    ("Operator.Word", "keyword", "#2e8b46", "font-weight:600"),
    ("Name.Function", "def", "#4479d9", ""),
)


# ------------------------------------------------------------------------------------------------------ texts that show


class Display(str):
    """A text of which a notebook shows more; everywhere else it is what ``str`` is, and ``str(...)`` the plain text."""

    __slots__ = ()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's plain text: the lines as they are, without quotation marks."""
        for i, line in enumerate(self._plain().split("\n")):
            if i:
                printer.break_()
            printer.text(line)

    def _plain(self) -> str:
        return str(self)


class Source(Display):
    """Python source, shown in colours."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = (
            f"margin:.2em 0;padding:.7em 1em;border-left:3px solid {_RULE};font-family:{_MONO};font-size:.93em;"
            "line-height:1.5;white-space:pre;overflow-x:auto;background:none"
        )
        return f'<pre style="{style}">{highlighted(self)}</pre>'


class Picture(Display):
    """An SVG, shown as one."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto;padding:.3em 0">{self}</div>'

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: str | Path) -> Path:
        """Writes a file that browsers and drawing programs open; returns its path."""
        Path(path).write_text(str(self), encoding="utf-8")
        return Path(path)

    def _plain(self) -> str:
        """What the picture says of itself: its source is not for reading."""
        label = re.search(r'aria-label="([^"]*)"', self)
        return f"<Picture {unescape(label.group(1)) if label else f'of {len(self)} characters'}>"


class Written(Display):
    """A text that a notebook writes in another way, such as the name of a term, as mathematics."""

    __slots__ = ("html",)
    html: str

    def __new__(cls, text: str, html: str) -> Written:
        """The text, and what a notebook shows in its place."""
        written = super().__new__(cls, text)
        written.html = html
        return written

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.html

    def _repr_html_(self) -> str:
        return self.html


class Table(Display):
    """Rows under a header, and what is said below them, each on lines of its own."""

    __slots__ = ("below", "header", "rows")
    header: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    below: tuple[str, ...]

    def __new__(cls, header: Sequence[str], rows: Iterable[Sequence[object]], below: Iterable[str] = ()) -> Table:
        """The text is that of `errors.table`, then the lines below."""
        kept, said = tuple(map(tuple, rows)), tuple(below)
        made = super().__new__(cls, "\n".join((table(header, kept), *said)))
        made.header, made.rows, made.below = tuple(header), kept, said
        return made

    def __getnewargs__(self) -> tuple[object, ...]:  # type: ignore[override]
        return self.header, self.rows, self.below

    def _repr_html_(self) -> str:
        return stack(tabular(self.header, self.rows), *map(note, self.below))


# ----------------------------------------------------------------------------------------------------------------- HTML


def cell(value: object) -> str:
    """Anything inside a table or a line: what it says of itself as HTML, or else its text."""
    return value.html if isinstance(value, Written) else escape(str(value))


def tabular(
    header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = (), align: str = "baseline"
) -> str:
    """A table, columns of ``numbers`` flush right; ``align`` is how the cells of a row stand: ``top`` for tall ones."""
    right = frozenset(numbers)
    look = f"{_CELL};vertical-align:{align}"

    def row(tag: str, cells: Sequence[object], style: str) -> str:
        shown = []
        for i, value in enumerate(cells):
            own = ";text-align:right;font-variant-numeric:tabular-nums" if i in right else ""
            own += ";white-space:nowrap" if len(str(value)) <= _SHORT else ""
            shown.append(f'<{tag} style="{style}{own}">{cell(value)}</{tag}>')
        return "".join(shown)

    head = row("th", header, f"{look};font-weight:600;border-bottom:1px solid {_RULE}")
    body = "".join(f"<tr>{row('td', cells, look)}</tr>" for cells in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return (
        '<table style="border-collapse:collapse;margin:.2em 0;table-layout:auto;font-size:inherit">'
        f"{top}<tbody>{body}</tbody></table>"
    )


def title(name: str, said: str = "") -> str:
    """A name, and in a line what it is."""
    return beside(f'<div style="margin:.25em .5em;font-weight:600">{escape(name)}</div>', note(said) if said else "")


def note(text: object) -> str:
    """A quiet line; several lines keep their columns."""
    if "\n" in str(text):
        style = f"margin:.4em .5em;background:none;{_MUTED};font-family:{_MONO};font-size:.9em;line-height:1.4"
        style += ";white-space:pre"
        return f'<pre style="{style}">{cell(text)}</pre>'
    return f'<div style="{_MUTED};margin:.25em .5em">{cell(text)}</div>'


def mathematics(mathml: str) -> str:
    """A ``<math>`` element on lines of its own, flush left, large enough for its subscripts."""
    return f'<div style="padding:.35em .4em;font-size:1.4em"><div style="display:inline-block">{mathml}</div></div>'


def beside(*parts: str) -> str:
    """Pieces of HTML on one line, while there is room."""
    return f'<div style="display:flex;flex-wrap:wrap;align-items:baseline;column-gap:.7em">{"".join(parts)}</div>'


def stack(*parts: str) -> str:
    """Pieces of HTML below each other; what is too wide can be scrolled."""
    return f'<div style="overflow-x:auto;overflow-y:hidden;line-height:1.45">{"".join(parts)}</div>'


def highlighted(source: str) -> str:
    """Python source as HTML, the same characters, with a colour for each kind of token."""
    from pygments import lex
    from pygments.lexers.python import PythonLexer

    found = ((_style(str(kind)), text) for kind, text in lex(source, PythonLexer(stripnl=False, ensurenl=False)))
    out = []
    for style, pieces in groupby(found, key=lambda piece: piece[0]):
        shown = escape("".join(text for _, text in pieces), quote=False)
        out.append(f'<span style="{style}">{shown}</span>' if style else shown)
    return "".join(out)


def _style(kind: str) -> str:
    """Of the tokens of one kind; the empty text for those in the colour of the letters."""
    for prefix, name, colour, more in _TOKENS:
        if kind.startswith(f"Token.{prefix}"):
            return ";".join(filter(None, (f"color:var(--jp-mirror-editor-{name}-color,{colour})", more)))
    return ""


# -------------------------------------------------------------------------------------------------------------- numbers


def decimals(values: Sequence[float]) -> list[str]:
    """Numbers for one column: the same decimals, which give five digits of the largest and three of the smallest; each
    for itself where that would be too many.

    >>> decimals([13743.8118, -0.51696]), decimals([1234.5, 1e-6]), decimals([float("nan")])
    (['13743.812', '−0.517'], ['1234.5', '1e−06'], ['nan'])
    """
    sizes = [math.floor(math.log10(abs(v))) for v in values if v and math.isfinite(v)] or [0]
    places = max(4 - max(sizes), 2 - min(sizes), 0)
    fixed = max(sizes) + places < 10
    return [(f"{v:.{places}f}" if fixed else f"{v:.5g}").replace("-", "−") for v in values]


def grouped(number: float) -> str:
    """A count with narrow spaces between thousands."""
    return f"{int(number):,}".replace(",", "\u202f")
