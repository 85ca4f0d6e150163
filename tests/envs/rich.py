"""An environment with every kind of observation and action, whose every number says where it comes from."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 6


class Rich(gymnasium.Env):
    """Observes its step and what it was told to do; forbids one choice and most faces of the second die."""

    def __init__(self, length=LENGTH, mask="info"):
        self.observation_space = spaces.Dict(
            camera=spaces.Box(0, 255, (8, 10, 3), np.uint8),
            board=spaces.Box(0, 1, (4, 4, 1), np.uint8),
            depth=spaces.Box(-2.0, 2.0, (8, 9, 1)),
            body=spaces.Dict(speed=spaces.Box(-np.inf, np.inf, (2,), np.float64), heat=spaces.Box(0.0, 99.0, ())),
            word=spaces.Discrete(5, start=1),
            faces=spaces.MultiDiscrete([7, 3]),
            switches=spaces.MultiBinary(2),
        )
        self.action_space = spaces.Dict(
            choice=spaces.Discrete(3, start=2),
            force=spaces.Box(np.array([0.0, -4.0], np.float32), np.array([10.0, 2.0], np.float32)),
            dice=spaces.MultiDiscrete([2, 3]),
            lamps=spaces.MultiBinary(2),
        )
        if mask == "observation":
            self.observation_space = spaces.Dict(
                {**self.observation_space.spaces, "action_mask": spaces.Dict(choice=spaces.MultiBinary(3))}
            )
        self.length, self.mask, self.told = length, mask, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.seed = 0, seed
        action = {
            "choice": 2,
            "force": np.zeros(2, np.float32),
            "dice": np.zeros(2, int),
            "lamps": np.zeros(2, np.int8),
        }
        return self.observe(action), self.info()

    def observe(self, action):
        t = self.count
        camera = np.full((8, 10, 3), 10 * t, np.uint8)
        camera[t, 2, 1] = 200
        found = {
            "camera": camera,
            "board": np.full((4, 4, 1), t % 2, np.uint8),
            "depth": np.full((8, 9, 1), -2 + t / 2, np.float32),
            "body": {"speed": np.array(action["force"], np.float64), "heat": np.float32(t)},
            "word": 1 + t % 5,
            "faces": np.array([t % 7, action["dice"][1]]),
            "switches": np.array(action["lamps"], np.int8),
        }
        if self.mask == "observation":
            found["action_mask"] = {"choice": np.arange(3) != t % 3}
        return found

    def info(self):
        t = self.count
        masks = {"choice": (np.arange(3) != t % 3).astype(np.int8)}
        masks["dice"] = (np.ones(2, np.int8), np.array([t % 2, 1 - t % 2, 0], np.int8))
        info = {"success": float(t == self.length), "map": np.full((2, 2), t)}
        return info | ({"action_mask": masks} if self.mask == "info" else {})

    def step(self, action):
        self.told.append(action)
        self.count += 1
        reward = 100 * self.count + action["choice"]
        return self.observe(action), reward, self.count == self.length, False, self.info()


def register():
    """Register ``tests/Rich-v0`` with Gymnasium, once."""
    if "tests/Rich-v0" not in gymnasium.registry:
        gymnasium.register("tests/Rich-v0", entry_point=Rich)
    return "tests/Rich-v0"
