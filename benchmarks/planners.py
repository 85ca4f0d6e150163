"""A decision of a search in a world that predicts its own latents, beside the same search written by hand.

    python -m benchmarks.planners [--rounds 30] [--json benchmarks/results/planners.json]

`hand` is a cross-entropy search of a page of PyTorch with the same network, samples, elites and cost, as papers have
it; it returns the best sequence that it has seen, and its cost. `rollouts` are the dreams of its samples alone. `cem`
returns besides the states that its plan leads through, and counts what costs NaN. With a network 512 wide, ratios are
to `rollouts`. The costs that searches of about equal calls come to stand below, with the CPU time of one decision; then
those of searches that keep every action shorter than ½, by a Lagrangian, and by a fixed price of what exceeds it.
Searches of other libraries in the same world are those of `planner_peers`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import interleave, options, show
from worldformula.cards.run import machine, write_json
from worldformula.formula import Deterministic
from worldformula.nets.observed import Residual
from worldformula.planner import ActionSet, Constraint, Named, Planner, Task
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.grasp import GRASP
from worldformula.planners.icem import ICEM
from worldformula.planners.lagrangian import Lagrangian
from worldformula.planners.mppi import MPPI
from worldformula.planners.predictive_sampling import PredictiveSampling
from worldformula.world import PriorDynamics, State

RESULT = Path(__file__).parent / "results" / "planners.json"
LATENT, UNITS, ACTIONS = 64, 128, 2
Sizes = tuple[int, int, int, int]  # candidates, elites, iterations, steps
SIZES: dict[str, tuple[int, Sizes, str]] = {  # with the units of the network, and what is compared with
    "300 × 30, 5 steps": (UNITS, (300, 30, 30, 5), "hand"),
    "512 × 6, 3 steps": (UNITS, (512, 64, 6, 3), "hand"),
    "300 × 30, 5 steps, a network 512 wide": (512, (300, 30, 30, 5), "rollouts"),
}
ONCE = 1 << 22  # numbers
SPACE = {"a": ActionSet(ACTIONS)}


def world(units: int = UNITS) -> tuple[Residual, Tensor, Tensor]:
    """A network that moves latents, a start and a goal ``[1, D]``."""
    torch.manual_seed(0)
    net = Residual(LATENT, ACTIONS, units)
    torch.nn.init.normal_(net.net.head.weight, std=0.05)
    return net.requires_grad_(False), torch.randn(1, LATENT), torch.randn(1, LATENT)


@torch.no_grad()
def by_hand(net: Residual, start: Tensor, goal: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The search without a library: the best sequence that it has seen ``[H, A]``, and its cost."""
    count, elites, iterations, horizon = sizes
    mean, std = torch.zeros(horizon, ACTIONS), torch.ones(horizon, ACTIONS)
    best, found = torch.tensor(torch.inf), mean
    for _ in range(iterations):
        tried = (mean + std * torch.randn(count, horizon, ACTIONS)).clamp(-1, 1)
        z, cost = start.expand(count, -1), torch.zeros(count)
        for t in range(horizon):
            z = net(z, tried[:, t])
            cost = cost + (z - goal).square().sum(-1)
        least, order = cost.topk(elites, largest=False)
        kept = tried[order]
        if least[0] < best:
            best, found = least[0], kept[0]
        mean, std = kept.mean(0), kept.std(0)
    return found, best


@torch.no_grad()
def rollouts(net: Residual, start: Tensor, sizes: Sizes) -> Tensor:
    """The dreams of as many samples."""
    count, _, iterations, horizon = sizes
    z = start
    for _ in range(iterations):
        tried, z = torch.randn(count, horizon, ACTIONS), start.expand(count, -1)
        for t in range(horizon):
            z = net(z, tried[:, t])
    return z


def main() -> None:
    """Measures and writes."""
    asked = options(__doc__, RESULT, rounds=30).parse_args()
    torch.set_num_threads(1)
    torch.zeros(ONCE)  # whoever has trained has freed as much: from then on, memory is kept between decisions
    rows: dict[str, Any] = {title: timed(title, asked.rounds) for title in SIZES}
    net, start, goal = world()
    dynamics = dreams(net)
    rows["costs"] = costs(dynamics, start, goal)
    rows["kept"] = kept(dynamics, start, goal)
    head = {"benchmark": "planners", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**head, **machine(), "rows": rows})


def dreams(net: Residual) -> PriorDynamics:
    """The formula of a network's world."""
    return PriorDynamics(Deterministic("z_t = f(z_{t-1}, a_{t-1})", net, shape=LATENT))


def timed(title: str, rounds: int) -> dict[str, dict[str, Any]]:
    """One decision, in turns."""
    units, sizes, reference = SIZES[title]
    net, start, goal = world(units)
    dynamics = dreams(net)
    task = Task(lambda states, _: (states["z"] - goal).square().sum(-1))
    count, elites, iterations, horizon = sizes
    planner = CEM(horizon, count, elites, iterations)
    steps: dict[str, Callable[[], object]] = {
        "hand": lambda: by_hand(net, start, goal, sizes),
        "rollouts": lambda: rollouts(net, start, sizes),
        "cem": lambda: planner.plan(dynamics, task, {"z": start}, space=SPACE),
    }
    found = interleave(steps, reference, rounds)
    show(f"one decision, {title}", found)
    return found


def costs(dynamics: PriorDynamics, start: Tensor, goal: Tensor) -> dict[str, dict[str, float]]:
    """What searches find, by steps of the model: the mean over 20 seeds, and the best of all as what can be had."""
    planners: dict[str, Planner] = {
        "cem 300 × 30": CEM(5, 300, 30, 30), "cem 150 × 6": CEM(5, 150, 15, 6), "icem 128 × 4": ICEM(5, 128, 10, 4),
        "mppi 150 × 6": MPPI(5, 150, 15, 6, answer="best"), "gradient 8 × 20": Gradient(5, 8, 20),
        "gradient 4 × 10": Gradient(5, 4, 10), "predictive 300": PredictiveSampling(5, 300),
        "gradient 8 × 112": Gradient(5, 8, 112), "grasp 8 × 60": GRASP(5, 8, 60, every=10, descents=3, refine=25),
        "grasp 4 × 12": GRASP(5, 4, 12, every=6, descents=1, refine=5),
    }  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for reduce in ("sum", "last"):
        task = Task(lambda states, _: (states["z"] - goal).square().sum(-1), reduce=reduce)  # type: ignore[arg-type]
        print(f"cost of the {reduce} of 5 steps, mean of 20 seeds")
        found |= {f"{name}, {reduce}": row for name, row in compared(planners, dynamics, task, start).items()}
    return found


def kept(dynamics: PriorDynamics, start: Tensor, goal: Tensor) -> dict[str, dict[str, float]]:
    """What searches find that keep ‖a‖ ≤ ½ at every step: ``violation`` is by how much ‖a‖² exceeds ¼ at most."""
    within, cheap = CEM(5, 30, 6, 6), CEM(5, 150, 15, 6)
    planners: dict[str, Planner] = {
        "lagrangian, cem 5 × (30 × 6)": Lagrangian(within), "lagrangian, cem 5 × (150 × 6)": Lagrangian(cheap),
        "lagrangian, gradient 5 × (8 × 21)": Lagrangian(Gradient(5, 8, 21)),
        "lagrangian, gradient 5 × (8 × 111)": Lagrangian(Gradient(5, 8, 111)),
    }  # fmt: skip
    short = Constraint(lambda _, actions: actions["a"].square().sum(-1), 0.25)
    found: dict[str, dict[str, float]] = {}
    for reduce in ("sum", "last"):
        task = Task(lambda states, _: (states["z"] - goal).square().sum(-1), reduce=reduce)  # type: ignore[arg-type]
        print(f"cost of the {reduce} of 5 steps under a constraint, mean of 20 seeds")
        limited = replace(task, constraints={"short": short})
        rows = compared(planners, dynamics, limited, start)
        for price in (10.0, 1000.0):
            own = replace(task, cost=priced(goal, price, every=reduce == "sum"))
            rows |= compared({f"cem 150 × 6, price {price:g}": cheap}, dynamics, own, start)
        found |= {f"{name}, {reduce}": row for name, row in rows.items()}
    return found


def priced(goal: Tensor, price: float, every: bool) -> Callable[[State, Named], Tensor]:
    """The distance, and a fixed price of what ‖a‖² exceeds ¼ by; of the last step alone, that of all steps there."""

    def cost(states: State, actions: Named) -> Tensor:
        over = (actions["a"].square().sum(-1) - 0.25).clamp(min=0)
        return (states["z"] - goal).square().sum(-1) + price * (over if every else over.cumsum(1))

    return cost


def compared(
    planners: Mapping[str, Planner], dynamics: PriorDynamics, task: Task, start: Tensor
) -> dict[str, dict[str, float]]:
    """The mean over 20 seeds of what the plans of a task come to, a price of what exceeds a limit among it; by how much
    the worst of them does, and which share keeps it.
    """
    found: dict[str, dict[str, float]] = {}
    for name, planner in planners.items():
        generators = [torch.Generator().manual_seed(i) for i in range(20)]
        plan = planner.plan(dynamics, task, {"z": start.expand(20, -1)}, space=SPACE, generators=generators)
        row = {"cost": float(plan.cost.mean()), "calls": plan.calls, "ms": decision(planner, dynamics, task, start)}
        if task.constraints or task.cost.__name__ == "cost":
            over = (plan.actions["a"].square().sum(-1) - 0.25).amax(1).clamp(min=0)
            row |= {"violation": float(over.max()), "kept": float((over <= 1e-3).double().mean())}
        found[name] = row
        told = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in ("cost", "calls"))
        print(f"  {name:34} {row['cost']:10.4f}  {plan.calls:7,} steps of the model  {told}")
    return found


def decision(planner: Planner, dynamics: PriorDynamics, task: Task, start: Tensor) -> float:
    """Milliseconds of CPU time of one decision, the median of 5 behind one that warms up."""
    spent = []
    for _ in range(6):
        before = time.process_time()
        planner.plan(dynamics, task, {"z": start}, space=SPACE)
        spent.append(1e3 * (time.process_time() - before))
    return statistics.median(spent[1:])


if __name__ == "__main__":
    main()
