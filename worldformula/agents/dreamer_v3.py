"""DreamerV3 (Hafner, Pasukonis, Ba & Lillicrap 2025, Nature 640; arXiv:2301.04104).

    world    h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  z_t ~ q(z_t|h_t,e_t),  p(x_t, r_t, c_t | h_t, z_t)      worlds/rssm.py
    dream    h, z ~ p with a_t ~ π(a_t|h_t,z_t), H steps from every state of the batch
    actor    −w_t (sg((R_t − V_t)/S) log π(a_t|·) + η H[π])           learners/imagination
    critic   two-hot on R_t and on its slow copy, in dreams and (× 0.3) on replayed steps
    one sum, one optimiser: L_world + L_π + L_v + 0.3 L_v,replay

Deviations            paper         official code      here                    why
unimix of the actor   0.01          ignored            0.01; `official` 0      as each of them
several actions       –             one trunk          a network each;         their policies may differ in pace
                                                       `official` one trunk
masks                 –             –                  predicted, in dreams    else dreams choose what is forbidden
streams, capacity     –, –          16, 5·10⁶          4, 10⁶; `official` 16   memory and disk of one machine
rows of resets        –             count as steps     do not                  a step is an action
flags                 –             classes            numbers                 two classes say no more than one number
replay context        1 step        1 step, latents    as they; `tiny` zeros   short episodes begin there
online queue          yes           yes                as they; `tiny` none    every row is seen often there
precision             –             bfloat16           float32; `precision`    bfloat16 is slow on a CPU
dream starts          all states    all (imag_last 0)  last ``imag_last``      cheap on a CPU; 0 takes all
evaluation            –             samples            means and modes         repeatable; ``explore=True`` samples
options of theirs     –             consec_train,      none                    off by default: longer chunks in turn,
                                    ac_grads                                   and dreams with gradients
`tiny`                –             –                  small, faster rates     see cards/demo.toml
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch

from worldformula.agent.actor import policy
from worldformula.agent.acts import Act, acts_of, named, space_of
from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.catalogue import System
from worldformula.data.mixture import Mixture
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.formula import Joint
from worldformula.learners.curiosity import CuriositySettings, curious_by
from worldformula.learners.imagination import BehaviourSettings, ImaginationActorCritic, Spoken
from worldformula.learners.imagination.spoken import Direction
from worldformula.nets.mlp import MLP
from worldformula.nets.sizes import PUBLISHED
from worldformula.training.objective import Minimises
from worldformula.training.optimiser import ClipUnits, LaProp, Schedule, require_schedule
from worldformula.training.precision import Precision, require_precision
from worldformula.world import World, saying
from worldformula.worlds import rssm


@dataclass(frozen=True)
class DreamerConfig:
    """Everything that defines the agent."""

    world: rssm.RSSMConfig = field(default_factory=rssm.RSSMConfig)
    """The world model."""
    behaviour: BehaviourSettings = field(default_factory=BehaviourSettings)
    """The behaviour learner."""
    curiosity: CuriositySettings = field(default_factory=CuriositySettings)
    """A bonus of what is worth a visit; none by itself."""
    batch: int = 16
    """Sequences per update."""
    length: int = 64
    """Rows per sequence."""
    train_ratio: float = 512.0
    """Replayed rows per action in the environment."""
    prefill: int = 1024
    """Environment steps before learning starts."""
    imagine: int = 15
    """Steps of a dream."""
    imag_last: int = 0
    """Dreams start from the last so many states of each sequence; 0 takes all."""
    context: int = 0
    """Rows before each sequence whose latents, kept in the replay, the world goes on from; 0 begins at zeros."""
    online: bool = False
    """Serve every row once while it is new, before rows are drawn at random."""
    mixture: Mixture = field(default_factory=Mixture)
    """Which sequences are drawn from the replay; all starts alike by itself."""
    unimix: float = 0.01
    """Share of the uniform distribution in a policy of choices."""
    one_trunk: bool = False
    """Of several actions: one network with a last layer for each, as in the authors' code, not a network each."""
    masks: bool = True
    """Where rows say which choices are allowed: predict it, and let the policy choose among them in dreams too."""
    replay_value: float = 0.3
    """Weight of the critic's loss on replayed steps."""
    layers: int = 3
    """Hidden layers of actor and critic."""
    talk: str = ""
    """Of an action whose choices are words, and the column of the words that are heard, action=column: the policy is
    kept near to the word that the world expects, and not near to all of them alike (Dynalang); see learners/.../spoken.
    """
    talk_direction: Direction = "policy"
    """KL[π ‖ words], or with words KL[words ‖ π]."""
    talk_weight: float = 1.0
    """Weight of that divergence, in the one of the entropy of other actions."""
    reset_every: int = 0
    """Updates after which the last layers of actor and critic begin anew, again and again; 0 never resets them."""
    reset_layers: int = 1
    """Layers that begin anew then, the output layer among them."""
    lr: float = 4e-5
    """Learning rate."""
    warmup: int = 1000
    """Updates over which the learning rate rises from zero."""
    decay: float = 0.0
    """Weight decay of matrices and kernels, per unit of the learning rate."""
    schedule: Schedule = "constant"
    """How the learning rate falls to a tenth behind the warm-up: constant (not at all), linear or cosine."""
    anneal: int = 0
    """The update at which it has, of linear and cosine."""
    precision: Precision = "float32"
    """What networks compute in: float32, or bfloat16, which is for accelerators; everything else is of float32."""
    clip: float = 0.3
    """Adaptive gradient clipping: the largest ratio of gradient to weight norm."""

    def __post_init__(self) -> None:
        if min(self.batch, self.imagine) < 1 or self.length < 2 or self.train_ratio <= 0 or self.lr <= 0:
            raise ConfigError(
                "expected batch, imagine ≥ 1, length ≥ 2, train_ratio > 0 and lr > 0, got "
                f"{self.batch}, {self.imagine}, {self.length}, {self.train_ratio} and {self.lr}"
            )
        if min(self.prefill, self.layers, self.warmup, self.replay_value, self.clip) < 0:
            raise ConfigError(
                "expected prefill, layers, warmup, replay_value and clip ≥ 0, got "
                f"{self.prefill}, {self.layers}, {self.warmup}, {self.replay_value} and {self.clip}"
            )
        if self.reset_every < 0 or self.reset_layers < 1:
            raise ConfigError(
                f"expected reset_every ≥ 0 and reset_layers ≥ 1, got {self.reset_every} and {self.reset_layers}"
            )
        if not 0 <= self.imag_last <= self.length:
            raise ConfigError(f"expected imag_last between 0 and length={self.length}, got {self.imag_last}")
        if not 0 <= self.unimix < 1:
            raise ConfigError(f"expected a unimix from 0 to less than 1, got {self.unimix}")
        require_precision(self.precision)
        require_schedule(self.decay, self.schedule, self.warmup, self.anneal)
        if self.context not in (0, 1):
            raise ConfigError(f"expected a context of 0 or 1 rows, got {self.context}")
        if self.context and self.world.target == "next":
            raise ConfigError(
                "world.target=next reads all of the past that a sequence has, and a replay keeps of the rows before it "
                f"the last latents alone: expected context=0, got {self.context}"
            )
        if 0 < self.imag_last < 2:
            raise ConfigError("expected imag_last of at least 2: the replay critic needs a next state")


def paper() -> DreamerConfig:
    """The paper's protocol for control from pixels: 12M parameters, ratio 512."""
    return DreamerConfig(rssm.paper(), context=1, online=True)


def official() -> DreamerConfig:
    """The default of the authors' code: 200M parameters, ratio 256 for control from pixels."""
    return DreamerConfig(rssm.official(), train_ratio=256.0, context=1, online=True, unimix=0.0, one_trunk=True)


def size1m() -> DreamerConfig:
    """0.64M parameters, ratio 1024: the authors' preset for control from sensors."""
    return sized("size1m")


def sized(name: str) -> DreamerConfig:
    """That preset with the widths of any published size, ``size1m`` to ``size400m``."""
    return DreamerConfig(rssm.sized(name), train_ratio=1024.0, context=1, online=True)


def tiny() -> DreamerConfig:
    """Small pictures on two CPU cores in minutes: smaller, with faster rates and a shorter horizon."""
    return DreamerConfig(
        rssm.tiny(), BehaviourSettings(horizon=50.0), batch=8, length=32, train_ratio=128.0, prefill=1000, imag_last=8,
        layers=2, lr=1e-3, warmup=100,
    )  # fmt: skip


def build(
    config: DreamerConfig, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], seed: int = 0
) -> ImaginationAgent:
    """The agent for these observations (key -> column) and actions: `ActionSpec` by name, or the only one.

    One action is the paper's a_t; several, and the choices of a MultiDiscrete, are a_1, a_2, … with a factor of the
    policy each, and the world reads them side by side. Of choices with a mask the world predicts it, p(M_t|h_t,z_t).
    """
    torch.manual_seed(seed)
    sizes, perceived = config.world.sizes, {key: column.encoded for key, column in columns.items()}
    acts = acts_of(named(actions))
    classes = {key: column.classes for key, column in columns.items() if column.kind == "discrete"}
    masks = {act.variable: act.mask for act in acts if act.masked and config.masks}
    world = rssm.build(config.world, perceived, {act.variable: act.size for act in acts}, classes, masks)
    beside = sum(math.prod(perceived[key]) for key in config.world.aside)
    actor = policy(
        acts, sizes, layers=config.layers, unimix=config.unimix, masks=config.masks, one_trunk=config.one_trunk,
        beside=beside,
    )  # fmt: skip
    critic = MLP(sizes.feature + beside, 255, sizes.units, config.layers, outscale=0.0)
    factors = actor.factors if isinstance(actor, Joint) else (actor,)
    features = {"h": (sizes.deter,), "z": (sizes.groups, sizes.classes)}
    curious = curious_by(config.curiosity, features, space_of(acts), cast("rssm.Encoder", world.enc).width)
    units = ClipUnits.of(world, critic, *factors)
    nets = [net for part in (*factors, critic) for net in part.modules() if isinstance(net, MLP)]
    all_in_one = Minimises(
        {"world": 1.0, "actor": 1.0, "critic": 1.0, "replay": config.replay_value, **dict.fromkeys(curious, 1.0)},
        moves=[world, *factors, critic, *curious.values()],
        optimiser=partial(
            LaProp,
            lr=config.lr,
            warmup=config.warmup,
            clip=config.clip,
            units=units,
            decay=config.decay,
            schedule=config.schedule,
            anneal=config.anneal,
        ),
        renews=[layer for net in nets for layer in net.last(config.reset_layers)] if config.reset_every else [],
        renews_every=config.reset_every,
    )
    spoken = _spoken(config, world, columns, acts) if config.talk else None
    learner = ImaginationActorCritic(actor, critic, config.behaviour, tuple(masks.values()), spoken)
    agent = ImaginationAgent(
        config,
        world,
        Perception.of(world, learner.discount, columns, actions),
        learner,
        players={"agent": all_in_one},
        habits=Habits(Configuration(config.curiosity.weights)),
        curious=curious,
        surprising=partial(rssm.surprise, config.world) if config.mixture.priority else None,
        horizon=config.imagine,
        late=config.imag_last or config.length,
        context=bool(config.context),
    )
    return agent.use_bfloat16() if config.precision == "bfloat16" else agent


def _spoken(config: DreamerConfig, world: World, columns: Mapping[str, Column], acts: Sequence[Act]) -> Spoken:
    """The action that says words, and the head of the column that hears them."""
    action, _, column = config.talk.partition("=")
    heard = {key: c for key, c in columns.items() if c.kind == "discrete" and not c.shape}
    said = {act.action: act for act in acts if act.kind == "choice"}
    if column not in heard or action not in said or said[action].size != heard[column].width:
        raise ConfigError(
            f"talk: expected action=column of as many words, a choice of {', '.join(said) or 'none'} and one whole "
            f"number of {', '.join(heard) or 'none'}, got {config.talk!r}"
        )
    choices = {key: c.classes for key, c in columns.items() if c.kind == "discrete"}
    head = saying.head_of(world, choices, column)
    if head not in world.heads:
        raise ConfigError(
            f"talk: the world says no word that it expects, as it predicts {', '.join(world.heads)} alone: expected "
            f"world.target=reconstruction, got {config.world.target}"
        )
    return Spoken(world, head, said[action].variable, config.talk_direction, config.talk_weight)


SYSTEM = System(
    name="dreamer_v3",
    kind="agents",
    paper="Hafner, Pasukonis, Ba & Lillicrap 2025, Nature 640; arXiv:2301.04104",
    bibtex=rssm.SYSTEM.bibtex,
    presets={"paper": paper, "official": official, "tiny": tiny} | {name: partial(sized, name) for name in PUBLISHED},
    build=build,
    summary="Actor and critic learned in the imagination of an RSSM, one set of hyper-parameters for every domain.",
    counted={"size1m": 640_867},
    runs={"official": ("env.num=16", "capacity=5000000")},
)
