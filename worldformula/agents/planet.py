"""PlaNet (Hafner, Lillicrap, Fischer, Villegas, Ha, Lee & Davidson 2019, ICML; arXiv:1811.04551).

    world    h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  z_t ~ q(z_t|h_t,e_t),  p(x_t, r_t | h_t, z_t)   worlds/gaussian_rssm
    learns   max(0, KL(q ‖ p) − 3) − log p(x_t) − 10 log p(r_t)
    acts     a_{t:t+H} ~ N(μ, σ²) → Σ r of each in imagination → (μ, σ) of the best 100, 10 times → the first of μ
             planners/cem, at every step anew; it explores by N(0, 0.3²)

It has no policy and no value: what is worth doing is searched for in the world.

Deviations            paper            official code            here                    why
updates               100 an episode   100 an episode           by ``train_ratio``      the same on average
action repeat         by task          2, 4 or 8                `paper` 4               as half of their tasks
evaluation's actions  the mean         the last mean            the same; `tiny` best   see planners/cem.py
Adam's ε              1e-4             beside √v                beside √(v/(1−β₂ⁿ))     PyTorch's; alike from the
                                                                                        100th update on
chunks of episodes    50 rows          of one episode           may cross a reset       the filter begins anew there
`tiny`                –                –                        small                   see cards/planet.toml
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from worldformula.agent.acts import acts_of, named, require_kinds
from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.planners import cem
from worldformula.training.objective import Minimises
from worldformula.worlds import gaussian_rssm


@dataclass(frozen=True)
class PlaNetConfig:
    """Everything that defines the agent."""

    world: gaussian_rssm.GaussianRSSMConfig = field(default_factory=gaussian_rssm.paper)
    """The world model."""
    planner: cem.CEM = field(default_factory=lambda: cem.build(cem.paper()))
    """The search."""
    noise: float = 0.3
    """Deviation of what is added to actions where it explores."""
    batch: int = 50
    """Sequences per update."""
    length: int = 50
    """Rows per sequence."""
    train_ratio: float = 1000.0
    """Replayed rows per action in the environment: 100 updates an episode of 250 actions."""
    prefill: int = 5000
    """Environment steps at random before learning starts."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    eps: float = 1e-4
    """ε of Adam."""
    clip: float = 1000.0
    """The largest norm of the gradient."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.length < 2 or min(self.train_ratio, self.lr, self.eps, self.clip) <= 0:
            raise ConfigError(
                "expected batch ≥ 1, length ≥ 2, and train_ratio, lr, eps and clip > 0, got "
                f"{self.batch}, {self.length}, {self.train_ratio}, {self.lr}, {self.eps} and {self.clip}"
            )
        if min(self.noise, self.prefill) < 0:
            raise ConfigError(f"expected noise and prefill ≥ 0, got {self.noise} and {self.prefill}")


def paper() -> PlaNetConfig:
    """The paper's for control from pixels, as its code has it by default."""
    return PlaNetConfig()


def overshooting() -> PlaNetConfig:
    """`paper` with latent overshooting, D = 50."""
    return PlaNetConfig(gaussian_rssm.overshooting())


def tiny() -> PlaNetConfig:
    """Small pictures on two CPU cores in minutes."""
    return PlaNetConfig(
        gaussian_rssm.tiny(), cem.CEM(candidates=100, elites=10, iterations=4), batch=8, length=32, train_ratio=128.0,
        prefill=1000,
    )  # fmt: skip


def build(
    config: PlaNetConfig, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], seed: int = 0
) -> ImaginationAgent:
    """The agent for these observations (key -> column) and actions of numbers: by name, or the only one.

    Raises:
        SpaceError: an action is no numbers; the message names the agents that take it.
    """
    torch.manual_seed(seed)
    acts = acts_of(named(actions))
    require_kinds(SYSTEM, acts)
    shapes = {key: column.encoded for key, column in columns.items()}
    world = gaussian_rssm.build(config.world, shapes, {act.variable: act.size for act in acts})
    adam = partial(torch.optim.Adam, lr=config.lr, eps=config.eps)
    usual = Configuration(planner=config.planner, noise=config.noise, warm=False)
    return ImaginationAgent(
        config,
        world,
        Perception.of(world, 1.0, columns, actions),
        players={"model": Minimises({"world": 1.0}, moves=[world], optimiser=adam, clip=config.clip)},
        habits=Habits(usual, random=True),
    )


SYSTEM = System(
    name="planet",
    kind="agents",
    paper=gaussian_rssm.SYSTEM.paper,
    bibtex=gaussian_rssm.SYSTEM.bibtex,
    presets={"paper": paper, "official": paper, "overshooting": overshooting, "tiny": tiny},
    build=build,
    summary="Planning by the cross-entropy method in the latent space of a Gaussian RSSM; it has no policy.",
    runs=dict.fromkeys(("paper", "official", "overshooting"), ("env.num=1", "env.action_repeat=4")),
    acts=("numbers",),
)
