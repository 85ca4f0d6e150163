"""Measures World Models on the cart-pole from pixels: a controller that evolved in dreams, in the true environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from worldformula.agent.evolving import EvolvingAgent
from worldformula.agent.stages import Stage
from worldformula.agents.world_models import WorldModelsConfig, build, chain, tiny
from worldformula.run.config import EnvConfig
from worldformula.run.evaluate import evaluate
from worldformula.run.folder import RunFolder
from worldformula.run.run import Run

ENV = EnvConfig("cartpole", num=4, pixels=True)
FLOOR, BEST = 22.5, 500.0  # a random policy, 100 episodes; balanced by hand, as long as an episode is
EPISODES = 50
TAUS = (0.3, 0.7, 1.5, 3.0)
"""Temperatures of dreams beside the agent's own, at which other controllers evolve."""


def measure(seed: int) -> dict[str, float]:
    """Experience at random, V, M and C; then C without M's memory, C of an M that learnt nothing, and C at other τ.

    Returns:
        ``score``: steps that the agent lives, of 500; ``score_z``: of a C that reads z_t alone and evolved in the same
        dreams; ``score_untrained``: of a C that reads z_t and h_t of an untrained M and evolved in its dreams;
        ``score_tau_0_3`` and its like: of one that evolved at that temperature; ``dreamt`` and its like: what each
        earned there in its last generation, of 300. ``part``: how much of the way from FLOOR to BEST the score is.
        ``conditions``: how many of the three of the card hold.
    """
    with TemporaryDirectory() as folder:
        return told(seed, Path(folder), tiny())


def told(seed: int, folder: Path, config: WorldModelsConfig) -> dict[str, float]:
    """What `measure` returns, of a chain in this folder."""
    given = chain(config, ENV, folder / "chain", seed=seed, say=lambda _: None).run()
    agent, found = given["agent"], dict[str, float]()
    found |= scores("", agent, seed)
    others = {"_z": (dataclasses.replace(config, sees="z"), True), "_untrained": (config, False)}
    for tau in TAUS:
        name = f"_tau_{tau:.1f}".replace(".", "_")
        others[name] = dataclasses.replace(config, dreams=dataclasses.replace(config.dreams, tau=tau)), True
    for name, (settings, trained) in others.items():
        other = beside(agent, settings, given["run"].envs, seed, trained=trained)
        stage = Stage(other, "C", config.generations, given["data"], config.frames)
        Run(stage, RunFolder(folder / f"act{name}"), say=lambda _: None).go()
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
