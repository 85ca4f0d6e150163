"""``make``: one environment, ready for rows of experience, from an id."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import Error as GymnasiumError

from worldformula.envs import registry
from worldformula.envs.drawing import LARGEST, SMALLEST
from worldformula.envs.wrappers import (
    ActionRepeat,
    Checked,
    DictObservation,
    PixelObservation,
    VectorAction,
    blamed,
)
from worldformula.errors import ConfigError, EnvironmentIdError, SpaceError, near

DEFAULT_SIZE = 32


def ids() -> list[str]:
    """The short names of this package's own environments."""
    return [entry.alias for entry in registry.entries()]


def make(
    id: str,
    *,
    size: int | None = None,
    pixels: bool = False,
    action_repeat: int = 1,
    max_steps: int | None = None,
    **options: Any,
) -> gymnasium.Env[Any, Any]:
    """One environment with dictionary observations and float vector actions.

    Args:
        id: a name of this package (:func:`ids`), its id ``worldformula/<Name>-v0``, or any id of ``gymnasium.make``.
            Atari games (``ALE/Pong-v5``) follow the 64 × 64 Dreamer protocol (:mod:`worldformula.envs.atari`).
        size: edge of the picture in pixels; by default 32, for Atari 64.
        pixels: observe ``{"image": uint8 [size, size, 3]}`` instead of the environment's own observation.
        action_repeat: executions of each action; rewards add up, the end of an episode stops the repetition.
        max_steps: truncate after this many steps of the environment itself (before ``action_repeat``); by default
            the registered limit.
        options: passed on to ``gymnasium.make``.

    Returns:
        A Gymnasium environment. Observation: Dict of uint8 pictures and float32 vectors. Action: Box, one number in
        [−1, 1] per dimension, or one-hot for discrete actions. ``reset(seed=...)`` is the only source of randomness.

    Raises:
        EnvironmentIdError: no such environment; lists the near misses.
        SpaceError: a space that is not supported.
        ConfigError: an impossible size, repeat or limit; or a package that the environment needs is not installed.
        BrokenEnvironmentError: the environment's own code raised an error.
    """
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"expected a picture size between {SMALLEST} and {LARGEST} pixels, got {size}")
    if max_steps is not None and max_steps < 1:
        raise ConfigError(f"max_steps is the number of steps until truncation, at least 1; got {max_steps}")
    if id.startswith("ALE/"):
        from worldformula.envs.atari import SIZE, make_atari

        env = make_atari(id, size=size or SIZE, max_steps=max_steps, **options)
    else:
        env = _build(id, size or DEFAULT_SIZE, pixels, max_steps, options)
    if action_repeat != 1:
        env = ActionRepeat(env, action_repeat)
    if pixels and not id.startswith("ALE/"):
        env = PixelObservation(env, size or DEFAULT_SIZE)
    return VectorAction(Checked(DictObservation(env), id))


def _build(id: str, size: int, pixels: bool, max_steps: int | None, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    entry = registry.find(id)
    if entry is not None:
        name, options = entry.id, {"size": size, **options}
    else:
        name, options = id, {"render_mode": "rgb_array", **options} if pixels else options
    with blamed(id, "gymnasium.make"):
        try:
            return gymnasium.make(name, max_episode_steps=max_steps, disable_env_checker=True, **options)
        except TypeError as error:
            if pixels and "render_mode" in str(error):
                raise SpaceError(f"{id} takes no render_mode, so it draws no pictures: leave pixels out") from error
            raise
        except ModuleNotFoundError as error:
            if ":" not in name:
                raise
            raise EnvironmentIdError(
                f"no environment has the id {id!r}: before the colon expected a module to import, got "
                f"{name.partition(':')[0]!r} ({error})"
            ) from error
        except GymnasiumError as error:
            if name.rpartition(":")[2] in gymnasium.registry:
                raise
            raise EnvironmentIdError(_unknown(id, str(error))) from error


def _unknown(id: str, reason: str) -> str:
    own = ids()
    hint = near(id, [*own, *gymnasium.registry], cutoff=0.6) or near(id.lower(), own)
    return (
        f"no environment has the id {id!r}.{hint} Own environments: {', '.join(own)}; every id of gymnasium.make works "
        f"too (Gymnasium says: {reason.splitlines()[0]})"
    )
