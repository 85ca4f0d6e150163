"""An environment of one's own: a picture, numbers and a token are seen, two actions are taken, one of them masked.

python examples/04_own_environment.py; how an agent learns it: docs/tutorials/11_own_environments.md
"""

import gymnasium
import numpy as np
from gymnasium import spaces

from worldformula.envs.returns import random_policy_return

COLOURS = np.array([[220, 60, 40], [60, 200, 80], [70, 90, 230], [20, 20, 20]], np.uint8)  # the last one is the gap's
GAP, LEFT, STAY, RIGHT, WAIT, SOFT, FIRM = -1, 0, 1, 2, 0, 1, 2


class Carousel(gymnasium.Env):
    """An arm before a carousel of three places: a gap in front of it, two plates of unlike colours beside the gap.

    It turns the carousel to the plate that was ordered and takes it, softly a light one and firmly a heavy one: 1 if
    all of that is right, else 0. Whatever it takes, it then stands before a gap again, beside it two new plates, one of
    them ordered. The camera shows places and colours, the scales the weight in front (nothing 0, light 2, heavy 20) and
    the time left. Every plate needs a turn before it: 24 steps give 12 at most. Who ignores camera or order finds left
    and right equally likely at every plate, and who ignores the scales light and heavy: that is 6 at most on average.
    """

    def __init__(self, steps: int = 24) -> None:
        camera, high = spaces.Box(0, 255, (16, 16, 3), np.uint8), np.array([20, 1], np.float32)
        self.observation_space = spaces.Dict(camera=camera, scales=spaces.Box(0 * high, high), order=spaces.Discrete(3))
        self.action_space = spaces.Dict(turn=spaces.Discrete(3), tool=spaces.Discrete(3))
        self.steps = steps

    def serve(self) -> None:
        """Two new plates, one of them ordered. The arm is at the second of the three places."""
        left, right = self.np_random.permutation(3)[:2]
        self.places, self.heavy = np.array([left, GAP, right]), self.np_random.integers(2, size=3) == 1
        self.order = int(self.np_random.choice([left, right]))

    def look(self) -> tuple[dict, dict]:
        """Observation and info: the firm grip must not close on nothing."""
        camera, plate = np.full((16, 16, 3), 20, np.uint8), self.places[1] != GAP
        for place, x in zip(self.places, (0, 6, 12), strict=True):
            camera[4:12, x : x + 4] = COLOURS[place]
        scales = np.array([plate * (20 if self.heavy[1] else 2), 1 - self.time / self.steps], np.float32)
        info = {"action_mask": {"tool": np.array([1, 1, plate], np.int8)}}
        return {"camera": camera, "scales": scales, "order": self.order}, info

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """The first two plates."""
        super().reset(seed=seed)
        self.time = 0
        self.serve()
        return self.look()

    def step(self, action: dict) -> tuple[dict, float, bool, bool, dict]:
        """Takes the plate in front; where there is none, or without the tool, turns the carousel."""
        self.time, right = self.time + 1, False
        if action["tool"] != WAIT and self.places[1] != GAP:
            right = self.places[1] == self.order and (action["tool"] == FIRM) == self.heavy[1]
            self.serve()
        else:
            shift = 1 - int(action["turn"])  # the plate on the left comes to the middle
            self.places, self.heavy = np.roll(self.places, shift), np.roll(self.heavy, shift)
        observation, info = self.look()
        return observation, float(right), False, self.time == self.steps, info

    def rule(self) -> dict[str, int]:
        """The best there is to do, by one who knows all."""
        if self.places[1] == self.order:
            return {"turn": STAY, "tool": FIRM if self.heavy[1] else SOFT}
        return {"turn": LEFT if self.places[0] == self.order else RIGHT, "tool": WAIT}


if __name__ == "__main__":
    env = Carousel()
    env.reset(seed=0)
    best = sum(env.step(env.rule())[1] for _ in range(env.steps))
    print(f"return by rule {best:.0f}, at random {random_policy_return('__main__:Carousel', 100)}")
