"""Measures whether an agent learns to speak: it is asked for the colour of a thing, looks, and says it when it is due.

The same agent learns among eleven words, and among two hundred of which nearly all are never heard: with a policy of
words that is kept near to what the world expects to hear, and with the entropy in its place.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldformula.agents import dynalang
from worldformula.envs import Envs
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.contract import Acting
from worldformula.run.interact import Interact
from worldformula.run.play import play
from worldformula.training.settings import override

STEPS, STREAMS, ROWS, EPISODES = 60_000, 8, 61, 5  # rows of an episode, episodes of each of the streams that are scored
FEW, MANY = 0, 189  # words that are never right, beside the eleven
KNOWN, PRIOR, ENTROPY = 0.85, 0.8, 0.3
SETTINGS = ('world.weights=("token=10","reward=10")', "world.dynamics=1.0", "context=0", "imag_last=16", "imagine=12")


def config(seed: int, extra: int, prior: bool, steps: int = STEPS) -> RunConfig:
    """The run of an agent among so many extra words, by the talk prior or by the entropy."""
    agent = override(dynalang.tiny(), [*SETTINGS, *(["talk=talk=token"] if prior else [])])
    env = EnvConfig("lang_room_mini", num=STREAMS, args=(f"extra={extra}",), floor_episodes=0)
    every = RunConfig("dynalang", "tiny", env, agent, steps, seed, capacity=2 * STEPS)
    return replace(every, checkpoint_every=STEPS, log_every=1000, eval_episodes=0, tensorboard=False)


def measure(seed: int) -> dict[str, float]:
    """Three trainings.

    Returns:
        ``claims``: how many of three hold: what a question earns among eleven words, ``few``, at least .85; among two
        hundred ``prior`` at least .80 and ``entropy`` at most .30.
    """
    found = {
        "few": spoke(config(seed, FEW, prior=False)),
        "prior": spoke(config(seed, MANY, prior=True)),
        "entropy": spoke(config(seed, MANY, prior=False)),
    }
    return {"claims": float(holding(found)), **found}


def holding(found: dict[str, float]) -> int:
    """How many of the claims hold."""
    return (found["few"] >= KNOWN) + (found["prior"] >= PRIOR) + (found["entropy"] <= ENTROPY)


def spoke(asked: RunConfig) -> float:
    """What a question earns an agent that learnt by this run."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(asked, dynalang.build, Path(folder) / "run", say=lambda _: None)
        loop.run()
        return earned(loop.agent, asked.env, 10_000 + asked.seed)


def earned(agent: Acting, env: EnvConfig, seed: int) -> float:
    """All rewards of whole episodes, by modes, in the number of answers that were due: 1 is the best, .45 who guesses
    at the right moment, 0 who is silent; what is said at a wrong one costs.
    """
    envs = Envs(env.id, 20, seed=seed, **env.options())
    reward, due = 0.0, 0
    for _, turn in zip(range(EPISODES * ROWS), play(envs, agent, explore=False), strict=False):
        reward += float(np.sum(turn.after["reward"]))
        due += sum("answer_due" in info["event"] for info in envs.infos)
    envs.close()
    return reward / due
