"""Measures Plan2Explore in a room that random steps hardly get to know: what it covers, and a task told later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from worldformula import catalogue
from worldformula.agent.configurator import Configuration
from worldformula.agent.imagination import ImaginationAgent
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.envs.room import SQUARES, rewarded, square
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact
from worldformula.run.play import Turn
from worldformula.training.settings import override

STEPS, TASK, EPISODES, WALKS = 2_400, 300, 20, 20
CHANGES = (
    "batch=16", "length=16", "imagine=12", "imag_last=4", "train_ratio=128", "prefill=300",
    "behaviour.entropy=0.003",  # four points of one policy should not all go one way
    "world.free_nats=1.0", "world.harmony=true",  # two numbers below 1 hardly count among divergences
)  # fmt: skip


class Visiting(Interact):
    """A run that knows which squares of the room it has been to."""

    visited: frozenset[int] = frozenset()

    def _turn(self, turn: Turn) -> int:
        self.visited |= {int(place) for place in square(turn.rows["vector"])}
        return super()._turn(turn)


def config(seed: int) -> RunConfig:
    """Plan2Explore `tiny`, with shorter sequences, in the room without a task."""
    system = catalogue.find("plan2explore")
    agent = override(system.sizes("tiny"), CHANGES)
    found = RunConfig(system.name, "tiny", room(goal=False), agent, STEPS, seed, capacity=2 * STEPS)
    return replace(found, checkpoint_every=STEPS, log_every=500, eval_episodes=0, tensorboard=False)


def room(goal: bool) -> EnvConfig:
    """Four of them; a corner earns something or not."""
    return EnvConfig("room", num=4, args=(f"goal={str(goal).lower()}",))


def measure(seed: int) -> dict[str, float]:
    """Explores, then learns in dreams alone to go where it is told, with rewards for what it has seen.

    Returns:
        ``coverage``: share of the squares that it has been to in its steps; ``random`` and ``random_sd``: that of
        random steps, mean and standard deviation of twenty such walks; ``task``: return of the task afterwards, where
        36 is the most and random steps have 0; ``reached``: share of the rows in its replay that earn something there.
    """
    with TemporaryDirectory() as folder:
        loop = Visiting(config(seed), catalogue.find("plan2explore").build, Path(folder) / "run", say=lambda _: None)
        loop.run()
        reached = told(cast("ImaginationAgent", loop.agent), loop.replay)
    walks = [wandered(1_000 * seed + walk) for walk in range(WALKS)]
    score = evaluate(loop.agent, room(goal=True), episodes=EPISODES, seed=10_000 + seed)
    return {
        "coverage": len(loop.visited) / SQUARES**2,
        "random": float(np.mean(walks)),
        "random_sd": float(np.std(walks, ddof=1)),
        "task": score.mean,
        "reached": reached,
    }


def told(agent: ImaginationAgent, replay: Replay) -> float:
    """Updates on what it has seen, with the rewards of the task and for them alone; how many rows earn something."""
    agent.configure(Configuration({"reward": 1.0, "disagreement": 0.0}))
    shares = []
    for _ in range(TASK):
        batch = dict(replay.sample(agent.config.batch, agent.config.length))
        batch["reward"] = earned(batch)
        shares.append(batch["reward"].mean())
        agent.update(batch)
    return float(np.mean(shares))


def earned(batch: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What arriving at the rows of a batch earns; a first row has arrived from nowhere."""
    there = rewarded(batch["vector"])
    found: NDArray[np.float32] = (there & ~batch["is_first"]).astype(np.float32)
    return found


def wandered(seed: int) -> float:
    """The share of the squares that as many random steps reach."""
    envs, rng, visited = Envs("room", 4, seed=seed), np.random.default_rng(seed), set[int]()
    rows, taken = envs.reset(), 0
    while taken < STEPS:
        visited |= {int(place) for place in square(rows["vector"])}
        rows = envs.step(rng.uniform(-1, 1, (4, 2)).astype(np.float32))
        taken += int((~rows["is_first"]).sum())
    return len(visited) / SQUARES**2
