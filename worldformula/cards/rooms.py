"""What cards of rooms share: fixed episodes, planning step by step in all of them at once, floors and oracles.

    python -m worldformula.cards.rooms [--layout two] [--episodes 50]      prints floors and oracles

The oracle plans with the true moves. A Euclidean cost is what one would write first, the geodesic one what a perfect
critic would say: with it a short search arrives, without it a long one often does not.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.envs.two_rooms import NEAR, SPEED, SWEEP, Rooms, moved, ways
from worldformula.formula import Deterministic
from worldformula.metrics.success import Share, wilson
from worldformula.planner import ActionSet, Plan, Planner, Task
from worldformula.planners.cem import CEM
from worldformula.world import PriorDynamics

STEPS = {"two": 200, "lying": 200, "nine": 300}
EXECUTED = 5  # actions of a plan that are done before the next one is made
SPACE = {"a": ActionSet(2)}
Floats = NDArray[np.floating]
Acting = Callable[[Floats], Floats]
"""From positions ``[N, 2]`` to the next actions, ``[N, K, 2]``, of all episodes."""


@dataclass(frozen=True)
class Episodes:
    """Fixed episodes: ``walls`` ``[N, R, 4]`` (padded with empty ones), ``starts`` and ``goals`` ``[N, 2]``."""

    layout: str
    edge: float
    walls: Floats
    starts: Floats
    goals: Floats

    @classmethod
    def of(cls, layout: str, count: int, seed: int = 50_000, **options: Any) -> Episodes:
        """The first so many of these seeds that do not begin at their goal; ``options`` are those of `Rooms`."""
        env, states = Rooms(layout=layout, **options), list[tuple[Floats, Floats, Floats]]()
        while len(states) < count:
            env.reset(seed=seed)
            if np.linalg.norm(env.position - env.goal) > NEAR:
                states.append((env.layout.walls, env.position, env.goal))
            seed += 1
        most = max(len(walls) for walls, _, _ in states)
        walls = np.stack([np.concatenate((w, np.zeros((most - len(w), 4)))) for w, _, _ in states])
        return cls(
            layout, env.layout.edge, walls, np.stack([s for _, s, _ in states]), np.stack([g for *_, g in states])
        )

    @property
    def fingerprint(self) -> str:
        """Of all numbers, so that two tables are known to be of the same episodes."""
        whole = b"".join(np.round(x, 6).tobytes() for x in (self.walls, self.starts, self.goals))
        return hashlib.sha256(whole).hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    """How many episodes ended at the goal and how many ever came there; milliseconds of a decision, of all at once."""

    final: Share
    ever: Share
    milliseconds: float


def play(episodes: Episodes, acting: Acting, steps: int | None = None) -> Outcome:
    """All episodes side by side."""
    at, count = episodes.starts.copy(), len(episodes.starts)
    ever, spent, decided = np.zeros(count, bool), 0.0, 0
    left: Floats = np.zeros((count, 0, 2))
    for _ in range(STEPS[episodes.layout] if steps is None else steps):
        if not left.shape[1]:
            began = time.process_time()
            left = acting(at)
            spent, decided = spent + time.process_time() - began, decided + 1
        at, left = moved(episodes.walls, at, left[:, 0]), left[:, 1:]
        ever |= np.linalg.norm(at - episodes.goals, axis=-1) <= NEAR
    final = np.linalg.norm(at - episodes.goals, axis=-1) <= NEAR
    return Outcome(wilson(int(final.sum()), count), wilson(int(ever.sum()), count), 1000 * spent / decided)


def at_random(seed: int = 0) -> Acting:
    """Headings drawn anew at every decision."""
    rng = np.random.default_rng(seed)

    def act(at: Floats) -> Floats:
        turn = rng.uniform(-np.pi, np.pi, (len(at), 1))
        return np.repeat(np.stack((np.cos(turn), np.sin(turn)), -1), EXECUTED, 1)

    return act


def straight(episodes: Episodes) -> Acting:
    """Towards the goal, whatever stands in between."""

    def act(at: Floats) -> Floats:
        far = episodes.goals - at
        step: Floats = far / np.maximum(SPEED, np.linalg.norm(far, axis=-1, keepdims=True))
        return step[:, None]

    return act


def swept(s: Tensor, a: Tensor, sides: tuple[Tensor, ...]) -> Tensor:
    """`worldformula.envs.two_rooms.moved` for planners: positions and actions ``[N, 2]`` to positions, between walls
    whose ``sides``, x0, x1, y0 and y1, are ``[N, R]`` each, or ``[1, R]``.
    """
    x0, x1, y0, y1 = sides
    step = SPEED / SWEEP * a / a.norm(dim=-1, keepdim=True).clamp_min(1)
    going = torch.ones_like(s[:, :1], dtype=torch.bool)
    for _ in range(SWEEP):
        ahead = s + step
        x, y = ahead[:, :1], ahead[:, 1:]
        going = going & ~((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(-1, keepdim=True)
        s = torch.where(going, ahead, s)
    return s


class Moves(nn.Module):
    """The true moves, of a map for each episode."""

    def forward(self, s: Tensor, a: Tensor, w: Tensor) -> Tensor:
        """Positions ``[N, 2]``, actions ``[N, 2]`` and walls ``[N, R, 4]`` to positions."""
        return swept(s, a, w.unbind(-1))


def replanning(plan: Callable[[Floats, dict[str, Tensor] | None], Plan]) -> Acting:
    """Plans at positions ``[N, 2]``, the first five actions of each are done, and the next one begins behind them; that
    of a level above one step on.
    """
    kept: dict[str, Tensor] = {}

    def act(at: Floats) -> Floats:
        found = plan(at, kept or None)
        own = found.actions["a"]
        for above in found.upper:
            kept.update(above.shifted())
        kept["a"] = torch.cat((own[:, EXECUTED:], own[:, -1:].expand(-1, min(EXECUTED, own.shape[1]), -1)), 1)
        done: Floats = own[:, :EXECUTED].double().numpy()
        return done

    return act


def oracle(episodes: Episodes, planner: Planner, *, geodesic: bool = False, reduce: str = "sum") -> Acting:
    """A search with the true moves. Its cost is the squared distance to the goal, or the way there; of all steps, or of
    the last.
    """
    walls = torch.from_numpy(episodes.walls).float()
    goals = torch.from_numpy(episodes.goals).float()
    true = [ways(w, episodes.edge, g) for w, g in zip(episodes.walls, episodes.goals, strict=True)] if geodesic else []
    maps = torch.from_numpy(np.nan_to_num(np.array(true), posinf=1e3)).float()
    dynamics = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1}, w)", Moves(), shape=2))

    def cost(states: object, _: object) -> Tensor:
        s: Tensor = states["s"]  # type: ignore[index]
        which = torch.arange(len(goals)).repeat_interleave(len(s) // len(goals))
        if not geodesic:
            return (s - goals[which, None]).square().sum(-1)
        pixel = s.long().clamp(0, maps.shape[-1] - 1)
        return maps[which[:, None], pixel[..., 1], pixel[..., 0]]

    task = Task(cost, reduce=reduce)  # type: ignore[arg-type]
    generators = [torch.Generator().manual_seed(i) for i in range(len(goals))]

    def plan(at: Floats, warm: dict[str, Tensor] | None) -> Plan:
        state = {"s": torch.from_numpy(at).float(), "w": walls}
        return planner.plan(dynamics, task, state, space=SPACE, generators=generators, warm=warm)

    return replanning(plan)


def main() -> None:
    """Floors and oracles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=sorted(STEPS), default="two")
    parser.add_argument("--episodes", type=int, default=50)
    given = parser.parse_args()
    episodes = Episodes.of(given.layout, given.episodes)
    short = CEM(8, 96, 16, 6, std=0.6)
    rows: dict[str, Acting] = {
        "random": at_random(),
        "straight line": straight(episodes),
        "CEM 8 steps, Euclidean, last": oracle(episodes, short, reduce="last"),
        "CEM 8 steps, Euclidean": oracle(episodes, short),
        "CEM 8 steps, geodesic": oracle(episodes, CEM(8, 96, 12, 6, std=0.6), geodesic=True),
    }
    print(f"{given.layout} rooms, {given.episodes} episodes {episodes.fingerprint}")
    for name, acting in rows.items():
        found = play(episodes, acting)
        print(f"  {name:30s} final {found.final}  ever {found.ever}  {found.milliseconds:.1f} ms")


if __name__ == "__main__":
    main()
