"""Measures whether an agent in HomeGrid, by its published rules, earns more than random play does, and no more."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

from worldformula.agents import dynalang
from worldformula.envs import Envs
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import Evaluation, evaluate
from worldformula.run.interact import Interact
from worldformula.run.play import Randomly
from worldformula.training.settings import override

STEPS, EPISODES = 40_000, 300
SETTINGS = ('world.weights=("token=10","reward=10")', "lr=1e-3", "length=64", "train_ratio=64", "imag_last=16")
ENV = EnvConfig("home_grid_dynamics", num=8, args=("rules=official",))


def config(seed: int = 0, steps: int = STEPS) -> RunConfig:
    """The run: `tiny`, pictures of 32 pixels."""
    agent = override(dynalang.tiny(), SETTINGS)
    every = RunConfig("dynalang", "tiny", ENV, agent, steps, seed, capacity=60_000)
    return replace(every, checkpoint_every=10_000, log_every=1_000, eval_episodes=0, tensorboard=False)


def measure(seed: int) -> dict[str, float]:
    """Trains, then plays episodes that training never saw, as it explores: modes may turn in circles.

    Returns:
        ``over``: how many standard errors of the difference the mean return lies above that of random play; both,
        ``return`` and ``random``, and the error of the first.
    """
    asked = config(seed)
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(asked, dynalang.build, Path(folder) / "run", say=lambda _: None)
        loop.run()
        own = evaluate(loop.agent, ENV, episodes=EPISODES, seed=10_000 + seed, explore=True)
    floor = by_chance(seed)
    return {"over": over(own, floor), "return": own.mean, "error": own.error, "random": floor.mean}


def by_chance(seed: int) -> Evaluation:
    """Random play in the same episodes."""
    envs = Envs(ENV.id, 1, seed=seed, **ENV.options())
    actor = Randomly(envs.actions, seed)
    envs.close()
    return evaluate(actor, ENV, episodes=EPISODES, seed=10_000 + seed)


def over(own: Evaluation, other: Evaluation) -> float:
    """The difference of two mean returns, in its standard error; 0 of equal ones."""
    gap = own.mean - other.mean
    return gap / math.hypot(own.error, other.error) if gap else 0.0
