"""What cards share whose agents begin with play of somebody else: first the world learns, then all of the agent.

A world comes to keep a word until it is asked for, and to foretell what an act earns, all of a sudden, after some
hundred updates with one seed and some thousand with another. So it learns until it does, in play that it did not learn
from, and not for a number of updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dynalang
from worldformula.agents.dreamer_v3 import DreamerConfig
from worldformula.envs import Envs, Rows
from worldformula.envs.home_grid_mini import FLOOR_
from worldformula.envs.home_tiles import STEPS as MOVES
from worldformula.metrics.roc import auroc
from worldformula.run.config import EnvConfig
from worldformula.run.play import executed, play
from worldformula.training.fit import fit
from worldformula.training.optimiser import ClipUnits, LaProp
from worldformula.world import State, saying

EVERY, MOST, KNOWN, LOOKS = 200, 4000, 0.98, 2  # updates between looks and in all; what is known, so often in a row
DREAMS = 8  # of each act, whose rewards are averaged
STREAMS, LIVES = 16, 20  # it acts in so many environments at once, behind so many updates


@dataclass(frozen=True)
class Begun:
    """How a world came to know: its updates, and what it knew at the last look, NaN where nobody looked."""

    updates: int
    known: float


@torch.no_grad()
def recalled(agent: ImaginationAgent, rows: Rows, asked: NDArray[np.bool_]) -> float:
    """The share of rows ``asked`` of play, none a first one, whose word the world held to be likeliest a row before."""
    choices = {key: column.classes for key, column in agent.perception.columns.items() if column.kind == "discrete"}
    head = saying.head_of(agent.world, choices, "token")
    known = agent.perception.learn(rows, agent.device)
    likely = saying.expected(agent.world, known, head, samples=DREAMS).argmax(-1).numpy()
    return float(np.mean((likely == rows["token"][:, 1:])[asked[:, 1:]]))


@torch.no_grad()
def foretold(agent: ImaginationAgent, rows: Rows, asked: NDArray[np.bool_]) -> float:
    """How well a world tells, one row before, acts that earn something from others: `auroc`.

    Args:
        agent: whose world imagines.
        rows: play ``[B, T]``.
        asked: the rows ``[B, T]`` that answer such acts; none is the first one of a chunk or of an episode.
    """
    world, known = agent.world, agent.perception.learn(rows, agent.device)
    seen, (b, t) = world.filter(known, seed=0), (torch.as_tensor(k) for k in np.nonzero(asked))
    before = State({name: seen[name][b, t - 1] for name in world.carried}, 1)
    acts = {name: known[name][b, t - 1][:, None] for name in world.actions}
    return told_apart(agent, before, acts, torch.from_numpy(rows["reward"][asked] > 0))


@torch.no_grad()
def told_apart(agent: ImaginationAgent, before: State, acts: Mapping[str, Tensor], earned: Tensor) -> float:
    """How well the rewards that a world imagines tell actions that earn something from others: `auroc`.

    Args:
        agent: whose world imagines.
        before: states ``[N, …]``.
        acts: what is done from there on, ``[N, H, A]`` by variable; the rewards of H steps are added.
        earned: ``[N]``, those that earn something.
    """
    world, steps = agent.world, range(1, 1 + next(iter(acts.values())).shape[1])
    dreams = (world.imagine(before, actions=acts, seed=k) for k in range(DREAMS))
    told = [torch.stack([world.decode(dream.at(k), ("r",))["r"] for k in steps]).sum(0) for dream in dreams]
    rewards = torch.stack(told).mean(0)
    return auroc(rewards[earned], rewards[~earned])


def raised(
    config: DreamerConfig, env: EnvConfig, rows: Rows, look: Callable[[ImaginationAgent], float], seed: int,
    together: int, updates: int | None = None,
) -> tuple[ImaginationAgent, Begun]:  # fmt: skip
    """An agent that reads: its world learns from play, then all of it from that and from what it does itself.

    Args:
        config: of the agent.
        env: where it acts.
        rows: play ``[N, T]``.
        look: what its world knows, as for `begin`.
        seed: of weights and acts.
        together: updates of everything.
        updates: of the world alone, where there is nothing to know.
    """
    envs = Envs(env.id, STREAMS, seed=seed, **env.options())
    agent: ImaginationAgent = dynalang.build(config, envs.observations, envs.actions, seed)
    given = batches(np.random.default_rng(seed), config.batch, inputs(agent, rows))
    begun = begin(agent, given, partial(look, agent), seed, updates)
    go_on(agent, envs, rows, together, np.random.default_rng(seed))
    envs.close()
    return agent, begun


def walks(rng: np.random.Generator, state: Mapping[str, NDArray[np.floating]], stray: float) -> int:
    """A controller of small homes that knows no more than who sees them: on where the figure faces, else anywhere, and
    so in a share of its other steps.
    """
    x, y, (dx, dy) = *(int(k) for k in state["figure"]), MOVES[int(state["facing"][0])]
    on = state["tiles"][y + dy, x + dx] == FLOOR_ and rng.random() >= stray
    return int(state["facing"][0]) if on else int(rng.integers(len(MOVES)))


def batches(rng: np.random.Generator, size: int, rows: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """What a world learns from: ``size`` chunks of `inputs` at a time."""
    for _ in count():
        chosen = rng.integers(len(rows["r"]), size=size)
        yield {name: column[chosen] for name, column in rows.items()}


def inputs(agent: ImaginationAgent, rows: Rows) -> dict[str, Tensor]:
    """What the loss of the world reads of some play."""
    known = agent.perception.learn(rows, agent.device)
    return {name: known[name] for name in agent.world.loss.program.inputs if name in known}


def begin(
    agent: ImaginationAgent, batches: Iterator[Mapping[str, Tensor]], look: Callable[[], float], seed: int,
    updates: int | None = None,
) -> Begun:  # fmt: skip
    """The world of an agent learns: until it knows what it is asked, at most `MOST` updates; or for just ``updates``.

    Args:
        agent: its world changes.
        batches: of `inputs`.
        look: what it knows of unseen play, from 0 to 1: `recalled` or `foretold`.
        seed: of the noise.
        updates: their number, where there is nothing to know.
    """
    found = list[float]()

    def knows(step: int, _: Any) -> bool:
        if updates is not None or step % EVERY:
            return False
        found.append(look())
        return len(found) >= LOOKS and min(found[-LOOKS:]) >= KNOWN

    config, loss = cast("DreamerConfig", agent.config), agent.world.loss
    moves = partial(LaProp, lr=config.lr, warmup=config.warmup, clip=config.clip, units=ClipUnits.of(agent.world))
    steps = MOST if updates is None else updates
    fit(loss, batches, batch=config.batch, steps=steps, seed=seed, optimizer=moves, callback=knows)
    return Begun(EVERY * len(found), found[-1]) if found else Begun(steps, math.nan)


def go_on(
    agent: ImaginationAgent, envs: Envs, given: Rows, updates: int, rng: np.random.Generator,
    then: Callable[[int], None] = lambda _: None,
) -> None:  # fmt: skip
    """World, actor and critic learn: half of each batch is ``given`` play, the other half what the agent itself does.

    Args:
        agent: it changes.
        envs: where it acts meanwhile, as many rows at a time as the chunks of ``given`` have.
        given: play ``[N, T]``.
        updates: how many.
        rng: chooses the chunks.
        then: called with the number of updates, behind each.
    """
    turns, lived, half = play(envs, agent), list[Rows](), agent.config.batch // 2
    chunks, steps = given["reward"].shape
    for n in range(updates):
        if n % LIVES == 0:
            rows = [executed(envs, next(turns)) for _ in range(steps)]
            lived += [{key: np.stack([row[key][k] for row in rows]) for key in given} for k in range(envs.num)]
        first, second = rng.integers(chunks, size=half), rng.integers(len(lived), size=half)
        agent.update({key: np.stack([*given[key][first], *(lived[k][key] for k in second)]) for key in given})
        then(n + 1)
