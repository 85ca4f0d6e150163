"""Searches of other libraries in the world of `planners`, at equal steps of the model, for whoever has installed them.

    pip install torch==2.13.0 && pip install --no-deps torch_world==0.2.0 xwm==0.1.0 stable-worldmodel==0.1.1
    pip install jax equinox optax einops loguru gymnasium
    python -m benchmarks.planner_peers [--rounds 5] [--json benchmarks/results/planner_peers.json]

Each is called through its own classes, with its own defaults but for the sizes, and plans five steps, as our searches
beside it do. All plans are judged by one function: what they cost where actions are held within [−1, 1], the mean over
20 seeds, of the sum of five steps, and of the last alone. A call is a step of the model for one candidate; gradients
count as the dreams that they are taken of. ``least`` is the lowest cost of any of our searches with as many calls or
fewer, and ``beside`` the CPU time of a decision over that of our CEM of the same sizes, in turns. xwm is JAX, compiled;
torch_world and stable-worldmodel return the mean of the last law without asking what it costs, and the latter draws
beyond the bounds, where the corner that is best here is found sooner.

Behind each table stands with how few calls a peer comes to the lowest cost of all peers, and with how few one of ours.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.planners import ACTIONS, LATENT, SPACE, dreams, world
from benchmarks.timing import interleave, options
from worldformula.cards.run import machine, write_json
from worldformula.nets.observed import Residual
from worldformula.planner import Planner, Task
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.icem import ICEM
from worldformula.planners.mppi import MPPI
from worldformula.planners.predictive_sampling import PredictiveSampling

RESULT = Path(__file__).parent / "results" / "planner_peers.json"
HORIZON, SEEDS = 5, 20
BUDGETS = {"300 × 30": (300, 30, 30), "512 × 6": (512, 64, 6), "150 × 6": (150, 15, 6)}  # samples, elites, rounds
Reduce = Literal["sum", "last"]
EQUAL = 1 + 1e-6  # costs are sums of float32


@dataclass(frozen=True)
class Search:
    """``plan(seed)`` gives actions ``[H, A]``, in so many calls; ``budget``: the sizes that it shares with our CEM."""

    plan: Callable[[int], Tensor]
    calls: int
    budget: str = ""


@dataclass(frozen=True)
class Place:
    """Where all of them plan: a network, a start and a goal ``[1, D]``, and which steps count."""

    net: Residual
    start: Tensor
    goal: Tensor
    reduce: Reduce

    def cost(self, actions: Tensor) -> Tensor:
        """What sequences ``[N, H, A]`` cost, held within their bounds: ``[N]``."""
        z, each = self.start.expand(len(actions), -1), []
        for t in range(actions.shape[1]):
            z = self.net(z, actions[:, t].clamp(-1, 1))
            each.append((z - self.goal).square().sum(-1))
        return torch.stack(each).sum(0) if self.reduce == "sum" else each[-1]


def ours(place: Place) -> dict[str, Search]:
    """Our searches."""
    dynamics, goal = dreams(place.net), place.goal
    task = Task(lambda states, _: (states["z"] - goal).square().sum(-1), reduce=place.reduce)
    named: dict[str, tuple[Planner, str]] = {}
    for budget, sizes in BUDGETS.items():
        named |= {f"cem {budget}": (CEM(HORIZON, *sizes), budget), f"mppi {budget}": (MPPI(HORIZON, *sizes), "")}
    named |= {"icem 128 × 4": (ICEM(HORIZON, 128, 10, 4), ""), "predictive 300": (PredictiveSampling(HORIZON, 300), "")}
    named |= {f"gradient {n} × {i}": (Gradient(HORIZON, n, i), "") for n, i in ((1, 40), (4, 10), (8, 20), (8, 112))}

    def search(planner: Planner, budget: str) -> Search:
        def plan(seed: int) -> Tensor:
            own = [torch.Generator().manual_seed(seed)]
            return planner.plan(dynamics, task, {"z": place.start}, space=SPACE, generators=own).actions["a"][0]

        calls = planner.plan(dynamics, task, {"z": place.start}, space=SPACE).calls
        return Search(plan, calls, budget)

    return {f"worldformula {name}": search(*own) for name, own in named.items()}


def torch_world(place: Place) -> dict[str, Search]:
    """torch_world's CEM; raises ImportError where it is not installed."""
    from torch_world import planning

    class Model:
        """What its planners ask of a model."""

        def rollout(self, z: Tensor, actions: Tensor) -> Tensor:
            states = [z[:, 0]]
            for t in range(actions.shape[1]):
                states.append(place.net(states[-1], actions[:, t]))
            return torch.stack(states, 1)

        def cost(self, rollout: Tensor, goal: Tensor) -> Tensor:
            return (rollout[:, -1] - goal).square().sum(-1)

    objective = "path" if place.reduce == "sum" else "final"

    def search(budget: str) -> Search:
        count, elites, rounds = BUDGETS[budget]
        planner = planning.CEM(HORIZON, ACTIONS, count, elites, rounds, bounds=(-1, 1), objective=objective)

        def plan(seed: int) -> Tensor:
            own = torch.Generator().manual_seed(seed)
            found: Tensor = planner(Model(), place.start[:, None], place.goal, generator=own)[0]
            return found

        return Search(plan, count * rounds * HORIZON, budget)

    return {f"torch_world CEM {budget}": search(budget) for budget in BUDGETS}


class Costs(nn.Module):
    """What stable-worldmodel's solvers ask of a model."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def get_cost(self, _: object, actions: Tensor) -> Tensor:
        """Candidates ``[B, S, H, A]`` to ``[B, S]``."""
        return self.place.cost(actions.flatten(0, 1)).view(actions.shape[:2])


def solvers() -> Any:
    """stable-worldmodel's solvers. The package itself imports torchvision and a database of its data sets, which they
    do not read: where one is not installed, they are taken without it.
    """
    try:
        return importlib.import_module("stable_worldmodel.solver")
    except ImportError:
        name = "stable_worldmodel"
        found = importlib.util.find_spec(name)
        if found is None:
            raise
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = list(found.submodule_search_locations or ())
        return importlib.import_module(f"{name}.solver")


def stable_worldmodel(place: Place) -> dict[str, Search]:
    """stable-worldmodel's solvers; raises ImportError where it is not installed."""
    own = solvers()
    from gymnasium.spaces import Box

    model = Costs(place)
    settings = types.SimpleNamespace(horizon=HORIZON, action_block=1, receding_horizon=HORIZON)

    def search(kind: str, calls: int, budget: str = "", **sizes: Any) -> Search:
        def plan(seed: int) -> Tensor:
            with contextlib.redirect_stdout(io.StringIO()):  # each says how long it took
                solver = getattr(own, f"{kind}Solver")(model, seed=seed, **sizes)
                solver.configure(action_space=Box(-1, 1, (1, ACTIONS)), n_envs=1, config=settings)
                actions: Tensor = solver.solve({"x": torch.zeros(1, 1)})["actions"]
            return actions.detach().reshape(HORIZON, ACTIONS)

        return Search(plan, calls * HORIZON, budget)

    found = {}
    for budget, (count, elites, rounds) in BUDGETS.items():
        sizes = {"num_samples": count, "n_steps": rounds, "topk": elites}
        for kind in ("CEM", "ICEM", "MPPI"):
            found[f"swm {kind} {budget}"] = search(kind, count * rounds, budget, **sizes)
    adam = {"optimizer_cls": torch.optim.AdamW, "optimizer_kwargs": {"lr": 0.1}}  # as its scripts have it
    found["swm AdamW 100 × 30"] = search("Gradient", 3000, num_samples=100, n_steps=30, **adam)
    found["swm PredictiveSampling 300"] = search("PredictiveSampling", 300, num_samples=300)
    return found


def xwm(place: Place) -> dict[str, Search]:
    """xwm's planners, compiled; raises ImportError where it is not installed."""
    import jax
    import jax.numpy as jnp
    from xwm import planning

    layers = [layer for layer in place.net.net.layers if isinstance(layer, nn.Linear)]
    weights = [(jnp.asarray(layer.weight.numpy()), jnp.asarray(layer.bias.numpy())) for layer in layers]

    def dynamics(z: Any, a: Any) -> Any:
        x = jnp.concatenate((z, a))
        for i, (weight, bias) in enumerate(weights):
            x = weight @ x + bias
            x = jax.nn.silu(x) if i < len(weights) - 1 else x
        return z + x

    start = jnp.asarray(place.start[0].numpy())
    cost = planning.goal_cost(jnp.asarray(place.goal[0].numpy()), horizon=HORIZON, terminal_only=place.reduce == "last")

    def search(planner: Any, calls: int, budget: str = "") -> Search:
        compiled = jax.jit(lambda key: planner.plan(key, dynamics, start, cost).actions)
        compiled(jax.random.key(0)).block_until_ready()
        return Search(lambda seed: torch.tensor(compiled(jax.random.key(seed)).tolist()), calls * HORIZON, budget)

    found = {}
    for budget, (count, elites, rounds) in BUDGETS.items():
        sizes = {"n_samples": count, "n_iters": rounds}
        cem, mppi = planning.CEM(HORIZON, ACTIONS, n_elites=elites, **sizes), planning.MPPI(HORIZON, ACTIONS, **sizes)
        found[f"xwm CEM {budget}"] = search(cem, count * rounds + 1, budget)
        found[f"xwm MPPI {budget}"] = search(mppi, count * rounds + 1)
    found["xwm gradient 100"] = search(planning.GradientPlanner(HORIZON, ACTIONS), 101)
    return found


def installed(place: Place) -> Iterator[tuple[str, Search]]:
    """The searches of all peers that can be imported; what cannot be is said."""
    for peer in (torch_world, stable_worldmodel, xwm):
        try:
            yield from peer(place).items()
        except ImportError as error:
            print(f"{peer.__name__} takes no part: {error}", flush=True)


def table(place: Place, rounds: int) -> dict[str, dict[str, Any]]:
    """The rows of one objective."""
    searches = {**ours(place), **dict(installed(place))}
    rows: dict[str, dict[str, Any]] = {}
    for name, own in searches.items():
        plans = torch.stack([own.plan(seed) for seed in range(SEEDS)])
        rows[name] = {"cost": float(place.cost(plans).mean()), "calls": own.calls}
    for name, row in rows.items():
        if not name.startswith("worldformula"):
            within = [k for k in rows if k.startswith("worldformula") and rows[k]["calls"] <= row["calls"] * 1.005]
            best = min(within, key=lambda k: rows[k]["cost"])
            row |= {"least": rows[best]["cost"], "by": best}
    for budget in BUDGETS:
        steps = {name: own for name, own in searches.items() if own.budget == budget}
        turns = {name: functools.partial(own.plan, 0) for name, own in steps.items()}
        timed = interleave(turns, f"worldformula cem {budget}", rounds)
        for name, spent in timed.items():
            rows[name] |= {"ms": spent["ms"], "beside": spent["ratio"]}
    return rows


def shown(reduce: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Prints the rows, and returns in how many calls peers and ours come to the lowest cost of a peer."""
    print(f"cost of the {reduce} of {HORIZON} steps, mean of {SEEDS} seeds")
    for name, row in rows.items():
        told = f"  at most as many calls {row['least']:.4f} ({row['by']})" if "least" in row else ""
        beside = f"  {row['ms']:8.2f} ms x {row['beside']:.2f}" if "ms" in row else ""
        print(f"  {name:34s} {row['cost']:10.4f}  {row['calls']:7,} calls{beside}{told}", flush=True)
    peers = {k: v for k, v in rows.items() if "least" in v}
    if not peers:
        return {}
    held = [name for name, row in peers.items() if row["least"] <= row["cost"] * EQUAL]
    cost = min(row["cost"] for row in peers.values())
    calls = {name: row["calls"] for name, row in rows.items() if row["cost"] <= cost * EQUAL}
    peer = min(calls.keys() & peers.keys(), key=lambda name: calls[name])
    own = min(calls.keys() - peers.keys(), key=lambda name: calls[name], default=None)
    share = None if own is None else calls[own] / calls[peer]
    print(f"  with at most as many calls one of ours costs as little as {len(held)} of {len(peers)} peers, or less")
    print(f"  {cost:.4f}, the lowest of peers: {peer} {calls[peer]:,} calls; {own}, a share of {share} of them")
    return {"held": len(held), "peers": len(peers), "cost": cost, "peer": peer, "ours": own, "share": share}


def main() -> None:
    """Measures and writes."""
    asked = options(__doc__, RESULT, rounds=5).parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    torch.set_num_threads(1)
    net, start, goal = world()
    assert start.shape == (1, LATENT)
    rows: dict[str, Any] = {}
    for reduce in ("sum", "last"):
        place = Place(net, start, goal, reduce)  # type: ignore[arg-type]
        rows[reduce] = table(place, asked.rounds)
        rows[f"{reduce}, lowest"] = shown(reduce, rows[reduce])
    head = {"benchmark": "planner_peers", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**head, **machine(), "rows": rows})


if __name__ == "__main__":
    main()
