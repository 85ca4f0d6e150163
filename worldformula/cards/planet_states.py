"""Measures what PlaNet's state is made of: how far dreams go wrong with both parts of it, and with either alone.

No `worldformula fit` trains it so: all worlds see the same draws from a replay, as `kl_balance` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import torch

from worldformula.agent.open_loop import open_loop
from worldformula.agent.perception import Perception
from worldformula.cards.kl_balance import CPU, train
from worldformula.cards.rssm_dream import record
from worldformula.envs import Envs
from worldformula.metrics.openloop import open_loop_error
from worldformula.worlds import gaussian_rssm

ROWS, SEQUENCES, CONTEXT, HORIZON = 6_000, 48, 5, 20
OVERSHOOTING = 6
STATES: Mapping[str, Mapping[str, object]] = {
    "rssm": {}, "ssm": {"state": "ssm"}, "deterministic": {"state": "deterministic"},
    "overshooting": {"overshooting": OVERSHOOTING},
}  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    """Four worlds see the same sequences of random actions, and dream on from five frames of unseen ones.

    Returns:
        by state the pixel error of dreams, mean of 20 steps, over that of repeating the last frame: ``rssm``, ``ssm``,
        ``deterministic``, ``overshooting``; ``beside_ssm`` and ``beside_deterministic``: that of the RSSM over theirs;
        ``overshot``: with overshooting over without.
    """
    unseen = Envs("pendulum", SEQUENCES, seed=seed + 10_000, pixels=True, action_repeat=2)
    length = CONTEXT + HORIZON
    held_out = record(unseen, SEQUENCES * length, seed + 10_000).sample(SEQUENCES, length)
    found = {}
    for name, changes in STATES.items():
        envs = Envs("pendulum", 4, seed=seed, pixels=True, action_repeat=2)
        replay = record(envs, ROWS, seed)  # the same rows, and the same draws of them
        torch.manual_seed(seed)
        config = replace(gaussian_rssm.tiny(), **changes)  # type: ignore[arg-type]
        world = gaussian_rssm.build(config, {k: c.encoded for k, c in envs.observations.items()}, envs.action.size)
        perception = Perception.of(world, 1.0, envs.observations, envs.actions)
        train(world, perception, replay, seed)
        torch.manual_seed(seed)
        frames = open_loop(world, perception, held_out, CPU, CONTEXT)
        error = open_loop_error(frames["truth"], frames["dream"], CONTEXT)
        found[name] = fmean(error.model) / fmean(error.persistence)
    return {
        **found, "beside_ssm": found["rssm"] / found["ssm"],
        "beside_deterministic": found["rssm"] / found["deterministic"],
        "overshot": found["overshooting"] / found["rssm"],
    }  # fmt: skip
