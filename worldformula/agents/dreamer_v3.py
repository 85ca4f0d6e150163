"""DreamerV3 (Hafner, Pasukonis, Ba & Lillicrap 2025, Nature 640; arXiv:2301.04104).

    world    h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  z_t ~ q(z_t|h_t,e_t),  p(x_t, r_t, c_t | h_t, z_t)      worlds/rssm.py
    dream    h, z ~ p with a_t ~ π(a_t|h_t,z_t), H steps from every state of the batch
    actor    −w_t (sg((R_t − V_t)/S) log π(a_t|·) + η H[π])           learners/imagination
    critic   two-hot on R_t and on its slow copy, in dreams and (× 0.3) on replayed steps
    one sum, one optimiser: L_world + L_π + L_v + 0.3 L_v,replay

Deviations            paper         official code      here                    why
unimix of the actor   0.01          ignored            0.01                    the paper's text
replay context        1 step        1 step, latents    carry starts at zero    the replay holds data only
online queue          yes           yes                uniform replay          one sampler to resume exactly
dream starts          all states    all (imag_last 0)  last ``imag_last``      cheap on a CPU; 0 takes all
evaluation            –             samples            means and modes         repeatable; ``explore=True`` samples
clipping of the core  one matrix    one matrix         its two halves apart    each is a tensor of its own here
`tiny`                –             –                  small, faster rates     see cards/demo.toml
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.agent.actor import Actor, policy
from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.agent.memory import ShortTermMemory
from worldformula.agent.perception import Perception, encoded
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec, single
from worldformula.envs.columns import Column
from worldformula.errors import CheckpointError, ConfigError
from worldformula.learners.imagination import BehaviourSettings, ImaginationActorCritic
from worldformula.nets.mlp import MLP
from worldformula.planner import Planner
from worldformula.training.objective import Minimises, Objective, Outs, Updates
from worldformula.training.optimiser import LaProp
from worldformula.world import State
from worldformula.worlds import rssm


@dataclass(frozen=True)
class DreamerConfig:
    """Everything that defines the agent."""

    world: rssm.RSSMConfig = field(default_factory=rssm.RSSMConfig)
    """The world model."""
    behaviour: BehaviourSettings = field(default_factory=BehaviourSettings)
    """The behaviour learner."""
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
    replay_value: float = 0.3
    """Weight of the critic's loss on replayed steps."""
    layers: int = 3
    """Hidden layers of actor and critic."""
    lr: float = 4e-5
    """Learning rate."""
    warmup: int = 1000
    """Updates over which the learning rate rises from zero."""
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
        if not 0 <= self.imag_last <= self.length:
            raise ConfigError(f"expected imag_last between 0 and length={self.length}, got {self.imag_last}")
        if 0 < self.imag_last < 2:
            raise ConfigError("expected imag_last of at least 2: the replay critic needs a next state")


def paper() -> DreamerConfig:
    """The paper's protocol for control from pixels: 12M parameters, ratio 512."""
    return DreamerConfig(rssm.paper())


def official() -> DreamerConfig:
    """The default of the authors' code: 200M parameters, ratio 256 for control from pixels."""
    return DreamerConfig(rssm.official(), train_ratio=256.0)


def size1m() -> DreamerConfig:
    """0.64M parameters, ratio 1024: the authors' preset for control from sensors."""
    return DreamerConfig(rssm.size1m(), train_ratio=1024.0)


def tiny() -> DreamerConfig:
    """Small pictures on two CPU cores in minutes: smaller, with faster rates and a shorter horizon."""
    return DreamerConfig(
        rssm.tiny(), BehaviourSettings(horizon=50.0), batch=8, length=32, train_ratio=128.0, prefill=1000, imag_last=8,
        layers=2, lr=1e-3, warmup=100,
    )  # fmt: skip


class DreamerV3(nn.Module):
    """The agent: perception, world model, cost, actor and memory, and the learner that joins them."""

    objective: Objective

    def __init__(self, config: DreamerConfig, columns: Mapping[str, Column], action: ActionSpec) -> None:
        super().__init__()
        self.config, sizes = config, config.world.sizes
        observations = {key: column.encoded for key, column in columns.items()}
        self.world = rssm.build(config.world, observations, action.size)
        self.policy = policy("discrete" if action.classes else "continuous", action.size, sizes, layers=config.layers)
        critic = MLP(sizes.feature, 255, sizes.units, config.layers, outscale=0.0)
        self.learner = ImaginationActorCritic(self.policy, critic, config.behaviour)
        self.names = rssm.Names.of(observations)
        self.perception = Perception(self.names.all, config.behaviour.discount, columns, action)
        self.actor, self.cost = Actor(self.policy), Cost(self.world)
        self.planner: Planner | None = None
        self.memory = ShortTermMemory(self.world, action.size)
        # Out of the module tree: it holds the same networks, which must appear once in the state_dict.
        self.__dict__["objective"] = Objective(
            terms={"world": self.world.loss, "dream": self.learner.dream, "replay": self.learner.replay},
            data={"world": self._seen, "dream": self._dreamed, "replay": self._replayed},
            attached=("replay",),
            agent=Minimises(
                {"world": 1.0, "actor": 1.0, "critic": 1.0, "replay": config.replay_value},
                moves=[self.world, self.policy, critic],
                optimiser=partial(LaProp, lr=config.lr, warmup=config.warmup, clip=config.clip),
            ),
        )
        self.updates = Updates(self.objective)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    # ------------------------------------------------------------------------------------------------------------- act

    def initial(self, num: int) -> State:
        """The memory before the first row, for ``num`` streams."""
        return self.memory.initial(num, self.device)

    @torch.no_grad()
    def act(self, rows: Mapping[str, NDArray[Any]], state: State, explore: bool = True) -> tuple[NDArray[Any], State]:
        """Actions at rows ``[num, ...]``, as `ActionSpec` says; ``explore`` samples, otherwise means and modes."""
        seen = self.world.observe(self.perception.observe(rows, self.device), state, deterministic=not explore)
        if self.planner is None:
            action = self.actor.act(seen, explore=explore)
        else:
            action = self.planner.plan(self.world, self.cost, seen).actions[:, 0]
        chosen = self.perception.act(action)
        if self.perception.action.classes:  # what a planner returns between the corners is not what is executed
            action = encoded(chosen, self.perception.action.column, self.device)
        return chosen, self.memory.update(seen, action)

    def configure(self, configuration: Configuration) -> None:
        """Another task with the same networks: weights of the cost, and Mode-2 where it names a planner.

        Raises:
            ConfigError: a planner for actions of another kind or width.
        """
        planner, action = configuration.planner, self.perception.action
        found = [getattr(planner, name, None) for name in ("discrete", "actions")]
        wanted = [bool(action.classes), action.size]
        if any(f is not None and f != w for f, w in zip(found, wanted, strict=True)):
            raise ConfigError(
                f"this agent's action is {action.told}: expected a planner with discrete={wanted[0]} and "
                f"actions={wanted[1]}, got discrete={found[0]} and actions={found[1]}"
            )
        self.cost = replace(self.cost, weights=dict(configuration.weights))
        self.planner = configuration.planner

    # ----------------------------------------------------------------------------------------------------------- learn

    @property
    def loss(self) -> Objective:
        """All that it learns by, as formulas: ``agent.loss.terms["dream"].code``."""
        return self.objective

    def update(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """One optimiser step on sequences ``[B, T, ...]``; returns detached metrics."""
        outs = self.updates.update(batch)
        world, dream = outs["world"], outs["dream"]
        terms = {f"loss/{text}": value.detach() for text, value in world.terms.items()}
        parts = {f"loss/{part}": self.objective.value(part, outs).detach() for part in self.objective.parts}
        return {**terms, **parts, **self.learner.metrics(dream), "loss/total": outs["totals"]["agent"]}

    def _seen(self, outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None) -> Mapping[str, Tensor]:
        """What the world's loss reads."""
        return self.perception.learn(batch, self.device)

    def _late(self, outs: Outs) -> State:
        """The last states of each sequence, ``[B, K, ...]``, from which dreams start."""
        keep = self.config.imag_last or self.config.length
        return {k: outs["world"].samples[k][:, -keep:] for k in self.world.carried}

    def _dreamed(self, outs: Outs, batch: Mapping[str, Any], generator: torch.Generator | None) -> Mapping[str, Tensor]:
        """Dreams under the policy, with their rewards and continuations."""
        start = {k: v.detach().flatten(0, 1) for k, v in self._late(outs).items()}
        dream, reward, proceed = self.dream(start, generator)
        return self.learner.dreamed(dream, dream[self.world.action], reward, proceed)

    def _replayed(self, outs: Outs, batch: Mapping[str, Any], _: torch.Generator | None) -> Mapping[str, Tensor]:
        """The same states with what the data say of them, and the returns of the dreams that start there."""
        late = self._late(outs)
        rows = next(iter(late.values())).shape[:2]
        boot = outs["dream"].samples["R"][:, 0].unflatten(0, rows)
        reward, last, terminal = (
            torch.as_tensor(batch[k][:, -rows[1] :], device=self.device) for k in ("reward", "is_last", "is_terminal")
        )
        return self.learner.replayed(late, reward, last, terminal, boot)

    @torch.no_grad()
    def dream(self, start: State, generator: torch.Generator | None = None) -> tuple[State, Tensor, Tensor]:
        """Imagined states and actions from ``start`` ``[N, ...]``, with rewards and continuations ``[N, H+1]``."""
        dream = self.world.imagine(start, self.policy, horizon=self.config.imagine, generator=generator)
        return dream, *self.cost.outcome(dream)

    # ------------------------------------------------------------------------------------------------------------ show

    @torch.no_grad()
    def open_loop(self, batch: Mapping[str, NDArray[Any]], context: int = 5) -> dict[str, NDArray[np.uint8]]:
        """Truth and dream, uint8 ``[B, T, H, W, C]``: ``context`` filtered rows, then the prior on the true actions.

        Of a stack of pictures the newest is shown.
        """
        inputs = self.perception.learn(batch, self.device)
        if not self.names.images:
            raise ConfigError("open_loop shows images, and this agent observes none")
        variable = next(iter(self.names.images.values()))
        seen = {k: v[:, :context] for k, v in inputs.items()}
        states = self.world.filter(seen, deterministic=True)
        last = {k: v[:, -1] for k, v in states.items()}
        future = self.world.imagine(last, actions=inputs["a"][:, context - 1 : -1], deterministic=True)
        joined = {k: torch.cat((states[k], future[k][:, 1:]), 1) for k in states}
        dream = self.world.decode(joined, (variable,))[variable]
        shown = (dream * 255).round().clamp(0, 255).to(torch.uint8)
        truth = (inputs[variable] * 255).round().to(torch.uint8)
        newest = 3 if truth.shape[-1] % 3 == 0 else 1
        return {"truth": truth[..., -newest:].cpu().numpy(), "dream": shown[..., -newest:].cpu().numpy()}

    # ------------------------------------------------------------------------------------------------------ checkpoint

    def checkpoint(self) -> dict[str, Any]:
        """Weights, slow critic and return scale, and the optimiser's state."""
        return {"weights": dict(self.state_dict()), "optimiser": self.updates.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `checkpoint` back; raises CheckpointError where it is of another agent."""
        try:
            self.load_state_dict(state["weights"])
            self.updates.load_state_dict(state["optimiser"])
        except (RuntimeError, ConfigError) as error:
            raise CheckpointError(f"the checkpoint is of another agent or size: {error}") from error


def build(config: DreamerConfig, columns: Mapping[str, Column], action: Any, seed: int = 0) -> DreamerV3:
    """The agent for these observations (key -> column) and this action: its `ActionSpec`, or the only one by name.

    Raises:
        SpaceError: several actions, or one that is neither numbers nor one choice.
    """
    torch.manual_seed(seed)
    return DreamerV3(config, columns, single(action))


SYSTEM = System(
    name="dreamer_v3",
    kind="agents",
    paper="Hafner, Pasukonis, Ba & Lillicrap 2025, Nature 640; arXiv:2301.04104",
    bibtex=rssm.SYSTEM.bibtex,
    presets={"paper": paper, "official": official, "size1m": size1m, "tiny": tiny},
    build=build,
    summary="Actor and critic learned in the imagination of an RSSM, one set of hyper-parameters for every domain.",
)
