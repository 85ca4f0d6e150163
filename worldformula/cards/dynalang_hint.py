"""Measures whether an agent follows what it reads: the bin opens in one of three ways, and a sentence says which.

The world learns from play of somebody who knows no more than the agent does, and tries; then world, actor and critic
learn from the same play. Nothing else is done in the environment before it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3, dynalang
from worldformula.envs import Envs
from worldformula.envs.home_grid_mini import BIN, FLOOR_, walk
from worldformula.envs.home_tiles import STEPS as MOVES
from worldformula.envs.play import play
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.training.fit import fit
from worldformula.training.optimiser import ClipUnits, LaProp

EPISODES = 300
WITH, WITHOUT, FALSE = 0.9, 0.38, 0.1
CHUNKS, STEPS, RANDOM = 1250, 32, (0.1, 0.3, 0.6)
WORLD, ALL = 1600, 1200  # updates of the world alone, and of everything
AROUND = (2, 3, 1, 0)  # from left up, from up right, from right down, from down left
WEIGHTS = ("token=10", "reward=10")


def config() -> dreamer_v3.DreamerConfig:
    """`tiny`, whose world is told to read, and to tell an opened bin from a broken one."""
    own: dreamer_v3.DreamerConfig = dynalang.tiny()
    return replace(own, world=replace(own.world, dynamics=1.0, weights=WEIGHTS), context=0, imagine=12, imag_last=16)


def env(hint: str) -> EnvConfig:
    """Where it acts; ``hint`` is what is said: "true", "none" or "swapped"."""
    return EnvConfig("home_dynamics", num=20, args=(f"hint={hint}", "again=true"))


def measure(seed: int) -> dict[str, float]:
    """Learns with the sentence and without, then plays episodes.

    Returns:
        ``claims``: how many of three hold: success ``with`` the sentence at least .90, ``without`` it at most .38, and
        ``false``, of the agent that learnt with true ones when it reads false ones, at most .10.
    """
    told = success(learnt(seed, "true"), seed, ("true", "swapped"))
    (without,) = success(learnt(seed, "none"), seed, ("none",))
    found = {"with": told[0], "false": told[1], "without": without}
    return {"claims": float(holding(found)), **found}


def holding(found: dict[str, float]) -> int:
    """How many of the claims hold."""
    return (found["with"] >= WITH) + (found["without"] <= WITHOUT) + (found["false"] <= FALSE)


def success(agent: ImaginationAgent, seed: int, hints: tuple[str, ...]) -> list[float]:
    """The share of episodes that an agent ends by opening the bin, for each of the hints that it reads."""
    return [evaluate(agent, env(hint), episodes=EPISODES, seed=10_000 + seed).mean for hint in hints]


def learnt(seed: int, hint: str) -> ImaginationAgent:
    """An agent that learnt from play; ``hint`` is what was said in it."""
    envs = Envs("home_dynamics", 1, **env(hint).options())
    own = config()
    agent: ImaginationAgent = dynalang.build(own, envs.observations, envs.actions, seed)
    envs.close()
    rows = play(
        "home_dynamics", seed, CHUNKS, STEPS, random=RANDOM, controller=tries, hint=hint,
        again=True,
    )  # fmt: skip
    world, known = agent.world, agent.perception.learn(rows, agent.device)
    read = {name: known[name] for name in world.loss.program.inputs if name in known}
    moves = partial(LaProp, lr=own.lr, warmup=own.warmup, clip=own.clip, units=ClipUnits.of(world))
    fit(world.loss, read, batch=own.batch, steps=WORLD, seed=seed, optimizer=moves)
    rng, columns = np.random.default_rng(seed), {key: value for key, value in rows.items() if key != "event"}
    for _ in range(ALL):
        some = rng.integers(CHUNKS, size=own.batch)
        agent.update({key: value[some] for key, value in columns.items()})
    return agent


def tries(state: Mapping[str, NDArray[np.floating]]) -> int:
    """Goes to a bin that it sees, and tries one of the ways there, which one by where it stands; else straight on, and
    around along the walls. It does not know what opens the bin.
    """
    x, y, facing = *(int(k) for k in state["figure"]), int(state["facing"][0])
    faced = state["tiles"][y + MOVES[facing][1], x + MOVES[facing][0]]
    if faced == BIN:
        return len(MOVES) + (x + y + facing) % 3
    far = np.abs(np.argwhere(state["tiles"] == BIN)[0] - (y, x)).max()
    if far <= 1:
        return walk(state, state["tiles"] == BIN)
    return facing if faced == FLOOR_ else AROUND[facing]
