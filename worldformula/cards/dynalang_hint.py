"""Measures whether an agent follows what it reads: the bin opens in one of three ways, and a sentence says which.

The world learns from play of somebody who knows no more than the agent does, and tries; then world, actor and critic
learn from that play and from what the agent does itself, in equal parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3, dynalang
from worldformula.envs import Envs, Rows
from worldformula.envs.home_grid_mini import BIN, OPENING, walk
from worldformula.envs.home_tiles import STEPS as MOVES
from worldformula.envs.play import play
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.play import executed
from worldformula.run.play import play as live
from worldformula.training.fit import fit
from worldformula.training.optimiser import ClipUnits, LaProp

EPISODES = 1000
WITH, WITHOUT, FALSE = 0.9, 0.38, 0.1
ROOM = 3  # cells along an edge
STEPS, RANDOM = 32, (0.1,)  # rows of a chunk of play, and the share of its actions that are random
SLOW, QUICK = (0.6, 2000), (0.1, 1000)  # of either kind of play, the share of steps that lead anywhere, and chunks
FIRST = 600  # updates from slow play alone; then a quarter is slow
WORLD, ALL = 1600, 800  # updates of the world alone, and of everything
STREAMS, EVERY = 16, 20  # it acts in so many rooms at once, 32 rows each time, behind so many updates
WEIGHTS = ("token=10", "reward=10")
RATE = 2e-3


def config() -> dreamer_v3.DreamerConfig:
    """`tiny`, whose world is told to read, and to tell an opened bin from a broken one."""
    own: dreamer_v3.DreamerConfig = dynalang.tiny()
    world = replace(own.world, dynamics=1.0, weights=WEIGHTS)
    return replace(own, world=world, lr=RATE, context=0, imagine=6, imag_last=10)


def env(hint: str) -> EnvConfig:
    """Where it acts; ``hint`` is what is said: "true", "none" or "swapped"."""
    return EnvConfig("home_dynamics", num=20, args=(f"hint={hint}", "again=true", f"room={ROOM}"))


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
    """An agent that learnt from play, then from that and from what it did itself; ``hint`` is what was said."""
    envs = Envs("home_dynamics", STREAMS, seed=seed, **env(hint).options())
    own = config()
    agent: ImaginationAgent = dynalang.build(own, envs.observations, envs.actions, seed)
    slow, quick = played(seed, hint, 0), played(seed, hint, 1)
    world, known = agent.world, [agent.perception.learn(rows, agent.device) for rows in (slow, quick)]
    read = [{name: rows[name] for name in world.loss.program.inputs if name in rows} for rows in known]
    moves = partial(LaProp, lr=own.lr, warmup=own.warmup, clip=own.clip, units=ClipUnits.of(world))
    given = batches(np.random.default_rng(seed), own.batch, *read)
    fit(world.loss, given, batch=own.batch, steps=WORLD, seed=seed, optimizer=moves)
    rng, turns, lived = np.random.default_rng(seed), live(envs, agent), list[Rows]()
    for n in range(ALL):
        if n % EVERY == 0:
            rows = [executed(envs, next(turns)) for _ in range(STEPS)]
            lived += [{key: np.stack([row[key][k] for row in rows]) for key in slow} for k in range(STREAMS)]
        first = rng.integers(len(slow["reward"]), size=own.batch // 2)
        second = rng.integers(len(lived), size=own.batch // 2)
        agent.update({key: np.stack([*slow[key][first], *(lived[k][key] for k in second)]) for key in slow})
    envs.close()
    return agent


def played(seed: int, hint: str, kind: int) -> dict[str, NDArray[Any]]:
    """Rows of slow play, kind 0, or of quick play."""
    stray, chunks = (SLOW, QUICK)[kind]
    tried = partial(tries, np.random.default_rng([seed, kind]), stray=stray)
    rows = play(
        "home_dynamics", 2 * seed + kind, chunks, STEPS, random=RANDOM, controller=tried, hint=hint, again=True,
        room=ROOM,
    )  # fmt: skip
    del rows["event"]
    return rows


def batches(
    rng: np.random.Generator, size: int, slow: Mapping[str, Tensor], quick: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """What the world learns from: slow play, until it keeps the sentence, then mostly quick play, which opens more."""
    for n in count():
        some = size if n < FIRST else size // 4
        parts = [(rows, rng.integers(len(rows["r"]), size=k)) for rows, k in ((slow, some), (quick, size - some))]
        yield {name: torch.cat([rows[name][chosen] for rows, chosen in parts]) for name in slow}


def tries(rng: np.random.Generator, state: Mapping[str, NDArray[np.floating]], stray: float) -> int:
    """Goes to a bin that it sees, else anywhere, and tries any of the ways there; it does not know what opens the bin.
    For a share of its steps it strays: any action but those that would open what it faces, so also these where they do
    nothing. Slow play takes its time: what is tried before the sentence has come again teaches nobody to keep it.
    """
    x, y, facing = *(int(k) for k in state["figure"]), int(state["facing"][0])
    far = np.abs(np.argwhere(state["tiles"] == BIN)[0] - (y, x)).max()
    faced = state["tiles"][y + MOVES[facing][1], x + MOVES[facing][0]] == BIN
    if rng.random() < stray:
        return int(rng.integers(len(MOVES) + (0 if faced else len(OPENING))))
    if faced:
        return len(MOVES) + int(rng.integers(len(OPENING)))
    return walk(state, state["tiles"] == BIN) if far <= 1 else int(rng.integers(len(MOVES)))
