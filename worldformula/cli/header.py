"""The first lines of a run: where it runs, on what, against which floor, for how long, and how much it will store."""

from __future__ import annotations

import torch

from worldformula.agent.config import EnvConfig
from worldformula.agent.loop import Loop
from worldformula.cli.display import duration
from worldformula.envs import random_policy_return, reference_return, registry
from worldformula.training import devices

EPISODES = 10


def lines(loop: Loop, seconds: float) -> list[str]:
    """The header of a run that is expected to take ``seconds``; measures floor and best known return."""
    config = loop.config
    env, action = config.env, loop.envs.action
    seen = ", ".join(f"{key} {tuple(space.shape)}" for key, space in loop.envs.observation_spaces.items())
    learning, left = loop.agent.config, config.steps - loop.resumes_at
    repeat = f", each repeated {env.action_repeat} times" if env.action_repeat > 1 else ""
    resumed = f", going on after {loop.resumes_at:,}" if loop.resumes_at else ""
    rows = f"{learning.batch} × {learning.length} rows"
    return [
        f"device {devices.describe(loop.device)}, {config.threads} CPU thread(s), torch {torch.__version__}",
        f"environment {env.id} × {env.num}: {seen}; {action.size} {action.kind} actions{repeat}",
        yardsticks(env),
        f"model {config.model}, preset {config.preset}, seed {config.seed}: {parameters(loop):,} parameters",
        f"learning: {loop.update_rate:.3g} updates per action (train ratio {learning.train_ratio:g}), each {rows}",
        f"replay {loop.replay_bytes / 1e9:.3g} GB on disk once its {config.capacity:,} rows are full",
        f"time: about {duration(seconds)} for {left:,} environment steps{resumed}" if left > 0 else "time: none left",
    ]


def yardsticks(env: EnvConfig) -> str:
    """What a score on this environment must be compared with, as one line.

    The environments of this package are measured: a random policy, and the reference controller that sees the true
    state. Of others nothing is known before they run.
    """
    if registry.find(env.id) is None:
        return f"return: neither floor nor best is known for {env.id}"
    options = {name: value for name, value in env.options().items() if name not in ("pixels", "size")}
    floor = f"return: floor {random_policy_return(env.id, EPISODES, **options).mean:.1f} (random policy)"
    if env.max_steps is not None:
        return f"{floor}; the best is not known for episodes of {env.max_steps} steps"
    return f"{floor}, best known {reference_return(env.id, EPISODES).mean:.1f} (controller that sees the state)"


def parameters(loop: Loop) -> int:
    """Trainable numbers of the agent."""
    return sum(p.numel() for p in loop.agent.parameters() if p.requires_grad)
