"""The innermost wrapper: what an environment answers is checked as it comes, before anything is converted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled

from worldformula.envs.spaces import checked, flattened, leaf, limits
from worldformula.errors import BrokenEnvironmentError, ConfigError, NonFiniteError, SpaceError, WorldformulaError

Env = gymnasium.Env[Any, Any]
Step = tuple[Any, float, bool, bool, dict[str, Any]]


EXTRAS = {
    "box2d": "box2d", "swig": "box2d", "mujoco": "control", "pygame": "envs", "minigrid": "envs", "ale": "atari",
    "dm_control": "dmc",
}  # fmt: skip
"""What a complaint about a missing package mentions -> the extra of worldformula that installs it."""

STEP = "observation, reward, terminated, truncated, info"


def missing_package(id: str, error: Exception) -> ConfigError:
    """The error for an environment whose package is not installed."""
    said = str(error).partition("\n")[0]
    extra = next((extra for word, extra in EXTRAS.items() if word in said.lower()), None)
    advice = f"pip install 'worldformula[{extra}]'" if extra else "install it with pip"
    return ConfigError(f"{id} needs a package that is not installed: {advice} (it says: {said})")


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


class Checked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Refuses what does not answer to Gymnasium's contract or to the declared spaces, and names the environment.

    Args:
        env: as it was written, without any other wrapper.
        name: for the messages.
        observations: compare the observation with its space; without, nobody reads it (pictures are drawn).
        keys: compare these keys of a Dict alone; empty for all.

    Raises:
        SpaceError: another number of results, an info that is no dictionary, flags that are no booleans, a reward that
            is not one number, an observation that is not what its space declares.
        NonFiniteError: an observation or a reward is NaN or infinite, or a reward does not fit into float32.
        BrokenEnvironmentError: the environment raised an error of its own; it is chained.
        ConfigError: a package that it needs is not installed.
    """

    def __init__(self, env: Env, name: str, *, observations: bool = True, keys: tuple[str, ...] = ()) -> None:
        super().__init__(env)
        self.name, self._observations = name, observations
        space = env.observation_space
        self._leaves = (
            flattened(space) if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple) else {"": space}
        )
        self._leaves = {k: v for k, v in self._leaves.items() if not keys or k in keys} if observations else {}
        self._limits = {key: limits(inner) for key, inner in self._leaves.items() if _typed(inner)}
        self._steps = 0

    @property
    def where(self) -> str:
        """The place of the latest answer, in words."""
        return f"step {self._steps} of the episode" if self._steps else "reset"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        with blamed(self.name, "reset"):
            answer = self.env.reset(seed=seed, options=options)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
            info = answer[1] if isinstance(answer, tuple) and len(answer) == 2 else None
            got = f"an info that is {_kind(info)}" if isinstance(answer, tuple) and len(answer) == 2 else _kind(answer)
            raise SpaceError(
                f"the reset of {self.name} has to return (observation, info) with a dictionary as info, got {got}. "
                "Environments for gym before 0.26 returned the observation alone: write return observation, {}"
            )
        self._check(answer[0])
        return answer[0], dict(answer[1])

    def step(self, action: Any) -> Step:
        self._steps += 1
        with blamed(self.name, f"step {self._steps} of the episode"):
            answer = self.env.step(action)
        if not isinstance(answer, tuple) or len(answer) != 5:
            old = ", which is the form of gym before 0.26" if isinstance(answer, tuple) and len(answer) == 4 else ""
            raise SpaceError(
                f"the step of {self.name} has to return ({STEP}), got {_kind(answer)}{old}. terminated says that the "
                "task is over, truncated that a time limit was reached"
            )
        observation, reward, terminated, truncated, info = answer
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool | np.bool_) and not _boolean(value):
                raise SpaceError(
                    f"{flag} of {self.name} at {self.where}: expected True or False, got {value!r}; write bool(...) in "
                    "its step where the number is meant as one"
                )
        if not isinstance(info, Mapping):
            raise SpaceError(
                f"the info of {self.name} at {self.where}: expected a dictionary, got {_kind(info)}; {{}} for none"
            )
        self._check(observation)
        return (
            observation,
            number(reward, f"of {self.name} at {self.where}"),
            bool(terminated),
            bool(truncated),
            dict(info),
        )

    def render(self) -> Any:
        try:
            with blamed(self.name, "render"):
                return self.env.render()
        except BrokenEnvironmentError as error:
            if isinstance(error.__cause__, NotImplementedError):  # it draws nothing, which is no failure
                raise error.__cause__ from None
            raise

    def _check(self, observation: Any) -> None:
        for key, space in self._leaves.items():
            what = f"the observation {key!r}" if key else "the observation"
            try:
                value = leaf(observation, key) if key else observation
            except (LookupError, TypeError, ValueError):
                have = f"the keys {list(observation)}" if isinstance(observation, Mapping) else _kind(observation)
                raise SpaceError(
                    f"{what} of {self.name} at {self.where} is missing: expected {str(space)[:200]}, got {have}"
                ) from None
            if key in self._limits:
                checked(space, value, f"{what} of {self.name} at {self.where}", self._limits[key])


def number(reward: Any, where: str) -> float:
    """A reward as one finite number.

    Raises:
        SpaceError: it is none.
        NonFiniteError: it is NaN, infinite, or too large for float32, in which rewards are stored.
    """
    try:
        found = np.asarray(reward)
    except (ValueError, TypeError):
        found = np.asarray(None)
    if found.size != 1 or found.dtype.kind not in "fiub":
        raise SpaceError(
            f"the reward {where}: expected one number, got {_kind(reward)}; several rewards are added up, or put into "
            "info, by the environment"
        )
    with np.errstate(over="ignore"):
        small = np.float32(found.item())
    if not np.isfinite(small):
        why = " in float32, in which rewards are stored" if np.isfinite(found.item()) else ""
        raise NonFiniteError(
            f"the reward {where} is not finite{why}: {reward}. Expected finite numbers; look for a diverging "
            "simulation or a division by zero in the environment."
        )
    return float(found.item())


def _typed(space: gymnasium.Space[Any]) -> bool:
    """Whether values of the space are arrays of numbers, which are checked; other spaces are refused elsewhere."""
    known = (
        gymnasium.spaces.Box,
        gymnasium.spaces.Discrete,
        gymnasium.spaces.MultiDiscrete,
        gymnasium.spaces.MultiBinary,
    )
    return isinstance(space, known)


def _boolean(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.size == 1


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    return repr(value)[:100]
