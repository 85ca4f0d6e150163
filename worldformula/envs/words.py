"""What an environment that speaks says of its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.vocabulary import Vocabulary


def vocabulary_of(env: Any) -> Vocabulary | None:
    """The words of an environment, ``metadata["vocabulary"]``; None of one that does not speak."""
    found = (getattr(env, "metadata", None) or {}).get("vocabulary")
    return found if isinstance(found, Vocabulary) else None


def column_of_words(observations: Mapping[str, Column], words: Vocabulary | None, name: str) -> tuple[str, Vocabulary]:
    """The column of the words of an environment called ``name``, and what their numbers stand for.

    Raises:
        ConfigError: it does not speak.
    """
    counts = {key: c.classes for key, c in observations.items() if c.kind == "discrete" and not c.shape}
    keys = [key for key, classes in counts.items() if words is not None and classes == (len(words),)]
    if words is None or not keys:
        raise ConfigError(
            f"{name} does not speak: expected an environment with a column of words and their vocabulary, "
            "metadata['vocabulary'], such as home_dynamics or messenger"
        )
    return keys[0], words
