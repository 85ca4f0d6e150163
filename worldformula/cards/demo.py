"""The demo as a card: an agent, `tiny`, learns the pendulum swing-up from 32 × 32 pixels in minutes on two cores."""

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


def config(steps: int = STEPS, seed: int = 0, model: str = "dreamer_v3") -> RunConfig:
    """What ``worldformula demo`` runs, also of another agent; ``steps`` are environment steps, two per action."""
    system = catalogue.find(model)
    env = EnvConfig("pendulum", num=4, pixels=True, size=32, action_repeat=2)
    agent = system.sizes("tiny")
    every = RunConfig(system.name, "tiny", env, agent, steps, seed, capacity=CAPACITY, checkpoint_every=4_000)
    return replace(every, log_every=250, eval_episodes=0)


def measure(seed: int) -> dict[str, float]:
    """DreamerV3: see `learnt`."""
    return learnt("dreamer_v3", seed)


def planet(seed: int) -> dict[str, float]:
    """PlaNet: see `learnt`."""
    return learnt("planet", seed)


def dreamer_v1(seed: int) -> dict[str, float]:
    """Dreamer v1: see `learnt`."""
    return learnt("dreamer_v1", seed)


def dreamer_v2(seed: int) -> dict[str, float]:
    """Dreamer v2: see `learnt`."""
    return learnt("dreamer_v2", seed)


def learnt(model: str, seed: int) -> dict[str, float]:
    """Trains an agent as the demo does, then plays episodes that training never saw.

    Returns:
        ``return``: mean return of 50 episodes without exploring; ``return_error``: its standard error;
        ``open_loop_ratio_15``: pixel error 15 steps ahead over that of repeating the last frame; ``train_seconds``.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = config(seed=seed, model=model)
        loop = Interact(asked, catalogue.find(model).build, Path(folder) / "demo", say=lambda _: None)
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
