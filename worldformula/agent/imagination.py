"""An agent that learns to act in the dreams of its world: perception, world, cost, actor, memory and what it learns by.

A published agent configures it (`worldformula.agents`): its world, policy and critic, and what its player minimises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.agent.actor import Actor
from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.agent.memory import ShortTermMemory
from worldformula.agent.perception import Perception, encoded
from worldformula.errors import CheckpointError, ConfigError
from worldformula.learners.imagination import ImaginationActorCritic
from worldformula.planner import Planner
from worldformula.run.contract import LearningConfig
from worldformula.training.objective import Minimises, Objective, Outs, Updates
from worldformula.world import State, World


class ImaginationAgent(nn.Module):
    """The six modules of an agent whose actor and critic learn in imagination, with one optimiser for all.

    Args:
        config: its settings, which `checkpoint` does not hold.
        world: the world model.
        learner: actor and critic, and their losses; its policy acts.
        perception: from rows to the variables of the world.
        weights: of the terms world, actor, critic and replay in the one sum that is minimised.
        optimiser: makes the optimiser from the weights.
        horizon: steps of a dream.
        late: dreams start from the last so many states of each sequence.

    Attributes:
        objective: all that it learns by, as formulas; `loss` is its short name.
    """

    objective: Objective

    def __init__(
        self, config: LearningConfig, world: World, learner: ImaginationActorCritic, perception: Perception, *,
        weights: Mapping[str, float], optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        horizon: int, late: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.horizon, self.late = config, horizon, late
        self.world, self.learner, self.perception = world, learner, perception
        self.policy = learner.policy
        self.actor, self.cost = Actor(self.policy), Cost(world)
        self.planner: Planner | None = None
        self.memory = ShortTermMemory(world, perception.action.size)
        # Out of the module tree: it holds the same networks, which must appear once in the state_dict.
        self.__dict__["objective"] = Objective(
            terms={"world": world.loss, "dream": learner.dream, "replay": learner.replay},
            data={"world": self._seen, "dream": self._dreamed, "replay": self._replayed},
            attached=("replay",),
            agent=Minimises(weights, moves=[world, self.policy, learner.critic], optimiser=optimiser),
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
        return {k: outs["world"].samples[k][:, -self.late :] for k in self.world.carried}

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
        dream = self.world.imagine(start, self.policy, horizon=self.horizon, generator=generator)
        return dream, *self.cost.outcome(dream)

    # ------------------------------------------------------------------------------------------------------------ show

    @torch.no_grad()
    def open_loop(self, batch: Mapping[str, NDArray[Any]], context: int = 5) -> dict[str, NDArray[np.uint8]]:
        """Truth and dream, uint8 ``[B, T, H, W, C]``: ``context`` filtered rows, then the prior on the true actions.

        Of a stack of pictures the newest is shown.
        """
        inputs = self.perception.learn(batch, self.device)
        images = [word for key, word in self.perception.names.items() if self.perception.columns[key].kind == "image"]
        if not images:
            raise ConfigError("open_loop shows images, and this agent observes none")
        variable = images[0]
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
