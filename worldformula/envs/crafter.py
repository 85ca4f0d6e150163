"""Crafter (Hafner 2022, arXiv:2109.06780), ``crafter/Crafter-v1``, over the optional package crafter.

The package follows Gym before 0.26 and needs no window. ``info`` has one number per achievement, ``achieved/<name>``:
how often it was unlocked in this episode so far; the score of the benchmark is the geometric mean of their success
rates. ``reward=False`` gives no reward, for agents that explore by themselves.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs.spaces import taken
from worldformula.errors import ConfigError

ID = "crafter/Crafter-v1"
Step = tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]


class Crafter(gymnasium.Env[Any, Any]):
    """The game, with pictures ``[size, size, 3]``."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, *, size: int = 64, reward: bool = True, length: int = 10_000, render_mode: str = "rgb_array"
    ) -> None:
        self.size, self.reward, self.length, self.render_mode = size, reward, length, render_mode
        self.action_space, self.observation_space = spaces.Discrete(17), spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._game: Any = None
        self._picture = np.zeros((size, size, 3), np.uint8)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        import crafter

        super().reset(seed=seed)
        own = int(self.np_random.integers(2**31 - 1))  # a game made anew draws its map from its seed alone
        self._game = crafter.Env(size=(self.size, self.size), reward=self.reward, length=self.length, seed=own)
        self._steps, self._picture = 0, np.asarray(self._game.reset(), np.uint8)
        return self._picture, {}

    def step(self, action: int) -> Step:
        self._steps += 1
        picture, reward, done, info = self._game.step(taken(self.action_space, action))
        self._picture = np.asarray(picture, np.uint8)
        dead = info["discount"] == 0.0
        achieved = {f"achieved/{name}": float(count) for name, count in info["achievements"].items()}
        return self._picture, float(reward), bool(dead), bool(done and not dead), achieved

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The pixels of the last observation."""
        return self._picture.copy()


def make_crafter(size: int, options: dict[str, Any]) -> Crafter:
    """The game.

    Raises:
        ConfigError: the package crafter is not installed.
    """
    try:
        import crafter  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{ID} needs crafter: pip install 'worldformula[crafter]' (it says: {error})") from error
    return Crafter(**{"size": size, **options})
