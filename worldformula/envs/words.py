"""What an environment that speaks says of its words."""

from __future__ import annotations

from typing import Any

from worldformula.envs.typed import Typed
from worldformula.errors import ConfigError
from worldformula.vocabulary import Vocabulary


def vocabulary_of(env: Any) -> Vocabulary | None:
    """The words of an environment, ``metadata["vocabulary"]``; None of one that does not speak."""
    found = (getattr(env, "metadata", None) or {}).get("vocabulary")
    return found if isinstance(found, Vocabulary) else None


def column_of_words(env: Typed) -> tuple[str, Vocabulary]:
    """The column of the words, and what their numbers stand for.

    Raises:
        ConfigError: it does not speak.
    """
    words = vocabulary_of(env)
    counts = {key: c.classes for key, c in env.observations.items() if c.kind == "discrete" and not c.shape}
    keys = [key for key, classes in counts.items() if words is not None and classes == (len(words),)]
    if words is None or not keys:
        raise ConfigError(
            f"{env.name} does not speak: expected an environment with a column of words and their vocabulary, "
            "metadata['vocabulary'], such as home_dynamics or messenger"
        )
    return keys[0], words
