"""An agent that plans on a joint-embedding world of numbers, with or without what keeps its latents apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.envs.columns import Column
from worldformula.learners.imagination import Behaviour
from worldformula.planners.predictive_sampling import PredictiveSampling
from worldformula.training.objective import Minimises
from worldformula.worlds import jepa


@dataclass(frozen=True)
class Embedded:
    """Settings; ``weight`` is that of everything that keeps latents apart."""

    weight: float = 1.0
    batch: int = 16
    length: int = 8
    train_ratio: float = 128.0
    prefill: int = 60
    lr: float = 3e-3


def build(
    config: Embedded, columns: Mapping[str, Column], actions: Any, seed: int, learner: Behaviour | None = None
) -> ImaginationAgent:
    """It wants the first number of its latent to be small."""
    torch.manual_seed(seed)
    w = config.weight
    sizes = jepa.JEPAConfig(
        latent=8, channels=(4,), units=32, deviation=4 * w, covariance=w, similarity=w, inverse=2 * w
    )
    shapes = {key: column.shape for key, column in columns.items()}
    world = jepa.build(sizes, shapes, 1)
    return ImaginationAgent(
        config, world, Perception.of(world, 0.99, columns, actions), learner,
        players={"world": Minimises({"world": 1.0}, [world], partial(torch.optim.Adam, lr=config.lr))},
        habits=Habits(Configuration(planner=PredictiveSampling(horizon=3, candidates=8))),
        intrinsic={"low": lambda states: states["z"][..., 0]},
    )  # fmt: skip
