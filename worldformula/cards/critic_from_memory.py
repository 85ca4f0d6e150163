"""Measures what a critic that was learnt from wandering is worth to a short search, in nine rooms.

The world is the true moves of one maze, the search looks eight steps ahead. Its cost is the squared distance to the
goal, and behind the last state a critic that has learnt from a memory of walks without a goal: later places of a walk
are goals in hindsight, and every step that is not within reach of the goal costs 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from worldformula.agent.cost import Cost
from worldformula.agent.recollection import Hindsight, Recollection
from worldformula.agent.terms import Distance
from worldformula.cards.rooms import SPACE, Acting, Episodes, Floats, Outcome, play, replanning, swept
from worldformula.envs.two_rooms import NEAR, Layout, three_by_three, wander, ways, within
from worldformula.formula import Deterministic
from worldformula.learners.critics import MemoryCritic
from worldformula.metrics.rank import spearman
from worldformula.metrics.success import wilson
from worldformula.nets.separation import Separation
from worldformula.planner import Plan, Task
from worldformula.planners.cem import CEM
from worldformula.training.fit import fit
from worldformula.world import PriorDynamics, State

WALKS, LENGTH, EPISODES = 200, 600, 34
UPDATES, BATCH, RATE, DISCOUNT = 2500, 384, 2e-3, 0.99
DOORS = 3  # between start and goal
FREQUENCIES = (1, 2, 4, 8, 16, 32)
JUDGED = (60, 50)  # goals, and places for each, that the rank correlation is of
GAIN, RANK = 0.3, 0.8  # what the card asks for


class Moves(nn.Module):
    """`worldformula.cards.rooms.Moves` of one maze, whose walls ``[R, 4]`` are the same for all."""

    sides: Tensor

    def __init__(self, walls: Floats) -> None:
        super().__init__()
        self.register_buffer("sides", torch.from_numpy(walls.T.copy()).float().unsqueeze(1))

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """Positions ``[N, 2]`` and actions ``[N, 2]`` to positions."""
        return swept(s, a, self.sides.unbind())


class Scaled(nn.Module):
    """A critic of places in pixels of a map."""

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge, self.net = edge, Separation(2, 32, (128, 128, 128), FREQUENCIES, unit=80.0)

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        """``[N, 2]`` each to ``[N]``."""
        found: Tensor = self.net(s / self.edge, g / self.edge)
        return found


def away(states: State) -> Tensor:
    """1 at every state that is not within reach of the goal."""
    far: Tensor = (states["s"] - states["goal"]).norm(dim=-1)
    return (far > NEAR).float()


def learnt(memory: Recollection, edge: float, learns: Literal["returns", "transitions"], seed: int) -> MemoryCritic:
    """A critic of the steps to come: the mean of those of the walks, or low expectiles of sixteen steps each."""
    torch.manual_seed(seed)
    share, others = (0.5, 0.0) if learns == "returns" else (0.1, 0.3)
    goals = Hindsight(away, "s", ahead=60.0, others=others)
    critic = MemoryCritic(Scaled(edge), ["s"], "goal", learns=learns, share=share, slow_rate=0.02)

    def returns() -> dict[str, Tensor]:
        return memory.returns(BATCH, discount=DISCOUNT, goals=goals)

    def transitions() -> dict[str, Tensor]:
        return memory.transitions(BATCH, discount=DISCOUNT, steps=16, goals=goals)

    drawn: Callable[[], dict[str, Tensor]] = returns if learns == "returns" else transitions
    fit(critic.loss, drawn, batch=BATCH, steps=UPDATES, lr=RATE, schedule="cosine", seed=seed)
    return critic


def correlation(critic: MemoryCritic, layout: Layout, seed: int) -> float:
    """Spearman's, of what the critic says and the length of the way, over places and goals anywhere."""
    rng, places, goals, far = np.random.default_rng(seed), list[Floats](), list[Floats](), list[float]()
    for _ in range(JUDGED[0]):
        goal = within(rng, layout.rooms[rng.integers(9)])
        way = ways(layout.walls, layout.edge, goal)
        for _ in range(JUDGED[1]):
            place = within(rng, layout.rooms[rng.integers(9)])
            places.append(place)
            goals.append(goal)
            far.append(way[int(place[1]), int(place[0])])
    s, g = (torch.from_numpy(np.stack(x)).float() for x in (places, goals))
    with torch.no_grad():
        said = critic(State({"s": s, "goal": g}))
    return spearman(said.numpy(), far)


def episodes(layout: Layout, count: int, seed: int, doors: int = DOORS) -> Episodes:
    """Starts and goals so many doors apart, in one maze; none begins at its goal."""
    rng, pairs = np.random.default_rng(seed), np.argwhere(layout.steps_between() == doors)
    ends = list[list[Floats]]()
    while len(ends) < count:
        pair = [within(rng, layout.rooms[k]) for k in pairs[rng.integers(len(pairs))]]
        ends += [pair] if np.linalg.norm(pair[0] - pair[1]) > NEAR else []
    starts, goals = np.stack(ends, 1)
    return Episodes("nine", layout.edge, np.repeat(layout.walls[None], count, 0), starts, goals)


def searching(own: Episodes, critic: MemoryCritic | None) -> Acting:
    """A search eight steps ahead by the true moves; with a critic, its word behind the last state."""
    dynamics = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Moves(own.walls[0]), shape=2))
    goals, planner = torch.from_numpy(own.goals).float(), CEM(8, 96, 16, 6, std=0.6)
    cost = Cost(dynamics, {"far": Distance("s", unit=own.edge**2)})
    task: Task = cost.task(None if critic is None else (lambda last: -critic(last)), given={"goal": goals})
    generators = [torch.Generator().manual_seed(i) for i in range(len(goals))]

    def plan(at: Floats, warm: dict[str, Tensor] | None) -> Plan:
        state = {"s": torch.from_numpy(at).float()}
        return planner.plan(dynamics, task, state, space=SPACE, generators=generators, warm=warm)

    return replanning(plan)


def measure(seed: int) -> dict[str, float]:
    """Wanders in a maze, learns two critics from it, and searches without and with each.

    Returns:
        ``holds``: the smaller of gain/0.3 and rank/0.8, both of the critic of expectiles; ``gain``: the share of
        episodes that end at the goal with it less that without a critic; ``rank``, and ``rank_returns`` of the critic
        of returns; ``distance``, ``returns`` and ``expectile``: the shares that end at the goal, each with ``_ever``
        (came there) and ``_low`` and ``_high``, Wilson's interval.
    """
    layout = three_by_three(np.random.default_rng(seed))
    _, positions, _ = wander(seed, WALKS, LENGTH, layout)
    memory = Recollection()
    memory.write(State({"s": torch.from_numpy(positions).float()}, 2))
    own, found = episodes(layout, EPISODES, seed + 1000), dict[str, float]()
    critics = {
        "distance": None,
        "expectile": learnt(memory, layout.edge, "transitions", seed),
        "returns": learnt(memory, layout.edge, "returns", seed),
    }
    for name, critic in critics.items():
        found |= told(name, play(own, searching(own, critic)))
    ranks = {name: correlation(critic, layout, seed + 2000) for name, critic in critics.items() if critic is not None}
    gain = found["expectile"] - found["distance"]
    holds = min(gain / GAIN, ranks["expectile"] / RANK)
    return {"holds": holds, "gain": gain, "rank": ranks["expectile"], "rank_returns": ranks["returns"], **found}


def told(name: str, outcome: Outcome) -> dict[str, float]:
    """The numbers of an outcome."""
    final = wilson(outcome.final.hits, outcome.final.count)
    return {
        name: final.value, f"{name}_ever": outcome.ever.value, f"{name}_low": final.low, f"{name}_high": final.high,
    }  # fmt: skip
