"""The first lines of a run: where it runs, on what, against which floor, for how long, and how much it will store."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from worldformula.report.yardsticks import measured
from worldformula.run.interact import Interact
from worldformula.training import devices
from worldformula.training.optimiser import trainable
from worldformula.training.progress import duration
from worldformula.world import MASK


def lines(loop: Interact) -> Iterator[str]:
    """The header of a run, line by line: what has to be measured comes after what is known at once."""
    config = loop.config
    env, learning = config.env, loop.agent.config
    seen = ", ".join(f"{key} {column}" for key, column in loop.envs.observations.items())
    done = ", ".join(f"{name}: {spec.told}" for name, spec in loop.envs.actions.items())
    repeat = f", each repeated {env.action_repeat} times" if env.action_repeat > 1 else ""
    rows = f"{learning.batch} × {learning.length} rows"
    yield f"device {devices.describe(loop.device)}, {config.threads} CPU thread(s), torch {torch.__version__}"
    yield f"environment {env.id} × {env.num}: {seen}; {done}{repeat}"
    weights = trainable(loop.agent.parameters())
    yield f"model {config.model}, preset {config.preset}, seed {config.seed}: {weights:,} parameters"
    yield f"learning: {paced(loop)}; {rows} an update"
    yield f"replay {loop.replay_bytes / 1e9:.3g} GB on disk once its {config.capacity:,} rows are full"
    if masks := [key for key in loop.envs.columns if key.startswith("mask/")]:
        told = any(role.startswith(MASK) for role in getattr(getattr(loop.agent, "world", None), "roles", {}))
        dreams = "predicted, and kept to in dreams too" if told else "dreams choose among all actions"
        yield f"{', '.join(masks)}: stored, and kept to in acting; {dreams}"
    if env.timeout is not None:
        yield f"processes: an environment is killed after {env.timeout:g} s, so the run is not the same to the last bit"
    known = measured(env, config.seed, loop.folder)
    yield str(known or "return: floor and best known are measured with the report")


def paced(loop: Interact) -> str:
    """How acting and learning share time, in words."""
    drive, learning = loop.config.drive, loop.agent.config
    if drive.clock == "wall":
        return f"all the time, beside the robot; weights are handed over every {drive.sync} ticks"
    if drive.clock == "virtual":
        return (
            f"{drive.updates:g} updates a tick of a virtual clock (drive.updates; agent.train_ratio is not read); "
            f"weights are handed over every {drive.sync} ticks and arrive {drive.lag} ticks later"
        )
    return f"{loop.driver.rate:.3g} updates per action (train ratio {learning.train_ratio:g})"


def time_line(loop: Interact, seconds: float) -> str:
    """How long the run will take, and where it goes on."""
    left = loop.config.steps - loop.resumes_at
    resumed = f", going on after {loop.resumes_at:,}" if loop.resumes_at else ""
    return f"time: about {duration(seconds)} for {left:,} environment steps{resumed}" if left > 0 else "time: none left"
