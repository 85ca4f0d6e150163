"""What an environment says: one word a row, sentences one after another; a new one may cut off the last."""

from __future__ import annotations

from collections import deque
from typing import Any

from worldformula.errors import ConfigError, near
from worldformula.vocabulary import Vocabulary

HINTS = ("true", "none", "swapped")
"""What is said is true, or nothing is said, or what is said is false: whoever follows it then fails."""


def hinted(hint: Any) -> str:
    """An option ``hint``, from Python or from a command line, where true and none are read as values.

    Raises:
        ConfigError: another one.
    """
    found = {True: "true", None: "none", False: "none"}.get(hint, hint) if not isinstance(hint, str) else hint
    if found not in HINTS:
        raise ConfigError(f"expected hint as one of {', '.join(HINTS)}, got {hint!r}.{near(str(hint), HINTS)}")
    return str(found)


class Speech:
    """The words that wait to be said.

    Attributes:
        vocabulary: word 0 is said where nothing waits.
        sentence: the one that the latest word began, or an empty text.

    >>> speech = Speech(Vocabulary.of(["find the fruit"]))
    >>> speech.say("find the fruit")
    >>> [speech.word() for _ in range(4)], speech.idle
    ([1, 3, 2, 0], True)
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.sentence = vocabulary, ""
        self._coming: deque[tuple[int, str]] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._coming

    def __len__(self) -> int:
        return len(self._coming)

    def say(self, text: str) -> None:
        """Says a sentence after those that wait."""
        numbers = self.vocabulary.numbers(text)
        self._coming.extend((number, text if place == 0 else "") for place, number in enumerate(numbers))

    def cut(self, most: int) -> None:
        """Keeps the next ``most`` words alone."""
        while len(self._coming) > most:
            self._coming.pop()

    def interrupt(self, text: str = "") -> None:
        """Forgets what waits, and says a sentence at once."""
        self._coming.clear()
        self.say(text)

    def word(self) -> int:
        """The next word."""
        number, self.sentence = self._coming.popleft() if self._coming else (0, "")
        return number
