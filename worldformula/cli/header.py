"""The first lines of a run: where it runs, on what, against which floor, for how long, and how much it will store."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from worldformula.agent.config import EnvConfig
from worldformula.agent.loop import Loop
from worldformula.training import devices
from worldformula.training.progress import duration
from worldformula.training.seeding import derived


def lines(loop: Loop) -> Iterator[str]:
    """The header of a run, line by line: what has to be measured comes after what is known at once."""
    config = loop.config
    env, action, learning = config.env, loop.envs.action, loop.agent.config
    seen = ", ".join(f"{key} {tuple(space.shape)}" for key, space in loop.envs.observation_spaces.items())
    repeat = f", each repeated {env.action_repeat} times" if env.action_repeat > 1 else ""
    rows = f"{learning.batch} × {learning.length} rows"
    yield f"device {devices.describe(loop.device)}, {config.threads} CPU thread(s), torch {torch.__version__}"
    yield f"environment {env.id} × {env.num}: {seen}; {action.size} {action.kind} actions{repeat}"
    yield f"model {config.model}, preset {config.preset}, seed {config.seed}: {parameters(loop):,} parameters"
    yield f"learning: {loop.update_rate:.3g} updates per action (train ratio {learning.train_ratio:g}), each {rows}"
    yield f"replay {loop.replay_bytes / 1e9:.3g} GB on disk once its {config.capacity:,} rows are full"
    yield yardsticks(env, config.seed)


def time_line(loop: Loop, seconds: float) -> str:
    """How long the run will take, and where it goes on."""
    left = loop.config.steps - loop.resumes_at
    resumed = f", going on after {loop.resumes_at:,}" if loop.resumes_at else ""
    return f"time: about {duration(seconds)} for {left:,} environment steps{resumed}" if left > 0 else "time: none left"


def yardsticks(env: EnvConfig, seed: int) -> str:
    """What a return on this environment must be compared with, as one line: the numbers that the report shows too."""
    from worldformula.report.gather import REPORT, floor, reference

    best = reference(env, derived(seed, REPORT))
    known = "not known" if best is None else f"{best} (controller that sees the state)"
    return f"return: floor {floor(env, derived(seed, REPORT))} (random policy); best known {known}"


def parameters(loop: Loop) -> int:
    """Trainable numbers of the agent."""
    return sum(p.numel() for p in loop.agent.parameters() if p.requires_grad)
