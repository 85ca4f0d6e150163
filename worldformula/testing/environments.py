"""The laws of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldformula.errors import NonFiniteError, SpaceError, WorldformulaError
from worldformula.testing.laws import Laws

FITS = "as declared"


def check_env(env: Any, *, steps: int = 200, seed: int = 0) -> None:
    """Check that a Gymnasium environment keeps the contract that agents rely on.

    The laws: what ``reset`` and ``step`` return has the form of Gymnasium 1.x; observations are what their spaces
    declare, before anything is converted; rewards are finite numbers, the two flags booleans; ``reset(seed=...)`` fixes
    everything that follows; observations are not written to after they were returned. Of an environment that says
    ``resets = False``, as a robot does, the second trajectory is that of a copy.

    >>> check_env("cartpole")

    Args:
        env: A Gymnasium environment, or an id of ``worldformula.envs.make``.
        steps: Steps with random actions.
        seed: Seed of the environment and of the actions.

    Raises:
        SpaceError: A space is not supported; the message says what to wrap.
        AssertionError: A law does not hold; the message is the table of laws.
    """
    import copy

    from worldformula.envs.actions import action_specs
    from worldformula.envs.factory import make
    from worldformula.envs.typed import Typed

    name = env if isinstance(env, str) else type(env.unwrapped).__name__
    bare = make(env).unwrapped if isinstance(env, str) else env
    again = copy.deepcopy(bare) if getattr(bare, "resets", True) is False else bare  # a life begins once
    laws = Laws(f"environment {name}")
    try:
        first, kept = _play(bare, laws, steps, seed)
        second, _ = _play(again, Laws(""), steps, seed)
    except Stopped:
        laws.close()
        raise AssertionError(f"environment {name}: its first trajectory ended, its second did not") from None
    for what, index in (("observations", 0), ("rewards", 1), ("ends", 2)):
        same = len(first) == len(second) and all(_alike(a[index], b[index]) for a, b in zip(first, second, strict=True))
        laws.equal(f"reset(seed) fixes everything: {what}", True, same)
    untouched = all(_alike(row[0], copy) for row, copy in zip(first, kept, strict=True))
    laws.equal("an observation stays as it was returned", True, untouched)
    laws.close()
    action_specs(bare.action_space)
    Typed(bare, name)


class Stopped(Exception):
    """An answer that nothing can be read from; its law is marked broken."""


def _play(env: Any, laws: Laws, steps: int, seed: int) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Random actions over several episodes: what was returned, and copies of the observations made at once."""
    import copy

    import numpy as np

    from worldformula.envs.actions import action_specs, assembled

    specs, rng = action_specs(env.action_space), np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    found = {"observations lie in their space": FITS, "terminated and truncated are booleans": FITS}
    found |= {"rewards are finite numbers": FITS, "info is a dictionary": FITS}
    observation = _reset(env, laws, seed)
    found["observations lie in their space"] = _observed(env, observation)
    kept = []
    for _ in range(steps):
        drawn = {name: spec.value(spec.random(rng, 1)[0]) for name, spec in specs.items()}
        answer = env.step(assembled(env.action_space, drawn))
        if not isinstance(answer, tuple) or len(answer) != 5:
            got = f"a tuple of {len(answer)}" if isinstance(answer, tuple) else type(answer).__name__
            laws.equal("step returns five values", "a tuple of 5", got)
            raise Stopped
        observation, reward, terminated, truncated, info = answer
        told = {"observations lie in their space": _observed(env, observation)}
        told["rewards are finite numbers"] = _rewarded(reward)
        if not isinstance(info, Mapping):
            told["info is a dictionary"] = type(info).__name__
        for flag in (terminated, truncated):
            if not isinstance(flag, bool | np.bool_):
                told["terminated and truncated are booleans"] = repr(flag)
        for law, problem in told.items():
            found[law] = problem if found[law] == FITS else found[law]
        rows.append((observation, reward, (bool(terminated), bool(truncated))))
        kept.append(copy.deepcopy(observation))
        if terminated or truncated:
            _reset(env, Laws(""), None)
    for law, problem in found.items():
        laws.equal(law, FITS, problem)
    return rows, kept


def _reset(env: Any, laws: Laws, seed: int | None) -> Any:
    answer = env.reset(seed=seed)
    pair = isinstance(answer, tuple) and len(answer) == 2
    laws.equal("reset returns an info dictionary", True, pair and isinstance(answer[1], Mapping))
    if not pair:
        raise Stopped
    return answer[0]


def _observed(env: Any, observation: Any) -> str:
    """What is wrong with an observation, or that nothing is."""
    from gymnasium import spaces

    from worldformula.envs.spaces import checked, flattened, leaf

    space = env.observation_space
    leaves = flattened(space) if isinstance(space, spaces.Dict) else {"": space}
    try:
        for key, inner in leaves.items():
            if isinstance(inner, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
                checked(inner, leaf(observation, key) if key else observation, key or "it")
    except (SpaceError, NonFiniteError) as error:
        return str(error)
    except (LookupError, TypeError, ValueError):
        return f"the keys differ: {list(leaves)}"
    return FITS


def _rewarded(reward: Any) -> str:
    from worldformula.envs.checked import number

    try:
        number(reward, "it")
    except WorldformulaError as error:
        return str(error)
    return FITS


def _alike(one: Any, other: Any) -> bool:
    import numpy as np

    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    try:
        return bool(np.array_equal(one, other, equal_nan=True))
    except TypeError:
        return bool(one == other)
