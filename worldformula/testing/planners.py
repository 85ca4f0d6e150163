"""The laws of a planner: a plan is repeatable, honest about its cost, and nobody's business but its episode's."""

from __future__ import annotations

import torch
from torch import nn

from worldformula.formula import Deterministic, E, Normal, Sum, log
from worldformula.planner import Planner, rollout_cost
from worldformula.testing.laws import Laws
from worldformula.world import State, World

CLOSE = 1e-4  # float32, over a horizon


class _Drift(nn.Module):
    """A state that keeps nine tenths and takes up the action."""

    def forward(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return 0.9 * s + 0.3 * a


def check_planner(planner: Planner, actions: int, *, discrete: bool = False, episodes: int = 4) -> None:
    """Check that a planner keeps the contract of `worldformula.planner.Planner`, on a world of ``actions`` dimensions.

    The laws: shapes; actions one-hot, or in [−1, 1]; the stated cost is the cost of the stated actions; the trace never
    rises and ends there; the same generators give the same plan; an episode's plan does not depend on the others; the
    plan is better than doing nothing; no weight and no global random number is touched.

    Args:
        planner: the planner.
        actions: width of its actions.
        discrete: whether they are one-hot.
        episodes: how many are planned side by side.

    Raises:
        AssertionError: a law does not hold; the message is the table of laws.
    """
    laws, world = Laws(f"planner {planner}"), _world(actions)
    starts = {"s": torch.linspace(-1, 1, episodes * actions).view(episodes, actions)}
    target = torch.linspace(0.8, -0.8, actions)

    def cost(states: State) -> torch.Tensor:
        return (states["s"] - target).square().sum(-1)

    def seeds(which: range) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in which]

    before = torch.get_rng_state()
    plan = planner.plan(world, cost, starts, generators=seeds(range(episodes)))
    laws.equal("global random numbers are left alone", before, torch.get_rng_state())
    horizon = plan.actions.shape[1]
    laws.equal("actions are [B, H, A]", (episodes, horizon, actions), tuple(plan.actions.shape))
    if discrete:
        laws.equal("actions are one-hot", torch.ones(episodes, horizon), plan.actions.max(-1).values)
        laws.equal("one choice a step", torch.ones(episodes, horizon), plan.actions.sum(-1))
    else:
        laws.equal("actions lie in [−1, 1]", True, bool((plan.actions.abs() <= 1).all()))
    stated = rollout_cost(world, cost, starts, plan.actions.unsqueeze(1))[:, 0]
    laws.equal("the stated cost is that of the stated actions", stated, plan.cost, CLOSE)
    trace = torch.stack(plan.trace)
    laws.equal("the trace never rises", True, bool((trace[1:] <= trace[:-1] + CLOSE).all()))
    laws.equal("the trace ends at the cost", trace[-1], plan.cost, CLOSE)
    again = planner.plan(world, cost, starts, generators=seeds(range(episodes)))
    laws.equal("the same generators give the same plan", plan.actions, again.actions)
    last = {"s": starts["s"][-1:]}
    alone = planner.plan(world, cost, last, generators=seeds(range(episodes - 1, episodes)))
    laws.equal("an episode alone gets the same plan", plan.actions[-1:], alone.actions, CLOSE)
    idle = torch.zeros_like(plan.actions)
    if discrete:
        idle[..., 0] = 1
    nothing = rollout_cost(world, cost, starts, idle.unsqueeze(1))[:, 0]
    laws.equal("no plan is worse than one fixed action", True, bool((plan.cost <= nothing + CLOSE).all()))
    laws.equal("model steps are counted", True, plan.calls >= horizon)
    laws.close()


def _world(actions: int) -> World:
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", _Drift(), shape=actions)
    seen = Normal("p(x_t|s_t)", nn.Identity(), shape=actions, scale=0.1)
    return World(prior=move, posterior=move, heads=[seen], loss=Sum("t", E(move, -log(seen))).mean())
