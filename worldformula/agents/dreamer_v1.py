"""Dreamer v1 (Hafner, Lillicrap, Ba & Norouzi 2020, ICLR; arXiv:1912.01603).

    world    max(3, mean KL(q ‖ p)) − log p(x_t) − log p(r_t)                worlds/gaussian_rssm, `dreamer`
    dream    h, z ~ p with a_t ~ π(a_t|sg h_t, sg z_t), 15 steps from every state of the batch
    actor    −w_t R_t, whose gradient goes back through the dream            learners/imagination/dynamics
    critic   −w_t log N(sg R_t; V_t, 1)
    three optimisers at once, each with its own weights; it explores by samples of π and N(0, 0.3²)

Deviations            paper            official code            here                    why
free nats             of the mean      of the mean              the same; ``free``      PlaNet's are those of a step
updates               100 a 1000 steps 100 a 1000 steps         by ``train_ratio``      the same on average
pretraining           –                100 updates              none                    a fraction of the first steps
evaluation's actions  mode             best of 100 samples      the density's mode      repeatable
precision             –                float16                  float32                 the same everywhere
dream starts          all states       all states               last ``imag_last``      cheap on a CPU; 0 takes all
Atari                 choices          one-hot actor            refused                 numbers are what it is about
Adam's ε              –                beside √v                beside √(v/(1−β₂ⁿ))     PyTorch's
`tiny`                –                –                        small, faster rates     see cards/dreamer_v1.toml
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from worldformula.agent.actor import squashed_policy
from worldformula.agent.acts import acts_of, named, require_kinds
from worldformula.agent.configurator import Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.formula import Joint
from worldformula.learners.imagination import DynamicsActorCritic, DynamicsSettings
from worldformula.nets.plain import Plain
from worldformula.training.objective import Minimises
from worldformula.worlds import gaussian_rssm


@dataclass(frozen=True)
class DreamerV1Config:
    """Everything that defines the agent."""

    world: gaussian_rssm.GaussianRSSMConfig = field(default_factory=gaussian_rssm.dreamer)
    """The world model."""
    behaviour: DynamicsSettings = field(default_factory=DynamicsSettings)
    """The behaviour learner."""
    batch: int = 50
    """Sequences per update."""
    length: int = 50
    """Rows per sequence."""
    train_ratio: float = 500.0
    """Replayed rows per action in the environment: 100 updates in 500 actions."""
    prefill: int = 5000
    """Environment steps at random before learning starts."""
    imagine: int = 15
    """Steps of a dream."""
    imag_last: int = 0
    """Dreams start from the last so many states of each sequence; 0 takes all."""
    noise: float = 0.3
    """Deviation of what is added to actions where it explores."""
    spread: float = 5.0
    """Deviation of the policy at the start, before tanh."""
    unit: float = 1.0
    """What rewards are divided by: those of the control suite lie in [0, 2], and the heads have unit variances."""
    model_lr: float = 6e-4
    """Learning rate of the world model."""
    actor_lr: float = 8e-5
    """Learning rate of the actor."""
    critic_lr: float = 8e-5
    """Learning rate of the critic."""
    clip: float = 100.0
    """The largest norm of each gradient."""

    def __post_init__(self) -> None:
        if min(self.batch, self.imagine - 1) < 1 or self.length < 2 or self.train_ratio <= 0:
            raise ConfigError(
                "expected batch ≥ 1, imagine ≥ 2, length ≥ 2 and train_ratio > 0, got "
                f"{self.batch}, {self.imagine}, {self.length} and {self.train_ratio}"
            )
        if min(self.model_lr, self.actor_lr, self.critic_lr, self.clip, self.spread, self.unit) <= 0:
            raise ConfigError("expected model_lr, actor_lr, critic_lr, clip, spread and unit > 0")
        if min(self.noise, self.prefill) < 0 or not 0 <= self.imag_last <= self.length:
            raise ConfigError("expected noise and prefill ≥ 0, and imag_last between 0 and length")


def paper() -> DreamerV1Config:
    """The paper's for control from pixels."""
    return DreamerV1Config()


def tiny() -> DreamerV1Config:
    """Small pictures on two CPU cores in minutes: smaller, with faster rates and a shorter horizon."""
    world = gaussian_rssm.GaussianRSSMConfig(
        deter=96, stoch=16, hidden=96, depth=8, units=96, reward_layers=2, activation="elu", cell="keras", bits=0,
        free="mean", free_nats=1.0, reward=10.0,
    )  # fmt: skip
    return DreamerV1Config(
        world, DynamicsSettings(discount=0.98), batch=8, length=32, train_ratio=128.0, prefill=1000, imag_last=8,
        unit=16.0, model_lr=1e-3, actor_lr=3e-4, critic_lr=1e-3,
    )  # fmt: skip


def build(
    config: DreamerV1Config,
    columns: Mapping[str, Column],
    actions: ActionSpec | Mapping[str, ActionSpec],
    seed: int = 0,
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
    features, units = config.world.deter + config.world.stoch, config.world.units
    actor = squashed_policy(acts, features, units, first=config.spread)
    critic = Plain(features, 1, units, 3)
    factors = actor.factors if isinstance(actor, Joint) else (actor,)
    adam = partial(torch.optim.Adam, eps=1e-7)
    return ImaginationAgent(
        config,
        world,
        Perception.of(world, config.behaviour.discount, columns, actions, unit=config.unit),
        DynamicsActorCritic(actor, critic, config.behaviour),
        players={
            "world": Minimises({"world": 1.0}, [world], partial(adam, lr=config.model_lr), config.clip),
            "actor": Minimises({"actor": 1.0}, [*factors], partial(adam, lr=config.actor_lr), config.clip),
            "critic": Minimises({"critic": 1.0}, [critic], partial(adam, lr=config.critic_lr), config.clip),
        },
        habits=Habits(random=True, noise=config.noise),
        horizon=config.imagine,
        late=config.imag_last or config.length,
    )


SYSTEM = System(
    name="dreamer_v1",
    kind="agents",
    paper="Hafner, Lillicrap, Ba & Norouzi 2020, ICLR; arXiv:1912.01603",
    bibtex="""@inproceedings{hafner2020dreamer, title={Dream to control: Learning behaviors by latent imagination},
  author={Hafner, Danijar and Lillicrap, Timothy and Ba, Jimmy and Norouzi, Mohammad}, booktitle={ICLR},
  year={2020}}""",
    presets={"paper": paper, "official": paper, "tiny": tiny},
    build=build,
    summary="Actor and critic learned by gradients through the dreams of a Gaussian RSSM; actions are numbers.",
    runs=dict.fromkeys(("paper", "official"), ("env.num=1", "env.action_repeat=2")),
    acts=("numbers",),
)
