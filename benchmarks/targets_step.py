"""One update of DreamerV3 from pictures of 64 × 64, with a decoder and with what may stand in its place, in one run.

    python -m benchmarks.targets_step [--size size1m] [--only barlow ...] [--rounds 6] [--json FILE]

8 sequences of 32 rows, 6 actions, dreams of 15 steps from all 256 states, one thread. `world` is the loss of the world
and its gradient alone; `update` is all of `agent.update`. Each target runs in turn, and time is that of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from benchmarks.timing import interleave, options, show
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3
from worldformula.cards.run import machine, write_json
from worldformula.envs.actions import action_specs
from worldformula.envs.spaces import observation_parts
from worldformula.world.embeddings import Target

RESULT = Path(__file__).parent / "results" / "targets_step.json"
B, T, EDGE, ACTIONS = 8, 32, 64, 6


def agent(preset: str, target: Target) -> ImaginationAgent:
    """The agent, untrained."""
    config = dreamer_v3.SYSTEM.presets[preset]()
    config = replace(config, world=replace(config.world, target=target), imag_last=0, context=0)
    observed = spaces.Box(0, 255, (EDGE, EDGE, 3), np.uint8)
    columns = {key: part.column for key, part in observation_parts(observed).items()}
    return dreamer_v3.build(config, columns, action_specs(spaces.Box(-1, 1, (ACTIONS,), np.float32)), seed=0)


def sequences() -> dict[str, NDArray[Any]]:
    """Random rows; every sequence begins an episode."""
    rng = np.random.default_rng(0)
    first, last = np.zeros((2, B, T), bool)
    first[:, 0] = True
    return {
        "image": rng.integers(0, 256, (B, T, EDGE, EDGE, 3), np.uint8),
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "action": rng.uniform(-1, 1, (B, T, ACTIONS)).astype(np.float32),
        "is_first": first, "is_last": last, "is_terminal": last,
    }  # fmt: skip


def world_alone(one: ImaginationAgent, batch: dict[str, NDArray[Any]]) -> None:
    """The loss of the world and the gradients of its weights."""
    one.world.zero_grad()
    one.world.loss(**one.perception.learn(batch, one.device)).value.backward()


def main() -> None:
    """Measures and writes."""
    parser = options(__doc__, RESULT, rounds=6)
    parser.add_argument("--size", choices=("size1m", "paper"), default="size1m")
    parser.add_argument("--only", nargs="+", choices=get_args(Target), default=get_args(Target), help="these targets")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    batch, rows, parameters = sequences(), {}, {}
    agents = {target: agent(asked.size, target) for target in dict.fromkeys(("reconstruction", *asked.only))}
    for what in ("world", "update"):
        steps: dict[str, Callable[[], object]] = {
            target: partial(world_alone, one, batch) if what == "world" else partial(one.update, batch)
            for target, one in agents.items()
        }
        title = f"{what}, {asked.size}, {EDGE} × {EDGE} pixels, B {B}, T {T}"
        rows[title] = interleave(steps, "reconstruction", asked.rounds, seconds=0.3, warmup=1)
        show(title, rows[title])
    parameters = {target: sum(p.numel() for p in one.parameters()) for target, one in agents.items()}
    print(parameters)
    head = {"benchmark": "targets_step", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**head, **machine(), "parameters": parameters, "rows": rows})


if __name__ == "__main__":
    main()
