"""GRASP: the optimum of a linear system by Riccati, a way around that gradients do not find, its steps by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.planners.test_mppi import GOAL, TWO, Bent, dynamics
from worldformula.errors import ConfigError, NonFiniteError
from worldformula.formula import Deterministic, Normal
from worldformula.nets.transformer import CausalTransformer
from worldformula.planner import ActionSet, Constraint, Task
from worldformula.planners.gradient import Gradient
from worldformula.planners.grasp import GRASP
from worldformula.planners.lagrangian import Lagrangian
from worldformula.testing import check_planner
from worldformula.world import PriorDynamics

H = 4
TASK = Task(lambda states, actions: (states["s"] - GOAL).square().sum(-1) + 0.1 * actions["a"].square().sum(-1))


def test_laws():
    for space in ({"a": ActionSet(2)}, {"m": ActionSet(2), "u": ActionSet(1)}):
        check_planner(GRASP(6, 4, 12, every=5, refine=6), space)


def test_of_a_linear_system_it_finds_what_the_riccati_equation_says():
    horizon, start = 20, np.array([0.1, 0.04])
    A, B, Q, R = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.3]]), np.diag([1.0, 0.1]), np.array([[0.05]])
    P = Q
    for _ in range(horizon):
        K = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        before, P = A.T @ P @ (A - B @ K), Q + A.T @ P @ (A - B @ K)
    right = start @ before @ start  # the present costs nothing
    a, b = torch.from_numpy(A.T), torch.from_numpy(B.T)
    system = dynamics(lambda s, u: s @ a + u @ b)
    task = Task(lambda st, acts: (st["s"] ** 2 * torch.tensor([1.0, 0.1])).sum(-1) + 0.05 * acts["a"][..., 0] ** 2)
    search = GRASP(horizon, 1, 40, refine=300, lr=0.01)
    plan = search.plan(system, task, {"s": torch.from_numpy(start)[None]}, space={"a": ActionSet(1)})
    assert plan.actions["a"].abs().max() < 0.99  # no bound is active, of which the equation knows none
    assert right * (1 - 1e-9) <= plan.cost.item() <= 1.01 * right


def test_it_goes_around_a_hill_before_which_the_gradient_stops():
    """Forty steps to a goal behind a hill: from the same starts, at no more steps of the model."""
    walk = dynamics(lambda s, a: s + 0.1 * a)
    goal = torch.tensor([2.0, 0.0], dtype=torch.float64)

    def cost(states, _):
        x, y = states["s"].unbind(-1)
        return (states["s"] - goal).square().sum(-1) + 30 * torch.exp(-((x - 1).square() / 0.05 + y.square() / 0.3))

    start, space = {"s": torch.zeros(4, 2, dtype=torch.float64)}, TWO
    seeds = lambda: [torch.Generator().manual_seed(10 + i) for i in range(4)]  # noqa: E731
    found = GRASP(40, 4, 60).plan(walk, Task(cost), start, space=space, generators=seeds())
    other = Gradient(40, 4, 140).plan(walk, Task(cost), start, space=space, generators=seeds())
    assert found.calls < other.calls
    assert (found.cost < 0.8 * other.cost).all()
    assert (other.states["s"][:, -1, 0] < 1).all()  # it stands before the hill, and this is behind it
    assert (found.states["s"][:, -1, 0] > 1.5).all()
    path = np.cumsum(0.1 * found.actions["a"].numpy(), 1)
    hill = 30 * np.exp(-((path[..., 0] - 1) ** 2 / 0.05 + path[..., 1] ** 2 / 0.3))
    np.testing.assert_allclose(found.cost, (((path - goal.numpy()) ** 2).sum(-1) + hill).sum(1), rtol=1e-9)


def test_its_steps_by_hand():
    """Adam of torch on actions and states, by loops, with what no gradient goes through detached."""
    start = torch.tensor([[0.4, -0.9]], dtype=torch.float64)
    turn = torch.tensor([[0.8, -0.3], [0.4, 0.9]], dtype=torch.float64)
    step = lambda s, a: torch.tanh(s @ turn) + 0.5 * a  # noqa: E731
    acts = torch.zeros(H, 2, dtype=torch.float64, requires_grad=True)
    path = [start[0]]
    for _ in range(H):
        path.append(step(path[-1], torch.zeros(2)))
    states = torch.stack(path[1:]).clone().requires_grad_()
    adams = torch.optim.Adam([acts], lr=0.2), torch.optim.Adam([states], lr=0.05)
    for _ in range(7):
        total = 0.0
        for t in range(H):
            led = step(start[0] if t == 0 else states[t - 1].detach(), acts[t])
            effort = 0.1 * acts[t].square().sum()
            total = total + (states[t] - GOAL).square().sum() + effort  # J
            total = total + 2.0 * (led - states[t]).square().sum()
            total = total + 0.3 * ((led - GOAL).square().sum() + effort)
        for adam in adams:
            adam.zero_grad()
        total.backward()
        for adam in adams:
            adam.step()
        with torch.no_grad():
            acts.clamp_(-1, 1)
    search = GRASP(H, 1, 7, lr=0.2, state_lr=0.05, noise=0.0, penalty=2.0, shaping=0.3, every=99, refine=0)
    plan = search.plan(dynamics(Bent()), TASK, {"s": start}, space=TWO)
    torch.testing.assert_close(plan.actions["a"][0], acts.detach(), atol=1e-9, rtol=0)
    # The start dreamt, seven times four single steps, and the end dreamt.
    assert plan.calls == H + 7 * H + H


class Strides(nn.Module):
    """A step whose length says how long it takes."""

    def forward(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        return s + 0.5 * a, 1 + a.square().sum(-1)


@pytest.mark.parametrize("told", [False, True], ids=["start without a duration", "start that holds one"])
def test_its_steps_by_hand_where_steps_take_times_of_their_own(told):
    """J weighs what comes after a step by γ^Δ of all before, Δ of where the dynamics leads, with its gradient."""
    gamma, start = 0.8, torch.tensor([[0.37, -0.93]], dtype=torch.float64)
    acts = torch.full((H, 2), 0.3, dtype=torch.float64, requires_grad=True)
    states = (start + 0.15 * torch.arange(1, H + 1, dtype=torch.float64)[:, None]).clone().requires_grad_()
    adams = torch.optim.Adam([acts], lr=0.2), torch.optim.Adam([states], lr=0.05)
    for _ in range(7):
        total, elapsed = 0.0, 0.0
        for t in range(H):
            before = start[0] if t == 0 else states[t - 1].detach()
            led = before + 0.5 * acts[t]
            total = total + gamma**elapsed * (states[t] - GOAL).square().sum()
            elapsed = elapsed + 1 + acts[t].square().sum()
            total = total + 2.0 * (led - states[t]).square().sum() + 0.3 * (led - GOAL).square().sum()
        for adam in adams:
            adam.zero_grad()
        total.backward()
        for adam in adams:
            adam.step()
        with torch.no_grad():
            acts.clamp_(-1, 1)
    world = PriorDynamics(Deterministic("s_t, k_t = f(s_{t-1}, a_{t-1})", Strides(), shape=[2, ()]), duration="k")
    task = Task(lambda st, _: (st["s"] - GOAL).square().sum(-1), discount=gamma)
    search = GRASP(H, 1, 7, lr=0.2, state_lr=0.05, noise=0.0, penalty=2.0, shaping=0.3, every=99, refine=0)
    warm = {"a": torch.full((1, H, 2), 0.3, dtype=torch.float64)}
    begin = {"s": start, **({"k": torch.zeros(1, dtype=torch.float64)} if told else {})}
    plan = search.plan(world, task, begin, space=TWO, warm=warm)
    torch.testing.assert_close(plan.actions["a"][0], acts.detach(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("samples", [0, 3])
def test_with_constraints_what_it_says_is_of_the_dream_and_not_of_virtual_states(samples):
    """The path by sums: virtual states may stand anywhere, and were once taken for where a plan leads."""
    wall = Constraint(lambda states, _: states["s"][..., 0], 0.5)
    goal = torch.tensor([3.0, 0.0], dtype=torch.float64)
    task = Task(lambda st, _: (st["s"] - goal).square().sum(-1), samples=samples, constraints={"wall": wall})
    walk, start = dynamics(lambda s, a: s + 0.4 * a), {"s": torch.zeros(3, 2, dtype=torch.float64)}
    search = Lagrangian(GRASP(H, 2, 20, every=5, descents=1, refine=2))
    plan = search.plan(walk, task, start, space=TWO)
    path = np.cumsum(0.4 * plan.actions["a"].numpy(), 1)
    np.testing.assert_allclose(plan.cost, ((path - goal.numpy()) ** 2).sum((1, 2)), rtol=1e-9)
    np.testing.assert_allclose(plan.violation, np.maximum(path[..., 0] - 0.5, 0).max(1), atol=1e-12)


class Closed(torch.autograd.Function):
    """A number that must not be differentiated."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, slope):
        raise AssertionError("a gradient went into a state")


def test_no_gradient_goes_into_a_state_that_the_dynamics_reads():
    closed, start = dynamics(lambda s, a: Closed.apply(s) + 0.4 * a), {"s": torch.zeros(1, 2, dtype=torch.float64)}
    plan = GRASP(H, 2, 10, descents=0, refine=0).plan(closed, TASK, start, space=TWO)
    assert plan.cost.item() < plan.trace[0].item()  # that of the starts
    with pytest.raises(AssertionError, match="a gradient went into a state"):
        GRASP(H, 2, 10, descents=0, refine=1).plan(closed, TASK, start, space=TWO)


class Pulled(nn.Module):
    """A point drawn towards a condition y."""

    def forward(self, s: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return s + 0.2 * (y - s) + 0.3 * a


def test_goals_and_conditions_are_no_virtual_states():
    model = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1}, y)", Pulled(), shape=2))
    y, goal = torch.tensor([[0.5, 0.5], [-1.0, 0.2]]), torch.tensor([[0.0, 1.0], [0.3, 0.3]])
    task = Task(
        lambda states, _: (
            (states["s"] - states["goal"]).square().sum(-1) + (states["s"] - states["y"]).square().sum(-1)
        ),
        given={"goal": goal},
    )
    plan = GRASP(5, 2, 30, every=10).plan(model, task, {"s": torch.zeros(2, 2), "y": y}, space=TWO)
    assert (plan.states["y"] == y[:, None]).all()
    assert (plan.states["goal"] == goal[:, None]).all()
    best = (y + goal) / 2  # of both squares
    torch.testing.assert_close(plan.states["s"][:, -1], best, atol=0.05, rtol=0)


def test_calls_are_counted_and_what_is_no_number_is_discarded():
    far = lambda states: (states["s"] - GOAL).square().sum(-1)  # noqa: E731
    gap = Task(lambda states, _: torch.where(states["s"][..., 0] > 0.2, torch.nan, far(states)))
    start = {"s": torch.zeros(2, 2, dtype=torch.float64)}
    walk = dynamics(lambda s, a: s + 0.4 * a)
    plan = GRASP(H, 3, 20, every=8, descents=2, refine=5).plan(walk, gap, start, space=TWO)
    assert plan.calls == 3 * H * (1 + 20 + 2 * (1 + 2) + 5 + 1)
    assert plan.discarded is not None
    assert (plan.discarded > 0).all()
    assert plan.states["s"][..., 0].max() <= 0.2
    with pytest.raises(NonFiniteError, match="NaN in the episodes 0, 1"):
        GRASP(H, 3, 5).plan(walk, Task(lambda states, _: states["s"][..., 0] * torch.nan), start, space=TWO)


def test_refused():
    start = {"s": torch.zeros(1, 2, dtype=torch.float64)}
    with pytest.raises(ConfigError, match="of kind choice.*cem, icem and mppi"):
        GRASP(H).plan(dynamics(), TASK, start, space={"a": ActionSet(2, "choice")})
    flat = Task(lambda states, _: (states["s"] > 0).double().sum(-1))
    with pytest.raises(ConfigError, match="no gradient with regard to the actions"):
        GRASP(H, shaping=0.0, penalty=1.0, refine=1, iterations=1, every=1).plan(dynamics(), flat, start, space=TWO)
    past = PriorDynamics(Normal("p(z_t|z_{<t}, a_{<t})", CausalTransformer(4, 4, width=8, heads=1), shape=2))
    remembers = Task(lambda states, _: states["z"].square().sum(-1))
    with pytest.raises(ConfigError, match=r"keeps a past of its own(.|\n)*write Gradient\(horizon=4\)"):
        GRASP(H).plan(past, remembers, past.initial(1), space=TWO)
    for wrong in ({"lr": 0.0}, {"penalty": 0.0}, {"noise": -1.0}):
        with pytest.raises(ConfigError, match="lr, state_lr, penalty and std > 0"):
            GRASP(**wrong)
    for wrong in ({"every": 0}, {"refine": -1}):
        with pytest.raises(ConfigError, match="every ≥ 1"):
            GRASP(**wrong)
