"""The configurator that learns: its gradient by finite differences, weights and goals that are known in closed form."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula.agent.configurator import Configuration
from worldformula.agent.configuring import LearnedConfigurator, learn, outcome, settled
from worldformula.agent.cost import Cost
from worldformula.agent.terms import Distance, Effort
from worldformula.errors import ConfigError, NonFiniteError, ShapeError
from worldformula.formula import Deterministic
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.world import PriorDynamics

H, SPACE = 3, {"a": ActionSet(2)}
SEARCH = Gradient(H, 1, 200, lr=0.02)


class Drift(nn.Module):
    """A linear world whose matrix has weights, which nobody here may move."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([[0.9, 0.2], [-0.2, 0.9]], dtype=torch.float64))

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s @ self.turn + 0.5 * a


def world() -> PriorDynamics:
    return PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Drift(), shape=2))


def cost_of(dynamics) -> Cost:
    return Cost(dynamics, {"far": Distance("s"), "effort": Effort()})


def starts() -> dict[str, Tensor]:
    return {"s": torch.tensor([[0.4, -0.3], [-0.2, 0.5]], dtype=torch.float64)}


def judge(weight: float, goal: Tensor) -> Task:
    return Task(
        lambda states, actions: weight * (states["s"] - goal).square().sum(-1) + actions["a"].square().sum(-1),
    )


def least_squares(weight: float, goal: np.ndarray, start: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """argmin_a Σ_t |s_t − g|² + w |a_t|², by NumPy: s is linear in a."""
    powers = [np.linalg.matrix_power(turn, t) for t in range(H + 1)]
    ahead = np.zeros((2 * H, 2 * H))
    for t in range(H):
        for k in range(t + 1):
            ahead[2 * t : 2 * t + 2, 2 * k : 2 * k + 2] = 0.5 * powers[t - k].T
    free = np.concatenate([start @ powers[t + 1] for t in range(H)])
    left = ahead.T @ ahead + weight * np.eye(2 * H)
    return np.linalg.solve(left, ahead.T @ (np.tile(goal, H) - free)).reshape(H, 2)


def test_the_gradient_is_that_of_plans_made_anew():
    """By finite differences of least squares, of the weight and of the goal."""
    dynamics, goal = world(), torch.tensor([[0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    configuration = Configuration(weights={"far": 1.0, "effort": weight}, goal={"goal": goal})
    target = torch.tensor([0.1, -0.4], dtype=torch.float64)
    found = outcome(configuration, cost_of(dynamics), judge(3.0, target), SEARCH, starts(), SPACE)
    by_weight, by_goal = torch.autograd.grad(found.sum(), [weight, goal])
    turn = dynamics.prior.factors[0].net.turn.detach().numpy()

    def by_hand(w: float, g: np.ndarray) -> float:
        total = 0.0
        for start in starts()["s"].numpy():
            s = start
            for a in least_squares(w, g, start, turn):
                s = s @ turn + 0.5 * a
                total += 3 * ((s - target.numpy()) ** 2).sum() + (a**2).sum()
        return total

    g, e = goal.detach().numpy()[0], 1e-5
    assert found.sum().item() == pytest.approx(by_hand(0.7, g), rel=1e-6)
    assert by_weight.item() == pytest.approx((by_hand(0.7 + e, g) - by_hand(0.7 - e, g)) / (2 * e), rel=1e-4)
    for i in range(2):
        step = e * np.eye(2)[i]
        slope = (by_hand(0.7, g + step) - by_hand(0.7, g - step)) / (2 * e)
        assert by_goal[0, i].item() == pytest.approx(slope, rel=1e-4)


def test_weights_and_goals_come_to_what_the_judge_wants_and_the_world_stays_as_it_is():
    """Judged by q |s − 2y|² + |a|², of the description (q, y): the weight of effort is 1/q, the goal 2y; unseen ones
    too. The network says a line of 1/q and of y, so that both can be met.
    """
    torch.manual_seed(0)
    dynamics = world()
    before = hashlib.sha256(dynamics.prior.factors[0].net.turn.detach().numpy().tobytes()).hexdigest()

    class Said(nn.Module):
        """(q, y) to the softplus' argument of a power of q, and a line of y."""

        def __init__(self) -> None:
            super().__init__()
            self.power = nn.Parameter(torch.zeros(2, dtype=torch.float64))
            self.line = nn.Linear(2, 2).double()

        def forward(self, told: Tensor) -> Tensor:
            weight = (self.power[0] + self.power[1] * told[:, :1].log()).exp()
            return torch.cat((weight.expm1().log(), self.line(told[:, 1:])), -1)

    configurator = LearnedConfigurator(Said(), ["effort"], {"goal": 2}, Configuration({"far": 1.0}))
    adam = torch.optim.Adam(configurator.parameters(), lr=0.05)
    assert not {id(p) for group in adam.param_groups for p in group["params"]} & {id(p) for p in dynamics.parameters()}
    quick, generator = Gradient(H, 1, 3), torch.Generator().manual_seed(0)
    for _ in range(250):  # a step of Newton ends a search that has hardly begun, as all is quadratic
        q = 0.5 + 3 * torch.rand(1, generator=generator, dtype=torch.float64)
        y = 0.3 * torch.rand(2, generator=generator, dtype=torch.float64) - 0.15
        found = outcome(
            configurator(torch.cat((q, y))), cost_of(dynamics), judge(float(q), 2 * y), quick, starts(), SPACE
        )
        learn(configurator, adam, found)
    for q, y in ((0.8, [0.1, -0.05]), (2.7, [-0.12, 0.02])):
        told = configurator(torch.tensor([q, *y], dtype=torch.float64))
        assert told.weights["effort"].item() == pytest.approx(1 / q, rel=0.05)
        np.testing.assert_allclose(told.goal["goal"].detach()[0], 2 * np.array(y), atol=0.02)
        assert told.weights["far"] == 1.0
    assert hashlib.sha256(dynamics.prior.factors[0].net.turn.detach().numpy().tobytes()).hexdigest() == before
    assert all(p.grad is None for p in dynamics.parameters())


def test_an_action_at_a_bound_depends_on_nothing():
    dynamics, weight = world(), torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    far = {"goal": torch.full((1, 2), 50.0, dtype=torch.float64)}
    configuration = Configuration(weights={"effort": weight}, goal=far)
    found = outcome(configuration, cost_of(dynamics), judge(1.0, torch.zeros(2)), SEARCH, starts(), SPACE)
    assert torch.autograd.grad(found.sum(), weight)[0].item() == 0


def test_refused():
    dynamics = world()
    with pytest.raises(ShapeError, match=r"\[1, 3\], a number for each of effort"):
        LearnedConfigurator(nn.Linear(2, 5), ["effort"], {"goal": 2})(torch.zeros(2))
    made = Configuration(goal=lambda rows: {"goal": torch.zeros(1, 2)})
    with pytest.raises(ConfigError, match="goals goal are learnt"):
        LearnedConfigurator(nn.Linear(2, 3), ["effort"], {"goal": 2}, made)
    with pytest.raises(ConfigError, match="goals by name"):
        outcome(made, cost_of(dynamics), judge(1.0, torch.zeros(2)), SEARCH, starts(), SPACE)
    hollow = Task(lambda states, actions: -actions["a"].square().sum(-1) + 0 * states["s"].sum(-1))
    plan = CEM(H, 20, 4, 2).plan(dynamics, judge(1.0, torch.zeros(2)), starts(), space=SPACE)
    with pytest.raises(ConfigError, match=r"does not curve upwards at the plans of the episodes \[0, 1\]"):
        settled(plan, dynamics, hollow, starts(), SPACE)
    steady = settled(plan, dynamics, hollow, starts(), SPACE, damping=5.0)
    assert steady["a"].shape == (2, H, 2)
    with pytest.raises(ConfigError, match="of kind choice"):
        settled(plan, dynamics, hollow, starts(), {"a": ActionSet(2, "choice")})


def test_what_plans_would_be_made_without_is_refused_and_nothing_is_learnt_of_what_is_no_number():
    dynamics, goal = world(), {"goal": torch.zeros(1, 2, dtype=torch.float64)}
    asked = (cost_of(dynamics), judge(1.0, torch.zeros(2)), SEARCH, starts(), SPACE)
    for wrong, named in (
        ({"limits": {"effort": 0.1}, "planner": SEARCH}, "limits of effort"),
        ({"value": True}, "value"),
    ):
        with pytest.raises(ConfigError, match=f"{named}(.|\n)*would be made without"):
            outcome(Configuration({"far": 1.0}, goal=goal, **wrong), *asked)
    with pytest.raises(ShapeError, match="goals of one row, or of 2"):
        outcome(Configuration({"far": 1.0}, goal={"goal": torch.zeros(3, 2)}), *asked)
    with pytest.raises(ConfigError, match="no term of this cost is called 'efort'.*Did you mean 'effort'"):
        outcome(Configuration({"efort": 1.0}, goal=goal), *asked)
    with pytest.raises(ConfigError, match="got 'effort' twice"):
        LearnedConfigurator(nn.Linear(1, 2), ["effort", "effort"])
    configurator = LearnedConfigurator(nn.Linear(1, 1), ["effort"])
    before = [p.detach().clone() for p in configurator.parameters()]
    bad = configurator(torch.ones(1)).weights["effort"] * torch.tensor([1.0, torch.nan])
    with pytest.raises(NonFiniteError, match=r"outcomes of the episodes \[1\]"):
        learn(configurator, torch.optim.SGD(configurator.parameters(), 0.1), bad)
    assert all(torch.equal(a, b) for a, b in zip(configurator.parameters(), before, strict=True))
