"""Agents that plan on a world with a memory of keys and values, and whose critic learns from what they recollect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.agent.recollection import Recollects
from worldformula.envs.columns import Column
from worldformula.learners.critics import MemoryCritic
from worldformula.planners.predictive_sampling import PredictiveSampling
from worldformula.training.objective import Minimises
from worldformula.worlds import recalling


@dataclass(frozen=True)
class Recollecting:
    """Settings."""

    learns: Literal["returns", "transitions"] = "returns"
    episode: int = 30
    capacity: int = 200
    batch: int = 8
    length: int = 6
    train_ratio: float = 48.0
    prefill: int = 40
    lr: float = 1e-3


def build(config: Recollecting, columns: Mapping[str, Column], actions: Any, seed: int) -> ImaginationAgent:
    """It wants reward, and a small first number of its latent; ``ahead`` foretells what that will cost."""
    torch.manual_seed(seed)
    sizes = recalling.Sizes(latent=6, units=16, key=4, capacity=3)
    shapes = {key: column.shape for key, column in columns.items()}
    world = recalling.build(sizes, shapes, 1)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    critic = MemoryCritic(net, ["z"], learns=config.learns)
    adam = partial(torch.optim.Adam, lr=config.lr)
    return ImaginationAgent(
        config, world, Perception.of(world, 0.99, columns, actions),
        players={
            "world": Minimises({"world": 1.0}, [world], adam), "critic": Minimises({"ahead": 1.0}, [critic], adam),
        },
        habits=Habits(Configuration(planner=PredictiveSampling(horizon=3, candidates=8))),
        intrinsic={"low": lambda states: states["z"][..., 0].square()}, critics={"ahead": critic},
        recollects=Recollects(config.episode, config.capacity, batch=16, discount=0.9),
    )  # fmt: skip
