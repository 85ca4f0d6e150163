"""The cliff for planners: its dynamics are those of the environment, and what it says is what arithmetic says."""

import numpy as np
import pytest
import torch

from worldformula import cards
from worldformula.cards.cliff import RISKS, Costs, Outcome, cost_of, dynamics, expected, margins, outcome
from worldformula.envs.fork import FALL, STEP, Fork
from worldformula.planner import CVaR
from worldformula.world import State

START = torch.tensor([[0.4375, 0.0, 0.25, 0.0]])


def test_the_road_of_the_planner_is_that_of_the_environment():
    for seed, steering in ((0, 1.0), (1, -1.0), (2, 1.0), (5, 1.0)):
        env = Fork(cliff=True)
        first, _ = env.reset(seed=seed)
        seen, total, end = [first], 0.0, False
        while not end:
            observation, reward, end, _, _ = env.step(np.array([1.0, steering]))
            seen.append(observation)
            total += reward
        seen = torch.tensor(np.array(seen))  # y, x, q, fallen
        H = len(seen) - 1
        start = torch.stack((seen[0, 0], torch.zeros(()), seen[0, 2], torch.zeros(())))[None]
        told = {"a": torch.eye(2)[int(steering > 0)].expand(1, H, 2), "c": seen[1:, 3].max().expand(1, H, 1)}
        dream = dynamics().imagine({"s": start}, actions=told)["s"]
        torch.testing.assert_close(dream[0, :, 0], seen[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(0.5 * dream[0, :, 1], seen[:, 1])
        torch.testing.assert_close(dream[0, :, 3], seen[:, 3])
        costs = Costs(start)(State({"s": dream[:, 1:]}, 2), None)
        assert float(costs.sum()) == pytest.approx(-total, abs=1e-5)


def test_costs_by_hand():
    """From y = 0.4375 the fork is crossed at 0.6; 0.1625 a step, or a fifth of that, to the end."""
    short = 1 + np.ceil((1 - 0.6) / 0.1625)
    long = 1 + np.ceil((1 - 0.6) / 0.0325)
    assert cost_of(START, 1, 0) == pytest.approx(-STEP * short, abs=1e-5)
    assert cost_of(START, 0, 0) == pytest.approx(-STEP * long, abs=1e-5)
    assert cost_of(START, 1, 1) == pytest.approx(-FALL, abs=1e-5)
    right, left = (expected(START, torch.tensor([way])).item() for way in (True, False))
    assert right == pytest.approx(0.25 * 10 + 0.75 * 0.1 * short, abs=1e-5)
    assert left == pytest.approx(0.1 * long, abs=1e-5)


def test_who_foresees_one_course_falls_and_who_fears_the_worst_does_not():
    fog = torch.tensor([0.02, 0.1, 0.3])
    blind, fearful = outcome(0, 0.0, fog, 100), outcome(256, CVaR(0.0), fog, 100)
    assert blind == Outcome(1.0, pytest.approx(0.14), pytest.approx(blind.cost))
    assert fearful.right == fearful.accidents == 0.0
    assert blind.cost > fearful.cost


def told(accidents, costs):
    """Outcomes of the deterministic planner and of every way to count samples, in their order."""
    return {
        name: Outcome(0.5, share, cost)
        for name, share, cost in zip(("deterministic", *RISKS), accidents, costs, strict=True)
    }


@pytest.mark.parametrize(
    ("accidents", "costs", "fall", "spared", "dearer"),
    [
        ([0.2, 0.05, 0.04, 0.02, 0.01, 0.0, 9, 9], [3, 1, 2, 2, 2, 2, 1.5, 2], 0.01, 0.05, 0.5),
        ([0.2, 0.05, 0.04, 0.045, 0.01, 0.0, 9, 9], [3, 1, 2, 2, 2, 2, 2, 0.9], -0.005, 0.05, -0.1),
        ([0.06, 0.05, 0.05, 0.05, 0.05, 0.05, 0, 0], [3, 1, 2, 2, 2, 2, 2, 2], 0.0, 0.0, 1.0),
    ],
)
def test_margins_by_hand(accidents, costs, fall, spared, dearer):
    assert margins(told(accidents, costs)) == pytest.approx({"fall": fall, "spared": spared, "dearer": dearer})


def test_a_planner_that_takes_no_notice_of_risk_fails_the_card():
    blind = margins(told([0.2] * 8, [2.0] * 8))
    assert not cards.load("cliff").holds([blind] * 8)
