"""Evaluation: complete episodes in environments of their own, without a trace in the run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldformula.envs import Envs
from worldformula.errors import ConfigError
from worldformula.run.checks import limited
from worldformula.run.config import EnvConfig
from worldformula.run.contract import Acting
from worldformula.run.play import LONGEST, patience, play, unended
from worldformula.training.seeding import forked


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths (in actions) of complete episodes, in the order of stream and time."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 for a single episode."""
        return statistics.stdev(self.returns) / len(self.returns) ** 0.5 if len(self.returns) > 1 else 0.0

    def metrics(self) -> dict[str, float]:
        """The numbers for `metrics.jsonl`."""
        return {
            "eval/return": self.mean,
            "eval/return_error": self.error,
            "eval/length": statistics.fmean(self.lengths),
            "eval/episodes": float(len(self.returns)),
        }


class _Endless(ConfigError):
    """An episode does not end, which `tried` tells apart from all else that is refused."""


def evaluate(
    agent: Acting, env: EnvConfig, *, episodes: int, seed: int, explore: bool = False, on: Envs | None = None
) -> Evaluation:
    """Plays ``episodes`` complete episodes, shared out evenly among the streams beforehand.

    Which episodes count is fixed before the first one ends: taking the first to finish would favour short ones. An
    episode that an environment failed in does not count; the stream plays another one.

    Args:
        agent: the agent; it is not changed.
        env: the environments.
        episodes: how many, at least 1.
        seed: of the environments and of the agent's samples.
        explore: sample actions as in training, instead of the policy's mode.
        on: the robot, where a driver of it is there already: no second one is made. It stays open.

    Raises:
        ConfigError: no episodes asked for, one that does not end within 100 000 actions, or none within 5 000 (more
            where ``env.max_steps`` is), or a robot that is not simulated without ``env.max_steps``.
    """
    if episodes < 1:
        raise ConfigError(f"expected at least one episode of evaluation, got {episodes}")
    num = min(episodes, env.num)
    envs = on or Envs(env.id, num, seed=seed, recover=True, **env.options())
    try:
        limited(env, envs.real, episodes)
        return _played(agent, envs, episodes, seed, explore, patience(env))
    finally:
        if on is None:
            envs.close()


def tried(say: Callable[[str], None], agent: Acting, env: EnvConfig, **how: Any) -> Evaluation | None:
    """`evaluate`; or None, and a line of why, where episodes do not end: what was learnt is not lost for that.

    Raises:
        ConfigError: whatever else `evaluate` refuses, or the agent as it acts.
    """
    try:
        return evaluate(agent, env, **how)
    except _Endless as error:
        say(f"warning: not evaluated: {error}, or eval_episodes=0")
        return None


def _played(agent: Acting, envs: Envs, episodes: int, seed: int, explore: bool, endless: int) -> Evaluation:
    num = envs.num
    quota = np.full(num, episodes // num) + (np.arange(num) < episodes % num)
    found: list[list[tuple[float, int]]] = [[] for _ in range(num)]
    with forked(seed):
        turns = play(envs, agent, explore=explore)
        for turn in range(LONGEST * int(quota.max())):
            if turn >= endless and not any(found):
                raise _Endless(f"no episode of {envs.id} has ended within {endless} actions; set env.max_steps")
            next(turns)
            for episode in envs.finished:
                if len(found[episode.stream]) < quota[episode.stream]:
                    found[episode.stream].append((episode.score, episode.length))
            if all(len(f) >= q for f, q in zip(found, quota, strict=True)):
                break
        else:
            raise _Endless(unended(envs.id))
    ordered = [pair for stream in found for pair in stream]
    return Evaluation(tuple(score for score, _ in ordered), tuple(length for _, length in ordered))
