"""Measures whether an agent learns to speak: it is asked for the colour of a thing, looks, and says it when it is due.

The same agent learns among eleven words, and among a thousand of which nearly all are never heard: with a policy of
words that is kept near to what the world expects to hear, and with the entropy in its place. Its world begins with play
of somebody who looks, and says any colour; then all of it learns from that and from what it does itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3, dynalang
from worldformula.cards import from_play
from worldformula.envs import Envs, Rows
from worldformula.envs.actions import column_name
from worldformula.envs.lang_room_mini import MOVES
from worldformula.envs.play import play
from worldformula.run.contract import Acting
from worldformula.run.play import play as live
from worldformula.training.settings import override

ROWS, EPISODES, SCORED = 61, 5, 20  # rows of an episode, episodes that are scored of each of so many streams
FEW, MANY = 0, 989  # words that are never right, beside the eleven
AGAIN = 2  # a question is asked three times
CHUNKS, UNSEEN, STEPS = 1500, 300, 32  # chunks of play to learn from and others, and their rows
STRAY, RANDOM = 0.15, (0.05,)  # shares of steps that lead anywhere, and of acts that are random
COLOURS, BESIDE = 2, (1, 2)  # the first words; the cell below the ball
ALL = 800  # updates of everything
SETTINGS = (
    'world.weights=("token=10","reward=10")', "world.dynamics=1.0", "lr=2e-3", "context=0", "imag_last=16",
    "imagine=12", "behaviour.lam=0.5",
)  # fmt: skip
TALK = ("talk=talk=token", "talk_direction=words", "talk_weight=3")  # of who keeps near to what it expects to hear


def config(prior: bool) -> dreamer_v3.DreamerConfig:
    """`tiny`, whose world is told to read; its words by the talk prior or by the entropy."""
    own: dreamer_v3.DreamerConfig = override(dynalang.tiny(), [*SETTINGS, *(TALK if prior else ())])
    return own


def options(extra: int) -> dict[str, Any]:
    """Of the room."""
    return {"extra": extra, "again": AGAIN}


def measure(seed: int) -> dict[str, float]:
    """Two worlds, and three agents.

    Returns:
        What a question earns among eleven words, ``few``, and among a thousand by the talk prior, ``prior``, and by
        the ``entropy`` of the words. And of the worlds among few and many words, the second of which both agents begin
        with, their ``few_updates`` and ``many_updates``, and ``few_known`` and ``many_known``, the last `foretold` of
        unseen answers: `from_play.KNOWN`, or it never did.
    """
    found: dict[str, float] = {}
    for kind, extra, kept in (("few", FEW, {"few": False}), ("many", MANY, {"prior": True, "entropy": False})):
        agents, begun = learnt(seed, extra, [*kept.values()])
        found |= {name: earned(agent, extra, 10_000 + seed) for name, agent in zip(kept, agents, strict=True)}
        found |= {f"{kind}_updates": float(begun.updates), f"{kind}_known": begun.known}
    return found


def learnt(seed: int, extra: int, priors: Sequence[bool]) -> tuple[list[ImaginationAgent], from_play.Begun]:
    """Agents that learnt from play, then each from that and from what it did itself, and how the world began that they
    begin with.

    Args:
        seed: of play, weights and acts.
        extra: words that are never right.
        priors: of each, whether its words are kept near to those that it expects, or are by their entropy.
    """
    rows, unseen = played(2 * seed, CHUNKS, extra), played(2 * seed + 1, UNSEEN, extra)
    first = Envs("lang_room_mini", from_play.STREAMS, seed=seed, **options(extra))
    agents = [dynalang.build(config(prior), first.observations, first.actions, seed) for prior in priors]
    first.close()
    world = agents[0].world
    given = from_play.batches(np.random.default_rng(seed), agents[0].config.batch, from_play.inputs(agents[0], rows))
    begun = from_play.begin(agents[0], given, partial(from_play.foretold, agents[0], unseen, answered(unseen)), seed)
    for agent in agents:
        agent.world.load_state_dict(world.state_dict())
    for agent in agents:
        envs = Envs("lang_room_mini", from_play.STREAMS, seed=seed, **options(extra))
        from_play.go_on(agent, envs, rows, ALL, np.random.default_rng(seed))
        envs.close()
    return agents, begun


def played(seed: int, chunks: int, extra: int) -> Rows:
    """Rows ``[chunks, 32]`` of somebody who looks, and says any colour when one is due."""
    says = partial(guesses, np.random.default_rng(seed))
    rows = play("lang_room_mini", seed, chunks, STEPS, random=RANDOM, controller=says, **options(extra))
    del rows["event"]
    return rows


def answered(rows: Rows) -> NDArray[np.bool_]:
    """The rows of play at which a colour was due, and one was said, right or wrong."""
    due, said = (np.isin(rows[key], range(1, COLOURS + 1)) for key in ("token", column_name("talk")))
    return due & ~rows["is_first"] & np.roll(said, 1, axis=1)


def guesses(rng: np.random.Generator, state: Mapping[str, NDArray[np.floating]]) -> dict[str, int]:
    """Goes to the ball, at times astray, and says any of the colours behind "it is": it knows no more than the agent,
    and minds the question less.
    """
    x, y = (int(k) for k in state["figure"])
    there = 4 if x > BESIDE[0] else 2 if y > BESIDE[1] else 0  # left, up, none
    move = int(rng.integers(len(MOVES))) if rng.random() < STRAY else there
    due = 1 <= int(state["next"][0]) <= COLOURS
    return {"move": move, "talk": 1 + int(rng.integers(COLOURS)) if due else 0}


def earned(agent: Acting, extra: int, seed: int) -> float:
    """All rewards of whole episodes, by modes, in the number of answers that were due: 1 is the best, .45 who guesses
    at the right moment, 0 who is silent; what is said at a wrong one costs.
    """
    envs = Envs("lang_room_mini", SCORED, seed=seed, **options(extra))
    reward, due = 0.0, 0
    for _, turn in zip(range(EPISODES * ROWS), live(envs, agent, explore=False), strict=False):
        reward += float(np.sum(turn.after["reward"]))
        due += sum("answer_due" in info["event"] for info in envs.infos)
    envs.close()
    return reward / due
