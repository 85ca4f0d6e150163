"""Measures the dreams of an RSSM that has watched random actions: pixel error far ahead, beside persistence.

No `worldformula fit` trains it so: rows come from a replay as it is recorded, and the optimiser is DreamerV3's own.
"""

from __future__ import annotations

from itertools import islice

import torch

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents.dreamer_v3 import build, tiny
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.metrics.openloop import open_loop_error
from worldformula.run.play import Randomly, play
from worldformula.training.fit import fit
from worldformula.training.optimiser import ClipUnits, LaProp
from worldformula.training.seeding import continued

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
    train(agent, record(envs, ROWS, seed), seed)
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


def train(agent: ImaginationAgent, replay: Replay, seed: int) -> None:
    """The world model's loss alone; the actor and the critic learn nothing."""
    loss, noise = agent.world.loss, continued()
    optimiser = LaProp(loss.parameters(), lr=1e-3, warmup=100, units=ClipUnits.of(agent.world))
    fit(
        loss, lambda: agent.perception.learn(replay.sample(BATCH, LENGTH), agent.device), batch=BATCH, steps=UPDATES,
        seed=seed, inputs=lambda rows: {**rows, "generator": noise}, optimizer=optimiser,
    )  # fmt: skip
