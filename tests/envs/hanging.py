"""An environment that hangs, or dies, at a step that its seed decides. Imported by the processes that serve it."""

from __future__ import annotations

import os
import time

import gymnasium

from tests.envs.counting import Counting


class Hanging(Counting):
    """Hangs at step 3 where its seed is even, and takes its process along at step 4 where the seed is 1 mod 4."""

    def __init__(self, seconds=60.0, die=True):
        super().__init__()
        self.seconds, self.die = seconds, die

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action):
        answer = super().step(action)
        if self.step_number == 3 and self.seed % 2 == 0:
            time.sleep(self.seconds)
        if self.step_number == 4 and self.seed % 4 == 1 and self.die:
            os._exit(7)
        return answer


class Unlike(Counting):
    """Refuses the last choice."""

    def step(self, action):
        if action == 3:
            raise RuntimeError("not this one")
        return super().step(action)


gymnasium.register("tests/Hanging-v0", entry_point=Hanging)
