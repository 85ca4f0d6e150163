r"""TD-MPC2 (Hansen, Su & Wang 2024, ICLR; arXiv:2310.16828).

    world    z_t = e(x_t),  \hat z_t = d(\hat z_{t-1}, a_{t-1}),  r_t by R(\hat z_{t-1}, a_{t-1})        worlds/implicit
    learns   20 ‖\hat z_t − sg z_t‖²/L + 0.1 reward + 0.1 value, ρ^t over H = 3 steps; then the policy
    value    five two-hot Q_k, targets by the lower of a drawn pair of slow copies     learners/imagination/latent_q
    acts     512 sequences, 24 of the policy, weighed by Σ γ^t r_t + γ^H Q(z_H, π(z_H)), six times   planners/mppi

No decoder: a latent is good for what it says of latents, rewards and values to come. The encoder moves at 0.3 of the
rate; the policy has an optimiser of its own, and moves once the world has.

Deviations            paper         authors' code             here                          why
entropy               of π          of ν, times A             `paper`, `official` as they   each of them, by name
γ                     by length     1 − 5/T in [.95, .995]    ``behaviour.discount``, .99   that of T = 500; an agent
                                                                                            knows no T
pretraining           –             as many updates as seed   none                          one rule for all agents
                                    steps, at once
value of a plan       mean of two   mean of a drawn pair, at  mean of all, at the middle    its expectation: a plan's
                      Q             a draw of π               of π                          cost can be had again
ends in plans         –             where p > ½               weigh; γ is in c_t            as every agent here
policy without plans  –             tanh of the mean          the density's mode            as every agent here
tasks                 80 at once    embeddings, masks         one                           no data of 80 tasks
`tiny`                –             –                         small                         see cards/tdmpc2.toml
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from worldformula.agent.actor import latent_policy
from worldformula.agent.acts import acts_of, named, require_kinds
from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.formula import Joint
from worldformula.learners.imagination import LatentActorCritic, LatentSettings
from worldformula.planners.mppi import MPPI
from worldformula.training.objective import Minimises
from worldformula.worlds import implicit

WIDE, MORE = 20, 2  # from so many action dimensions on, so many more iterations of the search


@dataclass(frozen=True)
class TDMPC2Config:
    """Everything that defines the agent."""

    world: implicit.ImplicitConfig = field(default_factory=implicit.paper)
    """The world model."""
    behaviour: LatentSettings = field(default_factory=LatentSettings)
    """Q-functions and policy."""
    planner: MPPI = field(default_factory=MPPI)
    """The search; from 20 action dimensions on it has two more iterations."""
    proposals: int = 24
    """Sequences of the policy among the candidates."""
    batch: int = 256
    """Sequences per update."""
    length: int = 4
    """Rows per sequence: one more than the H steps of a rollout."""
    train_ratio: float = 1024.0
    """Replayed rows per action in the environment: one update."""
    prefill: int = 5000
    """Environment steps at random before learning starts: the authors' five episodes, of 1000 steps each."""
    units: int = 512
    """The two hidden layers of the policy."""
    value: float = 0.1
    """Weight of the Q-functions' loss beside the world's."""
    lr: float = 3e-4
    """Learning rate of Adam."""
    encoder_lr: float = 0.3
    """That of the encoder, as a share of it."""
    policy_eps: float = 1e-5
    """ε of the policy's Adam."""
    clip: float = 20.0
    """The largest norm of each gradient."""

    def __post_init__(self) -> None:
        if min(self.batch, self.units, self.length - 1) < 1 or min(self.proposals, self.prefill) < 0:
            raise ConfigError(
                "expected batch and units ≥ 1, length ≥ 2, proposals and prefill ≥ 0, got "
                f"{self.batch}, {self.units}, {self.length}, {self.proposals} and {self.prefill}"
            )
        if min(self.train_ratio, self.value, self.lr, self.encoder_lr, self.policy_eps, self.clip) <= 0:
            raise ConfigError("expected train_ratio, value, lr, encoder_lr, policy_eps and clip > 0")
        if self.planner.candidates <= self.proposals:
            raise ConfigError(
                f"expected fewer proposals than the {self.planner.candidates} candidates, {self.proposals}"
            )


def paper() -> TDMPC2Config:
    """The paper's, of the size that it calls 5M; the entropy is that of the policy."""
    return TDMPC2Config(behaviour=LatentSettings(squashed=True))


def official() -> TDMPC2Config:
    """That of the authors' code: the entropy is that of the Normal before tanh, times the width of the actions."""
    return TDMPC2Config()


def size1m() -> TDMPC2Config:
    """The authors' 1M: two Q-functions, smaller latents and layers."""
    return TDMPC2Config(implicit.size1m(), LatentSettings(members=2, units=384), units=384)


def tiny() -> TDMPC2Config:
    """Numbers on one CPU core in minutes."""
    return TDMPC2Config(
        implicit.tiny(), LatentSettings(units=64, bins=51), MPPI(candidates=96, elites=12, iterations=4),
        proposals=8, batch=64, train_ratio=256.0, prefill=1000, units=64, lr=1e-3,
    )  # fmt: skip


def build(
    config: TDMPC2Config, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], seed: int = 0
) -> ImaginationAgent:
    """The agent for these observations (key -> column) and actions of numbers: by name, or the only one.

    Raises:
        SpaceError: an action is no numbers; the message names the agents that take it.
    """
    torch.manual_seed(seed)
    acts = acts_of(named(actions))
    require_kinds(SYSTEM, acts)
    shapes, width = {key: column.encoded for key, column in columns.items()}, sum(act.size for act in acts)
    world = implicit.build(config.world, shapes, {act.variable: act.size for act in acts})
    policy = latent_policy(acts, config.world.latent, config.units)
    learner = LatentActorCritic(policy, config.world.latent, config.behaviour)
    factors = policy.factors if isinstance(policy, Joint) else (policy,)
    encoder = next(f for f in world.posterior.factors if f.variable.key == "z")
    planner = config.planner
    if width >= WIDE:
        planner = replace(planner, iterations=planner.iterations + MORE)
    usual = Configuration(planner=planner, noise="plan", proposals=config.proposals, value=True)
    return ImaginationAgent(
        config,
        world,
        Perception.of(world, config.behaviour.discount, columns, actions),
        learner,
        players={
            "model": Minimises(
                {"world": 1.0, "value": config.value}, [encoder, world, learner.critic],
                partial(two_rates, [*encoder.parameters()], config.lr, config.encoder_lr), config.clip,
            ),
            "policy": Minimises(
                {"policy": 1.0}, [*factors], partial(torch.optim.Adam, lr=config.lr, eps=config.policy_eps), config.clip
            ),
        },
        order=(("model",), ("policy",)),
        habits=Habits(usual, random=True),
    )  # fmt: skip


def two_rates(
    slower: list[nn.Parameter], lr: float, share: float, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Adam whose first parameters, the ``slower`` ones, move at a share of the rate."""
    own, every = {id(p) for p in slower}, list(parameters)
    first, others = ([p for p in every if (id(p) in own) == inside] for inside in (True, False))
    groups: list[dict[str, Any]] = [{"params": first, "lr": lr * share}, {"params": others}]
    return torch.optim.Adam(groups, lr=lr)


SYSTEM = System(
    name="tdmpc2",
    kind="agents",
    paper=implicit.SYSTEM.paper,
    bibtex=implicit.SYSTEM.bibtex,
    presets={"paper": paper, "official": official, "size1m": size1m, "tiny": tiny},
    build=build,
    summary="Q-learning and planning in latents that predict themselves and rewards alone; actions are numbers.",
    runs=dict.fromkeys(("paper", "official", "size1m"), ("env.num=1", "env.action_repeat=2")),
    acts=("numbers",),
)
