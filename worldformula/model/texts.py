"""A text for a world that reads: which words it may have, and what else the world has that a text has not.

Text-only pre-training (Lin et al. 2024, arXiv:2308.01399, section 4.4) is a fit of the same world: of every other
column zeros are read, and of its head and of reward and continuation the weight in the loss is 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldformula.data import DataSet, Reading
from worldformula.data.sentences import sentences
from worldformula.errors import ConfigError
from worldformula.model.through_time import Columns, is_action
from worldformula.world.weights import BESIDE

if TYPE_CHECKING:
    from worldformula.envs.columns import Column


def spoken(text: str, how: Reading) -> DataSet:
    """The lines of a text file as episodes of the words of ``how.env``, and its other columns as zeros.

    Raises:
        ConfigError: no environment is named, it does not speak, or a word that it does not have.
    """
    if not how.env:
        raise ConfigError(
            f"{text}: a world reads the words of an environment, whose other observations a text leaves at zero: say "
            "which one, --set data.env=home_dynamics"
        )
    from worldformula.envs.factory import argument, make  # Gymnasium, which a fit of anything else does without
    from worldformula.envs.words import column_of_words, vocabulary_of

    env = make(how.env, **dict(map(argument, how.env_args)))
    key, words = column_of_words(env.observations, vocabulary_of(env), how.env)
    zeros = {name: _column(column) for name, column in env.observations.items() if name != key}
    widths = [(name, wide) for name, spec in env.actions.items() for wide in spec.widths]
    for place, (_, wide) in enumerate(widths, 1):
        column = "action" if len(widths) == 1 else f"action/{place}"
        zeros[column] = {"kind": "vector", "shape": [wide], "scale": 1}
    env.close()
    return replace(sentences(Path(text).expanduser(), words, key, how), zeros=zeros)


def _column(column: Column) -> dict[str, Any]:
    """As `columns_of` writes it."""
    if column.kind == "image":
        return {"kind": "image", "shape": list(column.shape), "scale": 255}
    if column.kind == "discrete":
        return {"kind": "classes", "shape": list(column.shape), "classes": list(column.classes)}
    return {"kind": "vector", "shape": list(column.shape), "scale": 1}


def unread(sizes: Any, columns: Columns, given: Collection[str]) -> Iterator[str]:
    """``key=value`` texts that make a world read zeros for columns that the data do not have, and not learn them.

    Raises:
        ConfigError: this world has no such settings.
    """
    absent = [key for key, column in columns.items() if column.get("zero") and not is_action(key)]
    if not any(column.get("zero") for column in columns.values()):
        return
    have = {field.name for field in fields(sizes)}
    wanted: Mapping[str, list[str]] = {"zeroed": absent, "weights": [f"{key}=0" for key in (*absent, *BESIDE)]}
    if not wanted.keys() <= have:
        raise ConfigError(
            "this world cannot leave out what a text does not have: expected one whose settings have zeroed and "
            "weights, such as worldformula fit dynalang or rssm"
        )
    yield from (f"sizes.{name}={','.join(value)}" for name, value in wanted.items() if name not in given and value)
