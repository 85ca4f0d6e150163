"""An environment that the package does not know, ``examples/04_own_environment.py``, as a card of DreamerV3 `tiny`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import worldformula
from worldformula import catalogue
from worldformula.envs.returns import random_policy_return
from worldformula.errors import CardError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact

MODULE = "04_own_environment"
STEPS = 7_000
EPISODES = 50


def example() -> Any:
    """The module of the example, which lies in a checkout of the source and nowhere else.

    Raises:
        CardError: the package is installed, not checked out.
    """
    folder = Path(worldformula.__file__).parents[1] / "examples"
    if not (folder / f"{MODULE}.py").is_file():
        raise CardError(
            f"card own_environment: expected examples/{MODULE}.py beside the package, got a package without it; "
            "measure in a checkout of the source"
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return import_module(MODULE)


def config(steps: int = STEPS, seed: int = 0) -> RunConfig:
    """What the card trains: the preset, with short sequences and dreams, more random play and more entropy.

    The critic learns in dreams alone, so that the data alone shape the world. Dreams keep to the mask, which the world
    predicts.
    """
    example()
    system = catalogue.find("dreamer_v3")
    env = EnvConfig(f"{MODULE}:Carousel", num=4)
    agent = replace(system.sizes("tiny"), batch=24, length=8, imagine=5, imag_last=4, train_ratio=96.0, prefill=2000)
    agent = replace(agent, replay_value=0.0, behaviour=replace(agent.behaviour, entropy=1e-2, horizon=20.0))
    every = RunConfig(system.name, "tiny", env, agent, steps, seed, capacity=10_000, checkpoint_every=4_000)
    return replace(every, log_every=250, eval_episodes=0)


def measure(seed: int) -> dict[str, float]:
    """Trains, then plays episodes that training never saw, with the policy's mode.

    Returns:
        ``return``: mean of 50 episodes; ``return_error``: its standard error; ``random``: mean of as many episodes at
        random, among what the mask allows; ``rule``: of one who knows all; ``train_seconds``.
    """
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(config(seed=seed), catalogue.find("dreamer_v3").build, Path(folder) / "run", say=lambda _: None)
        result = loop.run()
        score = evaluate(loop.agent, loop.config.env, episodes=EPISODES, seed=10_000 + seed)
    floor = random_policy_return(loop.config.env.id, EPISODES, seed=20_000 + seed)
    return {
        "return": score.mean,
        "return_error": score.error,
        "random": floor.mean,
        "rule": ruled(EPISODES, seed=30_000 + seed),
        "train_seconds": result.seconds,
    }


def ruled(episodes: int, seed: int) -> float:
    """Mean return of the example's own rule."""
    env, total = example().Carousel(), 0.0
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        total += sum(env.step(env.rule())[1] for _ in range(env.steps))
    return total / episodes
