"""Measures World Models on dodging from pixels: a controller that evolved in dreams alone, in the true environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from worldformula.agent.evolving import EvolvingAgent
from worldformula.agent.stages import Stage
from worldformula.agents.world_models import Sees, WorldModelsConfig, build, chain, tiny
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import RunFolder
from worldformula.run.run import Run

ENV = EnvConfig("dodge", num=4, pixels=True)
FLOOR, BEST = 43.2, 300.0  # a random policy, 200 episodes; a search with the true model, 40 episodes
EPISODES = 50


def measure(seed: int) -> dict[str, float]:
    """Experience at random, V, M and C; then C without M's memory, and C of an M that learnt nothing.

    Returns:
        ``score``: steps that the agent lives, of 300; ``score_z``: of a C that reads z_t alone and evolved in the same
        dreams; ``score_untrained``: of a C that reads z_t and h_t of an untrained M and evolved in its dreams;
        ``dreamt`` and its like: what each earned there in its last generation. ``part``: how much of the way from
        FLOOR to BEST the score is. ``conditions``: how many of the three of the card hold.
    """
    config, found = tiny(), dict[str, float]()
    with TemporaryDirectory() as folder:
        given = chain(config, ENV, Path(folder) / "chain", seed=seed, say=lambda _: None).run()
        agent, data = given["agent"], given["data"]
        found |= scores("", agent, seed)
        others: tuple[tuple[str, Sees, bool], ...] = (("_z", "z", True), ("_untrained", "zh", False))
        for name, sees, trained in others:
            other = beside(agent, dataclasses.replace(config, sees=sees), given["run"].envs, seed, trained=trained)
            stage = Stage(other, "C", config.generations, data, config.frames)
            Run(stage, RunFolder(Path(folder) / f"act{name}"), say=lambda _: None).go()
            found |= scores(name, other, seed)
    part = (found["score"] - FLOOR) / (BEST - FLOOR)
    held = (
        part >= 0.6,
        found["score_z"] < 0.75 * found["score"],
        found["score_untrained"] < FLOOR + 0.2 * (BEST - FLOOR),
    )
    return found | {"part": part, "conditions": float(sum(held))}


def beside(agent: EvolvingAgent, config: WorldModelsConfig, envs: Any, seed: int, *, trained: bool) -> EvolvingAgent:
    """An agent of the same V, and of the same M where it is ``trained``, whose C has not evolved."""
    other = build(config, envs.observations, envs.actions, seed)
    other.see.load_state_dict(agent.see.state_dict())
    if trained:
        other.memory.load_state_dict(agent.memory.state_dict())
    return other


def scores(name: str, agent: EvolvingAgent, seed: int) -> dict[str, float]:
    """What an agent reaches in the true environment, and what its controllers earned in their last dreams."""
    reached = evaluate(agent, ENV, episodes=EPISODES, seed=seed)
    return {f"score{name}": reached.mean, f"dreamt{name}": float(agent.search.told[-1].mean())}
