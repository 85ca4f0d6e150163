"""Words and their numbers: whole words and punctuation marks, in lower case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from worldformula.errors import ConfigError, near

PAD = "<pad>"
PARTS = re.compile(r"<[^<>\s]+>|\w+|[^\w\s]")
SHOWN = 40


def split(text: str) -> list[str]:
    """The words and marks of a text, in lower case.

    >>> split("No, turn around")
    ['no', ',', 'turn', 'around']
    """
    return PARTS.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words by number; the first one stands for "nothing is said" where it is `PAD`.

    Of a tokenizer of your own: a subclass whose `numbers` and `text` call it, with its pieces as ``words``.

    Attributes:
        words: all of them, each once.

    Raises:
        ConfigError: no words, one of them twice, or one text in their place; of `numbers`, an unknown word, with the
            near misses; of `text`, a number that is no word's.

    >>> words = Vocabulary.of(["open the bin", "find the fruit"])
    >>> words.numbers("find the bin"), words.text([3, 5, 1])
    ([2, 5, 1], 'fruit the bin')
    """

    words: tuple[str, ...]
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or not all(isinstance(word, str) for word in self.words):
            raise ConfigError(f"a vocabulary expects several words, ('open', 'bin'), got {self.words!r}")
        object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(self, "_places", {word: place for place, word in enumerate(self.words)})
        if not self.words or len(self._places) != len(self.words):
            twice = sorted({word for word in self.words if self.words.count(word) > 1})
            raise ConfigError(f"a vocabulary expects words, each once; got {f'{twice} twice' if twice else 'none'}")

    @classmethod
    def of(cls, texts: Iterable[str], first: Sequence[str] = (PAD,)) -> Vocabulary:
        """``first``, then the words of some texts in the order of the alphabet."""
        if isinstance(texts, str):
            raise ConfigError(f"Vocabulary.of expects several texts, [{texts!r}], got one, whose letters it would take")
        found = {word for text in texts for word in split(text)}
        return cls((*first, *sorted(found - set(first))))

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int:
        """The number of one word."""
        try:
            return self._places[word]
        except KeyError:
            known = ", ".join(self.words[:SHOWN]) + (" …" if len(self.words) > SHOWN else "")
            raise ConfigError(
                f"no word {word!r} among the {len(self.words)} of this vocabulary.{near(word, self.words)} "
                f"Known are: {known}"
            ) from None

    def numbers(self, text: str) -> list[int]:
        """The numbers of the words of a text."""
        return [self.number(word) for word in split(text)]

    def text(self, numbers: Iterable[int]) -> str:
        """The words of numbers, with spaces between; `PAD` is left out."""
        found = []
        for number in numbers:
            if not (0 <= number < len(self.words) and int(number) == number):
                raise ConfigError(f"expected numbers of words from 0 to {len(self.words) - 1}, got {number}")
            found.append(self.words[int(number)])
        return " ".join(word for word in found if word != PAD)
