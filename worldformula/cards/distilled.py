"""Measures what is left of a search in nine rooms when a policy has learnt its plans, and what the policy gives back.

The teacher is the search of `critic_from_memory`, with its critic of expectiles; the student a small network of place
and goal. The student learns from plans that begin anywhere first, then from plans that begin where it goes itself. Its
actions are drawn from its law: a step into a wall ends there, and where plans part on either side of a corner the most
probable action, their mean, goes into it again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldformula.agent.cost import Cost
from worldformula.agent.distillation import Distillation
from worldformula.agent.recollection import Recollection
from worldformula.agent.terms import Distance
from worldformula.cards.critic_from_memory import FREQUENCIES, Moves, Scaled, episodes, learnt, told
from worldformula.cards.rooms import EXECUTED, SPACE, Acting, Episodes, Floats, play, replanning
from worldformula.envs.two_rooms import NEAR, Layout, three_by_three, wander, within
from worldformula.formula import Deterministic, Normal
from worldformula.learners.critics import MemoryCritic
from worldformula.nets.perceptron import Perceptron
from worldformula.nets.separation import Separation, Waves
from worldformula.planner import Plan
from worldformula.planners.cem import CEM
from worldformula.training.fit import fit
from worldformula.world import PriorDynamics, State

WALKS, LENGTH = 200, 600
TAUGHT, TIMES, JUDGED = 600, 6, 200  # episodes of a round, moments of each that are planned from; of the comparison
ROUNDS = 4  # after the first, whose states are anywhere
UPDATES, BATCH = 1500, 512  # of a round; the last one has twice as many
PLANNER = CEM(8, 96, 16, 6, std=0.6)
RATIO, SPEEDUP, SHARE = 0.9, 50.0, 0.5  # what the card asks for


class Going(nn.Module):
    """Where to go, ``[N, 2]`` in [−1, 1], of a place and a goal in pixels of a map, and of what a critic makes of them,
    which stays as it is.
    """

    known: Separation

    def __init__(self, edge: float, separation: Separation) -> None:
        super().__init__()
        self.edge, self.waves = edge, Waves(FREQUENCIES)
        self.__dict__["known"] = separation  # out of the module tree: it is not this network's to learn
        width = 2 * (1 + 2 * len(FREQUENCIES)) + separation.phi.head.out_features
        self.net = Perceptron(2 * width, 2, (256, 256, 256))

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        """``[N, 2]`` each."""
        here, there = self.waves(s / self.edge), self.waves(g / self.edge)
        with torch.no_grad():
            told, aimed = (self.known.phi(self.known.waves(x / self.edge)) for x in (s, g))
        return torch.tanh(self.net(here, there, told - aimed, told))


@dataclass
class Teacher:
    """The search in one maze, of the goals of some episodes."""

    own: Episodes
    critic: MemoryCritic

    def __post_init__(self) -> None:
        self.dynamics = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Moves(self.own.walls[0]), shape=2))
        self.goals = torch.from_numpy(self.own.goals).float()
        cost = Cost(self.dynamics, {"far": Distance("s", unit=self.own.edge**2)})
        self.task = cost.task(lambda last: -self.critic(last), given={"goal": self.goals})
        self.generators = [torch.Generator().manual_seed(i) for i in range(len(self.goals))]

    def plan(self, at: Floats, warm: dict[str, Tensor] | None = None) -> Plan:
        """Of all episodes at places ``[N, 2]``."""
        state = {"s": torch.from_numpy(at).float()}
        return PLANNER.plan(self.dynamics, self.task, state, space=SPACE, generators=self.generators, warm=warm)

    def acting(self, seen: Callable[[Plan], None] | None = None) -> Acting:
        """Mode-2; ``seen`` is shown its plans."""

        def plan(at: Floats, warm: dict[str, Tensor] | None) -> Plan:
            found = self.plan(at, warm)
            if seen is not None:
                seen(found)
            return found

        return replanning(plan)


def student(edge: float, critic: MemoryCritic) -> Distillation:
    """Mode-1 of one maze, which knows nothing yet."""
    assert isinstance(critic.net, Scaled)
    return Distillation(Normal("π(a_t|s_t,g)", Going(edge, critic.net.net), shape=2, scale=0.3))


def at_once(
    own: Distillation, goals: Tensor, seed: int, seen: Callable[[Floats], None] | None = None, modes: bool = False
) -> Acting:
    """Mode-1: an action at every place, drawn from the policy, or its mode; ``seen`` is shown the places."""
    torch.manual_seed(seed)

    def act(at: Floats) -> Floats:
        if seen is not None:
            seen(at)
        found = own.act({"s": torch.from_numpy(at).float(), "g": goals}, explore=not modes)["a"]
        done: Floats = found[:, None].double().numpy()
        return done

    return act


def taught(own: Distillation, seed: int, updates: int = UPDATES) -> None:
    """Updates by what has been kept."""
    drawn = torch.Generator().manual_seed(seed)
    fit(own.loss, lambda: own.draw(BATCH, drawn), batch=BATCH, steps=updates, lr=1e-3, schedule="cosine", seed=seed)


def anywhere(layout: Layout, count: int, seed: int) -> Episodes:
    """Starts and goals in any two rooms of a maze."""
    rng = np.random.default_rng(seed)
    starts, goals = (np.stack([within(rng, layout.rooms[k]) for k in rng.integers(9, size=count)]) for _ in range(2))
    return Episodes("nine", layout.edge, np.repeat(layout.walls[None], count, 0), starts, goals)


def first_round(own: Distillation, layout: Layout, critic: MemoryCritic, seed: int) -> None:
    """Plans from places anywhere to goals anywhere."""
    for k in range(TIMES):
        teacher = Teacher(anywhere(layout, TAUGHT, seed + 1000 * k), critic)
        own.keep(teacher.plan(teacher.own.starts), {"g": teacher.goals}, EXECUTED)
    taught(own, seed)


def next_round(own: Distillation, layout: Layout, critic: MemoryCritic, seed: int, updates: int) -> None:
    """Plans from where the student goes itself: moments of each of its episodes on the way, and one of them anywhere,
    for it has to know how to stay too.
    """
    teacher, walked = Teacher(episodes(layout, TAUGHT, seed), critic), list[Floats]()
    play(teacher.own, at_once(own, teacher.goals, seed, lambda at: walked.append(at.copy())))
    places = np.stack(walked)  # [T, N, 2]
    there = np.linalg.norm(places - teacher.own.goals, axis=-1) <= NEAR
    rng = np.random.default_rng(seed)
    on_the_way = np.argsort(rng.random(there.shape) + there, 0)[: TIMES - 1]
    for moments in (*on_the_way, rng.integers(len(places), size=TAUGHT)):
        given, at = {"g": teacher.goals}, places[moments, np.arange(TAUGHT)]
        warm = own.rehearsed(teacher.dynamics, {"s": torch.from_numpy(at).float()}, PLANNER.horizon, given)
        own.keep(teacher.plan(at, warm), given, EXECUTED)
    taught(own, seed, updates)


def cloned(positions: Floats, actions: Floats, own: Distillation, seed: int) -> Distillation:
    """Goal-conditioned behaviour cloning of the walks: what was done where a later place is the goal."""
    rng = np.random.default_rng(seed)
    walk, at = rng.integers(len(positions), size=100_000), rng.integers(LENGTH - 1, size=100_000)
    later = np.minimum(at + rng.geometric(1 / 60, size=len(at)), positions.shape[1] - 1)
    s, g, a = (torch.from_numpy(x).float() for x in (positions[walk, at], positions[walk, later], actions[walk, at]))
    own.write({"s": s, "g": g}, {"a": a})
    taught(own, seed)
    return own


def warmed(own: Distillation, teacher: Teacher) -> dict[str, float]:
    """How low a search comes with so many iterations: begun at nothing, and at what the policy would do."""
    at = teacher.own.starts
    begun = own.rehearsed(teacher.dynamics, {"s": torch.from_numpy(at).float()}, PLANNER.horizon, {"g": teacher.goals})
    cold, warm = ([float(c.mean()) for c in teacher.plan(at, w).trace] for w in (None, begun))
    enough = next((i for i, cost in enumerate(warm, 1) if cost <= cold[-1]), len(cold) + 1)
    return {"cold": cold[-1], "warm": warm[-1], "iterations": enough / len(cold)}


def measure(seed: int) -> dict[str, float]:
    """Teaches a policy by a search, and judges both on the same episodes.

    Returns:
        ``holds``: the smallest of ratio/0.9, speedup/50 and 0.5/iterations; ``ratio``: the share of episodes that end
        at the goal with Mode-1 over that with Mode-2; ``speedup``: milliseconds of 5 steps; ``iterations``: the share
        of a cold search's iterations after which one that begins with the policy costs no more; the shares of
        ``planned``, ``distilled``, ``modes`` (the same student's most probable actions), ``first_round`` (without its
        own states) and ``cloned``, with Wilson's intervals.
    """
    torch.manual_seed(seed)
    layout = three_by_three(np.random.default_rng(seed))
    _, positions, actions = wander(seed, WALKS, LENGTH, layout)
    memory = Recollection()
    memory.write(State({"s": torch.from_numpy(positions).float()}, 2))
    critic = learnt(memory, layout.edge, "transitions", seed)
    teacher, found = Teacher(episodes(layout, JUDGED, seed + 1000), critic), dict[str, float]()
    torch.manual_seed(seed)
    own = student(layout.edge, critic)
    planned = play(teacher.own, teacher.acting())
    own_seed = 1_000_000 * (seed + 1)
    first_round(own, layout, critic, own_seed)
    found |= told("first_round", play(teacher.own, at_once(own, teacher.goals, seed)))
    for k in range(1, 1 + ROUNDS):
        next_round(own, layout, critic, own_seed + k, UPDATES * (2 if k == ROUNDS else 1))
    began = time.process_time()
    distilled = play(teacher.own, at_once(own, teacher.goals, seed))
    found["seconds"] = time.process_time() - began
    found |= told("planned", planned) | told("distilled", distilled)
    found |= told("modes", play(teacher.own, at_once(own, teacher.goals, seed, modes=True)))
    clone = cloned(positions, actions, student(layout.edge, critic), seed)
    found |= told("cloned", play(teacher.own, at_once(clone, teacher.goals, seed))) | warmed(own, teacher)
    ratio = found["distilled"] / max(found["planned"], 1e-9)
    speedup = planned.milliseconds / (EXECUTED * distilled.milliseconds)
    holds = min(ratio / RATIO, speedup / SPEEDUP, SHARE / found["iterations"])
    return {"holds": holds, "ratio": ratio, "speedup": speedup, **found}
