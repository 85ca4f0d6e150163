"""Planning by gradient: Adam by hand, an optimum in closed form, and what has no gradient."""

import numpy as np
import pytest
import torch

from tests.planners.test_mppi import GOAL, TWO, dynamics
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet, Task
from worldformula.planners.gradient import Gradient
from worldformula.testing import check_planner

H = 4
TASK = Task(lambda states, actions: (states["s"] - GOAL).square().sum(-1) + 0.1 * actions["a"].square().sum(-1))


def test_laws():
    for space in ({"a": ActionSet(2)}, {"m": ActionSet(2), "u": ActionSet(1)}):
        check_planner(Gradient(6, 6, 20), space)


def test_a_linear_world_with_squared_costs_has_the_answer_of_least_squares():
    """s_t = s_0 + Σ a: minimise Σ_t |s_t − g|² + 0.1 |a_t|², a linear system."""
    walk, g = dynamics(lambda s, a: s + a), GOAL
    start = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    ahead = np.tril(np.ones((H, H)))
    right = np.linalg.solve(ahead.T @ ahead + 0.1 * np.eye(H), ahead.T @ np.tile((g - start[0]).numpy(), (H, 1)))
    assert np.abs(right).max() < 1
    plan = Gradient(H, 3, 400, lr=0.05).plan(walk, TASK, {"s": start}, space=TWO)
    np.testing.assert_allclose(plan.actions["a"][0], right, atol=2e-3)


def adam(start, first, steps, lr):
    """Kingma & Ba by hand on one sequence, and what the sequences on the way cost."""
    weights = torch.from_numpy(first.copy()).requires_grad_()
    torch_adam = torch.optim.Adam([weights], lr=lr)
    turn = torch.tensor([[0.8, -0.3], [0.4, 0.9]], dtype=torch.float64)

    def total():
        s, found = start, 0.0
        for t in range(H):
            s = torch.tanh(s @ turn) + 0.5 * weights[t]
            found = found + (s - GOAL).square().sum() + 0.1 * weights[t].square().sum()
        return found

    seen = []
    for _ in range(steps):
        torch_adam.zero_grad()
        cost = total()
        seen.append((cost.item(), weights.detach().numpy().copy()))
        cost.backward()
        torch_adam.step()
        with torch.no_grad():
            weights.clamp_(-1, 1)
    return [*seen, (total().item(), weights.detach().numpy().copy())]


def test_it_descends_as_the_optimiser_of_torch_does_and_not_by_the_plain_gradient():
    starts = torch.randn(3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    warm = 0.9 * torch.randn(3, H, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64).clamp(-1, 1)
    plan = Gradient(H, 1, 15, lr=0.2).plan(dynamics(), TASK, {"s": starts}, space=TWO, warm={"a": warm})
    for b in range(3):
        cost, actions = min(adam(starts[b], warm[b].numpy(), 15, 0.2), key=lambda pair: pair[0])
        assert plan.cost[b].item() == pytest.approx(cost, rel=1e-9)
        np.testing.assert_allclose(plan.actions["a"][b], actions, atol=1e-9)
    assert plan.calls == 16 * H


def test_it_ends_where_no_episode_has_gained_a_hundredth():
    start = {"s": torch.zeros(2, 2, dtype=torch.float64)}
    long, short = (Gradient(H, 2, 300, patience=p).plan(dynamics(), TASK, start, space=TWO) for p in (0, 12))
    assert short.calls < long.calls / 2
    costs = torch.stack(short.trace[:-1])  # the last one is that of the last step, which ends nothing
    gained = ((costs[:-12] - costs[12:]) > 0.01 * costs[:-12]).any(1)
    assert gained[:-1].all()
    assert not gained[-1]


def test_when_it_ends_does_not_depend_on_the_others_in_the_batch():
    """An episode that begins at the goal has nothing to gain, one far away goes on for long."""
    starts = torch.tensor([[0.3, -0.2], [6.0, -4.0], [0.0, 0.0]], dtype=torch.float64)
    generators = lambda rows: [torch.Generator().manual_seed(i) for i in rows]  # noqa: E731
    search = Gradient(H, 2, 300, patience=8)
    whole = search.plan(dynamics(), TASK, {"s": starts}, space=TWO, generators=generators(range(3)))
    for b in range(3):
        alone = search.plan(dynamics(), TASK, {"s": starts[[b]]}, space=TWO, generators=generators([b]))
        assert torch.allclose(whole.actions["a"][b], alone.actions["a"][0], rtol=0, atol=1e-12)


def test_how_many_candidates_are_discarded_does_not_depend_on_the_others_in_the_batch():
    """Of eight starts some lie where the cost is NaN and stay there; the second episode is done three steps earlier."""
    starts = torch.tensor([[6.0, -4.0], [0.0, 0.0]], dtype=torch.float64)
    gap = Task(lambda states, acts: torch.where(acts["a"][..., 0] > 0.5, torch.nan, TASK.cost(states, acts)))
    seeds = lambda rows: [torch.Generator().manual_seed(i) for i in rows]  # noqa: E731
    search = Gradient(H, 8, 200, patience=8)
    whole = search.plan(dynamics(), gap, {"s": starts}, space=TWO, generators=seeds(range(2)))
    alone = [search.plan(dynamics(), gap, {"s": starts[[b]]}, space=TWO, generators=seeds([b])) for b in range(2)]
    assert alone[1].calls < alone[0].calls == whole.calls
    assert whole.discarded.tolist() == [alone[0].discarded.item(), alone[1].discarded.item()]
    assert (whole.discarded > 0).all()


def test_the_weights_of_the_world_get_no_gradient():
    net = torch.nn.Linear(2, 2).double()

    def moved(s, a):
        return s + net(a)

    Gradient(H, 2, 3).plan(dynamics(moved), TASK, {"s": torch.zeros(1, 2, dtype=torch.float64)}, space=TWO)
    assert all(p.grad is None for p in net.parameters())


def test_refused():
    start = {"s": torch.zeros(1, 2, dtype=torch.float64)}
    with pytest.raises(ConfigError, match="of kind choice.*cem, icem and mppi"):
        Gradient(H).plan(dynamics(), TASK, start, space={"a": ActionSet(2, "choice")})
    flat = Task(lambda states, _: (states["s"] > 0).double().sum(-1))
    with pytest.raises(ConfigError, match="no gradient with regard to the actions"):
        Gradient(H).plan(dynamics(), flat, start, space=TWO)
    for wrong in ({"lr": 0.0}, {"std": 0.0}, {"patience": -1}):
        with pytest.raises(ConfigError, match="lr and std > 0"):
            Gradient(**wrong)
