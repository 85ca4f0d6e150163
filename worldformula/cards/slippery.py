"""Measures a step that goes one of four ways: as a Normal, which can only blur, and along a velocity, as dynamics.

No `worldformula fit` trains it so: a flow and a Normal of the card's own learn alike, from steps drawn for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula import Data, Deterministic, E, Factor, Flow, Normal, log
from worldformula.fitting import fit
from worldformula.metrics.sliced import sliced_wasserstein
from worldformula.models import flow_matching
from worldformula.models.flow_matching import Sizes
from worldformula.nets.perceptron import Perceptron
from worldformula.world import PriorDynamics, State

ROWS, STEPS, BATCH, DRAWS, LONG = 50_000, 5000, 512, 10_000, 16
MOVES = np.array([[0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [0.0, -0.1]])
SLIPS, SCALE, NOISE, OFF = 0.2, 10.0, 0.04, 0.015


def moved(z: NDArray[Any], action: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """One step: the move that was meant, or with probability .2 any of the four; then clipped."""
    slips = rng.random(len(z)) < SLIPS
    taken = np.where(slips, rng.integers(4, size=len(z)), action)
    found: NDArray[Any] = np.clip(z + MOVES[taken], 0.0, 1.0)
    return found


def measure(seed: int) -> dict[str, float]:
    """Both learn 10 (z' − z) + .04 noise from 50 000 steps, for 5000 updates of 512.

    Returns:
        ``off``: share of 10 000 drawn steps that end farther than .015 from all four places, by eight steps of Heun,
        infinite where the Normal's, ``off_normal``, is below .8; ``off_2`` … by fewer calls; ``off_truth``: of the
        noise alone. ``meant``: share that ends at the place that was meant, of those that end at one, and
        ``meant_truth``. ``long``: sliced W₂ to the truth after sixteen steps under random actions, ``long_normal``,
        ``long_fresh``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    z, a = rng.random((ROWS, 2)), rng.integers(4, size=ROWS)
    d = SCALE * (moved(z, a, rng) - z) + NOISE * rng.standard_normal((ROWS, 2))
    rows = {"d": tensor(d), "c": tensor(np.concatenate((z, np.eye(4)[a]), 1))}

    flow = flow_matching.build(Sizes(features=2, classes=6, unlabelled=0.0, steps=8))
    how: dict[str, Any] = {"steps": STEPS, "batch": BATCH, "schedule": "cosine", "seed": seed, "progress": False}
    fit(flow, {"x": rows["d"], "y": rows["c"]}, **how)
    normal = Normal("p(d|c)", Perceptron(6, 4, (128, 128, 128)), shape=2)
    loss = E(Data("p_data(d)", shape=2) * Data("p_data(c)", shape=6), -log(normal)).mean()
    fit(loss, rows, **how)

    test = np.random.default_rng(seed + 1000)
    start, action = test.random((DRAWS, 2)), test.integers(4, size=DRAWS)
    dreams = {"": dynamics(flow.density.net), "_normal": dynamics(normal.net)}
    found = dict[str, float]()
    for name, world in dreams.items():
        found |= judged(one_step(world, start, action, seed), start, action, name)
    for calls, solver in ((2, "midpoint"), (4, "midpoint")):
        few = flow_matching.Transport(flow.transport.velocity, calls // 2, solver)  # type: ignore[arg-type]
        drawn = one_step(dynamics(Flow("p(d|c)", few, shape=2).net), start, action, seed)
        found |= {f"off_{calls}": judged(drawn, start, action, "")["off"]}
    true = (moved(start, action, test) + NOISE / SCALE * test.standard_normal((DRAWS, 2))).clip(0.0, 1.0)
    found |= judged(true, start, action, "_truth")
    found |= {f"long{name}": far(world, seed) for name, world in dreams.items()} | {"long_fresh": far(None, seed)}
    return found | {"off": found["off"] if found["off_normal"] >= 0.8 else float("inf")}


def tensor(x: NDArray[Any]) -> Tensor:
    """Single precision."""
    return torch.from_numpy(np.asarray(x, np.float32))


def dynamics(net: Any) -> PriorDynamics:
    """p(d_t|z_{t−1}, a_{t−1}) of what was learnt, and z_t = clip(z_{t−1} + d_t/10)."""
    given = "p(d_t|z_{t-1},a_{t-1})"
    step: Factor = (
        Flow(given, net.flow.transform, shape=2)
        if hasattr(net, "flow")
        else Normal(given, Beside(net), shape=2)
    )  # fmt: skip
    go = Deterministic("z_t = go(z_{t-1},d_t)", lambda z, d: (z + d / SCALE).clamp(0.0, 1.0), shape=2)
    return PriorDynamics(step * go)


class Beside(nn.Module):
    """A network of one vector, of two side by side."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, a: Tensor) -> Any:
        """z ``[N, 2]``, a ``[N, 4]``."""
        return self.net(torch.cat((z, a), -1))


@torch.no_grad()
def dreamt(world: PriorDynamics, start: NDArray[Any], actions: NDArray[Any], seed: int) -> State:
    """Under actions ``[N, H]``."""
    chosen = tensor(np.eye(4)[actions])
    return world.imagine(State({"z": tensor(start)}), actions=chosen, seed=seed)


def one_step(world: PriorDynamics, start: NDArray[Any], action: NDArray[Any], seed: int) -> NDArray[Any]:
    """Where a drawn step ends: ``[N, 2]``."""
    found: NDArray[Any] = dreamt(world, start, action[:, None], seed)["z"][:, 1].double().numpy()
    return found


def judged(ends: NDArray[Any], start: NDArray[Any], action: NDArray[Any], name: str) -> dict[str, float]:
    """Shares of ends that are at no place, and of the others at the one that was meant."""
    places = np.clip(start[:, None] + MOVES, 0.0, 1.0)
    away = np.linalg.norm(ends[:, None] - places, axis=-1)
    there = away.min(1) <= OFF
    meant = away[np.arange(len(ends)), action] <= OFF
    return {f"off{name}": float(1 - there.mean()), f"meant{name}": float(meant[there].mean()) if there.any() else 0.0}


def far(world: PriorDynamics | None, seed: int) -> float:
    """Sliced W₂ to the truth after sixteen steps from the middle under random actions; None is the truth itself."""
    rng = np.random.default_rng(seed + 2000)
    actions, start = rng.integers(4, size=(DRAWS, LONG)), np.full((DRAWS, 2), 0.5)

    def truth() -> NDArray[Any]:
        z = start
        for t in range(LONG):
            z = moved(z, actions[:, t], rng)
        return z

    known, other = truth(), truth()
    if world is not None:
        other = dreamt(world, start, actions, seed)["z"][:, -1].numpy()
    return sliced_wasserstein(tensor(other), tensor(known))
