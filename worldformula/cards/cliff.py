"""Measures risk at a cliff: does a planner that fears more fall less often, and what does that cost it?

    python -m worldformula.cards.cliff SEED        prints a line for every way to count the samples

A toy: the dynamics are the true ones, and there is one decision. Left is a long road, right a short one that is a cliff
with the probability q that the fog shows. Planners see q and draw whether they fall; a deterministic one takes the most
probable course, in which nobody falls.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.envs.fork import AT, FALL, FOG, PACE, SLOW, STEP
from worldformula.formula import Bernoulli, Deterministic
from worldformula.planner import ActionSet, CVaR, Task
from worldformula.planners.cem import CEM
from worldformula.world import PriorDynamics, State

EPISODES, SAMPLES, HORIZON = 200, 64, 20
RISKS: dict[str, float | CVaR] = {
    "rho_0": 0.0,
    "rho_0.1": 0.1,
    "rho_0.25": 0.25,
    "rho_0.5": 0.5,
    "rho_1": 1.0,
    "cvar_0.25": CVaR(0.25),
    "worst": CVaR(0.0),
}
SPACE = {"a": ActionSet(2, "choice")}  # left, right


class Road(nn.Module):
    """`worldformula.envs.fork.moved` at full speed, and what becomes of a car: s is (y, lane, q, fallen)."""

    def forward(self, s: Tensor, a: Tensor, c: Tensor) -> Tensor:
        """States ``[N, 4]``, lanes ``[N, 2]`` and whether the car would fall here, ``[N, 1]``."""
        y, lane, fog, fallen = s.unbind(-1)
        pace = PACE * 1.3 * torch.where(lane < 0, SLOW, 1.0)
        after = torch.where(fallen > 0, y, (y + pace).clamp(max=1.0))
        entered = (lane == 0) & (after >= AT)
        lane = torch.where(entered, a[:, 1] - a[:, 0], lane)
        down = entered & (lane > 0) & (c[:, 0] > 0)
        return torch.stack((after, lane, fog, fallen.maximum(down.to(fallen))), -1)


class Odds(nn.Module):
    """The logit of q."""

    def forward(self, s: Tensor) -> Tensor:
        """States ``[N, 4]`` to ``[N, 1]``."""
        return torch.logit(s[:, 2:3].clamp(1e-6, 1 - 1e-6))


def dynamics() -> PriorDynamics:
    """c_t says whether the car would fall, which a dream draws."""
    return PriorDynamics(
        Bernoulli("p(c_t|s_{t-1})", Odds(), shape=1) * Deterministic("s_t = f(s_{t-1}, a_{t-1}, c_t)", Road(), shape=4)
    )


class Costs:
    """What a step costs: 0.1 while the car drives, 10 where it falls."""

    def __init__(self, starts: Tensor) -> None:
        self.starts = starts

    def __call__(self, states: State, actions: object) -> Tensor:
        """``[N, T, 4]`` to ``[N, T]``."""
        s: Tensor = states["s"]
        first = self.starts.repeat_interleave(len(s) // len(self.starts), 0)[:, None]
        before = torch.cat((first, s[:, :-1]), 1)
        driving = (before[..., 0] < 1) & (before[..., 3] == 0)
        fell = (before[..., 3] == 0) & (s[..., 3] > 0)
        return torch.where(fell, -FALL, torch.where(driving, -STEP, 0.0))


@dataclass(frozen=True)
class Outcome:
    """Shares of right turns and of accidents, the mean cost: over all episodes, exactly, given what was decided."""

    right: float
    accidents: float
    cost: float


def outcome(samples: int, risk: float | CVaR, fog: Tensor, seed: int) -> Outcome:
    """One plan of every episode, from the last step in front of the fork."""
    starts = torch.zeros(len(fog), 4)
    starts[:, 0], starts[:, 2] = AT - 0.5 * PACE, fog
    planner, task = CEM(HORIZON, 12, 3, 2), Task(Costs(starts), samples=samples, risk=risk)
    generators = [torch.Generator().manual_seed(seed * 100_000 + i) for i in range(len(fog))]
    plan = planner.plan(dynamics(), task, {"s": starts}, space=SPACE, generators=generators)
    right = plan.first["a"][:, 1] > 0.5
    return Outcome(float(right.float().mean()), float((fog * right).mean()), float(expected(starts, right).mean()))


def expected(starts: Tensor, right: Tensor) -> Tensor:
    """What episodes cost in the mean, ``[N]``, that go right or left."""
    fog = starts[:, 2]
    short, fall, long = (cost_of(starts[:1], *way) for way in ((1, 0), (1, 1), (0, 0)))
    return torch.where(right, fog * fall + (1 - fog) * short, torch.full_like(fog, long))


def cost_of(start: Tensor, lane: int, falls: int) -> float:
    """What the way costs, by the true dynamics."""
    actions = torch.eye(2)[lane].expand(1, HORIZON, 2)
    told = {"a": actions, "c": torch.full((1, HORIZON, 1), float(falls))}
    dream = State(dynamics().imagine({"s": start}, actions=told), 2)
    return float(Costs(start)(State({"s": dream["s"][:, 1:]}, 2), None).sum())


def measure(seed: int) -> dict[str, float]:
    """Episodes with fog drawn uniformly, all ways to count samples on the same ones.

    Returns:
        `margins`; by way the share of accidents and the expected cost; ``cost_exact``, the least that knows q, and
        ``cost_left``, that of the long road.
    """
    fog = torch.rand(EPISODES, generator=torch.Generator().manual_seed(seed)) * FOG
    found = {"deterministic": outcome(0, 0.0, fog, seed)}
    found |= {name: outcome(SAMPLES, risk, fog, seed) for name, risk in RISKS.items()}
    starts = torch.zeros(EPISODES, 4)
    starts[:, 0], starts[:, 2] = AT - 0.5 * PACE, fog
    both = torch.stack([expected(starts, torch.full((EPISODES,), way)) for way in (True, False)])
    numbers = {f"{k}_{name}": v for name, o in found.items() for k, v in (("accidents", o.accidents), ("cost", o.cost))}
    exact = {"cost_exact": float(both.min(0).values.mean()), "cost_left": float(both[1].mean())}
    return {**margins(found), **numbers, **exact}


def margins(found: Mapping[str, Outcome]) -> dict[str, float]:
    """What the claim is about, of the outcomes by way.

    Returns:
        ``fall``: by how much the share of accidents falls from one ρ to the next, where it falls least; ``spared``: by
        how much it falls from the deterministic planner to ρ = 0, or from there to ρ = 1, where it falls less;
        ``dearer``: what the cheapest of the other ways costs more than ρ = 0, in expectation.
    """
    shares = [found[name].accidents for name in RISKS if name.startswith("rho")]
    others = [outcome.cost for name, outcome in found.items() if name != "rho_0"]
    return {
        "fall": min(before - after for before, after in itertools.pairwise(shares)),
        "spared": min(found["deterministic"].accidents - shares[0], shares[0] - shares[-1]),
        "dearer": min(others) - found["rho_0"].cost,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """What a seed gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    for name, value in measure(parser.parse_args(arguments).seed).items():
        print(f"{name:28s} {value:.4f}")


if __name__ == "__main__":
    main()
