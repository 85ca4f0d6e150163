"""The laws of a planner: a plan is repeatable, honest about its cost, and nobody's business but its episode's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Normal
from worldformula.planner import ActionSet, Constraint, Named, Planner, Space, Task
from worldformula.score import Score
from worldformula.testing.laws import Laws
from worldformula.world import Dynamics, PriorDynamics, State

CLOSE = 1e-4  # float32, over a horizon
SPACES: tuple[Space, ...] = (
    {"a": ActionSet(2)},
    {"a": ActionSet(3, "choice")},
    {"m": ActionSet(2), "u": ActionSet(3, "choice"), "w": ActionSet(2, "flags")},
)
"""What a planner is tried on: numbers, a choice, several actions."""
_Case = tuple[Dynamics, Task, State, Space, int]


class _Drift(nn.Module):
    """A state that keeps nine tenths and takes up the actions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, s: Tensor, *actions: Tensor) -> Tensor:
        moved = torch.cat(actions, -1)
        return 0.9 * s + 0.3 * nn.functional.pad(moved, (0, self.width - moved.shape[-1]))


def check_planner(planner: Planner, space: Space | None = None, *, episodes: int = 4) -> None:
    """Check that a planner keeps the contract of `worldformula.planner.Planner`, on a small world with these actions.

    The laws: shapes; actions in their sets, and no choice that a mask forbids; the stated cost is that of the stated
    actions, also over samples whose noise all candidates share, and under constraints; the states are those of a dream
    under them; the trace never rises and ends there; the same generators give the same plan; an episode's plan does not
    depend on the others, nor a cold episode on a warm one beside it; the plan is no worse than a fixed action, nor than
    what was proposed; constraints are kept, as far as it says, or refused; no global random number is touched.

    Args:
        planner: the planner.
        space: the actions; by default one space after another: numbers, a choice, several actions.
        episodes: how many are planned side by side.

    Raises:
        AssertionError: a law does not hold; the message is the table of laws.
    """
    for each in SPACES if space is None else (space,):
        laws = Laws(f"planner {planner} on {', '.join(f'{k} {v.kind}' for k, v in each.items())}")
        _check(laws, planner, each, episodes)
        laws.close()


def _check(laws: Laws, planner: Planner, space: Space, episodes: int) -> None:
    world, width = _world(space)
    starts = State({"s": torch.linspace(-1, 1, episodes * width).view(episodes, width)})
    target = torch.linspace(0.8, -0.8, width)

    def cost(states: State, actions: Named) -> Tensor:
        return (states["s"] - target).square().sum(-1) + 0.01 * torch.cat(tuple(actions.values()), -1).square().sum(-1)

    task = Task(cost)

    def seeds(which: Sequence[int] = range(episodes)) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in which]

    before = torch.get_rng_state()
    plan = planner.plan(world, task, starts, space=space, generators=seeds())
    laws.equal("global random numbers are left alone", before, torch.get_rng_state())
    horizon = next(iter(plan.actions.values())).shape[1]
    for name, own in space.items():
        laws.equal(f"actions are [B, H, size]: {name}", (episodes, horizon, own.size), tuple(plan.actions[name].shape))
        laws.equal(f"actions are in their set: {name}", True, own.holds(plan.actions[name]))
    stated = _cost(world, task, starts, space, plan.actions, seeds())
    laws.equal("the stated cost is that of the stated actions", stated, plan.cost, CLOSE)
    dream = world.imagine(starts, actions=plan.actions, deterministic=True)
    laws.equal("the states are those of a dream under them", dream["s"], plan.states["s"], CLOSE)
    trace = torch.stack(plan.trace)
    laws.equal("the trace never rises", True, bool((trace[1:] <= trace[:-1] + CLOSE).all()))
    laws.equal("the trace ends at the cost", trace[-1], plan.cost, CLOSE)
    again = planner.plan(world, task, starts, space=space, generators=seeds())
    alone = planner.plan(
        world, task, starts.select(torch.tensor([episodes - 1])), space=space, generators=seeds([episodes - 1])
    )
    for name in space:
        laws.equal(f"the same generators give the same plan: {name}", plan.actions[name], again.actions[name])
        laws.equal(f"an episode alone gets the same plan: {name}", plan.actions[name][-1:], alone.actions[name], CLOSE)
    idle = {name: _fixed(own, episodes, horizon) for name, own in space.items()}
    nothing = _cost(world, task, starts, space, idle, seeds())
    laws.equal("no plan is worse than one fixed action", True, bool((plan.cost <= nothing + CLOSE).all()))
    laws.equal("model steps are counted", True, plan.calls >= horizon)
    if all(own.holds(plan.actions[name]) for name, own in space.items()):
        _given(laws, planner, (world, task, starts, space, episodes), plan.actions, plan.cost)
    sampled = Task(cost, samples=3, risk=0.5)
    risky = planner.plan(world, sampled, starts, space=space, generators=seeds())
    stated = _cost(world, sampled, starts, space, risky.actions, seeds())
    laws.equal("so is that over samples, whose noise is shared", stated, risky.cost, CLOSE)
    limit = Constraint(lambda states, _: states["s"].abs().amax(-1), 0.9)
    try:
        bound = planner.plan(world, Task(cost, constraints={"s": limit}), starts, space=space, generators=seeds())
    except ConfigError:
        return  # it says that it knows no constraints
    stated = _cost(world, task, starts, space, bound.actions, seeds())
    laws.equal("so is that under constraints", stated, bound.cost, CLOSE)
    over = limit.excess(bound.states.span(1), bound.actions).amax(1).clamp(min=0)
    told = torch.full_like(over, torch.nan) if bound.violation is None else bound.violation
    laws.equal("the violation of constraints is stated, where they are not refused", over, told, CLOSE)


def _given(laws: Laws, planner: Planner, what: _Case, found: Named, cost: Tensor) -> None:
    """Warm starts, proposals and masks."""
    world, task, starts, space, episodes = what

    def seeds() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(episodes)]

    warm = {name: value.clone() for name, value in found.items()}
    for value in warm.values():
        value[0] = torch.nan
    beside = planner.plan(world, task, starts, space=space, generators=seeds(), warm=warm)
    for name in space:
        laws.equal(
            f"a cold episode beside warm ones is planned as cold: {name}", found[name][:1], beside.actions[name][:1]
        )
    best = {name: value.unsqueeze(1) for name, value in found.items()}
    helped = planner.plan(world, task, starts, space=space, generators=seeds(), proposals=best)
    laws.equal("no plan is worse than what was proposed", True, bool((helped.cost <= cost + CLOSE).all()))
    mask = {name: found[name][:, 0] == 0 for name, own in space.items() if own.kind == "choice"}
    if not mask:
        return
    forbidden = planner.plan(
        world, task, starts, space=space, generators=seeds(), mask=mask, proposals=best, warm=found
    )
    for name, allowed in mask.items():
        taken = bool((forbidden.actions[name][:, 0] * ~allowed).any())
        laws.equal(f"no forbidden choice is taken: {name}", False, taken)


def _cost(
    world: Dynamics, task: Task, starts: State, space: Space, actions: Named, generators: list[torch.Generator]
) -> Tensor:
    horizon = next(iter(actions.values())).shape[1]
    score = Score(world, task, starts, space, horizon, generators)
    return score({name: value.unsqueeze(1) for name, value in actions.items()})[:, 0]


def _fixed(own: ActionSet, episodes: int, horizon: int) -> Tensor:
    """Zeros, or the first choice."""
    actions = torch.zeros(episodes, horizon, own.size)
    if own.kind == "choice":
        actions[..., 0] = 1
    return actions


def _world(space: Space) -> tuple[PriorDynamics, int]:
    """s_t ~ N(drift, 0.1²), and the width of s."""
    width = sum(own.size for own in space.values())
    actions = ",".join(f"{name}_{{t-1}}" for name in space)
    return PriorDynamics(Normal(f"p(s_t|s_{{t-1}},{actions})", _Drift(width), shape=width, scale=0.1)), width
