"""Measures whether an agent goes where a sentence says that something will be, and dreams it there alone.

The world learns from play of somebody who knows no more than the agent does, and walks into any arm: until it
foretells, in play that it did not learn from, which of four walks earns something. Then world, actor and critic learn
from that play and from what the agent does itself, in equal parts.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3, dynalang
from worldformula.cards import from_play
from worldformula.cards.from_play import Begun
from worldformula.envs import Rows
from worldformula.envs.home_grid_mini import ARMS, VOCABULARY
from worldformula.envs.home_tiles import STEPS as MOVES
from worldformula.envs.play import play
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.training.settings import override
from worldformula.world import State

EPISODES = 1000
CHUNKS, UNSEEN, STEPS = 2000, 200, 32  # chunks of play to learn from and others, and their rows
STRAY, RANDOM = 0.2, (0.1,)  # the share of steps that turn anywhere, and of actions that are random
READ, SAID, WALK = 8, 6, 3  # the row whose act is the first that counts, as words are read before; that of the word
# which names an arm; acts until somebody who walks straight there earns something
ALL = 600  # updates of everything
SETTINGS = (
    'world.weights=("token=10","reward=10")', "world.dynamics=1.0", "lr=2e-3", "context=0", "imag_last=16", "imagine=6"
)  # fmt: skip


def config() -> dreamer_v3.DreamerConfig:
    """`tiny`, whose world is told to read."""
    own: dreamer_v3.DreamerConfig = override(dynalang.tiny(), SETTINGS)
    return own


def env(hint: str) -> EnvConfig:
    """Where it acts; ``hint`` is what is said: "true", "none" or "swapped"."""
    return EnvConfig("home_future", num=20, args=(f"hint={hint}", "again=true"))


def measure(seed: int) -> dict[str, float]:
    """Learns with the sentence and without, then plays episodes. Without it there is nothing to know, and the world
    learns for as many updates as with it.

    Returns:
        Success ``with`` the sentence, ``without`` it, and ``false``, of the agent that learnt with true ones when it
        reads false ones; ``grounded``, of the same agent in the end on unseen play. And of the world that reads:
        ``known``, the last `grounded` before its agent acted, `from_play.KNOWN` or it never knew, and its ``updates``
        until then.
    """
    reader, begun = learnt(seed, "true")
    other, _ = learnt(seed, "none", begun.updates)
    told, false, without = (
        evaluate(agent, env(hint), episodes=EPISODES, seed=10_000 + seed).mean
        for agent, hint in ((reader, "true"), (reader, "swapped"), (other, "none"))
    )
    dreamt = grounded(reader, played(seed, "true", 2))
    return {
        "with": told, "false": false, "without": without, "grounded": dreamt, "known": begun.known,
        "updates": float(begun.updates),
    }  # fmt: skip


def learnt(seed: int, hint: str, updates: int | None = None) -> tuple[ImaginationAgent, Begun]:
    """An agent that learnt from play, then from that and from what it did itself, and how its world began.

    Args:
        seed: of play, weights and acts.
        hint: what was said.
        updates: of the world alone; None until it knows where the sentence leads.
    """
    look = partial(grounded, rows=played(seed, hint, 1))
    return from_play.raised(config(), env(hint), played(seed, hint, 0), look, seed, ALL, updates)


def played(seed: int, hint: str, kind: int) -> Rows:
    """Rows of play to learn from, kind 0, of other play to look at meanwhile, 1, and in the end, 2; their own seeds."""
    rows = play(
        "home_future", 3 * seed + kind, UNSEEN if kind else CHUNKS, STEPS, random=RANDOM,
        controller=partial(from_play.walks, np.random.default_rng([seed, kind]), stray=STRAY), hint=hint, again=True,
    )  # fmt: skip
    del rows["event"]
    return rows


@torch.no_grad()
def grounded(agent: ImaginationAgent, rows: Rows) -> float:
    """How well a world that has read, at the first row of each chunk whose act counts, tells the walk into the arm
    that was named from the same walk after another sentence, by the reward that it imagines on the way: `auroc`.
    """
    seen = agent.world.filter(agent.perception.learn(rows, agent.device), seed=0)
    each = len(MOVES)
    read = {name: seen[name][:, READ].repeat_interleave(each, 0) for name in agent.world.carried}
    arms = torch.arange(each).repeat(len(rows["reward"]))
    named = [[VOCABULARY.number(arm) for arm in ARMS].index(word) for word in rows["token"][:, SAID]]
    walk = torch.eye(each)[arms][:, None].expand(-1, WALK, -1)
    (action,) = agent.world.actions
    return from_play.told_apart(
        agent, State(read, 1), {action: walk}, arms == torch.tensor(named).repeat_interleave(each)
    )
