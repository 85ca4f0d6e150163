"""Measures what levels of latents are worth to a search, in nine rooms whose doors lie on one way between any two.

Worlds learn from walks without a goal in one maze, from positions: a flat one (`jepa`), two levels (`h_jepa`), and two
levels with one latent (`hwm`). Each search makes as many calls; a flat one also four times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.terms import Distance
from worldformula.cards.critic_from_memory import FREQUENCIES, episodes
from worldformula.cards.rooms import SPACE, Acting, Episodes, Floats, at_random, oracle, play, replanning, straight
from worldformula.envs.two_rooms import Layout, three_by_three, wander
from worldformula.errors import CardError
from worldformula.formula import Normal, log
from worldformula.metrics.collapse import rank_me, spread
from worldformula.metrics.success import wilson
from worldformula.nets.perceptron import Perceptron
from worldformula.nets.separation import Waves
from worldformula.planner import Named, Plan, Planner, Task
from worldformula.planners.cem import CEM
from worldformula.planners.hierarchy import Hierarchy, Level
from worldformula.planners.mppi import MPPI
from worldformula.training.fit import fit
from worldformula.world import State, World
from worldformula.worlds import h_jepa

WALKS, LENGTH, WINDOW, EPISODES = 200, 600, 17, 34
HOW = h_jepa.SYSTEM.fits["tiny"]
DOORS, STEPS = (0, 1, 2, 3), 75  # of an episode, for each room on the way
CONFIGS = {
    "flat": replace(h_jepa.tiny(), levels=1),
    "h_jepa": h_jepa.tiny(),
    "hwm": replace(h_jepa.tiny(), shared=True),
}
CALLS, FOUR = 1024, 4096  # steps of a model in a decision
SHORT, LONG = CEM(8, 32, 6, 4, std=0.8), CEM(16, 64, 8, 4, std=0.8)
LOW, HIGH = CEM(4, 32, 6, 4, std=0.8), CEM(4, 32, 6, 4, std=0.5)
PATHS, FAR_PATHS = (MPPI(4, 32, 8, 4, temperature=1.0, most=most, answer="best") for most in (0.8, 0.5))
AHEAD, PROBED = (4, 8, 16, 64), 20_000
MANIFESTS = {
    0: "a8df9c350c81-ac6766edf211-1022edeebbb8-bec3e146a705",
    1: "bf8995dc2367-3f85f26e4c96-3ccf44fcd3ae-b1f2addf6cd8",
    2: "8becdcc75f27-9599c1a1bb77-d3a20b14b477-2606dc115796",
}


@dataclass(frozen=True)
class Maze:
    """A maze, walks without a goal in it, positions ``[N, T, 2]`` and actions, and episodes by doors on the way."""

    layout: Layout
    positions: Floats
    actions: NDArray[np.float32]
    episodes: dict[int, Episodes]

    @classmethod
    def of(cls, seed: int) -> Maze:
        """That of a seed.

        Raises:
            CardError: episodes of the card are not those that its notes tell of.
        """
        layout = three_by_three(np.random.default_rng(seed))
        _, positions, actions = wander(seed, WALKS, LENGTH, layout)
        own = {doors: episodes(layout, EPISODES, seed + 1000 * (doors + 1), doors) for doors in DOORS}
        print_of = "-".join(found.fingerprint for found in own.values())
        if (expected := MANIFESTS.get(seed)) not in (None, print_of):
            raise CardError(f"hierarchy: expected the episodes {expected}, got {print_of}")
        return cls(layout, positions, actions, own)

    def seen(self, at: Floats) -> Tensor:
        """What a world observes of positions ``[..., 2]``: ``[..., 26]``."""
        flat = torch.from_numpy(at.reshape(-1, 2) / self.layout.edge).float()
        found: Tensor = Waves(FREQUENCIES)(flat)
        return found.view(*at.shape[:-1], -1)

    def batch(self, rows: Tensor, begins: Tensor, length: int = WINDOW) -> dict[str, Tensor]:
        """Windows ``[B, T, …]`` of these walks, from these steps on."""
        steps = begins[:, None] + torch.arange(length)
        which = rows[:, None].numpy(), steps.numpy()
        first = torch.zeros(len(rows), length, dtype=torch.bool)
        first[:, 0] = True
        return {"x": self.seen(self.positions[which]), "a": torch.from_numpy(self.actions[which]), "first": first}

    def drawn(self, count: int = HOW["batch"], length: int = WINDOW) -> dict[str, Tensor]:
        """Windows anywhere, by torch's generator."""
        return self.batch(torch.randint(WALKS, (count,)), torch.randint(LENGTH - length, (count,)), length)


def learnt(maze: Maze, config: h_jepa.HJEPAConfig, seed: int) -> World:
    """A world of this maze."""
    torch.manual_seed(seed)
    world = h_jepa.build(config, {"place": (2 * (1 + 2 * len(FREQUENCIES)),)}, 2)
    fit(world.loss, maze.drawn, seed=seed, **HOW)
    return world


@torch.no_grad()
def latents(world: World, maze: Maze, at: Floats) -> State:
    """Of positions ``[N, 2]``, at all levels: ``[N, D]`` each."""
    first = torch.ones(len(at), 1, dtype=torch.bool)
    return world.filter({"x": maze.seen(at[:, None]), "a": torch.zeros(len(at), 1, 2), "first": first}).at(0)


def aims(world: World, maze: Maze, goals: Floats, variable: str) -> Task:
    """The squared distance to the latent of a goal, of every step; ``ground`` is that of the lowest level."""
    own = latents(world, maze, goals)
    far = Distance(variable)
    return Task(lambda states, _: far(states), given={"goal": own[variable], "ground": own["z"]})


def searching(world: World, maze: Maze, own: Episodes, planner: Planner, task: Task) -> Acting:
    """A search from the lowest latents."""
    lowest = next(iter(world.levels.values()))
    generators = [torch.Generator().manual_seed(i) for i in range(len(own.goals))]

    def plan(at: Floats, warm: dict[str, Tensor] | None) -> Plan:
        state = latents(world, maze, at).only(["z"])
        return planner.plan(lowest, task, state, space=SPACE, generators=generators, warm=warm)

    return replanning(plan)


def tower(world: World, maze: Maze, config: h_jepa.HJEPAConfig, low: Planner, high: Sequence[Planner]) -> Hierarchy:
    """A search on all levels of a world, with macro-actions as those of walks are."""
    torch.manual_seed(0)
    seen = h_jepa.macros(config, world, maze.drawn(256))
    names = [*world.levels][1:]
    above = [Level.of(world, n, p, {f"u_{n}": seen[f"u_{n}"]}) for n, p in zip(names, high, strict=True)]
    ground = Distance("z", "ground")
    return Hierarchy(low, tuple(above), ground=lambda states, _: ground(states))


def ladder(world: World, maze: Maze, own: Episodes, planner: Planner, above: Sequence[Level]) -> Acting:
    """A flat search whose cost is that of the highest latent: what that is worth without macro-actions."""
    top = [*world.levels.values()][-1].carried[0]
    task = aims(world, maze, own.goals, top)

    def cost(states: State, actions: Named) -> Tensor:
        found = states
        for level in above:
            found = level.seen(found)
        return task.cost(found | {"goal": states["goal"]}, actions)

    return searching(world, maze, own, planner, replace(task, cost=cost))


def methods(worlds: Mapping[str, World], maze: Maze, own: Episodes) -> dict[str, Acting]:
    """Of episodes, every method by its name."""
    towers = {
        "h_jepa": tower(worlds["h_jepa"], maze, CONFIGS["h_jepa"], LOW, [HIGH]),
        "hwm": tower(worlds["hwm"], maze, CONFIGS["hwm"], PATHS, [FAR_PATHS]),
    }
    flat, two = worlds["flat"], worlds["h_jepa"]
    found = {
        "random": at_random(), "line": straight(own), "geodesic": oracle(own, CEM(8, 64, 8, 4, std=0.6), geodesic=True),
        "flat": searching(flat, maze, own, SHORT, aims(flat, maze, own.goals, "z")),
        "flat4": searching(flat, maze, own, LONG, aims(flat, maze, own.goals, "z")),
        "ladder": ladder(two, maze, own, SHORT, towers["h_jepa"].above),
        "ladder4": ladder(two, maze, own, LONG, towers["h_jepa"].above),
    }  # fmt: skip
    for name, search in towers.items():
        task = aims(worlds[name], maze, own.goals, "z_2")
        found[name] = searching(worlds[name], maze, own, search, task)
    return found


def measure(seed: int) -> dict[str, float]:
    """Learns three worlds in a maze and searches with each.

    Returns:
        ``margin``: the share of episodes, one to three doors on the way, that end at the goal by two levels, less that
        of the flat search with four times as many calls (``flat4``). By method and doors on the way, ``h_jepa_2``, the
        share that ends there; of all with a door (``h_jepa``) with Wilson's interval (``_low``, ``_high``), that ever
        came there (``_ever``), and milliseconds of a decision of one episode (``_ms``). ``ladder`` and ``ladder4`` are
        flat searches whose cost is that of the upper latent, ``line`` goes straight, ``geodesic`` knows moves and ways.
        ``short``: the flat search less the two levels where no door is on the way. ``calls`` and ``calls_4``: steps of
        a model in a decision. And what `foretold` tells.
    """
    maze = Maze.of(seed)
    worlds = {name: learnt(maze, config, seed) for name, config in CONFIGS.items()}
    found = played(worlds, maze)
    margin, short = found["h_jepa"] - found["flat4"], found["flat_0"] - found["h_jepa_0"]
    calls = {"calls": float(CALLS), "calls_4": float(FOUR)}
    return {"margin": margin, "short": short, **calls, **found, **foretold(worlds["h_jepa"], maze, seed)}


def played(worlds: Mapping[str, World], maze: Maze) -> dict[str, float]:
    """What `measure` returns of methods."""
    found, sums = dict[str, float](), dict[str, NDArray[np.float64]]()
    for doors, own in maze.episodes.items():
        for name, acting in methods(worlds, maze, own).items():
            outcome = play(own, acting, STEPS * (doors + 1))
            print(f"  {doors} doors {name:10s} final {outcome.final}  ever {outcome.ever}", flush=True)
            found[f"{name}_{doors}"] = outcome.final.value
            if doors:
                told = (
                    outcome.final.hits,
                    outcome.ever.hits,
                    outcome.final.count,
                    outcome.milliseconds / len(own.starts),
                )
                sums[name] = sums.get(name, 0.0) + np.array(told)
    for name, (hits, ever, count, spent) in sums.items():
        share = wilson(round(hits), round(count))
        found |= {
            name: share.value,
            f"{name}_low": share.low,
            f"{name}_high": share.high,
            f"{name}_ever": float(ever / count),
        }
        found[f"{name}_ms"] = float(spent) / len([doors for doors in maze.episodes if doors])
    return found


def foretold(world: World, maze: Maze, seed: int) -> dict[str, float]:
    """How far off dreams are after 4, 8, 16 and 64 steps, in pixels, by level: between where the point was and where a
    probe reads it in a dream (``off_2_16``), and between what it reads in a dream and in the latent that came
    (``drift_2_16``); ``off_2_0`` is that of the latent itself. RankMe over D, and the least deviation of a number, too.
    """
    _, positions, actions = wander(seed + 500, WALKS, AHEAD[-1] + 1, maze.layout)
    unseen, found = replace(maze, positions=positions, actions=actions), dict[str, float]()
    batch = unseen.batch(torch.arange(WALKS), torch.zeros(WALKS, dtype=torch.long), AHEAD[-1] + 1)
    with torch.no_grad():
        made, states = world.loss(**batch).samples, world.filter(batch)
    truth = torch.from_numpy(positions).float()
    for name, level in world.levels.items():
        variable, stride = level.carried[0], CONFIGS["h_jepa"].span(int(name))
        codes, probe = states[variable], probed(world, maze, variable, seed)
        acts = {"a": batch["a"][:, :-1]} if stride == 1 else {f"u_{name}": made[f"u_{name}"][:, stride::stride]}
        with torch.no_grad():
            dream = level.imagine(states.at(0).only([variable]), actions=acts)[variable]
            found[f"off_{name}_0"] = float((probe(codes[:, 0]) - truth[:, 0]).norm(dim=-1).mean())
            for ahead in AHEAD:
                said, came = probe(dream[:, ahead // stride]), probe(codes[:, ahead])
                found[f"off_{name}_{ahead}"] = float((said - truth[:, ahead]).norm(dim=-1).mean())
                found[f"drift_{name}_{ahead}"] = float((said - came).norm(dim=-1).mean())
        found[f"rank_{name}"] = rank_me(codes) / codes.shape[-1]
        found[f"least_{name}"] = spread(codes).least
    return found


def probed(world: World, maze: Maze, variable: str, seed: int) -> Callable[[Tensor], Tensor]:
    """A network that reads positions in pixels from a latent, of the walks that the world has learnt from."""
    torch.manual_seed(seed)
    which, begins = torch.randint(WALKS, (PROBED,)), torch.randint(LENGTH, (PROBED,))
    place = torch.from_numpy(maze.positions[which.numpy(), begins.numpy()]).float() / maze.layout.edge
    codes = latents(world, maze, place.numpy() * maze.layout.edge)[variable]
    net = Perceptron(codes.shape[-1], 2, (128, 128))
    head = Normal("p(y|x)", net, shape=2, scale=1.0)
    fit((-log(head)).mean(), {"x": codes, "y": place}, batch=512, steps=1000, lr=3e-3, schedule="cosine", seed=seed)
    return lambda code: net(code) * maze.layout.edge
