"""Predictive sampling: disturbed copies are lines, the last plan is one of those tried, and it gets better by steps."""

import itertools

import numpy as np
import pytest
import torch

from tests.planners.test_mppi import GOAL, TWO, dynamics
from worldformula.errors import ConfigError
from worldformula.planner import Task
from worldformula.planners.predictive_sampling import PredictiveSampling, lines
from worldformula.testing import check_planner

LIKE = torch.zeros((), dtype=torch.float64)
TASK = Task(lambda states, actions: (states["s"] - GOAL).square().sum(-1) + 0.1 * actions["a"].square().sum(-1))


@pytest.mark.parametrize("points", [1, 2, 4, 7, 50])
def test_noise_is_a_line_between_its_points(points):
    noise = lines(torch.Generator().manual_seed(0), (5, 7, 2), LIKE, points=points)
    same = torch.randn(5, 2, min(points, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    where = np.linspace(0, 1, 7)
    for n in range(5):
        for a in range(2):
            right = np.interp(where, np.linspace(0, 1, same.shape[-1]), same[n, a]) if points > 1 else same[n, a, 0]
            np.testing.assert_allclose(noise[n, :, a], right * np.ones(7), atol=1e-12)


def test_laws():
    check_planner(PredictiveSampling(6, 40))


def test_from_step_to_step_the_plan_gets_better():
    start, planner = {"s": torch.zeros(20, 2, dtype=torch.float64)}, PredictiveSampling(6, 20)
    warm, costs = None, []
    for i in range(12):
        generators = [torch.Generator().manual_seed(100 * b + i) for b in range(20)]
        plan = planner.plan(dynamics(), TASK, start, space=TWO, generators=generators, warm=warm)
        warm = plan.actions
        costs.append(plan.cost)
    assert all(bool((after <= before + 1e-12).all()) for before, after in itertools.pairwise(costs))
    assert (costs[-1] < 0.9 * costs[0]).all()


def test_refused():
    for wrong in ({"std": 0.0}, {"points": 0}):
        with pytest.raises(ConfigError, match="std > 0 and points ≥ 1"):
            PredictiveSampling(**wrong)
