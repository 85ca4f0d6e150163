"""An environment whose observation is the number of its step, so that every index error shows."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

NOWHERE = -1.0


class Counting(gymnasium.Env):
    """Observes (step, last action, episode); the reward is 10·step + action; ends after ``length`` steps."""

    def __init__(self, length=5, ends="terminated", choices=4):
        self.observation_space = spaces.Box(-1.0, 1e6, (3,), np.float32)
        self.action_space = spaces.Discrete(choices)
        self.length, self.ends = length, ends
        self.step_number, self.episode = 0, 0

    def _observe(self, action):
        return np.array([self.step_number, action, self.episode], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        self.episode += 1
        return self._observe(NOWHERE), {}

    def step(self, action):
        self.step_number += 1
        over = self.step_number == self.length
        reward = 10.0 * self.step_number + action
        return self._observe(action), reward, over and self.ends == "terminated", over and self.ends == "truncated", {}


def register():
    """Register ``tests/Counting-v0`` with Gymnasium, once."""
    if "tests/Counting-v0" not in gymnasium.registry:
        gymnasium.register("tests/Counting-v0", entry_point=Counting)
    return "tests/Counting-v0"
