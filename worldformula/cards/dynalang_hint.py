"""Measures whether an agent follows what it reads: the bin opens in one of three ways, and a sentence says which.

The world learns from play of somebody who knows no more than the agent does, and tries: until it keeps the sentence,
which comes again, then until it foretells what opens, both in play that it did not learn from. Then world, actor and
critic learn from that play and from what the agent does itself, in equal parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3, dynalang
from worldformula.cards import from_play
from worldformula.cards.from_play import Begun
from worldformula.envs import Envs, Rows
from worldformula.envs.home_grid_mini import BIN, OPENING, VOCABULARY, walk
from worldformula.envs.home_tiles import STEPS as MOVES
from worldformula.envs.play import play
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate

EPISODES = 1000
ROOM = 3  # cells along an edge
STEPS, RANDOM = 32, (0.1,)  # rows of a chunk of play, and the share of its actions that are random
SLOW, QUICK = (0.6, 2000), (0.1, 1000)  # of either kind of play, the share of steps that lead anywhere, and chunks
UNSEEN = (0.6, 200)  # slow play that nothing learns from
LESS = 4  # once it keeps the sentence, one chunk in so many is of slow play
ALL = 800  # updates of everything
WEIGHTS = ("token=10", "reward=10")
RATE = 2e-3


def config(aside: bool = False) -> dreamer_v3.DreamerConfig:
    """`tiny`, whose world is told to read, and to tell an opened bin from a broken one; ``aside``: whose policy alone
    reads.
    """
    own: dreamer_v3.DreamerConfig = dynalang.tiny()
    world = replace(own.world, dynamics=1.0, weights=WEIGHTS)
    if aside:
        world = replace(world, weights=WEIGHTS[1:], aside=("token",))
    return replace(own, world=world, lr=RATE, context=0, imagine=6, imag_last=10)


def env(hint: str) -> EnvConfig:
    """Where it acts; ``hint`` is what is said: "true", "none" or "swapped"."""
    return EnvConfig("home_dynamics", num=20, args=(f"hint={hint}", "again=true", f"room={ROOM}"))


def measure(seed: int) -> dict[str, float]:
    """Learns with the sentence and without, then plays episodes. Without it there is nothing to know, and the world
    learns for as many updates as with it.

    Returns:
        Success ``with`` the sentence, ``without`` it, and ``false``, of the agent that learnt with true ones when it
        reads false ones. And of the world that reads: ``kept`` and ``known``, of unseen play the last `recalled` of
        words that come again and `foretold` of openings, `from_play.KNOWN` or it never knew; and the updates until
        then, ``keeps`` and ``knows``.
    """
    reader, (kept, known) = learnt(seed, "true")
    told = success(reader, seed, ("true", "swapped"))
    (without,) = success(learnt(seed, "none", (kept.updates, known.updates))[0], seed, ("none",))
    updates = {"keeps": float(kept.updates), "knows": float(known.updates)}
    return {
        "with": told[0], "false": told[1], "without": without, "kept": kept.known, "known": known.known, **updates,
    }  # fmt: skip


def success(agent: ImaginationAgent, seed: int, hints: tuple[str, ...]) -> list[float]:
    """The share of episodes that an agent ends by opening the bin, for each of the hints that it reads."""
    return [evaluate(agent, env(hint), episodes=EPISODES, seed=10_000 + seed).mean for hint in hints]


def learnt(
    seed: int, hint: str, updates: Sequence[int | None] = (None, None), aside: bool = False,
    then: Callable[[ImaginationAgent, int], None] = lambda *_: None,
) -> tuple[ImaginationAgent, list[Begun]]:  # fmt: skip
    """An agent that learnt from play, then from that and from what it did itself, and how its world began.

    Args:
        seed: of play, weights and acts.
        hint: what was said.
        updates: of the world from slow play, and from both; None until it keeps the sentence, and knows what opens.
        aside: whether its policy alone reads.
        then: called with it and the number of updates of everything, behind each.
    """
    envs = Envs("home_dynamics", from_play.STREAMS, seed=seed, **env(hint).options())
    agent: ImaginationAgent = dynalang.build(config(aside), envs.observations, envs.actions, seed)
    slow, quick, unseen = (played(seed, hint, kind) for kind in range(3))
    read, rng = [from_play.inputs(agent, rows) for rows in (slow, quick)], np.random.default_rng(seed)
    looks = (partial(from_play.recalled, agent, unseen, again(unseen)),
             partial(from_play.foretold, agent, unseen, unseen["is_terminal"]))  # fmt: skip
    size = agent.config.batch
    begun = [
        from_play.begin(agent, batches(rng, size, some, *read), look, seed, most)
        for some, look, most in zip((size, size // LESS), looks, updates, strict=True)
    ]
    from_play.go_on(agent, envs, slow, ALL, np.random.default_rng(seed), partial(then, agent))
    envs.close()
    return agent, begun


def again(rows: Rows) -> NDArray[np.bool_]:
    """The rows of play at which a word says how the bin opens, but for the first one of an episode."""
    return np.isin(rows["token"], [VOCABULARY.number(how) for how in OPENING]) & ~rows["is_first"]


def played(seed: int, hint: str, kind: int) -> Rows:
    """Rows of slow play, kind 0, of quick play, 1, or of slow play that nothing learns from, 2; seeds of their own."""
    stray, chunks = (SLOW, QUICK, UNSEEN)[kind]
    tried = partial(tries, np.random.default_rng([seed, kind]), stray=stray)
    rows = play(
        "home_dynamics", 3 * seed + kind, chunks, STEPS, random=RANDOM, controller=tried, hint=hint, again=True,
        room=ROOM,
    )  # fmt: skip
    del rows["event"]
    return rows


def batches(
    rng: np.random.Generator, size: int, some: int, slow: Mapping[str, Tensor], quick: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """What the world learns from: ``some`` chunks of slow play, and else of quick play, which opens more."""
    while True:
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
