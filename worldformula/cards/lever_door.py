"""Measures whether jumps take a planner to a goal that lies beyond the horizon of its search.

A point has to go to a lever first, away from the door that it opens and the goal behind it; whether the door is open is
seen from near alone. THICK's world learns from play of a controller with random actions between, which go on for some
steps and so come to the closed door too; then its jumps learn from what that infers; nothing else is learnt. The same
world is then planned in with sub-goals from jumps, and without.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import thick_planet
from worldformula.cards.context import inferred, jumps_of
from worldformula.envs import Envs
from worldformula.envs.play import play
from worldformula.metrics.success import wilson
from worldformula.planner import Planner
from worldformula.planners.cem import CEM
from worldformula.planners.hierarchy import Hierarchy
from worldformula.planners.mcts import MCTS
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.training.fit import fit
from worldformula.training.schedules import linear
from worldformula.world.jumps import Jumping

EPISODES = 30
ENV = EnvConfig("lever_door", num=EPISODES, args=("hidden_door=true",))
EVENTS = ("lever", "door_pass", "goal")
CHUNKS, STEPS, RANDOM, HOLD = 375, 80, (0.03, 0.1, 0.3), 12
UPDATES, BATCH, BETA, RATE = 6000, 10, 60.0, 1e-3
JUMPS, ROWS, HELD_OUT, KAPPA, REACHED, UNIT = 1000, 512, 60, 1.5, 0.98, 0.1
LEAPS, SURPRISE, SAMPLES = 5, 4.0, 2  # jumps of a plan, what a nat of the unlikely costs, dreams of actions
GROUPS, CLASSES = 32, 4  # many groups of few classes: cosines to a far place still grow with every step towards it
Batch = dict[str, Tensor]


def measure(seed: int) -> dict[str, float]:
    """A world and its jumps learn from play, then plan with sub-goals and without.

    Returns:
        ``thick`` and ``flat``, with sub-goals and without: the shares of episodes that end at the goal, each with its
        Wilson interval (``_low``, ``_high``). ``open``, ``recall``, ``precision``: of rows of other play, how many have
        an open gate, of those at which the lever opens the door how many do, and how many of the former are the latter.
    """
    agent, _ = learnt(seed)
    found = dict[str, float]()
    for name, planner in planners(agent).items():
        agent.configure(replace(agent.habits.usual, planner=planner))
        hits = sum(r > 0.5 for r in evaluate(agent, ENV, episodes=EPISODES, seed=10_000 + seed).returns)
        share = wilson(hits, EPISODES)
        print(f"  {name} {share}", flush=True)
        found |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    return {**found, **gates(agent, 2 * seed + 1)}


def planners(agent: ImaginationAgent) -> dict[str, Planner]:
    """Of the same world: with sub-goals, and the search of actions alone."""
    usual = agent.habits.usual.planner
    assert isinstance(usual, Hierarchy)
    return {"thick": usual, "flat": usual.planner}


def gates(agent: ImaginationAgent, seed: int) -> dict[str, float]:
    """What the gates have to do with the lever, in play that the world has not seen."""
    rows = rows_of(agent, seed, HELD_OUT)
    world = agent.world
    assert isinstance(world, Jumping)
    later = ~rows["first"]
    open_, lever = (inferred(world, rows)["Theta"] > 0).any(-1)[later], rows["event"][..., 0][later]
    both = float((open_ & lever).sum())
    return {
        "open": float(open_.float().mean()), "recall": both / max(float(lever.sum()), 1.0),
        "precision": both / max(float(open_.sum()), 1.0), "events": float(lever.float().mean()),
    }  # fmt: skip


def config() -> thick_planet.ThickPlaNetConfig:
    """`tiny`, with what numbers within [0, 1] and a seldom reward at an end need."""
    own = thick_planet.tiny()
    assert own.world.jumps is not None
    jumps = replace(own.world.jumps, even=None)
    world = replace(own.world, groups=GROUPS, classes=CLASSES, gates=None, proceed=1.0, spread=0.1, jumps=jumps)
    search = CEM(horizon=12, candidates=100, elites=10, iterations=4)
    codes = MCTS(LEAPS, 48, surprise=SURPRISE)
    found = replace(own, world=world, planner=search, codes=codes, bounded=False, unit=UNIT)
    return replace(found, subgoal=KAPPA, reached=REACHED, samples=SAMPLES, draws=True)


def learnt(seed: int) -> tuple[ImaginationAgent, Batch]:
    """The agent, whose world has learnt from play, and that play."""
    envs = Envs(ENV.id, 1, **ENV.options())
    agent = thick_planet.build(config(), envs.observations, envs.actions, seed)
    envs.close()
    rows = rows_of(agent, seed, CHUNKS)
    world = agent.world
    assert isinstance(world, Jumping)
    read = {name: rows[name] for name in world.loss.program.inputs if name in rows}
    warm = {"beta": linear(0.0, BETA, UPDATES)}
    fit(
        world.loss, read, batch=BATCH, steps=UPDATES, lr=RATE, clip=100.0, seed=seed, schedule="cosine", symbols=warm
    )  # fmt: skip
    seen = jumps_of(world, rows)
    even = {"even": linear(1.0, 0.0, JUMPS // 2)}
    fit(world.jumps, seen, batch=ROWS, steps=JUMPS, lr=RATE, clip=100.0, seed=seed, schedule="cosine", symbols=even)
    return agent, rows


def rows_of(agent: ImaginationAgent, seed: int, chunks: int) -> Batch:
    """Play as the agent's world reads it; ``event`` is for scores, ``terminal`` for jumps."""
    found = play(ENV.id, seed, chunks, STEPS, random=RANDOM, events=EVENTS, hold=HOLD, hidden_door=True)
    rows = agent.perception.learn(found, torch.device("cpu"))
    return rows | {
        key: torch.from_numpy(found[name]) for key, name in (("event", "event"), ("terminal", "is_terminal"))
    }
