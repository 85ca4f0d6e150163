"""Measures whether an agent follows what it reads: the bin opens in one of three ways, and a sentence says which."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from worldformula.agents import dynalang
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact

STEPS, EPISODES = 48_000, 300
WITH, WITHOUT, FALSE = 0.9, 0.38, 0.1


def config(seed: int = 0, *, hint: str = "true", steps: int = STEPS) -> RunConfig:
    """The run; ``hint`` is what is said in training, "true" or "none"."""
    env = EnvConfig("home_dynamics", num=4, args=(f"hint={hint}",))
    every = RunConfig("dynalang", "tiny", env, dynalang.tiny(), steps, seed, capacity=steps)
    return replace(every, checkpoint_every=steps, log_every=1_000, eval_episodes=0, tensorboard=False)


def measure(seed: int) -> dict[str, float]:
    """Trains with the sentence and without, then plays episodes that training never saw.

    Returns:
        ``claims``: how many of three hold: success ``with`` the sentence at least .90, ``without`` it at most .38, and
        ``false``, of the agent that learnt with true ones when it reads false ones, at most .10.
    """
    told = success(config(seed), ("true", "swapped"))
    (without,) = success(config(seed, hint="none"), ("none",))
    found = {"with": told[0], "false": told[1], "without": without}
    return {"claims": float(holding(found)), **found}


def holding(found: dict[str, float]) -> int:
    """How many of the claims hold."""
    return (found["with"] >= WITH) + (found["without"] <= WITHOUT) + (found["false"] <= FALSE)


def success(asked: RunConfig, hints: tuple[str, ...]) -> list[float]:
    """The share of episodes that a run's agent ends by opening the bin, for each of the hints that it reads."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(asked, dynalang.build, Path(folder) / "run", say=lambda _: None)
        loop.run()
        envs = [replace(asked.env, args=(f"hint={hint}",)) for hint in hints]
        return [evaluate(loop.agent, env, episodes=EPISODES, seed=10_000 + asked.seed).mean for env in envs]
