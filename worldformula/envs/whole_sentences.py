"""Another interface of language: a whole sentence at each row, as one vector, where `dynalang` reads it word by word.

worldformula train dynalang --env home_dynamics --wrap worldformula.envs.whole_sentences:WholeSentences --run runs/whole
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs.checked import Env, Step
from worldformula.envs.words import vocabulary_of
from worldformula.errors import ConfigError

KEY = "token"


class WholeSentences(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Of an environment that speaks, the column ``token`` as float32 ``[V]``: how often the sentence that is being said
    has each word of the vocabulary, from its first row to its last; zeros where nothing is said.

    The sentence is known as a whole at its first word, and has no order (Lin et al. 2024, figure 6, give DreamerV3 the
    vectors of a language model, which no package brings).

    Raises:
        ConfigError: an environment without words, or whose info does not tell the ``sentence``.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        words, space = vocabulary_of(env), env.observation_space
        if words is None or not isinstance(space, spaces.Dict) or KEY not in space.spaces:
            raise ConfigError(f"WholeSentences expects an environment with words in a column {KEY!r}, got {env}")
        self.words = words
        box = spaces.Box(0, np.inf, (len(words),), np.float32)
        self.observation_space = spaces.Dict({**space.spaces, KEY: box})
        self._told: NDArray[np.float32] = np.zeros(len(words), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._whole(observation, info), info

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._whole(observation, info), float(reward), terminated, truncated, info

    def _whole(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if "sentence" not in info:
            raise ConfigError(
                f"WholeSentences expects info['sentence'] at each row, got {', '.join(info) or 'nothing'}"
            )
        if not int(observation[KEY]):
            self._told = np.zeros(len(self.words), np.float32)
        elif info["sentence"]:
            numbers = self.words.numbers(info["sentence"])
            self._told = np.bincount(numbers, minlength=len(self.words)).astype(np.float32)
        return {**observation, KEY: self._told.copy()}
