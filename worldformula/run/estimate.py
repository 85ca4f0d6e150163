"""How long a run will take, from a few turns and updates of a throwaway copy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from worldformula.envs import Envs
from worldformula.run.contract import Recalling
from worldformula.run.interact import Interact
from worldformula.run.play import play
from worldformula.training.seeding import forked

TURNS = 12


def seconds_left(run: Interact) -> float:
    """An estimate of the seconds until ``run`` ends; evaluation and checkpoints are not in it.

    A fresh agent acts a few turns in environments of its own and learns twice from what it saw. The run does not
    notice: its generators are put back, and nothing enters its replay. With a robot that is not simulated nobody acts
    for it: its ticks are what is counted.
    """
    config = run.config
    if run.resumes_at >= config.steps:
        return 0.0
    if config.drive.clock == "wall":
        return float((config.steps - run.resumes_at) / config.env.action_repeat * run.envs.period)
    if run.envs.real:
        rate = run.envs.bare[0].metadata.get("render_fps", math.inf)
        return float((config.steps - run.resumes_at) / rate)
    with forked(config.seed):
        agent = run.fresh_agent()
        learning = agent.config
        envs = Envs(config.env.id, config.env.num, seed=config.seed, recover=True, **config.env.options())
        turns, seen = play(envs, agent), []

        def turn() -> None:
            made = next(turns)
            seen.append({key: value[0] for key, value in {**made.rows, **envs.stored(made.actions)}.items()})

        turn()  # the first one pays for set-up
        per_turn = _timed(run.device, turn, TURNS)
        repeated = [seen[i % len(seen)] for i in range(learning.length)]
        sequence = {key: np.stack([row[key] for row in repeated]) for key in seen[0]}
        batch = {key: np.repeat(value[None], learning.batch, 0) for key, value in sequence.items()}
        if isinstance(agent, Recalling):  # nothing was kept: zeros take as long
            starts = {name: np.zeros((learning.batch, *shape), np.float32) for name, shape in agent.latents.items()}
            starts |= {key: value[:, 0] for key, value in batch.items() if key.startswith("action")}
            batch |= {f"start/{name}": value for name, value in starts.items()}
        agent.update(batch)
        per_update = _timed(run.device, lambda: agent.update(batch), 1)
        envs.close()
    actions = (config.steps - run.resumes_at) / config.env.action_repeat
    learnt = max(0.0, config.steps - max(learning.prefill, run.resumes_at)) / config.env.action_repeat
    return float(actions / config.env.num * per_turn + learnt * run.driver.rate * per_update)


def _timed(device: torch.device, call: Callable[[], object], times: int) -> float:
    """Seconds per call, the device's queue included."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (time.perf_counter() - start) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
