"""Steps that take more than one step of time: discounts by γ^Δ, as arithmetic by hand and enumeration have them."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError, UnknownVariableError
from worldformula.formula import Deterministic, E, Normal, Sum, log
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.score import Score
from worldformula.world import PriorDynamics, State, World

LONG = (1.0, 2.0, 4.0)
MOVES = {"a": ActionSet(3, "choice")}


class Jump(nn.Module):
    """Choice k moves 1, 2 or 4 steps of time, and as far along a line."""

    def forward(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        span = (a * a.new_tensor(LONG)).sum(-1)
        return s + span.unsqueeze(-1), span


class Along(nn.Module):
    """The same without saying how long it takes."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + (a * a.new_tensor(LONG)).sum(-1, keepdim=True)


def jumping() -> PriorDynamics:
    core = Deterministic("s_t, k_t = jump(s_{t-1}, a_{t-1})", Jump(), shape=[1, ()])
    return PriorDynamics(core, duration="k")


def cost(states: State, _: object) -> Tensor:
    return (states["s"][..., 0] - 3).square()


def by_hand(start: float, path: tuple[int, ...], gamma: float, spans: bool = True) -> float:
    at, weight, total = start, 1.0, 0.0
    for choice in path:
        at += LONG[choice]
        total += weight * (at - 3) ** 2
        weight *= gamma ** (LONG[choice] if spans else 1.0)
    return total + weight * 0.5 * at


@pytest.mark.parametrize("gamma", [1.0, 0.7, 0.0])
def test_later_costs_weigh_by_how_long_it_took_until_then(gamma: float) -> None:
    paths = list(product(range(3), repeat=3))
    actions = torch.eye(3)[torch.tensor(paths)].unsqueeze(0)
    task = Task(cost, value=lambda s: 0.5 * s["s"][:, 0], discount=gamma)
    start = {"s": torch.tensor([[-1.0]])}
    for world, spans in (
        (jumping(), True),
        (PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Along(), shape=1)), False),
    ):
        score = Score(world, task, start, MOVES, 3, [torch.Generator()])
        right = [by_hand(-1.0, path, gamma, spans) for path in paths]
        torch.testing.assert_close(score({"a": actions})[0], torch.tensor(right))


def test_discount_and_continuation_multiply() -> None:
    states = State({"s": torch.zeros(1, 3, 1)}, 2)
    task = Task(lambda s, _: torch.ones(s.lead), proceed=lambda s: torch.tensor([[0.5, 1.0, 0.2]]), discount=0.9)
    durations = torch.tensor([[2.0, 1.0, 3.0]])
    right = 1 + 0.5 * 0.81 + 0.5 * 1.0 * 0.9**3
    assert float(task.of(states, {}, durations)) == pytest.approx(right)
    assert float(task.of(states, {})) == pytest.approx(1 + 0.5 * 0.9 + 0.5 * 0.81)


def test_the_best_plan_by_enumeration_is_found_and_says_how_long_it_takes() -> None:
    starts = torch.tensor([[-1.0], [1.5], [2.9]])
    task = Task(cost, value=lambda s: 0.5 * s["s"][:, 0], discount=0.7)
    plan = CEM(horizon=3, candidates=300, elites=20, iterations=6).plan(jumping(), task, {"s": starts}, space=MOVES)
    for b, start in enumerate(starts[:, 0].tolist()):
        best = min(product(range(3), repeat=3), key=lambda path: by_hand(start, path, 0.7))
        assert plan.actions["a"][b].argmax(-1).tolist() == list(best)
        assert float(plan.cost[b]) == pytest.approx(by_hand(start, best, 0.7), rel=1e-5)
        assert plan.durations is not None
        assert plan.durations[b].tolist() == [LONG[choice] for choice in best]


def test_a_world_and_its_levels_pass_the_duration_on() -> None:
    core = Deterministic("s_t, k_t = jump(s_{t-1}, a_{t-1})", Jump(), shape=[1, ()])
    seen = Normal("p(x_t|s_t)", nn.Identity(), shape=1, scale=1.0)
    loss = Sum("t", E(core, -log(seen))).mean()
    world = World(prior=core, posterior=core, heads=[seen], loss=loss, duration="k")
    levels = World(posterior=core, loss=loss, levels={"far": PriorDynamics(core, [seen], duration="k")})
    task, start = Task(cost, discount=0.5), {"s": torch.zeros(1, 1)}
    for dynamics in (world, levels.levels["far"]):
        plan = CEM(horizon=2, candidates=20, elites=4, iterations=2).plan(dynamics, task, start, space=MOVES)
        assert plan.durations is not None
        assert plan.durations.shape == (1, 2)
    assert CEM(horizon=2, candidates=8, elites=2, iterations=1).plan(
        PriorDynamics(core), task, start, space=MOVES
    ).durations is None  # fmt: skip


def test_what_is_no_duration_is_refused() -> None:
    core = Deterministic("s_t, k_t = jump(s_{t-1}, a_{t-1})", Jump(), shape=[1, ()])
    with pytest.raises(UnknownVariableError, match="duration='kk': the prior declares s, k"):
        PriorDynamics(core, duration="kk")
    with pytest.raises(ConfigError, match="expected a discount from 0 to 1, got 1.5"):
        Task(cost, discount=1.5)
    start, plain = {"s": torch.tensor([[-9.0]])}, Task(cost)
    planner = CEM(horizon=2, candidates=8, elites=2, iterations=1)
    with pytest.raises(ConfigError, match="expected durations s above 0, got -"):
        planner.plan(PriorDynamics(core, duration="s"), plain, start, space=MOVES)
    two = Deterministic("s_t, k_t = jump(s_{t-1}, a_{t-1})", lambda s, a: (s, a[:, :2]), shape=[1, 2])
    with pytest.raises(ShapeError, match="expected one duration a step"):
        planner.plan(PriorDynamics(two, duration="k"), plain, start, space=MOVES)
