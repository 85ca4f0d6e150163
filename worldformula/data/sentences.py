"""A text as episodes of words, a line each: what a world that reads learns from before it sees anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from worldformula.data.base import DataSet
from worldformula.data.own import Reading
from worldformula.data.sequences import sequences
from worldformula.errors import ConfigError
from worldformula.vocabulary import Vocabulary


def sentences(path: Path, words: Vocabulary, key: str, how: Reading) -> DataSet:
    """Rows of words ``[R]`` int64 under ``key``, the lines one behind the other; some lines are kept for tests.

    Raises:
        ConfigError: it is no UTF-8, has fewer than two lines, or a word that ``words`` does not have: the line is told.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            numbers = words.numbers(line)
        except ConfigError as error:
            raise ConfigError(
                f"{path}, line {number}: {error}\nThe words of a text are those of data.env={how.env}, whose networks "
                "learn them: leave such lines out, or take an environment that says them"
            ) from None
        found += [{key: np.array(numbers, np.int64)}] if numbers else []
    if len(found) < 2:
        raise ConfigError(f"{path}: expected two lines of words or more, a sentence each, got {len(found)}")
    count = sum(len(line[key]) for line in found)
    note = f"{path.name}: {count:,} words, {len(words)} different ones at most;"
    return replace(sequences(path.name, found, how, note), words=words.words)
