"""Measures KL balancing: how well the prior of Dreamer v2's world foresees the next frame, with it and without.

No `worldformula fit` trains it so: both worlds see the same draws from a replay, and Adam has the agent's own epsilon.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from worldformula.agent.perception import Perception
from worldformula.cards.rssm_dream import record
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.formula import Factor
from worldformula.training.fit import fit
from worldformula.training.seeding import continued
from worldformula.world import World
from worldformula.worlds import discrete_rssm

UPDATES, ROWS, BATCH, LENGTH, HELD_OUT = 800, 6_000, 8, 32, 48
CPU = torch.device("cpu")


def measure(seed: int) -> dict[str, float]:
    """Two worlds with the same weights at first see the same sequences of random actions, with α = 0.8 and 0.5.

    Returns:
        ``ratio``: of the squared pixel error of unseen frames that the prior foresees from the filtered state before,
        with balancing over without; both in nats a frame, up to the same constant, ``balanced`` and ``plain``.
    """
    unseen = Envs("pendulum", HELD_OUT, seed=seed + 10_000, pixels=True, action_repeat=2)
    held_out = record(unseen, HELD_OUT * LENGTH, seed + 10_000).sample(HELD_OUT, LENGTH)
    found = {}
    for name, balance in (("balanced", 0.8), ("plain", 0.5)):
        envs = Envs("pendulum", 4, seed=seed, pixels=True, action_repeat=2)
        replay = record(envs, ROWS, seed)  # the same rows, and the same draws of them
        torch.manual_seed(seed)
        config = replace(discrete_rssm.tiny(), balance=balance)
        world = discrete_rssm.build(config, {k: c.encoded for k, c in envs.observations.items()}, envs.action.size)
        perception = Perception.of(world, 1.0, envs.observations, envs.actions)
        found[name] = surprise(train(world, perception, replay, seed), perception, held_out)
    return {"ratio": found["balanced"] / found["plain"], **found}


def train(world: World, perception: Perception, replay: Replay, seed: int) -> World:
    """The world model's loss alone."""
    noise = continued()
    fit(
        world.loss, lambda: perception.learn(replay.sample(BATCH, LENGTH), CPU), batch=BATCH, steps=UPDATES, clip=100.0,
        seed=seed, inputs=lambda rows: {**rows, "generator": noise},
        optimizer=partial(torch.optim.Adam, lr=1e-3, eps=1e-5),
    )  # fmt: skip
    return world


@torch.no_grad()
def surprise(world: World, perception: Perception, batch: dict[str, NDArray[Any]]) -> float:
    """½ Σ (x_t − x̂_t)² a frame, with z_t drawn from p(z_t|h_t) in the place of what the frame says."""
    given = perception.learn(batch, CPU)
    states = world.filter(given, seed=0)
    prior = next(f for f in world.prior.factors if isinstance(f, Factor) and f.variable.key == "z")
    drawn = prior.sample(h=states["h"].flatten(0, 1), seed=0)
    foreseen = states | {"z": drawn.reshape(*states.lead, *drawn.shape[1:])}
    error = world.decode(foreseen, ("x",))["x"] - given["x"]
    return float(0.5 * error.square().sum((-1, -2, -3))[:, 1:].mean())
