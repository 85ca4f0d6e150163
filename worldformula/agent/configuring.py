r"""A configurator that learns: a task's description → weights of the cost and goals, by what the plan comes to.

LeCun 2022, section 3.1. What a plan a* depends on is known without going back through the search that found it, of
whatever kind, as it ends where the slope is none:

    a* = argmin_a J(a; θ)       ∂a*/∂θ = −(∂²J/∂a²)⁻¹ ∂²J/∂a∂θ       (as in Amos et al. 2018, arXiv:1810.13400)
    outcome O(a*):              ∂O/∂θ = ∂O/∂a* · ∂a*/∂θ

An action at a bound does not move, and depends on nothing. World and terms of the cost are read, and nothing of them
learns: `learn` asks for the gradient of the configurator alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.errors import ConfigError, NonFiniteError, ShapeError
from worldformula.given import per_episode
from worldformula.planner import Named, Plan, Planner, Space, Task
from worldformula.score import Score
from worldformula.world import Dynamics, State, Values

BOUND = 1 - 1e-6  # numbers of an action that lie beyond do not move


class LearnedConfigurator(nn.Module):
    """Descriptions ``[D]`` to a `Configuration`: the weights of these terms, above 0, and goals of these sizes.

    Args:
        net: ``[1, D]`` to ``[1, K]``: a number for each weight, of which the softplus is taken, then those of goals.
        weights: the terms.
        goals: the size of each, by the name that terms read.
        usual: all else of a configuration.

    Raises:
        ConfigError: goals to learn, and a usual configuration that makes goals of the rows that are acted on; a term
            twice.
    """

    def __init__(
        self, net: nn.Module, weights: Sequence[str], goals: Mapping[str, int] | None = None,
        usual: Configuration | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if goals and usual is not None and callable(usual.goal):
            raise ConfigError(f"the goals {', '.join(goals)} are learnt: expected a usual configuration of fixed ones")
        if twice := [name for name in weights if [*weights].count(name) > 1]:
            raise ConfigError(f"weights: expected each term once, got {twice[0]!r} twice")
        self.net, self.terms, self.goals = net, tuple(weights), dict(goals or {})
        self.usual = usual or Configuration()

    def forward(self, description: Tensor) -> Configuration:
        """The configuration, differentiable by the network's weights; an agent is given one without a graph, made under
        ``torch.no_grad()``.

        Raises:
            ShapeError: the network says more or less than it is asked for.
        """
        said, count = self.net(description[None]), len(self.terms) + sum(self.goals.values())
        if tuple(said.shape) != (1, count):
            raise ShapeError(
                f"expected of the configurator's network [1, {count}], a number for each of {', '.join(self.terms)} "
                f"and those of the goals {self.goals}, got {list(said.shape)}"
            )
        weights, *goals = said.split([len(self.terms), *self.goals.values()], -1)
        told = dict(zip(self.terms, nn.functional.softplus(weights[0]), strict=True))
        usual = self.usual
        aims = usual.goal if callable(usual.goal) else {**usual.goal, **dict(zip(self.goals, goals, strict=True))}
        return replace(usual, weights={**usual.weights, **told}, goal=aims)


def settled(
    plan: Plan, dynamics: Dynamics, task: Task, state: Values, space: Space, damping: float = 0.0
) -> dict[str, Tensor]:
    """The actions of a plan ``[B, H, size]``, with the gradient by all that the task's cost depends on: one step of
    Newton from where the search ended, which stays there where that is a minimum. ``damping`` is added to the
    curvature, for plans that are none.

    Raises:
        ConfigError: actions that are no numbers; a curvature that is not positive.
    """
    if other := [name for name, own in space.items() if own.kind != "numbers"]:
        raise ConfigError(f"{other[0]!r} is of kind {space[other[0]].kind}, which has no gradient: expected numbers")
    with torch.enable_grad():
        leaves = {k: v.detach().requires_grad_() for k, v in plan.actions.items()}
        horizon, known = next(iter(leaves.values())).shape[1], list(leaves.values())
        total = _cost(dynamics, task, state, space, leaves, horizon)
        slope = _flat(torch.autograd.grad(total.sum(), known, create_graph=True))
        rows = [torch.autograd.grad(slope[:, i].sum(), known, retain_graph=True) for i in range(slope.shape[1])]
    free = _flat(known).detach().abs() < BOUND
    curved = torch.stack([_flat(row) for row in rows], 1).detach()
    both = free[:, :, None] & free[:, None]
    curved = torch.where(both, curved, 0.0) + torch.diag_embed(torch.where(free, damping, 1.0).to(slope))
    root, wrong = torch.linalg.cholesky_ex(curved)
    if bool(wrong.any()):
        raise ConfigError(
            f"the cost does not curve upwards at the plans of the episodes {wrong.nonzero()[:, 0].tolist()}: expected "
            f"minima\nlet a search by gradient end there, or write damping=, above the most negative curvature"
        )
    moved = torch.cholesky_solve(torch.where(free, slope, 0.0)[..., None], root)[..., 0]
    sizes = [v[0].numel() for v in known]
    parts = zip(leaves.items(), moved.split(sizes, 1), strict=True)
    return {name: (value.detach() - part.view_as(value)).clamp(-1, 1) for (name, value), part in parts}


def outcome(
    configuration: Configuration, cost: Cost, judge: Task, planner: Planner, state: Values, space: Space,
    damping: float = 0.0,
) -> Tensor:  # fmt: skip
    """What ``judge`` says of the plans that a configuration leads to, ``[B]``, of dreams from states ``[B, ...]``, with
    the gradient by the configuration.

    Raises:
        ConfigError: goals that are made of the rows that are acted on, of which there are none here; limits, or the
            value of an agent, which plans would be made without.
        ShapeError: as many goals as neither one nor the states.
    """
    if callable(configuration.goal):
        raise ConfigError("the configuration makes its goals of rows that are acted on: expected goals by name")
    if configuration.limits or configuration.value:
        what = f"the limits of {', '.join(configuration.limits)}" if configuration.limits else "value=True"
        raise ConfigError(
            f"{what}: how a plan moves is known of costs alone, and it would be made without\nwrite limits={{}}, "
            f"value=False, and say what is dear by a weight, or by a critic among the terms"
        )
    rows = len(next(iter(State(state).series.values())))
    given = configuration.given({"is_first": np.zeros(rows, bool)})
    own = replace(cost, weights=configuration.weights).task(given=given)
    still = {k: v.detach() if isinstance(v, Tensor) else v for k, v in configuration.weights.items()}
    searched = replace(cost, weights=still).task(given={k: v.detach() for k, v in given.items()})
    plan = planner.plan(cost.dynamics, searched, state, space=space)
    actions = settled(plan, cost.dynamics, own, state, space, damping)
    return _cost(cost.dynamics, judge, state, space, actions, next(iter(actions.values())).shape[1])


def learn(configurator: LearnedConfigurator, optimiser: torch.optim.Optimizer, outcomes: Tensor) -> Tensor:
    """One step down the mean of outcomes; world and cost get no gradient. Returns the mean.

    Raises:
        NonFiniteError: an outcome is no finite number, of which nothing is learnt.
    """
    if not bool(outcomes.isfinite().all()):
        wrong = (~outcomes.isfinite()).nonzero()[:, 0].tolist()
        raise NonFiniteError(f"the outcomes of the episodes {wrong} are NaN or infinite: expected finite numbers")
    weights, mean = list(configurator.parameters()), outcomes.mean()
    for weight, slope in zip(weights, torch.autograd.grad(mean, weights), strict=True):
        weight.grad = slope
    optimiser.step()
    return mean.detach()


def _cost(dynamics: Dynamics, task: Task, state: Values, space: Space, actions: Named, horizon: int) -> Tensor:
    first = next(iter(actions.values()))
    score = Score(dynamics, task, state, space, horizon, per_episode(None, len(first), first.device))
    return score({k: v.unsqueeze(1) for k, v in actions.items()})[:, 0]


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([v.flatten(1) for v in parts], 1)
