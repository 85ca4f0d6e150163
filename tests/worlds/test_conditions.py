"""Conditions that are held through a dream, such as a goal: in the prior, in heads, in the policy, in a plan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, MissingInputError, ShapeError
from worldformula.formula import Deterministic, Normal
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.testing import check_dynamics
from worldformula.world import PriorDynamics, State

N, H = 3, 4


class Pull(nn.Module):
    """s' = s + a + (y − s)/4."""

    def forward(self, s: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return s + a + 0.25 * (y - s)


class Gap(nn.Module):
    """y − s."""

    def forward(self, s: Tensor, y: Tensor) -> Tensor:
        return y - s


def pulled() -> PriorDynamics:
    core = Deterministic("s_t = pull(s_{t-1}, a_{t-1}, y)", Pull(), shape=2)
    return PriorDynamics(core, {"gap": Normal("p(g_t|s_t,w)", Gap(), shape=2, scale=1.0)})


def values() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(N, 2), torch.randn(N, H, 2), torch.randn(N, 2), torch.randn(N, 2)


def by_hand(s: Tensor, actions: Tensor, y: Tensor) -> Tensor:
    found = [s]
    for t in range(actions.shape[1]):
        found.append(found[-1] + actions[:, t] + 0.25 * (y - found[-1]))
    return torch.stack(found, 1)


def test_a_dream_under_actions_holds_its_condition() -> None:
    world, (s, a, y, w) = pulled(), values()
    assert world.conditions == ("y", "w")
    dream = world.imagine({"s": s}, actions=a, given={"y": y})
    torch.testing.assert_close(dream["s"], by_hand(s, a, y))
    assert torch.equal(dream["y"], y[:, None].expand(N, H + 1, 2))
    assert "w" not in dream
    for same in (
        world.imagine({"s": s, "y": y}, actions=a),
        world.imagine({"s": s}, actions=a, y=y),
        world.imagine({"s": s, "y": 0 * y}, actions=a, given={"y": y}),
    ):
        assert torch.equal(same["s"], dream["s"])
    both = world.imagine({"s": s}, actions=a, given={"y": y, "w": w})
    torch.testing.assert_close(world.decode(both)["gap"], w[:, None] - both["s"])
    later = world.imagine(both.last(), actions=a[:, :2])
    torch.testing.assert_close(later["s"], by_hand(both["s"][:, -1], a[:, :2], y))
    assert torch.equal(later["w"][:, 2], w), "a dream goes on with what it held"


def test_a_policy_reads_a_goal_that_only_it_knows() -> None:
    world, (s, _, y, _) = pulled(), values()
    policy = Normal("π(a_t|s_t,goal)", Gap(), shape=2, scale=0.1)
    goal = torch.tensor([[1.0, -1.0]]).expand(N, 2)
    dream = world.imagine({"s": s}, policy, horizon=H, given={"y": y, "goal": goal}, deterministic=True)
    at = s
    for t in range(H + 1):
        torch.testing.assert_close(dream["s"][:, t], at)
        torch.testing.assert_close(dream["a"][:, t], goal - at)
        at = goal + 0.25 * (y - at)
    wide = world.imagine(
        State({"s": s.unsqueeze(1).expand(N, 2, 2)}, 2), policy, horizon=H, deterministic=True,
        given={"y": y.unsqueeze(1).expand(N, 2, 2), "goal": goal.unsqueeze(1).expand(N, 2, 2)},
    )  # fmt: skip
    assert torch.equal(wide["a"][:, 1], dream["a"])
    assert wide["goal"].shape == (N, 2, H + 1, 2)


def test_a_dream_without_actions_holds_it_too() -> None:
    class Toward(nn.Module):
        def forward(self, s: Tensor, y: Tensor) -> Tensor:
            return 0.5 * (s + y)

    world, (s, _, y, _) = PriorDynamics(Deterministic("s_t = toward(s_{t-1}, y)", Toward(), shape=2)), values()
    dream = world.imagine({"s": s}, horizon=2, given={"y": y})
    torch.testing.assert_close(dream["s"][:, 2], 0.25 * s + 0.75 * y)


def test_a_plan_for_each_episode_keeps_its_own_condition() -> None:
    """Under s' = s + a + (y − s)/4 the cost of one step is least at a = −(s + (y − s)/4), inside the set."""
    world, (s, _, y, _) = pulled(), values()
    s, y = 0.3 * s, 0.3 * y
    task = Task(lambda states, _: states["s"].square().sum(-1) + 0 * states["y"].sum(-1))
    plan = CEM(horizon=1, candidates=300, elites=20, iterations=12).plan(
        world, task, {"s": s, "y": y}, space={"a": ActionSet(2)}
    )
    torch.testing.assert_close(plan.actions["a"][:, 0], -(s + 0.25 * (y - s)), atol=0.02, rtol=0)
    assert torch.equal(plan.states["y"][:, 1], y)


def test_sampled_dreams_of_a_plan_draw_their_noise_with_the_condition() -> None:
    prior = Normal("p(s_t|s_{t-1},a_{t-1},y)", Pull(), shape=2, scale=0.1)
    world, (s, _, y, _) = PriorDynamics(prior), values()
    task = Task(lambda states, _: states["s"].square().sum(-1), samples=4, risk=0.5)
    plan = CEM(horizon=2, candidates=20, elites=4, iterations=2).plan(
        world, task, {"s": s, "y": y}, space={"a": ActionSet(2)}
    )
    assert plan.cost.shape == (N,)


def test_the_laws_hold_with_a_condition_in_the_start() -> None:
    class With(PriorDynamics):
        def initial(self, batch: int, **options: object) -> State:  # type: ignore[override]
            return super().initial(batch) | {"y": torch.ones(batch, 2), "w": torch.ones(batch, 2)}

    core = Deterministic("s_t = pull(s_{t-1}, a_{t-1}, y)", Pull(), shape=2)
    check_dynamics(With(core), {"a": torch.randn(3, 2, 2)})


def test_what_is_missing_unknown_or_of_other_rows_is_said() -> None:
    world, (s, a, y, _) = pulled(), values()
    with pytest.raises(MissingInputError, match=r"the prior reads y, which has no time.*\n.*given=\{'y': \.\.\.\}"):
        world.imagine({"s": s}, actions=a)
    with pytest.raises(FormulaError, match="nothing in this dream reads 'goal'; conditions without time: y, w"):
        world.imagine({"s": s}, actions=a, given={"y": y, "goal": y})
    with pytest.raises(ShapeError, match="what is held has other rows than the start"):
        world.imagine({"s": s}, actions=a, given={"y": y[:1]})
    with pytest.raises(FormulaError, match="decode: p|needs"):
        world.decode(world.imagine({"s": s}, actions=a, given={"y": y}))
