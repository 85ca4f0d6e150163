"""``make``: one environment, ready for rows of experience, from an id."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.error import Error as GymnasiumError
from gymnasium.wrappers import TimeLimit

from worldformula.envs import registry
from worldformula.envs.checked import Checked, Env, blamed
from worldformula.envs.drawing import LARGEST, SMALLEST
from worldformula.envs.typed import Typed
from worldformula.envs.wrappers import ActionRepeat, Only, PixelObservation, arranged
from worldformula.errors import ConfigError, EnvironmentIdError, SpaceError, near

DEFAULT_SIZE = 32
WORDS = {"true": True, "false": False, "none": None, "null": None}
_SHARED: dict[str, tuple[Env, int | None]] = {}


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
    keys: Sequence[str] = (),
    crop: Sequence[int] = (),
    grey: bool = False,
    stack: int = 1,
    labels: Sequence[str] = (),
    reach: float = 1.0,
    args: Sequence[str] = (),
    wrap: Sequence[str] = (),
    single: bool = False,
    **options: Any,
) -> Typed:
    """One environment with typed observations and named actions.

    Args:
        id: a name of this package (:func:`ids`), its id ``worldformula/<Name>-v0``, any id of ``gymnasium.make``, or
            ``module:ID`` and ``module:Class`` of a module of yours, which may lie in the current folder.
            Atari games (``ALE/Pong-v5``) follow the 64 × 64 Dreamer protocol (:mod:`worldformula.envs.atari`).
        size: edge of all pictures in pixels. None keeps those of the environment; drawn ones have 32, Atari 64.
        pixels: observe ``{"image": uint8 [size, size, 3]}`` instead of the environment's own observation; of one that
            speaks, beside its words.
        action_repeat: executions of each action; rewards add up, the end of an episode stops the repetition.
        max_steps: truncate after this many steps of the environment itself (before ``action_repeat``); by default
            the registered limit. It gives endless environments their end.
        keys: the observations to keep, of a Dict; by default all.
        crop: top, left, height, width of what is kept of every picture.
        grey: pictures with one channel.
        stack: the last so many pictures, as channels.
        labels: keys of ``info``, or paths such as ``hidden/door``, to be stored as the columns ``label/<key>``.
        reach: what ±1 means in dimensions of actions that have no bounds, see `ActionSpec`.
        args: ``key=value`` texts, passed on like ``options``; numbers, true, false and none are read as such.
        wrap: ``module:Wrapper`` each, called with the environment, the first one innermost.
        single: the environment cannot be made twice in one process: one instance serves everybody here in turn.
        options: passed on to ``gymnasium.make``.

    Returns:
        A Gymnasium environment: `Typed`. ``reset(seed=...)`` is the only source of randomness.

    Raises:
        EnvironmentIdError: no such environment; lists the near misses.
        SpaceError: a space that is not supported.
        ConfigError: an impossible size, repeat or limit; or a package that the environment needs is not installed.
        BrokenEnvironmentError: the environment's own code raised an error.
    """
    _possible(size, max_steps, stack, crop, reach)
    options = {**options, **dict(map(argument, args))}
    bare, limit = _served(id, size, pixels, max_steps, options, wrap, single=single)
    drawn = pixels and not id.startswith("ALE/")
    env: Env = Checked(bare, id, observations=not drawn, keys=tuple(keys))
    env = env if limit is None else TimeLimit(env, limit)
    env = env if action_repeat == 1 else ActionRepeat(env, action_repeat)
    env = PixelObservation(env, size or DEFAULT_SIZE) if drawn else env
    env = Only(env, tuple(keys), id) if keys else env
    return Typed(arranged(env, crop, grey, size, stack), id, labels=tuple(labels), reach=reach)


def _possible(size: int | None, max_steps: int | None, stack: int, crop: Sequence[int], reach: float) -> None:
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"expected a picture size between {SMALLEST} and {LARGEST} pixels, got {size}")
    if max_steps is not None and max_steps < 1:
        raise ConfigError(f"max_steps is the number of steps until truncation, at least 1; got {max_steps}")
    if stack < 1 or len(crop) not in (0, 4) or reach <= 0:
        raise ConfigError(
            f"expected stack ≥ 1, reach > 0, crop as top, left, height, width; got {stack}, {reach}, {tuple(crop)}"
        )


def _served(
    id: str,
    size: int | None,
    pixels: bool,
    max_steps: int | None,
    options: dict[str, Any],
    wrap: Sequence[str],
    *,
    single: bool,
) -> tuple[Env, int | None]:
    """A new environment and its limit of steps, or the one that serves everybody."""
    if not single:
        return _bare(id, size, pixels, max_steps, options, wrap)
    key = repr((id, tuple(wrap), sorted(options.items(), key=lambda item: item[0])))
    if key not in _SHARED:
        _SHARED[key] = _bare(id, size, pixels, max_steps, options, wrap)
    env, limit = _SHARED[key]
    return Shared(env), max_steps or limit


class Shared(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The one instance of an environment that cannot be made twice; nobody closes it for the others."""

    def close(self) -> None:
        """Leaves it open: it ends with the process."""


def argument(text: str) -> tuple[str, Any]:
    """``"size=8"`` as ``("size", 8)``: Python's literals, true, false and none; anything else is a text.

    Raises:
        ConfigError: no ``=`` in it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip().isidentifier():
        raise ConfigError(
            f"expected key=value for an argument of the environment, got {text!r}; e.g. --env-arg length=9"
        )
    value = value.strip()
    try:
        return key.strip(), WORDS[value.lower()] if value.lower() in WORDS else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def _bare(
    id: str, size: int | None, pixels: bool, max_steps: int | None, options: dict[str, Any], wrap: Sequence[str]
) -> tuple[Env, int | None]:
    """The environment as it was written, with the wrappers of its owner, and its limit of steps."""
    if id.startswith("ALE/"):
        from worldformula.envs.atari import SIZE, make_atari

        env, limit = make_atari(id, size=size or SIZE, max_steps=max_steps, **options), None
    else:
        env = _foreign(id, size, options) or _build(id, size or DEFAULT_SIZE, pixels, options)
        limit = max_steps or _limit(id)
    for name in wrap:
        wrapper = _named(name, "--wrap expects module:Wrapper")
        with blamed(id, f"the wrapper {name}"):
            env = wrapper(env)
    return env, limit


REGISTERS = {"MiniGrid-": ("minigrid", "envs"), "BabyAI-": ("minigrid", "envs"), "popgym-": ("popgym", "popgym")}
"""What ids of packages begin with that register with Gymnasium only once they are imported; and their extra."""


def _foreign(id: str, size: int | None, options: dict[str, Any]) -> Env | None:
    """An environment of a package that Gymnasium does not know by itself; others are registered here."""
    if id.startswith("dm_control/"):
        from worldformula.envs.control_suite import make_control

        return make_control(id, size or 64, options)
    if id.startswith("crafter/"):
        from worldformula.envs.crafter import ID, make_crafter

        if id != ID:
            raise EnvironmentIdError(f"no environment has the id {id!r}; the game is {ID}")
        return make_crafter(size or 64, options)
    for prefix, (package, extra) in REGISTERS.items():
        if id.startswith(prefix) and id not in gymnasium.registry:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ConfigError(
                    f"{id} needs {package}: pip install 'worldformula[{extra}]' (it says: {error})"
                ) from error
    return None


def _limit(id: str) -> int | None:
    """The registered limit of steps of an environment."""
    entry = registry.find(id)
    if entry is not None:
        return entry.max_steps
    try:
        return gymnasium.spec(id.rpartition(":")[2]).max_episode_steps
    except GymnasiumError:
        return None


def _build(id: str, size: int, pixels: bool, options: dict[str, Any]) -> Env:
    entry = registry.find(id)
    if entry is not None:
        name, options = entry.id, {"size": size, **options}
    else:
        name, options = id, {"render_mode": "rgb_array", **options} if pixels else options
    if ":" in name:
        here()
    with blamed(id, "gymnasium.make"):
        try:
            return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **options)
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
            if ":" in name and (kind := getattr(sys.modules.get(name.partition(":")[0]), name.partition(":")[2], None)):
                return _instance(id, kind, options)
            raise EnvironmentIdError(_absent(id) if ":" in name else _unknown(id, str(error))) from error


def _instance(id: str, kind: Any, options: dict[str, Any]) -> Env:
    """An environment from a class or function that no id was registered for."""
    env = kind(**options) if callable(kind) else None
    if not isinstance(env, gymnasium.Env):
        raise EnvironmentIdError(
            f"{id} has to be a registered id, or to make a gymnasium.Env; got {type(env).__name__}"
        )
    return env


def _named(name: str, expected: str) -> Any:
    """What ``module:attribute`` names.

    Raises:
        ConfigError: no such module or attribute.
    """
    here()
    module, colon, attribute = name.partition(":")
    try:
        found = importlib.import_module(module) if colon else None
    except ModuleNotFoundError as error:
        raise ConfigError(f"{expected}, got {name!r}: {error}") from error
    if not hasattr(found, attribute):
        raise ConfigError(f"{expected}, got {name!r}.{near(attribute, vars(found)) if found else ''}")
    return getattr(found, attribute)


def here() -> None:
    """Modules of the current folder can be imported, as with ``python -m``; installed ones go first."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))


def _absent(id: str) -> str:
    """What a module that could be imported has instead of an environment of this name."""
    module, _, name = id.partition(":")
    found = vars(sys.modules[module]) if module in sys.modules else {}
    has = [key for key, kind in found.items() if isinstance(kind, type) and issubclass(kind, gymnasium.Env)]
    return (
        f"no environment has the id {id!r}: {module} registers no id {name!r}, and has no such class or function."
        f"{near(name, [*has, *gymnasium.registry])} Its environments: {', '.join(has) or 'none'}"
    )


def _unknown(id: str, reason: str) -> str:
    own = ids()
    hint = near(id, [*own, *gymnasium.registry], cutoff=0.6) or near(id.lower(), own)
    return (
        f"no environment has the id {id!r}.{hint} Own environments: {', '.join(own)}; every id of gymnasium.make works "
        f"too (Gymnasium says: {reason.splitlines()[0]})"
    )
