"""Measures the dreams of an RSSM that has watched random actions: pixel error far ahead, beside persistence."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from numpy.typing import NDArray

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents.dreamer_v3 import build, tiny
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.metrics.openloop import open_loop_error
from worldformula.run.play import Randomly, play
from worldformula.training.optimiser import ClipUnits, LaProp

UPDATES, ROWS, BATCH, LENGTH, CONTEXT, HORIZON = 2_500, 6_000, 8, 32, 5, 30


def measure(seed: int) -> dict[str, float]:
    """Trains the world model alone on 6 000 rows of random actions, then dreams 30 steps in 48 unseen sequences.

    Returns:
        ``ratio_k``: pixel error k steps after the context over that of repeating the last context frame, for k of 1, 5,
        15 and 30; ``error_15`` and ``persistence_15``: the two mean squared errors on pixels in [0, 1].
    """
    torch.manual_seed(seed)
    envs = Envs("pendulum", 4, seed=seed, pixels=True, action_repeat=2)
    agent = build(tiny(), envs.observations, envs.action, seed)
    train(agent, record(envs, ROWS, seed))
    held_out = Envs("pendulum", 48, seed=seed + 10_000, pixels=True, action_repeat=2)
    batch = record(held_out, 48 * (CONTEXT + HORIZON), seed + 10_000).sample(48, CONTEXT + HORIZON)
    frames = agent.open_loop(batch, CONTEXT)
    found = open_loop_error(frames["truth"], frames["dream"], CONTEXT)
    ratios = {f"ratio_{k}": found.ratio(k) for k in (1, 5, 15, 30)}
    return {**ratios, "error_15": found.model[14], "persistence_15": found.persistence[14]}


def record(envs: Envs, rows: int, seed: int) -> Replay:
    """A replay of uniformly random actions, ``rows`` of them over all streams."""
    replay = Replay(rows, envs.row_spec, streams=envs.num, seed=seed)
    for turn in islice(play(envs, Randomly(envs.actions, seed)), rows // envs.num):
        replay.add(turn.rows, envs.stored(turn.actions))
    return replay


def train(agent: ImaginationAgent, replay: Replay) -> None:
    """The world model's loss alone; the actor and the critic learn nothing."""
    optimiser = LaProp(agent.world.parameters(), lr=1e-3, warmup=100, units=ClipUnits.of(agent.world))
    for _ in range(UPDATES):
        batch: dict[str, NDArray[Any]] = replay.sample(BATCH, LENGTH)
        optimiser.zero_grad()
        agent.world.loss(**agent.perception.learn(batch, agent.device)).value.backward()
        optimiser.step()
