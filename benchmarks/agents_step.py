"""What an update and a decision cost, of every agent of the Dreamer line at its preset `tiny`, in one run.

    python -m benchmarks.agents_step [--only planet ...] [--rounds 6] [--json FILE]

The pendulum from 32 × 32 pixels, TD-MPC2's from its three numbers, as their cards have them; one thread, random rows.
`products` are the matrix products and convolutions of one update, forward and backward, alone: what no implementation
of this model does without. `update` is all of `agent.update`. A decision is `agent.act` as a run calls it for one
stream, by modes and means: of PlaNet and TD-MPC2 a search. World Models' update is a step of V and one of M, without a
generation of C, which every tenth update brings.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.dreamer_step import products
from benchmarks.timing import interleave, options, show
from worldformula import catalogue
from worldformula.cards.run import machine, write_json
from worldformula.envs import Envs
from worldformula.training import devices

RESULT = Path(__file__).parent / "results" / "agents_step.json"
AGENTS = (
    "world_models", "planet", "dreamer_v1", "dreamer_v2", "dreamer_v3", "daydreamer", "plan2explore", "tdmpc2"
)  # fmt: skip
NUMBERS = ("tdmpc2",)  # these do not see pictures
NEVER = 10**9


def made(name: str) -> tuple[Any, Envs]:
    """The agent, untrained, and the environment that it is made for."""
    system = catalogue.find(name)
    config = system.sizes("tiny")
    if name == "world_models":
        config = replace(config, dreams=replace(config.dreams, every=NEVER))
    envs = Envs("pendulum", 1, seed=0, action_repeat=2, **({} if name in NUMBERS else {"pixels": True, "size": 32}))
    return system.build(config, envs.observations, envs.actions, seed=0), envs


def sequences(agent: Any, envs: Envs) -> dict[str, NDArray[Any]]:
    """Random rows, as many as its settings ask for; every sequence begins an episode."""
    rng, shape = np.random.default_rng(0), (agent.config.batch, agent.config.length)
    first, last = np.zeros((2, *shape), bool)
    first[:, 0] = True
    found: dict[str, NDArray[Any]] = {"is_first": first, "is_last": last, "is_terminal": last}
    for key, column in envs.observations.items():
        size = (*shape, *column.shape)
        found[key] = rng.integers(256, size=size, dtype=np.uint8) if column.kind == "image" else rng.normal(size=size)
    found |= {"reward": rng.normal(size=shape), "action": rng.uniform(-1, 1, (*shape, 1))}
    return {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in found.items()}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of an update beside its products, and of a decision; and how many of these there are a second."""
    agent, envs = made(name)
    batch = sequences(agent, envs)
    update = partial(agent.update, batch)
    alone, flops, count = products(update)
    costs = interleave({"products": alone, "update": update}, "products", rounds, seconds=0.1, warmup=1)
    show(f"{name}: an update of {agent.config.batch} × {agent.config.length} rows", costs)
    now, state = envs.reset(0), agent.initial(1)
    actions, state = agent.act(now, state, explore=False)
    now = envs.step(actions)
    decide = interleave({"act": lambda: agent.act(now, state, explore=False)}, "act", rounds, warmup=2)["act"]
    per_second = round(1000 / decide["ms"], 1)
    print(f"  a decision {decide['ms']:.3f} ms, {per_second:g} a second", flush=True)
    return {
        "rows": [agent.config.batch, agent.config.length], "GFLOP": round(flops, 3), "calls": count, **costs,
        "decision": {**decide, "per_second": per_second},
        "weights": sum(p.numel() for p in agent.parameters() if p.requires_grad),
    }  # fmt: skip


def main() -> None:
    """Measures and writes."""
    parser = options(__doc__, RESULT, rounds=6)
    parser.add_argument("--only", nargs="+", choices=AGENTS, default=AGENTS, help="these agents")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    devices.keep_memory()
    rows = {name: measure(name, asked.rounds) for name in asked.only}
    head = {"benchmark": "agents_step", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**head, **machine(), "agents": rows})


if __name__ == "__main__":
    main()
