"""A text as rows of characters, each a whole number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldformula.data.base import DataSet
from worldformula.errors import ConfigError


def text_file(path: Path, length: int, test: float) -> DataSet:
    """``x [N, length]`` int64, the places of characters in the sorted alphabet; the end of the text is the test part.

    Raises:
        ConfigError: it is no UTF-8, or too short for a row of each part.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8: {error}") from error
    rows = len(text) // length
    if rows < 2:
        raise ConfigError(
            f"{path} has {len(text)} characters; rows of {length} need {2 * length} or more: --set data.length=…"
        )
    alphabet = "".join(sorted(set(text)))
    places = {character: place for place, character in enumerate(alphabet)}
    x = np.array([places[c] for c in text[: rows * length]], np.int64).reshape(rows, length)
    learnt = rows - min(max(1, round(test * rows)), rows - 1)
    note = f"{path.name}: {len(text):,} characters, {len(alphabet)} different ones, in rows of {length}."
    return DataSet(path.name, {"x": x[:learnt]}, {"x": x[learnt:]}, (length,), note, alphabet=alphabet)
