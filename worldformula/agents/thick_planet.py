r"""THICK PlaNet (Gumbsch, Sajid, Martius & Butz 2024, ICLR; openreview.net/forum?id=TjCDNssXKU).

    world    two priors, one posterior, a context behind gates                              worlds/c_rssm
    jumps    from a state to the next change of its context, in one of n ways A             world/jumps
    plans    A_{1:3} by tree search: the reward of jumps, discounted by γ^n                 planners/mcts
             g = p(Y|F), what the first jump says of the state just before the change       its sub-goal
             a_{1:12} by the cross-entropy method:                                          planners/cem
                 Σ_t r̂_t + κ cos(p(z_t|h_t,c_t), g), the cosine a mean over groups          planners/hierarchy
    acts     the first of a; it has no policy and no value

With κ = 0 it is PlaNet on the same world (`flat`).

Deviations       authors' code               here                     why
high plan        where gates open, held      at every step            from the same A the sub-goal moves little
tree             p(A|x) inside, one value    −log p(A|x) as a cost    see planners/mcts; codes never seen are dear
rewards of jumps count r_τ twice             once                     see world/jumps
ends             not predicted               cut off rewards alone    see planners/hierarchy
codes            may all be one              held alike in `tiny`     see world/jumps: a tree needs ways to choose from
values           never normalised            to [0, 1]                as planners/mcts has it
choices          not implemented             tables of probabilities  planners/cem takes them
exploration      Plan2Explore                the plan's, with noise   or data of one's own
short episodes   never stored                kept                     they are the good ones
`tiny`           –                           small, faster rates      two CPU cores
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worldformula.agent.acts import acts_of, named
from worldformula.agent.configurator import Configuration, Habits
from worldformula.agent.cost import Cost
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.perception import Perception
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet, Plan, Task
from worldformula.planners import cem
from worldformula.planners.hierarchy import Hierarchy, Level
from worldformula.planners.mcts import MCTS
from worldformula.training.objective import Minimises
from worldformula.world import State, Values
from worldformula.world.jumps import Jumping
from worldformula.worlds import c_rssm

GOAL = "Y"  # what sub-goals are compared by: how probable each class of the next z is


def planned(world: c_rssm.CRSSMConfig) -> c_rssm.CRSSMConfig:
    """The world of an agent that plans: no critic asks dreams for what the coarse prior says."""
    assert world.jumps is not None
    return replace(world, jumps=replace(world.jumps, said=False))


@dataclass(frozen=True)
class ThickPlaNetConfig:
    """Everything that defines the agent; the defaults are the paper's for Multiworld."""

    world: c_rssm.CRSSMConfig = field(default_factory=lambda: planned(replace(c_rssm.thick_corridor(), gates=25.0)))
    """Both levels of the world model."""
    planner: cem.CEM = field(default_factory=lambda: cem.build(cem.paper()))
    """The search among actions."""
    codes: MCTS = field(default_factory=lambda: MCTS(horizon=3, simulations=100, surprise=0.1))
    """The search among codes of jumps."""
    subgoal: float = 0.025
    """κ, what a step at the sub-goal is worth; 0 plans without jumps, as PlaNet does."""
    reached: float = 1.0
    """The cosine to the present from which on the next jump of the plan gives the sub-goal; 1 takes the first."""
    samples: int = 0
    """Dreams that each plan of actions is imagined in; 0 imagines means and modes."""
    draws: bool = False
    """Whether states are samples of what is inferred also where it does not explore, as jumps have learnt them."""
    noise: float = 0.3
    """Deviation of what is added to actions where it explores."""
    batch: int = 16
    """Sequences per update."""
    length: int = 50
    """Rows per sequence."""
    train_ratio: float = 160.0
    """Replayed rows per action in the environment: one update in 5 actions."""
    prefill: int = 10_000
    """Environment steps at random before learning starts."""
    bounded: bool = True
    """Learn tanh of the rewards."""
    unit: float = 1.0
    """What rewards are divided by: heads of unit variance hardly learn a seldom reward that is small."""
    lr: float = 1e-4
    """Learning rate of the world model, and of its jumps."""
    eps: float = 1e-5
    """ε of Adam."""
    decay: float = 1e-6
    """The share of every weight that an update takes away."""
    clip: float = 100.0
    """The largest norm of each gradient."""

    def __post_init__(self) -> None:
        rates = (self.train_ratio, self.unit, self.lr, self.eps, self.clip)
        if self.batch < 1 or self.length < 2 or min(rates) <= 0:
            raise ConfigError(
                "expected batch ≥ 1, length ≥ 2, and train_ratio, unit, lr, eps and clip > 0, got "
                f"{self.batch}, {self.length}, {', '.join(map(str, rates))}"
            )
        if self.world.jumps is None:
            raise ConfigError("expected a world with jumps, such as worlds.c_rssm.thick_tiny(); planet has none")
        if min(self.subgoal, self.samples, self.noise, self.prefill, self.decay) < 0:
            raise ConfigError(
                "expected subgoal, samples, noise, prefill and decay ≥ 0, got "
                f"{self.subgoal}, {self.samples}, {self.noise}, {self.prefill} and {self.decay}"
            )


def paper() -> ThickPlaNetConfig:
    """The paper's for Multiworld, β = 25."""
    return ThickPlaNetConfig()


def official() -> ThickPlaNetConfig:
    """The authors' code, whose loss counts the gates once more than the paper's."""
    return ThickPlaNetConfig(planned(replace(c_rssm.thick_corridor(), gates=26.0)))


def flat() -> ThickPlaNetConfig:
    """`tiny` without sub-goals: PlaNet on the same world."""
    return replace(tiny(), subgoal=0.0)


def tiny() -> ThickPlaNetConfig:
    """Small pictures or numbers on two CPU cores in minutes."""
    world = c_rssm.thick_tiny()
    assert world.jumps is not None
    return ThickPlaNetConfig(
        planned(replace(world, jumps=replace(world.jumps, discount=0.98, even=1.0))),
        cem.CEM(candidates=100, elites=10, iterations=4), MCTS(horizon=3, simulations=32, surprise=0.1), batch=8,
        length=32, train_ratio=128.0, prefill=1000, lr=6e-4,
    )  # fmt: skip


@dataclass(frozen=True)
class Subgoals:
    """What the level of jumps is to the one below it.

    Attributes:
        world: of both.
        weight: κ.
        reached: the cosine from which on a sub-goal is the present.
    """

    world: Jumping
    weight: float
    reached: float = 1.0

    def level(self, planner: MCTS) -> Level:
        """The level above actions: codes, searched by this planner."""
        space = {"A": ActionSet(self.world.config.codes, "choice")}
        jump = self.world.levels["jump"]
        return Level(jump, space, planner, self.up, task=self.task, aim=self.aim, far=self.far)

    def task(self, below: Task) -> Task:
        """The reward of jumps, discounted by how long they take."""
        return replace(Cost(self.world.levels["jump"]).task(given=below.given), discount=self.world.config.discount)

    def up(self, states: State) -> Values:
        """What a jump begins at, and what the fine prior says of z."""
        held = [k for k in self.world.levels["jump"].carried if k in states]  # of a dream z and c alone
        flat = states.only(dict.fromkeys((*held, "h", "c"))).flat()
        likely = self.world.own.fine.params(flat["h"], flat["c"])[0].softmax(-1)
        return State({**flat.only(held), GOAL: likely}).unflat(states.lead)

    def aim(self, plan: Plan) -> Values:
        """What the first jump says of the state just before the change, or, where that is the present, the first one
        that leads away.
        """
        present, found, left = plan.states.at(0)["z"], Tensor(), Tensor()
        for k, code in enumerate(plan.actions["A"].unbind(1)):
            begin = plan.states.at(k)
            ahead = self.world.before(begin["z"], begin["c"], code)
            away = cosine_similarity(ahead, present, dim=-1).mean(-1) < self.reached
            found = ahead if k == 0 else torch.where((away & ~left)[:, None, None], ahead, found)
            left = away if k == 0 else left | away
        return {GOAL: found}

    def far(self, states: State, goal: Values) -> Tensor:
        """−κ times the cosine between the probabilities of all classes of a group, the mean of groups: ``[N, T]``."""
        return -self.weight * cosine_similarity(states[GOAL], goal[GOAL], dim=-1).mean(-1)


def build(
    config: ThickPlaNetConfig,
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
    world = c_rssm.build(config.world, shapes, {act.variable: act.size for act in acts}, classes, kinds)
    assert isinstance(world, Jumping)
    adam = partial(torch.optim.AdamW, lr=config.lr, eps=config.eps, weight_decay=config.decay / config.lr)
    above = (Subgoals(world, config.subgoal, config.reached).level(config.codes),) if config.subgoal else ()
    usual = Configuration(
        planner=Hierarchy(config.planner, above),
        noise=config.noise,
        warm=False,
        samples=config.samples,
        draws=config.draws,
    )
    return ImaginationAgent(
        config,
        world,
        Perception.of(world, 1.0, columns, actions, bounded=config.bounded, unit=config.unit),
        players={
            "world": Minimises({"world": 1.0}, world.low, adam, config.clip),
            "jumps": Minimises({"jumps": 1.0}, world.high, adam, config.clip),
        },
        habits=Habits(usual, random=True),
    )


SYSTEM = System(
    name="thick_planet",
    kind="agents",
    paper=c_rssm.SYSTEM.paper,
    bibtex=c_rssm.SYSTEM.bibtex,
    presets={"paper": paper, "official": official, "tiny": tiny, "flat": flat},
    build=build,
    summary="Planning on THICK's world: a tree of jumps gives sub-goals, to which the cross-entropy method is drawn.",
    runs=dict.fromkeys(("paper", "official"), ("env.num=1",)),
)
