"""Measures whether "no, turn around" leads an agent to a hidden target sooner than one that trained without words.

World, actor and critic learn from play of somebody who walks on, and from what the agent does itself; with corrections
and without, as much of either. Both act by samples: by modes, who does not know the target may walk in circles.
"""

from __future__ import annotations

import math
import statistics
from functools import partial

import numpy as np

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3, dynalang
from worldformula.cards import from_play
from worldformula.envs import Rows
from worldformula.envs.play import play
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.training.settings import override

EPISODES = 400
CHUNKS, STEPS, STRAY, RANDOM = 1000, 64, 0.15, (0.1,)  # chunks of play and their rows; steps that lead anywhere
ALONE, ALL = 1200, 1000  # updates of the world alone, and of everything
SETTINGS = (
    'world.weights=("token=10","reward=10")', "world.dynamics=1.0", "lr=2e-3", "context=0", "imag_last=16",
    "imagine=15", "length=64", "batch=8",
)  # fmt: skip


def config() -> dreamer_v3.DreamerConfig:
    """`tiny`, whose world is told to read."""
    own: dreamer_v3.DreamerConfig = override(dynalang.tiny(), SETTINGS)
    return own


def env(hint: str) -> EnvConfig:
    """Where it acts; ``hint`` is what is said: "true", "none" or "swapped"."""
    return EnvConfig("home_corrections", num=20, args=(f"hint={hint}",))


def measure(seed: int) -> dict[str, float]:
    """Learns with corrections and without, then plays episodes.

    Returns:
        ``ratio``: the mean number of steps to the target with corrections, 60 where it is not found, in that without;
        both, ``with`` and ``without``, and ``false``, of the agent that learnt with true ones when it hears false ones.
    """
    reader, other = learnt(seed, "true"), learnt(seed, "none")
    found = {
        name: steps(agent, hint, seed)
        for name, agent, hint in (("with", reader, "true"), ("false", reader, "swapped"), ("without", other, "none"))
    }
    return {"ratio": found["with"] / found["without"], **found}


def steps(agent: ImaginationAgent, hint: str, seed: int) -> float:
    """The mean length of episodes, in steps."""
    return statistics.fmean(evaluate(agent, env(hint), episodes=EPISODES, seed=10_000 + seed, explore=True).lengths)


def learnt(seed: int, hint: str) -> ImaginationAgent:
    """An agent that learnt from play, then from that and from what it did itself."""
    return from_play.raised(config(), env(hint), played(seed, hint), lambda _: math.nan, seed, ALL, ALONE)[0]


def played(seed: int, hint: str) -> Rows:
    """Rows of play."""
    walks = partial(from_play.walks, np.random.default_rng(seed), stray=STRAY)
    rows = play("home_corrections", seed, CHUNKS, STEPS, random=RANDOM, controller=walks, hint=hint)
    del rows["event"]
    return rows
