"""CEM on worlds whose best plan is known, and the laws of every planner."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from worldformula.agent.configurator import Configuration, Configurator
from worldformula.errors import CatalogueError, ConfigError, ShapeError
from worldformula.formula import Deterministic, E, Normal, Sum, log
from worldformula.planners.cem import CEM
from worldformula.world import World


class Point(nn.Module):
    """A point that moves by 0.2·a in the plane."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + 0.2 * a


def world(actions: int = 2) -> World:
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Point() if actions == 2 else Corridor(), shape=2)
    seen = Normal("p(x_t|s_t)", nn.Identity(), shape=2, scale=0.1)
    return World(prior=move, posterior=move, heads=[seen], loss=Sum("t", E(move, -log(seen))).mean())


class Corridor(nn.Module):
    """One-hot actions: left, stay, right along the first axis."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + torch.stack((a[:, 2] - a[:, 0], torch.zeros_like(a[:, 0])), -1)


def distance(goal: Tensor):
    return lambda states: (states["s"] - goal).square().sum(-1)


def test_the_straight_way_is_found() -> None:
    goal = torch.tensor([1.0, -0.6])
    start = {"s": torch.tensor([[0.0, 0.0], [1.0, 1.0]])}
    plan = CEM(2, horizon=8, candidates=400, elites=40, iterations=12).plan(world(), distance(goal), start)
    end = start["s"] + 0.2 * plan.actions.sum(1)
    assert (end - goal).abs().max() < 0.15
    # The best any plan can do: full speed along each axis until there.
    best = torch.zeros(2)
    for b, axis in itertools.product(range(2), range(2)):
        gap = (goal[axis] - start["s"][b, axis]).abs()
        best[b] += sum((gap - min(0.2 * k, gap)) ** 2 for k in range(1, 9))
    assert (plan.cost <= 1.15 * best + 0.05).all()
    assert (plan.cost >= best - 1e-5).all()
    assert plan.calls == 12 * 400 * 8
    assert (plan.actions.abs() <= 1).all()


def test_discrete_actions_are_one_hot_and_find_the_exhaustive_optimum() -> None:
    goal, start = torch.tensor([2.0, 0.0]), {"s": torch.zeros(1, 2)}
    plan = CEM(3, discrete=True, horizon=5, candidates=100, elites=10).plan(world(3), distance(goal), start)
    costs = []
    for moves in itertools.product((-1, 0, 1), repeat=5):
        position = torch.tensor(moves, dtype=torch.float).cumsum(0)
        costs.append(float((position - 2).square().sum()))
    assert plan.cost.item() == pytest.approx(min(costs))
    assert torch.equal(plan.actions.sum(-1), torch.ones(1, 5))


def test_a_plan_does_not_depend_on_the_batch_it_was_made_in() -> None:
    planner, goal = CEM(2, horizon=4, candidates=50, elites=5, iterations=3), torch.tensor([0.5, 0.5])
    starts = torch.randn(16, 2)
    together = planner.plan(
        world(), distance(goal), {"s": starts}, generators=[torch.Generator().manual_seed(i) for i in range(16)]
    )
    for i in (0, 7, 15):
        alone = planner.plan(
            world(), distance(goal), {"s": starts[i : i + 1]}, generators=[torch.Generator().manual_seed(i)]
        )
        torch.testing.assert_close(together.actions[i], alone.actions[0])


def test_the_trace_never_rises_and_ends_at_the_cost() -> None:
    plan = CEM(2, horizon=6).plan(world(), distance(torch.ones(2)), {"s": torch.zeros(3, 2)})
    trace = torch.stack(plan.trace)
    assert (trace[1:] <= trace[:-1]).all()
    assert torch.equal(trace[-1], plan.cost)


def test_a_warm_start_at_the_optimum_stays_there() -> None:
    goal, planner = torch.tensor([0.4, 0.0]), CEM(2, horizon=4, candidates=100, elites=10, iterations=4, std=0.2)
    warm = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    cold = planner.plan(world(), distance(goal), {"s": torch.zeros(1, 2)})
    warmed = planner.plan(world(), distance(goal), {"s": torch.zeros(1, 2)}, warm=warm)
    assert warmed.cost < cold.cost


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: CEM(2, elites=0), ConfigError),
        (lambda: CEM(2, candidates=5, elites=6), ConfigError),
        (lambda: CEM(0), ConfigError),
        (lambda: CEM(2).plan(world(), distance(torch.ones(2)), {"s": torch.zeros(2, 2)}, generators=[]), ShapeError),
        (lambda: CEM(2).plan(world(), lambda s: s["s"], {"s": torch.zeros(2, 2)}), ShapeError),
        (
            lambda: CEM(2).plan(world(), distance(torch.ones(2)), {"s": torch.zeros(1, 2)}, warm=torch.zeros(1, 3, 2)),
            ConfigError,
        ),
    ],
)
def test_bad_input_is_refused(make, error) -> None:
    with pytest.raises(error, match="expected"):
        make()


def test_a_configurator_is_a_table_and_knows_near_misses() -> None:
    configurator = Configurator({"swing up": Configuration(), "save force": Configuration({"reward": 2.0}, CEM(1))})
    assert configurator("save force").weights == {"reward": 2.0}
    with pytest.raises(CatalogueError, match="Did you mean 'swing up'"):
        configurator("swingup")
