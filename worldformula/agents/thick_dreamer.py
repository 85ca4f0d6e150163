"""THICK Dreamer (Gumbsch, Sajid, Martius & Butz 2024, ICLR; openreview.net/forum?id=TjCDNssXKU).

    world    two priors, one posterior, a context behind gates                              worlds/c_rssm
    jumps    from a state to the next change of its context                                 worlds/thick
    dream    h, z, c ~ p with a_t ~ π(a_t|h_t,z_t,c_t), 15 steps from every state of the batch
    actor    as Dreamer v2's                                                                learners/imagination/mixed
    critics  fine and coarse, of λ-returns mixed with where a jump leads                    learners/imagination/jumping
    world and jumps move first, then actor and critics at once

Deviations            paper            authors' code            here                    why
rewards               tanh             tanh                     ``bounded``             `paper`
behind a jump         –                counts r_τ twice         γ^n X                   see learners/imagination/jumping
short episodes        –                never stored             kept                    they are the good ones
sequences             –                end more often in ends   uniform                 the replay's sampler
exploration           Plan2Explore     the same                 the policy's            as dreamer_v2; PinPad needs it
dream starts          all states       all states               last ``imag_last``      cheap on a CPU; 0 takes all
`tiny`                –                –                        small, faster rates     two CPU cores
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
from worldformula.learners.imagination import JumpingActorCritic, JumpingSettings
from worldformula.nets.plain import Plain
from worldformula.training.objective import Minimises
from worldformula.world.jumps import Jumping
from worldformula.worlds import c_rssm


@dataclass(frozen=True)
class ThickDreamerConfig:
    """Everything that defines the agent; the defaults are the paper's for MiniHack."""

    world: c_rssm.CRSSMConfig = field(default_factory=c_rssm.thick)
    """Both levels of the world model."""
    behaviour: JumpingSettings = field(default_factory=JumpingSettings)
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
    noise: float = 0.0
    """Deviation of what is added to numbers where it explores."""
    model_lr: float = 1e-4
    """Learning rate of the world model, and of its jumps."""
    actor_lr: float = 8e-5
    """Learning rate of the actor."""
    critic_lr: float = 2e-4
    """Learning rate of the critics."""
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
        if min(self.model_lr, self.actor_lr, self.critic_lr, self.clip, self.eps) <= 0:
            raise ConfigError("expected model_lr, actor_lr, critic_lr, eps and clip > 0")
        if self.world.jumps is None:
            raise ConfigError("expected a world with jumps, such as worlds.c_rssm.thick_tiny(); dreamer_v2 has none")
        if self.world.gates is None:
            raise ConfigError("an agent's updates give no beta=: expected world.gates (β) as a number, got none")
        if self.world.jumps.discount != self.behaviour.discount:
            raise ConfigError(
                "what a jump collects is discounted as what comes behind it: expected world.jumps.discount = "
                f"behaviour.discount, got {self.world.jumps.discount} and {self.behaviour.discount}"
            )
        if min(self.noise, self.prefill, self.decay) < 0 or not 0 <= self.imag_last <= self.length:
            raise ConfigError("expected noise, prefill and decay ≥ 0, and imag_last between 0 and length")


def paper() -> ThickDreamerConfig:
    """The paper's for MiniHack."""
    return ThickDreamerConfig()


def corridor() -> ThickDreamerConfig:
    """The paper's for PinPad."""
    return ThickDreamerConfig(c_rssm.thick_corridor())


def tiny() -> ThickDreamerConfig:
    """Small pictures or symbols on two CPU cores in minutes: smaller, with faster rates and a shorter horizon."""
    world = c_rssm.thick_tiny()
    assert world.jumps is not None
    world = replace(world, jumps=replace(world.jumps, discount=0.98))
    return ThickDreamerConfig(
        world, JumpingSettings(discount=0.98, entropy=3e-3, slow_every=25), batch=8, length=32, train_ratio=128.0,
        prefill=1000, imag_last=8, model_lr=6e-4, actor_lr=3e-4, critic_lr=1e-3,
    )  # fmt: skip


def build(
    config: ThickDreamerConfig,
    columns: Mapping[str, Column],
    actions: ActionSpec | Mapping[str, ActionSpec],
    seed: int = 0,
) -> ImaginationAgent:
    """The agent for these observations (key -> column) and actions: `ActionSpec` by name, or the only one."""
    torch.manual_seed(seed)
    acts = acts_of(named(actions))
    shapes = {key: column.encoded for key, column in columns.items()}
    classes = {key: column.classes for key, column in columns.items() if column.kind == "discrete"}
    kinds = {act.variable: act.kind for act in acts}
    own = config.world
    world = c_rssm.build(own, shapes, {act.variable: act.size for act in acts}, classes, kinds)
    assert isinstance(world, Jumping)
    known = own.stoch + own.context
    actor = truncated_policy(acts, own.deter + known, own.units, given="h_t,z_t,c_t")
    critic, coarse = (Plain(width, 1, own.units, 4) for width in (own.deter + known, known))
    factors = actor.factors if isinstance(actor, Joint) else (actor,)
    heads = ("r_coarse", "d_coarse" if own.proceed else None)

    def adam(lr: float) -> partial[torch.optim.AdamW]:
        return partial(torch.optim.AdamW, lr=lr, eps=config.eps, weight_decay=config.decay / lr)

    return ImaginationAgent(
        config,
        world,
        Perception.of(world, config.behaviour.discount, columns, actions, bounded=config.bounded),
        JumpingActorCritic(actor, critic, coarse, world.levels["jump"], config.behaviour, heads),
        players={
            "world": Minimises({"world": 1.0}, world.low, adam(config.model_lr), config.clip),
            "jumps": Minimises({"jumps": 1.0}, world.high, adam(config.model_lr), config.clip),
            "actor": Minimises({"actor": 1.0}, [*factors], adam(config.actor_lr), config.clip),
            "critics": Minimises({"critic": 1.0, "coarse": 1.0}, [critic, coarse], adam(config.critic_lr), config.clip),
        },
        order=(("world", "jumps"), ("actor", "critics")),
        habits=Habits(random=True, noise=config.noise),
        horizon=config.imagine,
        late=config.imag_last or config.length,
    )


SYSTEM = System(
    name="thick_dreamer",
    kind="agents",
    paper=c_rssm.SYSTEM.paper,
    bibtex=c_rssm.SYSTEM.bibtex,
    presets={"paper": paper, "corridor": corridor, "tiny": tiny},
    build=build,
    summary="Dreamer v2 on THICK's world: critics also learn from where a jump to its next change leads.",
    runs={"paper": ("env.num=1",), "corridor": ("env.num=1",)},
)
