"""The demo as a card: DreamerV3 `tiny` learns the pendulum swing-up from 32 × 32 pixels in minutes on two cores."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from worldformula import catalogue
from worldformula.report.gather import gather
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact

STEPS = 12_000
CAPACITY = 24_000  # fixed, so that a demo can be made longer
EPISODES = 50


def config(steps: int = STEPS, seed: int = 0) -> RunConfig:
    """What ``worldformula demo`` runs; ``steps`` are environment steps, two per action."""
    system = catalogue.find("dreamer_v3")
    env = EnvConfig("pendulum", num=4, pixels=True, size=32, action_repeat=2)
    agent = system.sizes("tiny")
    every = RunConfig(system.name, "tiny", env, agent, steps, seed, capacity=CAPACITY, checkpoint_every=4_000)
    return replace(every, log_every=250, eval_episodes=0)


def measure(seed: int) -> dict[str, float]:
    """Trains as the demo does, then plays episodes that training never saw.

    Returns:
        ``return``: mean return of 50 episodes with the policy's mode; ``return_error``: its standard error;
        ``open_loop_ratio_15``: pixel error 15 steps ahead over that of repeating the last frame; ``train_seconds``.
    """
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(
            config(seed=seed), catalogue.find("dreamer_v3").build, Path(folder) / "demo", say=lambda _: None
        )
        result = loop.run()
        score = evaluate(loop.agent, loop.config.env, episodes=EPISODES, seed=10_000 + seed)
        seen = gather(result.folder, loop.agent, episodes=10)
    assert seen.open_loop is not None
    return {
        "return": score.mean,
        "return_error": score.error,
        "open_loop_ratio_15": seen.open_loop.ratio(15),
        "train_seconds": result.seconds,
    }
