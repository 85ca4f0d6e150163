"""Constraints that searches keep: SciPy and the conditions of Karush, Kuhn and Tucker, what cannot be kept, NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tests.planners.test_mppi import TWO, dynamics
from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.agent.terms import Distance, Effort
from worldformula.errors import ConfigError, NonFiniteError
from worldformula.formula import Deterministic, Normal
from worldformula.planner import ActionSet, Constraint, CVaR, Task
from worldformula.planners.beam import Beam
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.grasp import GRASP
from worldformula.planners.hierarchy import Hierarchy, Level
from worldformula.planners.icem import ICEM
from worldformula.planners.lagrangian import Lagrangian
from worldformula.planners.mcts import MCTS
from worldformula.planners.minimax import Minimax
from worldformula.planners.mppi import MPPI
from worldformula.planners.predictive_sampling import PredictiveSampling
from worldformula.testing import check_planner
from worldformula.world import PriorDynamics

H, GOAL = 4, torch.tensor([1.0, -0.5], dtype=torch.float64)
WALK = dynamics(lambda s, a: s + 0.8 * a)
COST = Task(lambda states, actions: (states["s"] - GOAL).square().sum(-1) + 0.1 * actions["a"].square().sum(-1))
WALL = Constraint(lambda states, actions: states["s"][..., 0], 0.6)  # in the way: active
FLOOR = Constraint(lambda states, actions: -states["s"][..., 1], 2.0)  # far off: inactive
BOTH = replace(COST, constraints={"wall": WALL, "floor": FLOOR})
START = {"s": torch.tensor([[0.0, 0.0], [0.3, 0.2]], dtype=torch.float64)}
SEARCH = Gradient(H, 1, 150, lr=0.02)


def by_scipy(start: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Actions, cost, and multipliers of the wall by stationarity at SciPy's solution, where it is active."""
    goal, ahead = GOAL.numpy(), 0.8 * np.tril(np.ones((H, H)))

    def path(a: np.ndarray) -> np.ndarray:
        return start + ahead @ a.reshape(H, 2)

    def cost(a: np.ndarray) -> float:
        return float(((path(a) - goal) ** 2).sum() + 0.1 * (a**2).sum())

    kept = [
        {"type": "ineq", "fun": lambda a: 0.6 - path(a)[:, 0]},
        {"type": "ineq", "fun": lambda a: 2.0 + path(a)[:, 1]},
    ]
    found = minimize(
        cost, np.zeros(2 * H), method="SLSQP", bounds=[(-1, 1)] * (2 * H), constraints=kept,
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    a = found.x.reshape(H, 2)
    assert np.abs(a).max() < 0.999  # no bound is active, which stationarity would need besides
    slope = (2 * ahead.T @ (path(a) - goal) + 0.2 * a)[:, 0]
    active = np.abs(path(a)[:, 0] - 0.6) < 1e-5
    multipliers = np.zeros(H)
    multipliers[active] = np.linalg.lstsq(ahead.T[:, active], -slope, rcond=None)[0]
    assert np.abs(slope + ahead.T @ multipliers).max() < 1e-4
    return a, found.fun, multipliers


def test_laws():
    check_planner(Lagrangian(CEM(4, 60, 8, 4), rounds=2))
    check_planner(Lagrangian(Gradient(4, 4, 10), rounds=2), {"a": ActionSet(2)})
    check_planner(Lagrangian(GRASP(4, 4, 12, every=6, refine=4), rounds=2), {"a": ActionSet(2)})


def test_a_gradient_search_finds_what_scipy_finds_and_the_multipliers():
    plan = Lagrangian(SEARCH, rounds=10, tolerance=2e-4).plan(WALK, BOTH, START, space=TWO)
    assert plan.feasible is not None
    assert plan.multipliers is not None
    assert plan.feasible.all()
    for b, start in enumerate(START["s"].numpy()):
        actions, cost, multipliers = by_scipy(start)
        assert (multipliers > 0.05).any()
        np.testing.assert_allclose(plan.actions["a"][b], actions, atol=5e-3)
        assert plan.cost[b].item() == pytest.approx(cost, abs=2e-3)
        np.testing.assert_allclose(plan.multipliers["wall"][b], multipliers, atol=0.02)
    assert (plan.multipliers["floor"] == 0).all()
    free = SEARCH.plan(WALK, COST, START, space=TWO)
    assert (free.cost < plan.cost - 0.05).all()  # the wall costs something
    assert WALL.excess(free.states.span(1), free.actions).amax() > 0.1


def test_a_looser_limit_is_worth_its_multiplier():
    """dJ*/d limit = −λ, by finite differences of plans; the limit is one of each episode."""
    limits = torch.tensor([0.55, 0.6, 0.65], dtype=torch.float64)
    last = Constraint(lambda states, actions: states["s"][..., 0] - states["limit"], reduce="last")
    task = replace(COST, constraints={"wall": last}, given={"limit": limits})
    start = {"s": torch.zeros(3, 2, dtype=torch.float64)}
    plan = Lagrangian(SEARCH, rounds=8).plan(WALK, task, start, space=TWO)
    assert plan.multipliers is not None
    slope = (plan.cost[2] - plan.cost[0]) / 0.1
    torch.testing.assert_close(-slope, plan.multipliers["wall"][1, 0], atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("inner", "slack"),
    [
        (CEM(H, 300, 30, 15), 0.03), (ICEM(H, 200, 20, 12), 0.03),
        (MPPI(H, 300, 30, 15, temperature=5.0, answer="best"), 0.03), (PredictiveSampling(H, 4000, points=4), 0.3),
    ],
    ids=["cem", "icem", "mppi", "predictive sampling"],
)  # fmt: skip
def test_searches_by_sampling_keep_them_too(inner, slack):
    plan = Lagrangian(inner, rounds=8, tolerance=0.01).plan(WALK, BOTH, START, space=TWO)
    assert plan.feasible is not None
    assert plan.violation is not None
    assert plan.feasible.all()
    excess = torch.cat([c.excess(plan.states.span(1), plan.actions) for c in BOTH.constraints.values()], 1)
    torch.testing.assert_close(plan.violation, excess.amax(1).clamp(min=0))
    for b, start in enumerate(START["s"].numpy()):
        assert plan.cost[b].item() == pytest.approx(by_scipy(start)[1], abs=slack)


def test_choices_keep_a_sum():
    """Of 2^5 plans by hand: at most two dear steps."""
    line = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", lambda s, a: s + a[:, 1:], shape=1))
    dear = Constraint(lambda states, actions: actions["a"][..., 1], 2.0, reduce="sum")
    task = Task(lambda states, actions: (states["s"][..., 0] - 4).square(), constraints={"dear": dear})
    for inner in (Beam(5, 32), CEM(5, 100, 10, 5), MCTS(5, 200)):
        plan = Lagrangian(inner).plan(line, task, {"s": torch.zeros(1, 1)}, space={"a": ActionSet(2, "choice")})
        assert plan.actions["a"][0, :, 1].tolist() == [1, 1, 0, 0, 0]  # early, as every step counts
        assert plan.cost.item() == pytest.approx(9 + 4 * 4)
        assert plan.feasible is not None
        assert plan.feasible.item()
        assert plan.multipliers is not None
        assert plan.multipliers["dear"].shape == (1, 1)


def test_what_cannot_be_kept_is_said_by_episode_and_exceeded_least():
    """A step is 0.8 at most: from 1.3 the first state is at 0.5 and keeps below 0.6, from 1.6 it is at 0.8."""
    starts = {"s": torch.tensor([[1.3, 0.0], [1.6, 0.0]], dtype=torch.float64)}
    plan = Lagrangian(CEM(2, 200, 20, 10)).plan(WALK, BOTH, starts, space=TWO)
    assert plan.feasible is not None
    assert plan.violation is not None
    assert plan.feasible.tolist() == [True, False]
    assert plan.violation[0].item() <= 1e-3
    assert plan.violation[1].item() == pytest.approx(0.2, abs=0.01)
    alone = Lagrangian(CEM(2, 200, 20, 10)).plan(WALK, BOTH, {"s": starts["s"][:1]}, space=TWO)
    assert torch.equal(alone.actions["a"], plan.actions["a"][:1])


def test_a_proposal_that_keeps_them_is_not_lost():
    """A search that tries two sequences finds nothing by itself; the proposal goes down at first, by 0.4."""
    down = torch.zeros(2, 1, H, 2, dtype=torch.float64)
    down[:, 0, 0, 1] = -0.5
    poor = Lagrangian(CEM(H, 2, 1, 1, std=4.0), rounds=1)
    assert (poor.plan(WALK, BOTH, START, space=TWO).cost > 10).all()
    plan = poor.plan(WALK, BOTH, START, space=TWO, proposals={"a": down})
    assert plan.feasible.all()
    for b, (x, y) in enumerate(START["s"].tolist()):
        assert plan.cost[b].item() <= H * ((x - 1) ** 2 + (y - 0.4 + 0.5) ** 2) + 0.1 * 0.25 + 1e-9


def test_samples_count_as_risk_says():
    """x ~ N(a, 0.2²): of the worst of 64 shared samples or of the mean, x stays below 0.3."""
    noisy = PriorDynamics(Normal("p(s_t|s_{t-1},a_{t-1})", lambda s, a: a, shape=1, scale=0.2))
    cost = Task(lambda states, actions: (states["s"][..., 0] - 1).square(), samples=64)
    limit = {"x": Constraint(lambda states, actions: states["s"][..., 0], 0.3)}
    start, space = {"s": torch.zeros(1, 1)}, {"a": ActionSet(1)}
    search = Lagrangian(CEM(1, 200, 20, 8), rounds=8)
    mean, worst = (
        search.plan(noisy, replace(cost, constraints=limit, risk=risk), start, space=space) for risk in (0.0, CVaR(0.0))
    )
    drawn = noisy.dream_noise({"s": torch.zeros(64, 1)}, {"a": torch.zeros(64, 1, 1)}, torch.Generator().manual_seed(0))
    noise = 0.2 * next(iter(drawn.values())).flatten()
    assert mean.actions["a"].item() == pytest.approx(0.3 - noise.mean().item(), abs=0.01)
    assert worst.actions["a"].item() == pytest.approx(0.3 - noise.max().item(), abs=0.01)


def test_constraints_that_are_no_numbers_are_discarded_and_counted():
    gap = Constraint(lambda states, _: torch.where(states["s"][..., 1] > 0.2, torch.nan, states["s"][..., 0]), 0.6)
    task = replace(COST, constraints={"gap": gap})
    start = {"s": START["s"][:1]}
    plan = Lagrangian(CEM(H, 100, 10, 4)).plan(WALK, task, start, space=TWO)
    assert plan.discarded is not None
    assert plan.discarded.item() > 0
    assert plan.states["s"][..., 1].max() <= 0.2
    nothing = Constraint(lambda states, _: states["s"][..., 0] * torch.nan, 0.6)
    with pytest.raises(NonFiniteError, match=r"NaN in the episodes 0(.|\n)*the constraints n are NaN there"):
        Lagrangian(CEM(H, 100, 10, 4)).plan(WALK, replace(COST, constraints={"n": nothing}), start, space=TWO)
    lost = Task(lambda states, _: states["s"][..., 0] * torch.nan, constraints={"wall": WALL})
    with pytest.raises(NonFiniteError, match="NaN in the episodes 0") as told:
        Lagrangian(CEM(H, 100, 10, 4)).plan(WALK, lost, start, space=TWO)
    assert "wall" not in str(told.value)


def test_calls_are_counted():
    rounds, inner = 3, CEM(H, 50, 5, 2)
    plan = Lagrangian(inner, rounds=rounds).plan(WALK, BOTH, START, space=TWO)
    assert plan.calls == rounds * 2 * 50 * H + (rounds + 1) * H
    assert len(plan.trace) == rounds
    assert sorted(plan.states) == ["s"]  # and nothing of multipliers


def test_levels_are_told_of_them():
    fine, coarse = (
        dynamics(lambda s, a: s + 0.1 * a),
        PriorDynamics(Deterministic("s_t = f(s_{t-1}, m_{t-1})", lambda s, m: s + 0.4 * m, shape=2)),
    )
    low, high = CEM(4, 128, 16, 8), CEM(3, 128, 16, 8)
    far = Task(lambda states, actions: (states["s"] - GOAL).square().sum(-1))
    wall = {"wall": Constraint(lambda states, actions: states["s"][..., 0], 0.25)}
    task, start = replace(far, constraints=wall), {"s": torch.zeros(1, 2, dtype=torch.float64)}
    kept = Hierarchy(Lagrangian(low), (Level(coarse, {"m": ActionSet(2)}, Lagrangian(high)),))
    plan = kept.plan(fine, task, start, space=TWO)
    assert plan.feasible is not None
    assert plan.feasible.item()
    assert plan.states["s"][..., 0].max() <= 0.2511
    assert plan.states["s"][0, -1, 1] < -0.2  # it goes where nothing is in the way
    with pytest.raises(ConfigError, match="constraints, wall.*\n.*Lagrangian"):
        replace(kept, planner=low).plan(fine, task, start, space=TWO)
    with pytest.raises(ConfigError, match="levels with an action 'm'"):
        Lagrangian(Hierarchy(low, kept.above)).plan(fine, task, start, space=TWO)
    summed = replace(task, constraints={"wall": replace(wall["wall"], reduce="sum")})
    with pytest.raises(ConfigError, match="wall: levels take steps of other lengths"):
        kept.plan(fine, summed, start, space=TWO)


def test_a_term_of_a_cost_may_have_a_limit():
    cost = Cost(WALK, {"far": Distance("s"), "effort": Effort()}, weights={"far": 2.0, "effort": 3.0})
    given = {"goal": GOAL.expand(2, 2)}
    task = cost.task(given=given, limits={"effort": 0.2})
    plan = Lagrangian(SEARCH, rounds=10).plan(WALK, task, START, space=TWO)
    assert plan.feasible is not None
    assert plan.feasible.all()
    assert plan.actions["a"].square().sum(-1).max() <= 0.2011
    far = (plan.states["s"][:, 1:] - GOAL).square().sum((1, 2))
    torch.testing.assert_close(plan.cost, 2 * far)  # of effort nothing
    with pytest.raises(ConfigError, match="no term of this cost is called 'effrt'.*effort"):
        cost.task(given=given, limits={"effrt": 0.2})
    with pytest.raises(ConfigError, match="a policy does not keep 'effort'"):
        Configuration(limits={"effort": 0.2})


def test_refused():
    for planner in (CEM(H), SEARCH, Minimax(CEM(H), CEM(H))):
        with pytest.raises(ConfigError, match="constraints, wall, floor, and this search knows of costs alone"):
            planner.plan(WALK, BOTH, START, space=TWO)
    with pytest.raises(ConfigError, match="an adversary's"):
        Lagrangian(CEM(H)).plan(WALK, BOTH, START, space={"a": ActionSet(2, aim="max")})
    for wrong in ({"rounds": 0}, {"penalty": 0.0}, {"growth": 0.5}, {"tolerance": -1.0}, {"most": 0.1}):
        with pytest.raises(ConfigError, match="rounds ≥ 1"):
            Lagrangian(CEM(H), **wrong)
    with pytest.raises(ConfigError, match="a finite limit"):
        Constraint(lambda states, actions: states["s"], float("inf"))


def test_a_constraint_that_is_counted_and_one_on_the_sum_as_scipy_keeps_it():
    """Whether a state is beyond 0.6, as booleans; and a budget of effort over the plan, quadratic and active."""
    beyond = Constraint(lambda states, actions: states["s"][..., 0] > 0.6)
    plan = Lagrangian(CEM(H, 300, 30, 10)).plan(WALK, replace(COST, constraints={"wall": beyond}), START, space=TWO)
    path = START["s"][:, None].numpy() + 0.8 * np.cumsum(plan.actions["a"].numpy(), 1)
    assert plan.feasible is not None
    assert plan.feasible.all()
    assert (path[..., 0] <= 0.6).all()
    budget = Constraint(lambda states, actions: actions["a"].square().sum(-1), 0.5, reduce="sum")
    plan = Lagrangian(SEARCH, rounds=10).plan(WALK, replace(COST, constraints={"effort": budget}), START, space=TWO)
    goal, ahead = GOAL.numpy(), 0.8 * np.tril(np.ones((H, H)))
    for b, start in enumerate(START["s"].numpy()):

        def cost(a, start=start):
            return float(((start + ahead @ a.reshape(H, 2) - goal) ** 2).sum() + 0.1 * (a**2).sum())

        kept = {"type": "ineq", "fun": lambda a: 0.5 - (a**2).sum()}
        right = minimize(cost, np.full(2 * H, 0.1), method="SLSQP", constraints=kept, options={"ftol": 1e-14})
        assert (right.x**2).sum() == pytest.approx(0.5, abs=1e-4)  # it is active
        assert plan.cost[b].item() == pytest.approx(right.fun, abs=5e-3)
        assert plan.actions["a"][b].square().sum().item() <= 0.5 + 1e-3
