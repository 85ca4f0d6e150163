"""Dreamer v2 (Hafner, Lillicrap, Norouzi & Ba 2021, ICLR; arXiv:2010.02193).

    world    k [0.8 max(f, mean KL(sg q ‖ p)) + 0.2 max(f, mean KL(q ‖ sg p))] − log p(x_t, r_t, c_t)
                                                                                     worlds/discrete_rssm
    dream    h, z ~ p with a_t ~ π(a_t|sg h_t, sg z_t), 15 steps from every state of the batch
    actor    −w_t (ρ log π(a_t) sg(R_{t+1} − U_t) + (1 − ρ) R_{t+1} + η H[π])        learners/imagination/mixed
    critic   −w_t log N(sg R_t; V_t, 1),  R from U, a copy of V at every 100th update
    the world moves first, then actor and critic at once, in dreams from the states that it had inferred before

Deviations            paper            official code            here                    why
rewards of Atari      tanh             tanh                     ``bounded``             `paper`, `official`
pretraining           –                1 or 100 updates         none                    a fraction of the first steps
sequences             –                end more often in ends   uniform                 the replay's sampler
state at their start  –                goes on from the last    zeros                   rows are drawn at random
                                       batch
precision             –                float16                  float32                 the same everywhere
dream starts          all states       all states               last ``imag_last``      cheap on a CPU; 0 takes all
weight decay          10⁻⁶             w ← (1 − 10⁻⁶) w         the same                decoupled from Adam
masks                 –                –                        predicted, in dreams    else dreams choose what is
                                                                                        forbidden
Adam's ε              10⁻⁵             beside √v                beside √(v/(1−β₂ⁿ))     PyTorch's
`tiny`                –                –                        small, faster rates     see cards/dreamer_v2.toml
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from worldformula.agent.actor import truncated_policy
from worldformula.agent.acts import acts_of, named
from worldformula.agent.configurator import Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.formula import Joint
from worldformula.learners.imagination import MixedActorCritic, MixedSettings
from worldformula.nets.plain import Plain
from worldformula.training.objective import Minimises
from worldformula.worlds import discrete_rssm


@dataclass(frozen=True)
class DreamerV2Config:
    """Everything that defines the agent; the defaults are those of the authors' code."""

    world: discrete_rssm.DiscreteRSSMConfig = field(default_factory=discrete_rssm.official)
    """The world model."""
    behaviour: MixedSettings = field(default_factory=MixedSettings)
    """The behaviour learner."""
    batch: int = 16
    """Sequences per update."""
    length: int = 50
    """Rows per sequence."""
    train_ratio: float = 160.0
    """Replayed rows per action in the environment: one update in 5 actions."""
    prefill: int = 10_000
    """Environment steps at random before learning starts."""
    imagine: int = 15
    """Steps of a dream."""
    imag_last: int = 0
    """Dreams start from the last so many states of each sequence; 0 takes all."""
    bounded: bool = True
    """Learn tanh of the rewards."""
    unit: float = 1.0
    """What rewards are divided by: those of the control suite lie in [0, 2], and the heads have unit variances."""
    masks: bool = True
    """Where rows say which choices are allowed: predict it, and let the policy choose among them in dreams too."""
    noise: float = 0.0
    """Deviation of what is added to numbers where it explores."""
    model_lr: float = 1e-4
    """Learning rate of the world model."""
    actor_lr: float = 8e-5
    """Learning rate of the actor."""
    critic_lr: float = 2e-4
    """Learning rate of the critic."""
    eps: float = 1e-5
    """ε of Adam."""
    decay: float = 1e-6
    """The share of every weight that an update takes away."""
    clip: float = 100.0
    """The largest norm of each gradient."""

    def __post_init__(self) -> None:
        if min(self.batch, self.imagine - 1) < 1 or self.length < 2 or self.train_ratio <= 0:
            raise ConfigError(
                "expected batch ≥ 1, imagine ≥ 2, length ≥ 2 and train_ratio > 0, got "
                f"{self.batch}, {self.imagine}, {self.length} and {self.train_ratio}"
            )
        if min(self.model_lr, self.actor_lr, self.critic_lr, self.clip, self.eps, self.unit) <= 0:
            raise ConfigError("expected model_lr, actor_lr, critic_lr, eps, clip and unit > 0")
        if min(self.noise, self.prefill, self.decay) < 0 or not 0 <= self.imag_last <= self.length:
            raise ConfigError("expected noise, prefill and decay ≥ 0, and imag_last between 0 and length")


def paper() -> DreamerV2Config:
    """The paper's for Atari."""
    return DreamerV2Config(
        discrete_rssm.paper(), MixedSettings(discount=0.999, entropy=1e-3), train_ratio=50.0, prefill=200_000,
        model_lr=2e-4, actor_lr=4e-5, critic_lr=1e-4,
    )  # fmt: skip


def official() -> DreamerV2Config:
    """The default of the authors' code."""
    return DreamerV2Config()


def control() -> DreamerV2Config:
    """The authors' for control from pixels."""
    return DreamerV2Config(
        discrete_rssm.control(), MixedSettings(entropy=1e-4), prefill=2000, bounded=False, model_lr=3e-4,
        critic_lr=8e-5,
    )  # fmt: skip


def tiny() -> DreamerV2Config:
    """Small pictures on two CPU cores in minutes: smaller, with faster rates and a shorter horizon."""
    return DreamerV2Config(
        replace(discrete_rssm.tiny(), reward=10.0), MixedSettings(discount=0.98, entropy=1e-3, slow_every=25), batch=8,
        length=32, train_ratio=128.0, prefill=1000, imag_last=8, bounded=False, unit=16.0, model_lr=1e-3,
        actor_lr=3e-4, critic_lr=1e-3,
    )  # fmt: skip


def build(
    config: DreamerV2Config,
    columns: Mapping[str, Column],
    actions: ActionSpec | Mapping[str, ActionSpec],
    seed: int = 0,
) -> ImaginationAgent:
    """The agent for these observations (key -> column) and actions: `ActionSpec` by name, or the only one."""
    torch.manual_seed(seed)
    acts = acts_of(named(actions))
    shapes = {key: column.encoded for key, column in columns.items()}
    masks = {act.variable: act.mask for act in acts if act.masked and config.masks}
    world = discrete_rssm.build(config.world, shapes, {act.variable: act.size for act in acts}, masks)
    features, units = config.world.deter + config.world.stoch, config.world.units
    actor = truncated_policy(acts, features, units, masks=config.masks)
    critic = Plain(features, 1, units, 4)
    factors = actor.factors if isinstance(actor, Joint) else (actor,)

    def adam(lr: float) -> partial[torch.optim.AdamW]:
        return partial(torch.optim.AdamW, lr=lr, eps=config.eps, weight_decay=config.decay / lr)

    return ImaginationAgent(
        config,
        world,
        Perception.of(world, config.behaviour.discount, columns, actions, bounded=config.bounded, unit=config.unit),
        MixedActorCritic(actor, critic, config.behaviour, tuple(masks.values())),
        players={
            "world": Minimises({"world": 1.0}, [world], adam(config.model_lr), config.clip),
            "actor": Minimises({"actor": 1.0}, [*factors], adam(config.actor_lr), config.clip),
            "critic": Minimises({"critic": 1.0}, [critic], adam(config.critic_lr), config.clip),
        },
        order=(("world",), ("actor", "critic")),
        habits=Habits(random=True, noise=config.noise),
        horizon=config.imagine,
        late=config.imag_last or config.length,
    )


SYSTEM = System(
    name="dreamer_v2",
    kind="agents",
    paper=discrete_rssm.SYSTEM.paper,
    bibtex=discrete_rssm.SYSTEM.bibtex,
    presets={"paper": paper, "official": official, "control": control, "tiny": tiny},
    build=build,
    summary="Actor and critic learned in the dreams of a discrete world model, by REINFORCE or through the dream.",
    runs={
        "paper": ("env.num=1", "env.action_repeat=4"),
        "official": ("env.num=1",),
        "control": ("env.num=1", "env.action_repeat=2"),
    },
)
