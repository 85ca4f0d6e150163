"""TD-MPC2 as a card: `tiny` learns the pendulum swing-up from its three numbers, by planning in its latents."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from worldformula.agent.configurator import Configuration
from worldformula.agents import tdmpc2
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.interact import Interact

STEPS, EPISODES = 12_000, 50
DISCOUNT = 0.95  # 1 − 5/T of the authors' code, for episodes of T = 100 actions


def config(steps: int = STEPS, seed: int = 0) -> RunConfig:
    """The run: Pendulum-v1 from its own numbers, two steps an action."""
    tiny = tdmpc2.tiny()
    agent = replace(tiny, behaviour=replace(tiny.behaviour, discount=DISCOUNT))
    env = EnvConfig("pendulum", num=4, action_repeat=2)
    every = RunConfig("tdmpc2", "tiny", env, agent, steps, seed, capacity=24_000, checkpoint_every=4_000)
    return replace(every, log_every=250, eval_episodes=0)


def measure(seed: int) -> dict[str, float]:
    """Trains, then plays episodes that training never saw.

    Returns:
        ``return``: mean return of 50 planned episodes without exploring; ``return_error``: its standard error;
        ``policy_return``: that of the policy alone, by its mode; ``train_seconds``.
    """
    with tempfile.TemporaryDirectory() as folder:
        loop = Interact(config(seed=seed), tdmpc2.build, Path(folder) / "run", say=lambda _: None)
        result = loop.run()
        env = loop.config.env
        score = evaluate(loop.agent, env, episodes=EPISODES, seed=10_000 + seed)
        loop.agent.configure(Configuration())  # type: ignore[attr-defined]
        alone = evaluate(loop.agent, env, episodes=EPISODES, seed=10_000 + seed)
    return {
        "return": score.mean, "return_error": score.error, "policy_return": alone.mean,
        "train_seconds": result.seconds,
    }  # fmt: skip
