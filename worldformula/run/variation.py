"""What acts, in variations of its environment: which share of the episodes succeeds, at each factor alone and together.

for name, found in varied(agent, EnvConfig("two_rooms"), episodes=100, seed=0).items():
    print(name, found.final, found.ever)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldformula.envs import Envs
from worldformula.envs.variation import arguments, one_at_a_time
from worldformula.errors import ConfigError
from worldformula.metrics.success import Share, wilson
from worldformula.run.config import EnvConfig
from worldformula.run.contract import Acting
from worldformula.run.play import LONGEST, play, unended
from worldformula.training.seeding import forked

SUCCESS = "label/success"


@dataclass(frozen=True)
class Varied:
    """How many episodes end in success, and how many ever were at it, with Wilson's intervals."""

    final: Share
    ever: Share


def varied(
    agent: Acting, env: EnvConfig, *, episodes: int = 100, seed: int = 0,
    variations: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Varied]:  # fmt: skip
    """Plays the first episode of so many streams in each variation, without exploring; the agent is not changed.

    Args:
        agent: what acts.
        env: the environment, whose ``info`` says "success" at every row; each variation adds its arguments.
        episodes: of each variation.
        seed: of environments and draws, the same for all variations.
        variations: name -> arguments; by default every factor of the environment alone, beside "same".

    Raises:
        ConfigError: no episode; an environment without factors, where no variations are given, or without "success".
    """
    if episodes < 1:
        raise ConfigError(f"expected at least one episode, got {episodes}")
    chosen = one_at_a_time(env.id) if variations is None else variations
    return {name: _played(agent, env, options, episodes, seed) for name, options in chosen.items()}


def _played(agent: Acting, env: EnvConfig, options: Mapping[str, Any], episodes: int, seed: int) -> Varied:
    own = dataclasses.replace(env, args=(*env.args, *arguments(options)), labels=("success",))
    envs = Envs(own.id, episodes, seed=seed, **own.options())
    final, ever, running = (np.zeros(episodes, bool), np.zeros(episodes, bool), np.ones(episodes, bool))
    try:
        with forked(seed):
            for count, turn in enumerate(play(envs, agent, explore=False)):
                told = turn.rows[SUCCESS].reshape(episodes)
                if np.isnan(told).any():
                    raise ConfigError(f"{env.id}: its info says no 'success' at every row")
                ever |= running & (told > 0)
                ends = running & turn.rows["is_last"]
                final[ends] = told[ends] > 0
                running &= ~ends
                if not running.any():
                    break
                if count > LONGEST:
                    raise ConfigError(unended(env.id))
    finally:
        envs.close()
    return Varied(wilson(int(final.sum()), episodes), wilson(int(ever.sum()), episodes))
