"""iCEM: its noise has the spectrum and the variance that are said, and its search is that of NumPy with equal draws."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.planners.test_mppi import GOAL, TWO, dynamics
from worldformula.candidates import draw, white
from worldformula.errors import ConfigError
from worldformula.planner import Task
from worldformula.planners.icem import ICEM, coloured
from worldformula.testing import check_planner

LIKE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("steps", [2, 9, 12])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_the_power_of_the_noise_falls_with_the_frequency_and_its_variance_is_one(beta, steps):
    count = 20_000
    noise = coloured(torch.Generator().manual_seed(0), (count, steps, 2), LIKE, beta=beta)
    assert noise.shape == (count, steps, 2)
    square = noise.square()
    error = square.mean(1).std() / np.sqrt(2 * count)
    assert square.mean().item() == pytest.approx(1, abs=4 * error.item())
    power = np.abs(np.fft.rfft(noise[..., 0].numpy(), axis=1)) ** 2
    right = np.maximum(np.fft.rfftfreq(steps), 1 / steps) ** -beta
    found, wanted = power.mean(0) / power.mean(0).sum(), right / right.sum()
    spread = power.std(0) / np.sqrt(count) / power.mean(0).sum()
    np.testing.assert_array_less(np.abs(found - wanted), 5 * spread + 1e-12)


def test_white_noise_is_that_of_no_colour():
    noise = coloured(torch.Generator().manual_seed(1), (40_000, 5, 1), LIKE, beta=0.0)[..., 0]
    np.testing.assert_allclose(np.cov(noise.numpy().T), np.eye(5), atol=0.03)


TASK = Task(lambda states, actions: (states["s"] - GOAL).square().sum(-1) + 0.1 * actions["a"].square().sum(-1))


def cost(start, actions):
    turn, s, total = np.array([[0.8, -0.3], [0.4, 0.9]]), np.tile(start, (len(actions), 1)), np.zeros(len(actions))
    for t in range(actions.shape[1]):
        s = np.tanh(s @ turn) + 0.5 * actions[:, t]
        total += ((s - GOAL.numpy()) ** 2).sum(-1) + 0.1 * (actions[:, t] ** 2).sum(-1)
    return total


def by_hand(planner, start, generator):
    """The search for one episode."""
    mean, std, best, least, tried = (
        np.zeros((planner.horizon, 2)),
        np.full((planner.horizon, 2), planner.std),
        None,
        np.inf,
        0,
    )
    elites = np.zeros((0, planner.horizon, 2))
    for i in range(planner.iterations):
        count = max(round(planner.candidates / planner.fewer**i), 2 * planner.elites)
        noise = coloured(generator, (count, planner.horizon, 2), LIKE, beta=planner.beta).numpy()
        drawn = [np.clip(mean + std * noise, -1, 1), elites[: round(planner.kept * planner.elites)]]
        drawn = np.concatenate([*drawn, np.clip(mean, -1, 1)[None]] if i in (0, planner.iterations - 1) else drawn)
        total = cost(start, drawn)
        elites = drawn[np.argsort(total, kind="stable")[: planner.elites]]
        if total.min() < least:
            best, least = drawn[total.argmin()], total.min()
        tried += len(drawn)
        mean = planner.momentum * mean + (1 - planner.momentum) * elites.mean(0)
        std = planner.momentum * std + (1 - planner.momentum) * np.sqrt(elites.var(0) + 1e-6)
    return best, least, tried * planner.horizon


def test_it_is_the_search_of_numpy_with_the_same_draws():
    planner = ICEM(5, 30, 6, 4, std=0.7, beta=1.5, fewer=1.4, kept=0.5, momentum=0.2)
    starts = torch.randn(3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plan = planner.plan(
        dynamics(), TASK, {"s": starts}, space=TWO, generators=[torch.Generator().manual_seed(i) for i in range(3)]
    )
    for b in range(3):
        actions, least, calls = by_hand(planner, starts[b].numpy(), torch.Generator().manual_seed(b))
        np.testing.assert_allclose(plan.actions["a"][b], actions, atol=1e-12)
        assert plan.cost[b].item() == pytest.approx(least, rel=1e-12)
        assert plan.calls == calls


def test_laws():
    check_planner(ICEM(6, 40, 8, 3))


def test_far_goals_need_noise_that_keeps_its_direction():
    """A point that has to walk 20 steps straight: mean costs over 30 episodes with equal numbers of candidates."""
    walk = dynamics(lambda s, a: s + 0.2 * a)
    task = Task(lambda states, _: (states["s"] - 3.0).square().sum(-1))
    found = {}
    for beta in (0.0, 2.0):
        planner = ICEM(20, 24, 4, 1, beta=beta)
        generators = [torch.Generator().manual_seed(i) for i in range(30)]
        found[beta] = planner.plan(walk, task, {"s": torch.zeros(30, 2)}, space=TWO, generators=generators).cost
    gain = found[0.0] - found[2.0]
    assert gain.mean() > 5 * gain.std() / 30**0.5


def test_refused():
    for wrong in ({"beta": -1.0}, {"fewer": 0.5}, {"kept": 1.5}, {"momentum": 1.0}, {"std": 0.0}):
        with pytest.raises(ConfigError, match="beta ≥ 0"):
            ICEM(**wrong)
    with pytest.raises(ConfigError, match="elites ≤ candidates"):
        ICEM(elites=500)


@pytest.mark.parametrize("noisy", [white, partial(coloured, beta=2.0)])
def test_a_candidate_is_the_mean_and_the_noise_of_its_episode(noisy):
    mean, std = torch.full((2, 6, 2), 0.1, dtype=torch.float64), torch.full((2, 6, 2), 0.3, dtype=torch.float64)
    own = [torch.Generator().manual_seed(i) for i in range(2)]
    found = draw(TWO, {"a": (mean, std)}, 4, own, noisy)["a"]
    for b in range(2):
        noise = noisy(torch.Generator().manual_seed(b), (4, 6, 2), LIKE).numpy()
        np.testing.assert_allclose(found[b], np.clip(0.1 + 0.3 * noise, -1, 1), atol=1e-15)
