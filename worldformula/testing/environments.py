"""The laws of an environment."""

from __future__ import annotations

from typing import Any

from worldformula.testing.laws import Laws

Trajectory = list[tuple[dict[str, Any], float, bool, bool]]


def check_env(env: Any, *, steps: int = 200, seed: int = 0) -> None:
    """Check that a Gymnasium environment keeps the contract that agents rely on.

    The laws: supported spaces, observations inside their space with its dtype, finite rewards, plain flags,
    ``reset(seed=...)`` fixes everything that follows, observations are not written to after they were returned.

    >>> check_env("cartpole")

    Args:
        env: A Gymnasium environment, or an id of ``worldformula.envs.make``.
        steps: Steps with random actions.
        seed: Seed of the environment and of the actions.

    Raises:
        SpaceError: A space is not supported; the message says what to wrap.
        NonFiniteError: An observation or a reward is NaN or infinite.
        AssertionError: A law does not hold; the message is the table of laws.
    """
    from worldformula.envs import make
    from worldformula.envs.wrappers import Checked, DictObservation, VectorAction

    name = env if isinstance(env, str) else type(env.unwrapped).__name__
    bare = make(env) if isinstance(env, str) else env
    laws = Laws(f"environment {name}")
    observation, info = bare.reset(seed=seed)
    laws.equal("reset returns an info dictionary", "dict", type(info).__name__)
    laws.equal("the first observation lies in the observation space", True, observation in bare.observation_space)
    wrapped = VectorAction(Checked(DictObservation(bare), name))
    first, kept = _play(wrapped, laws, steps, seed)
    second, _ = _play(wrapped, laws, steps, seed)
    laws.equal("reset(seed) fixes everything: rewards", [row[1] for row in first], [row[1] for row in second])
    laws.equal("reset(seed) fixes everything: ends", [row[2:] for row in first], [row[2:] for row in second])
    same = all(_alike(a[0], b[0]) for a, b in zip(first, second, strict=True))
    laws.equal("reset(seed) fixes everything: observations", True, same)
    untouched = all(_alike(row[0], copy) for row, copy in zip(first, kept, strict=True))
    laws.equal("an observation stays as it was returned", True, untouched)
    laws.close()


def _play(env: Any, laws: Laws, steps: int, seed: int) -> tuple[Trajectory, list[dict[str, Any]]]:
    """Random actions over several episodes: what was returned, and copies of the observations made at once."""
    import numpy as np

    rng, rows, kept = np.random.default_rng(seed), [], []
    observation, _ = env.reset(seed=seed)
    inside, flags = True, True
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.spec_of_actions.random(rng, 1)[0])
        inside &= observation in env.observation_space
        flags &= all(isinstance(flag, bool | np.bool_) for flag in (terminated, truncated))
        rows.append((observation, float(reward), bool(terminated), bool(truncated)))
        kept.append({key: value.copy() for key, value in observation.items()})
        if terminated or truncated:
            env.reset()
    laws.equal("observations lie in their space", True, inside)
    laws.equal("terminated and truncated are booleans", True, flags)
    return rows, kept


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[key] == other[key]).all()) for key in one)
