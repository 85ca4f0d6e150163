"""Whole episodes of bare environments: what they earn, how long they last, how they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Played:
    """Of each episode: its return, its steps, whether it succeeded at its end, and all events."""

    returns: np.ndarray
    steps: np.ndarray
    success: np.ndarray
    events: list[list[str]]

    def off(self, value: float, error: float = 0.0) -> float:
        """How many standard errors the mean return lies from a value with an error of its own."""
        own = self.returns.std(ddof=1) / np.sqrt(len(self.returns))
        return float(abs(self.returns.mean() - value) / np.hypot(own, error))

    def share(self, event: str) -> float:
        """Of episodes with this event."""
        return float(np.mean([event in events for events in self.events]))


def play(env: Any, episodes: int, limit: int, seed: int = 1, policy: Callable[[Any], Any] | None = None) -> Played:
    """Episodes under a policy of ``info["state"]``, or uniformly random ones."""
    rng, found = np.random.default_rng(seed), []
    env.action_space.seed(seed)
    for _ in range(episodes):
        _, info = env.reset(seed=int(rng.integers(2**31)))
        total, step, events = 0.0, 0, list(info["event"])
        for _ in range(limit):
            _, reward, terminated, truncated, info = env.step(
                policy(info["state"]) if policy else env.action_space.sample()
            )
            total, step, events = total + reward, step + 1, events + info["event"]
            if terminated or truncated:
                break
        found.append((total, step, info["success"], events))
    returns, steps, success, events = zip(*found, strict=True)
    return Played(np.array(returns), np.array(steps), np.array(success), list(events))


def twice(build: Callable[[], Any], steps: int, seed: int = 5) -> list[tuple[Any, Any]]:
    """What two instances show under the same seed and the same actions, row by row, pictures included."""
    envs, rows = (build(), build()), []
    envs[1].reset(seed=99)  # what was before does not count
    answers = [env.reset(seed=seed) for env in envs]
    envs[0].action_space.seed(0)
    rows.append(tuple((a[0], a[1]["event"], e.render()) for a, e in zip(answers, envs, strict=True)))
    for _ in range(steps):
        action = envs[0].action_space.sample()
        found = [env.step(action) for env in envs]
        rows.append(tuple((a[0], a[1:4], a[4]["event"], e.render()) for a, e in zip(found, envs, strict=True)))
        if found[0][2] or found[0][3]:
            [env.reset() for env in envs]
    return rows


def same(a: Any, b: Any) -> bool:
    """Nested arrays, dictionaries and tuples."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b))
