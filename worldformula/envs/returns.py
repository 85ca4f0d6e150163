"""What a random policy scores, and the best return that we know how to reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from worldformula.envs import registry
from worldformula.envs.factory import ids
from worldformula.envs.vector import Envs
from worldformula.errors import EnvironmentIdError

Actor = Callable[[dict[str, Any]], Any]  # from Gymnasium's info to an action


@dataclass(frozen=True)
class Score:
    """Mean return of ``n`` complete episodes and its standard error; NaN where there is none."""

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, returns: Iterable[float]) -> Score:
        """Of the returns of complete episodes."""
        values = np.array(list(returns))
        if not len(values):
            return cls(float("nan"), float("nan"), 0)
        spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), float(spread), len(values))

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 3  # returns of ±1 would all look alike
        wide = f" ± {self.error:.{digits}f}" if self.n > 1 else ""  # of one episode nobody knows it
        return f"{self.mean:.{digits}f}{wide} (n = {self.n})" if self.n else "not known"


def random_policy_return(
    id: str, episodes: int = 20, seed: int = 0, *, most: int = 20_000, seconds: float = 60.0, **options: Any
) -> Score:
    """Return of uniformly random actions, among those that a mask allows.

    Args:
        id: as for :func:`worldformula.envs.make`.
        episodes: number of complete episodes.
        seed: of the environment and of the actions.
        most: actions of all episodes together, after which no more is measured: an environment may be endless.
        seconds: time, after which no more is measured: an environment may be slow.
        **options: as for :class:`worldformula.envs.Envs`.

    Returns:
        The score of the episodes that ended in time; ``n`` is 0 where none did, and of a robot that is not simulated:
        it is not moved at random only to be measured.
    """
    started, found = time.perf_counter(), list[float]()
    envs, rng = Envs(id, 1, seed=seed, recover=True, **options), np.random.default_rng(seed)
    rows = {} if envs.real else envs.reset()
    for _ in range(0 if envs.real else most):
        rows = envs.step(envs.random(rng, rows))
        found += [episode.score for episode in envs.finished]
        if len(found) >= episodes or time.perf_counter() - started > seconds:
            break
    envs.close()
    return Score.of(found)


def reference_return(id: str, episodes: int = 20, seed: int = 0) -> Score:
    """Return of the environment's own reference controller, which sees the true state.

    Raises:
        EnvironmentIdError: the environment is not one of this package, so it has no reference controller.
    """
    entry = registry.find(id)
    if entry is None:
        raise EnvironmentIdError(f"{id!r} has no reference controller; environments that have one: {', '.join(ids())}")
    env = gymnasium.make(entry.id, disable_env_checker=True)
    return Score.of(_episode(env, lambda info: entry.reference(info["state"]), s) for s in _seeds(seed, episodes))


def _seeds(seed: int, episodes: int) -> list[int]:
    return [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(episodes)]


def _episode(env: Any, actor: Actor, seed: int) -> float:
    _, info = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(actor(info))
        total, done = total + float(reward), terminated or truncated
    return total
