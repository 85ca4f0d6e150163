"""The parts of a message: the hint for a misspelt word, and the table below."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def near(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The hint for a misspelt word, upper and lower case alike: ``" Did you mean 'reward'?"`` or an empty string.

    Words that are clearly further from it than the nearest are not named.

    >>> near("rewrd", ["reward", "action"]), near("CARTPOLE", ["cartpole"]), near("shpae", ["scale", "shape"])
    (" Did you mean 'reward'?", " Did you mean 'cartpole'?", " Did you mean 'shape'?")
    """
    spelt: dict[str, list[str]] = {}
    for name in known:
        spelt.setdefault(name.casefold(), []).append(name)
    written = word.casefold()
    close = difflib.get_close_matches(written, spelt, n=3, cutoff=cutoff)
    far = {f: 1.0 - difflib.SequenceMatcher(None, f, written).ratio() for f in close}
    matches = [m for f in close if far[f] <= far[close[0]] + 0.15 for m in spelt[f]]
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain text table, indented by two spaces, for the body of a message."""
    cells = [list(header), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def numbered(name: str, width: int) -> list[str]:
    """A name for each number of something: its own where it is one.

    >>> numbered("speed", 1), numbered("position", 2)
    (['speed'], ['position 1', 'position 2'])
    """
    return [name] if width == 1 else [f"{name} {i}" for i in range(1, width + 1)]
