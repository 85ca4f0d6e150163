"""Atari games by the 64 × 64 protocol of Dreamer (Hafner et al. 2023), over the optional package ale-py.

An action is held for 4 frames; the picture is the pixel-wise maximum of the last 2, resized to 64 × 64 RGB; the game's
own set of actions; up to 30 no-ops at the start; 108 000 frames per game. No sticky actions and no end at the loss of a
life, as in the Atari 100k setting.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs.checked import blamed
from worldformula.errors import ConfigError, EnvironmentIdError, near

SIZE, REPEAT, NOOPS, FRAME_LIMIT = 64, 4, 30, 108_000


class AtariFrames(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats actions, takes the maximum of the last two frames and resizes it.

    Args:
        env: a game with ``frameskip=1`` and RGB observations.
        size: edge of the picture.
        repeat: frames per action; rewards add up.
        noops: the game starts after a random number of idle frames, at most this many.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], size: int = SIZE, repeat: int = REPEAT, noops: int = NOOPS
    ) -> None:
        super().__init__(env)
        self.size, self.repeat, self.noops = size, repeat, noops
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (size, size, 3), np.uint8)})
        self._image = np.zeros((size, size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.np_random.integers(self.noops + 1))):
            frame, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                frame, info = self.env.reset()
        return self._observe(frame, frame), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total, frames = 0.0, []
        for _ in range(self.repeat):
            frame, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            frames.append(frame)
            if terminated or truncated:
                break
        return self._observe(frames[-1], frames[-2:][0]), total, terminated, truncated, info

    def _observe(self, last: NDArray[np.uint8], before: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        from PIL import Image

        picture = Image.fromarray(np.maximum(last, before)).resize((self.size, self.size), Image.Resampling.BILINEAR)
        self._image = np.asarray(picture)
        return {"image": self._image}

    def render(self) -> NDArray[np.uint8]:
        """The pixels of the last observation."""
        return self._image.copy()


def make_atari(id: str, *, size: int = SIZE, max_steps: int | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    """A game as it is published, with pictures ``[size, size, 3]``.

    Args:
        id: ``"ALE/Pong-v5"``.
        size: edge of the picture.
        max_steps: limit in frames.
        options: for ``gymnasium.make``; ``repeat_action_probability=0.25`` gives sticky actions.

    Raises:
        ConfigError: ale-py is not installed.
        EnvironmentIdError: no such game.
    """
    try:
        import ale_py
    except ImportError as error:
        raise ConfigError(f"{id} needs ale-py: pip install 'worldformula[atari]'") from error
    gymnasium.register_envs(ale_py)
    if id not in gymnasium.registry:
        raise EnvironmentIdError(f"no Atari game has the id {id!r}.{near(id, gymnasium.registry)}")
    options = {"repeat_action_probability": 0.0, "full_action_space": False, **options}
    options |= {"frameskip": 1, "obs_type": "rgb", "max_episode_steps": max_steps or FRAME_LIMIT}
    with blamed(id, "gymnasium.make"):
        game = gymnasium.make(id, disable_env_checker=True, **options)
    return AtariFrames(game, size)
