"""The Atari protocol, on a stand-in game whose frames are known; the real games need the extra ``atari``."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldformula.envs import Envs
from worldformula.envs.atari import AtariFrames
from worldformula.run.config import EnvConfig


class Frames(gymnasium.Env):
    """Frame k is lit in row k alone; every frame pays 1 and the game ends after ``length`` frames."""

    def __init__(self, length=1000):
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.length, self.number = length, 0

    def frame(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[self.number % 64] = 200
        return frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = 0
        return self.frame(), {}

    def step(self, action):
        self.number += 1
        return self.frame(), 1.0, self.number == self.length, False, {}


def lit(observation):
    return np.flatnonzero(observation["image"][:, 0, 0]).tolist()


def test_four_frames_per_action_and_the_maximum_of_the_last_two():
    env = AtariFrames(Frames(length=10), noops=0)
    assert lit(env.reset(seed=0)[0]) == [0]
    observation, reward, terminated, _, _ = env.step(1)
    assert (lit(observation), reward, terminated) == ([3, 4], 4.0, False)
    assert (env.render() == observation["image"]).all()
    env.step(1)
    observation, reward, terminated, _, _ = env.step(1)
    assert (lit(observation), reward, terminated) == ([9, 10], 2.0, True)


def test_the_number_of_idle_frames_is_random_and_follows_the_seed():
    env = AtariFrames(Frames(), noops=30)
    starts = [lit(env.reset(seed=seed)[0])[0] for seed in range(40)]
    assert starts == [lit(env.reset(seed=seed)[0])[0] for seed in range(40)]
    assert min(starts) < 5
    assert 25 < max(starts) <= 30


def test_a_real_game_where_it_is_installed():
    pytest.importorskip("ale_py")
    envs = Envs("ALE/Pong-v5", 2, **EnvConfig("ALE/Pong-v5").options())
    rows = envs.reset()
    assert rows["image"].shape == (2, 64, 64, 3)
    assert envs.action.size == 6
    again = envs.step(envs.action.zeros(2))["image"]
    envs.reset()
    assert (envs.step(envs.action.zeros(2))["image"] == again).all()
