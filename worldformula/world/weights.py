"""Weights of what a world predicts, as settings: ``reward=0,continue=0,view=0.5``."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

from worldformula.errors import ConfigError, near
from worldformula.formula import Expression, Factor, log

BESIDE = ("reward", "continue")  # what is predicted beside the observations


class Weights(Mapping[str, float]):
    """How much each prediction counts in a loss, by the key of the observation, "reward" and "continue"; 1 by default.

    Args:
        texts: ``key=number`` each.
        observations: the keys that there are.

    Raises:
        ConfigError: another key, with the near misses; a number below 0, or none.

    >>> weights = Weights(("reward=0", "image=0.5"), ("image", "token"))
    >>> weights["reward"], weights["image"], weights["token"]
    (0.0, 0.5, 1.0)
    """

    def __init__(self, texts: Iterable[str], observations: Collection[str]) -> None:
        self._own = dict.fromkeys((*observations, *BESIDE), 1.0)
        for text in texts:
            key, _, number = (part.strip() for part in text.partition("="))
            if key not in self._own:
                known = ", ".join(self._own)
                raise ConfigError(
                    f"weights: nothing called {key!r} is predicted.{near(key, self._own)} There are: {known}"
                )
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"weights: expected key=number with a number of at least 0, got {text!r}")
            self._own[key] = value

    def __getitem__(self, key: str) -> float:
        return self._own[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    def common(self, keys: Collection[str], what: str) -> float:
        """The one weight of several that are predicted together.

        Raises:
            ConfigError: they differ.
        """
        found = {self[key] for key in keys}
        if len(found) != 1:
            raise ConfigError(
                f"weights: {what} are predicted together, expected one weight for {', '.join(keys)}, got "
                f"{', '.join(f'{key}={self[key]:g}' for key in keys)}"
            )
        return found.pop()


def less(step: Expression, factor: Factor, weight: float) -> Expression:
    """A loss and the negated log-density of a factor; nothing of weight 0, which the formula then does not have."""
    return step if not weight else step - log(factor) if weight == 1 else step - weight * log(factor)
