"""The wrappers between a Gymnasium environment and the rows of experience, innermost first in :mod:`.factory`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from worldformula.envs.spaces import action_converter, action_spec, observation_parts
from worldformula.errors import BrokenEnvironmentError, ConfigError, NonFiniteError, SpaceError, WorldformulaError

Env = gymnasium.Env[Any, Any]
Step = tuple[Any, float, bool, bool, dict[str, Any]]


EXTRAS = {
    "box2d": "box2d", "swig": "box2d", "mujoco": "control", "pygame": "envs", "minigrid": "envs", "ale": "atari",
    "dm_control": "dmc",
}  # fmt: skip
"""What a complaint about a missing package mentions -> the extra of worldformula that installs it."""


def missing_package(id: str, error: Exception) -> ConfigError:
    """The error for an environment whose package is not installed."""
    said = str(error).partition("\n")[0]
    extra = next((extra for word, extra in EXTRAS.items() if word in said.lower()), None)
    advice = f"pip install 'worldformula[{extra}]'" if extra else "install it with pip"
    return ConfigError(f"{id} needs a package that is not installed: {advice} (it says: {said})")


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Execute each action ``times`` times; the rewards add up, and the end of the episode stops the repetition."""

    def __init__(self, env: Env, times: int) -> None:
        if times < 1:
            raise ConfigError(f"action_repeat is the number of times an action is executed, at least 1; got {times}")
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> Step:
        total = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class PixelObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The observation is ``{"image": render()}``, resized to ``size`` × ``size``, uint8 RGB.

    ``render()`` returns the very pixels of the last observation.
    """

    def __init__(self, env: Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image})
        self._image = np.zeros(image.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return self._observe(), info

    def step(self, action: Any) -> Step:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(), reward, terminated, truncated, info  # type: ignore[return-value]  # Checked converts it

    def _observe(self) -> dict[str, NDArray[np.uint8]]:
        try:
            frame = self.env.render()
        except NotImplementedError:
            frame = None
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise SpaceError(f"render() has to return a uint8 array [height, width, 3] for pixels, got {got}")
        self._image = resize(frame, self.size)
        return {"image": self._image}

    def render(self) -> NDArray[np.uint8]:
        return self._image.copy()


def resize(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """``frame`` ``[H, W, 3]`` averaged down (or up) to ``[size, size, 3]``; the same array if it fits already."""
    if frame.shape[:2] == (size, size):
        return frame
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


class DictObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Any supported observation as a dictionary of pictures (uint8) and vectors (float32)."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._parts = observation_parts(env.observation_space)
        self._bare = not isinstance(env.observation_space, spaces.Dict)
        self.observation_space = spaces.Dict({key: part.space for key, part in self._parts.items()})

    def observation(self, observation: Any) -> dict[str, NDArray[Any]]:
        values = {next(iter(self._parts)): observation} if self._bare else observation
        found = {}
        for key, part in self._parts.items():
            try:
                found[key] = part.convert(values[key])
            except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
                raise SpaceError(self._misfit(key, values)) from error
            if found[key].shape != part.space.shape:
                raise SpaceError(self._misfit(key, values))
        return found

    def _misfit(self, key: str, values: Any) -> str:
        space = self.env.observation_space if self._bare else self.env.observation_space[key]  # type: ignore[index]
        value = values[key] if isinstance(values, Mapping) and key in values else "nothing"
        got = f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)[:200]
        name = self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__
        return (
            f"the observation {key!r} of {name} lies outside its space: expected {str(space)[:200]}, got {got}; "
            "correct the environment's observation_space, or what its reset and step return"
        )


class VectorAction(gymnasium.ActionWrapper[Any, Any, Any]):
    """Every action is a float32 vector: [−1, 1] per dimension of a Box, one-hot for a Discrete space."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.spec_of_actions = action_spec(env.action_space)
        self._convert = action_converter(env.action_space)
        low = 0.0 if self.spec_of_actions.kind == "discrete" else -1.0
        self.action_space = spaces.Box(low, 1.0, (self.spec_of_actions.size,), np.float32)

    def action(self, action: NDArray[np.float32]) -> Any:
        return self._convert(action)


class Checked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Refuses NaN and infinite observations and rewards where they arise, and names the environment that fails.

    Raises:
        NonFiniteError: names the key, the step of the episode and the environment.
        BrokenEnvironmentError: the environment raised an error of its own; it is chained.
        ConfigError: a package that it needs is not installed.
    """

    def __init__(self, env: Env, name: str) -> None:
        super().__init__(env)
        self.name = name
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        with blamed(self.name, "reset"):
            observation, info = self.env.reset(seed=seed, options=options)
        self._check(observation)
        return observation, info

    def step(self, action: Any) -> Step:
        self._steps += 1
        with blamed(self.name, f"step {self._steps} of the episode"):
            observation, reward, terminated, truncated, info = self.env.step(action)
            number = np.asarray(reward, np.float64).item()
        self._check(observation)
        if not np.isfinite(number):
            self._refuse("the reward", reward)
        return observation, number, bool(terminated), bool(truncated), info

    def _check(self, observation: Mapping[str, NDArray[Any]]) -> None:
        for key, value in observation.items():
            if value.dtype != np.uint8 and not np.isfinite(value).all():
                self._refuse(f"the observation {key!r}", value)

    def _refuse(self, what: str, value: Any) -> None:
        raise NonFiniteError(
            f"{what} of {self.name} is not finite at step {self._steps} of the episode: {value}. Expected finite "
            "numbers; look for a diverging simulation or a division by zero in the environment."
        )


@contextlib.contextmanager
def blamed(id: str, where: str) -> Iterator[None]:
    """A block that runs the code of an environment: whatever it raises becomes one of our errors, and is chained."""
    try:
        yield
    except WorldformulaError:
        raise
    except (DependencyNotInstalled, ImportError) as error:
        raise missing_package(id, error) from error
    except Exception as error:
        raise BrokenEnvironmentError(
            f"the environment {id} failed at {where}: {type(error).__name__}: {error}. Its own code raised this; "
            "--debug shows where, and worldformula.testing.check_env checks an environment."
        ) from error
