"""Measures whether one world serves three tasks that differ in the weights of a cost alone.

The moves of a maze are learnt from wandering, and so is a critic of how far things are; then nothing learns any more. A
configurator has three tasks: to a goal; the same, and not through a zone on the way; the same, and with little effort.
No `worldformula fit` trains these: world and critic are networks of the card's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldformula.agent.configurator import Configuration, Configurator
from worldformula.agent.cost import Cost
from worldformula.agent.recollection import Recollection
from worldformula.agent.terms import Distance, Effort, Measure
from worldformula.cards.critic_from_memory import FREQUENCIES, learnt
from worldformula.cards.rooms import EXECUTED, SPACE, Episodes, Floats, replanning
from worldformula.envs.two_rooms import NEAR, SPEED, Layout, moved, three_by_three, wander, ways, within
from worldformula.formula import Deterministic, E, Value, norm2
from worldformula.learners.critics import MemoryCritic
from worldformula.nets.perceptron import Perceptron
from worldformula.nets.separation import Waves
from worldformula.planner import Plan
from worldformula.planners.cem import CEM
from worldformula.training.fit import fit
from worldformula.world import PriorDynamics, State

WALKS, LENGTH, STEPS = 200, 600, 300
UPDATES, BATCH = 3000, 512
EPISODES = 68
RADIUS, MARGIN = 4.0, 2.0  # of a zone, and how far off it the cost begins
TASKS = Configurator(
    {
        "go": Configuration(weights={"zone": 0.0, "effort": 0.0}),
        "avoid": Configuration(weights={"zone": 10.0, "effort": 0.0}),
        "spare": Configuration(weights={"zone": 0.0, "effort": 1.0}),
    }
)
PLANNER = CEM(8, 96, 16, 6, std=0.6)
REACHED, CROSSED, SPENT = 0.7, 0.25, 0.7  # what the card asks for, as shares of the first task's


class Stepping(nn.Module):
    """Where a step leads, as a network of place and action: ``[N, 2]`` each to ``[N, 2]``, in pixels of a map."""

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge, self.waves = edge, Waves(FREQUENCIES)
        self.net = Perceptron(2 * (1 + 2 * len(FREQUENCIES)) + 2, 2, (256, 256))

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """Its length is at most that of a free step, as the action's is at most 1."""
        a = a / a.norm(dim=-1, keepdim=True).clamp_min(1)
        found: Tensor = s + SPEED * (a + self.net(self.waves(s / self.edge), a))
        return found


def world(positions: Floats, actions: Floats, edge: float, seed: int) -> PriorDynamics:
    """The moves, learnt from walks ``[N, T, 2]``."""
    torch.manual_seed(seed)
    net, drawn = Stepping(edge), torch.Generator().manual_seed(seed)
    step = Deterministic("S = f(s, a)", net, shape=2)
    loss = E(step, norm2((Value("S", shape=2) - Value("y", shape=2)) / SPEED)).mean()
    s, a, y = (
        torch.from_numpy(x.reshape(-1, 2)).float()
        for x in (positions[:, :-1], actions[:, : LENGTH - 1], positions[:, 1:])
    )

    def rows() -> dict[str, Tensor]:
        at = torch.randint(len(s), (BATCH,), generator=drawn)
        return {"s": s[at], "a": a[at], "y": y[at]}

    fit(loss, rows, batch=BATCH, steps=UPDATES, lr=1e-3, schedule="cosine", seed=seed)
    return PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", net, shape=2))


def zone(states: State) -> Tensor:
    """How deep a place lies in the zone, or near it, squared, in pixels."""
    deep: Tensor = RADIUS + MARGIN - (states["s"] - states["zone"]).norm(dim=-1)
    return deep.clamp_min(0).square()


@dataclass(frozen=True)
class Errands:
    """Episodes in one maze, with a zone on the way of each, ``[N, 2]``."""

    own: Episodes
    zones: Floats


def errands(layout: Layout, count: int, seed: int) -> Errands:
    """Starts and goals one door apart; the zone lies on the shortest way, off both ends, and leaves another way."""
    rng, pairs = np.random.default_rng(seed), np.argwhere(layout.steps_between() == 1)
    found = list[tuple[Floats, Floats, Floats]]()
    while len(found) < count:
        start, goal = (within(rng, layout.rooms[k]) for k in pairs[rng.integers(len(pairs))])
        way, at, path = ways(layout.walls, layout.edge, goal), start, [start]
        while np.linalg.norm(at - goal) > NEAR and len(path) < 200:
            x, y = (int(v) for v in at)
            near = [(x + dx, y + dy) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
            at = np.array(min(near, key=lambda p: way[p[1], p[0]])) + 0.5
            path.append(at)
        inner = [p for p in path if min(np.linalg.norm(p - start), np.linalg.norm(p - goal)) > RADIUS + MARGIN + NEAR]
        if not inner:
            continue
        middle, size = inner[rng.integers(len(inner))], RADIUS + MARGIN
        block = np.array([[middle[0] - size, middle[0] + size, middle[1] - size, middle[1] + size]])
        beside = ways(np.concatenate((layout.walls, block)), layout.edge, goal)
        if np.isfinite(beside[int(start[1]), int(start[0])]):
            found.append((start, goal, middle))
    starts, goals, zones = (np.stack(x) for x in zip(*found, strict=True))
    walls = np.repeat(layout.walls[None], count, 0)
    return Errands(Episodes("nine", layout.edge, walls, starts, goals), zones)


def done(dynamics: PriorDynamics, critic: MemoryCritic, work: Errands, task: str) -> dict[str, float]:
    """Of the episodes under a configuration: the share that ends at the goal, that crosses its zone, and the squares
    of the actions until the goal is reached, on average.
    """
    terms: dict[str, Measure] = {"far": Distance("s", unit=work.own.edge**2), "zone": zone, "effort": Effort()}
    cost = Cost(dynamics, terms, weights=TASKS(task).weights)
    goals, zones = (torch.from_numpy(x).float() for x in (work.own.goals, work.zones))
    searched = cost.task(lambda last: -critic(last), given={"goal": goals, "zone": zones})
    generators = [torch.Generator().manual_seed(i) for i in range(len(goals))]

    def plan(at: Floats, warm: dict[str, Tensor] | None) -> Plan:
        state = {"s": torch.from_numpy(at).float()}
        return PLANNER.plan(dynamics, searched, state, space=SPACE, generators=generators, warm=warm)

    at, acting = work.own.starts.copy(), replanning(plan)
    crossed, there = np.zeros(len(at), bool), np.zeros(len(at), bool)
    spent = np.zeros(len(at))
    for _ in range(STEPS // EXECUTED):
        for action in acting(at).swapaxes(0, 1):
            at = moved(work.own.walls, at, action)
            spent += np.where(there, 0.0, (action**2).sum(-1))
            there |= np.linalg.norm(at - work.own.goals, axis=-1) <= NEAR
            crossed |= np.linalg.norm(at - work.zones, axis=-1) <= RADIUS
    return {"reached": float(there.mean()), "crossed": float(crossed.mean()), "spent": float(spent.mean())}


def fingerprint(*nets: nn.Module) -> str:
    """Of all weights."""
    whole = b"".join(v.numpy().tobytes() for net in nets for v in net.state_dict().values())
    return hashlib.sha256(whole).hexdigest()


def measure(seed: int) -> dict[str, float]:
    """Learns a world and a critic in one maze, and does three tasks by weights.

    Returns:
        ``holds``: the smallest of what is asked, each as a share of it; ``untouched``: 1 where all weights of world and
        critic are as they were; ``reached_*``, ``crossed_*`` and ``spent_*`` of the tasks go, avoid and spare;
        ``error`` of a step of the world, pixels.
    """
    layout = three_by_three(np.random.default_rng(seed))
    _, positions, actions = wander(seed, WALKS, LENGTH, layout)
    dynamics = world(positions, actions, layout.edge, seed)
    memory = Recollection()
    memory.write(State({"s": torch.from_numpy(positions).float()}, 2))
    critic = learnt(memory, layout.edge, "transitions", seed)
    before, work = fingerprint(dynamics, critic), errands(layout, EPISODES, seed + 1000)
    found = {f"{k}_{name}": v for name in TASKS.tasks for k, v in done(dynamics, critic, work, name).items()}
    _, p, a = wander(seed + 2000, 50, 100, layout)
    with torch.no_grad():
        s, act = (torch.from_numpy(x[:, :99].reshape(-1, 2)).float() for x in (p, a))
        ahead = dynamics.imagine({"s": s}, actions={"a": act.unsqueeze(1)})["s"][:, 1]
    error = float((ahead - torch.from_numpy(p[:, 1:].reshape(-1, 2)).float()).norm(dim=-1).mean())
    untouched = float(before == fingerprint(dynamics, critic))
    asked = [
        found["reached_avoid"] / (REACHED * found["reached_go"]),
        found["reached_spare"] / (REACHED * found["reached_go"]),
        CROSSED * found["crossed_go"] / max(found["crossed_avoid"], 1e-3),
        SPENT * found["spent_go"] / found["spent_spare"],
        untouched,
    ]
    return {"holds": min(asked), "untouched": untouched, "error": error, **found}
