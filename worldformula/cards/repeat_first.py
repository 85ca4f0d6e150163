"""Measures what memory is worth: DreamerV3 repeats the first card of an episode, with what it carries and without."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium

from worldformula.agents import dreamer_v3
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact
from worldformula.training.settings import override

TASK = "popgym-RepeatFirstEasy-v0"
STEPS, EPISODES, ANSWERS = 15_000, 50, 51
SETTINGS = (
    "batch=8", "length=64", "context=1", "imagine=5", "behaviour.horizon=20", "world.representation=0",
    "world.weights=reward=10",
)  # fmt: skip
"""Sequences as long as an episode, which go on from the latents that the replay keeps; what is answered changes no
later card, so short dreams tell all. The posterior is not drawn to the prior, which foresees no card.
"""


class Answers(gymnasium.RewardWrapper[Any, Any]):
    """1 for a right answer and −1 for a wrong one, where the task gives ±1/51."""

    def reward(self, reward: SupportsFloat) -> float:
        """Of an answer."""
        return ANSWERS * float(reward)


def config(seed: int = 0, *, carry: bool = True, steps: int = STEPS) -> RunConfig:
    """The run; without ``carry``, a state tells the present card alone."""
    agent = override(dreamer_v3.tiny(), [*SETTINGS, f"world.carry={carry}"])
    env = EnvConfig(TASK, num=4, wrap=(f"{__name__}:{Answers.__name__}",))
    every = RunConfig("dreamer_v3", "tiny", env, agent, steps, seed, capacity=24_000)
    return replace(every, checkpoint_every=5_000, log_every=500, eval_episodes=0, tensorboard=False)


def measure(seed: int) -> dict[str, float]:
    """Trains both, then plays episodes that training never saw.

    Returns:
        ``gain``: the mean return of 50 episodes, by modes, with what is carried less that without; both returns,
        ``with`` and ``without``.
    """
    found = {name: score(config(seed, carry=carry)) for name, carry in (("with", True), ("without", False))}
    return {"gain": found["with"] - found["without"], **found}


def score(asked: RunConfig) -> float:
    """The mean return of a run's agent, in the units of the task."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(asked, dreamer_v3.build, Path(folder) / "run", say=lambda _: None)
        loop.run()
        return evaluate(loop.agent, asked.env, episodes=EPISODES, seed=10_000 + asked.seed).mean / ANSWERS
