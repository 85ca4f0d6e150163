"""An environment whose words are the ids of a tokenizer: pairs of letters."""

import gymnasium
import numpy as np
from gymnasium import spaces

from worldformula.vocabulary import PAD, Vocabulary

SAID = "open bin"


class Pieces(Vocabulary):
    """Two letters a piece, as a tokenizer of another package would have it."""

    def numbers(self, text):
        return [self.number(text[i : i + 2]) for i in range(0, len(text), 2)]

    def text(self, numbers):
        return "".join(self.words[int(n)] for n in numbers)


VOCABULARY = Pieces((PAD, "op", "en", " b", "in", "ba", "sh", "ut", " s"))


class Tokenized(gymnasium.Env):
    """Says the same, again and again."""

    def __init__(self):
        self.metadata = {"render_modes": [], "vocabulary": VOCABULARY}
        words = VOCABULARY
        self.observation_space = spaces.Dict(
            {"body": spaces.Box(-1.0, 1.0, (2,), np.float32), "id": spaces.Discrete(len(words))}
        )
        self.action_space, self.said, self.count = spaces.Discrete(2), words.numbers(SAID), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._row(), {}

    def step(self, action):
        self.count += 1
        return self._row(), float(action), False, self.count == 8, {}

    def _row(self):
        return {"body": np.zeros(2, np.float32), "id": self.said[self.count % len(self.said)]}


gymnasium.register("tests/Tokenized-v0", entry_point=Tokenized)
