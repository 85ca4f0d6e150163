"""CEM on worlds whose best plan is known, and the laws of every planner."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from worldformula.agent.configurator import Configuration, Configurator
from worldformula.candidates import Pool
from worldformula.errors import CatalogueError, ConfigError, NonFiniteError, ShapeError
from worldformula.formula import Deterministic, E, Normal, Sum, log
from worldformula.planner import ActionSet, CVaR, Task
from worldformula.planners.cem import CEM
from worldformula.score import Score
from worldformula.world import PriorDynamics, State, World


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


def distance(goal: Tensor) -> Task:
    return Task(lambda states, actions: (states["s"] - goal).square().sum(-1))


TWO, MOVES = {"a": ActionSet(2)}, {"a": ActionSet(3, "choice")}


def test_the_straight_way_is_found() -> None:
    goal = torch.tensor([1.0, -0.6])
    start = {"s": torch.tensor([[0.0, 0.0], [1.0, 1.0]])}
    plan = CEM(horizon=8, candidates=400, elites=40, iterations=12).plan(world(), distance(goal), start, space=TWO)
    actions = plan.actions["a"]
    end = start["s"] + 0.2 * actions.sum(1)
    assert (end - goal).abs().max() < 0.15
    # The best any plan can do: full speed along each axis until there.
    best = torch.zeros(2)
    for b, axis in itertools.product(range(2), range(2)):
        gap = (goal[axis] - start["s"][b, axis]).abs()
        best[b] += sum((gap - min(0.2 * k, gap)) ** 2 for k in range(1, 9))
    assert (plan.cost <= 1.15 * best + 0.05).all()
    assert (plan.cost >= best - 1e-5).all()
    assert plan.calls == 12 * 400 * 8
    assert (actions.abs() <= 1).all()


def test_discrete_actions_are_one_hot_and_find_the_exhaustive_optimum() -> None:
    goal, start = torch.tensor([2.0, 0.0]), {"s": torch.zeros(1, 2)}
    plan = CEM(horizon=5, candidates=100, elites=10).plan(world(3), distance(goal), start, space=MOVES)
    costs = []
    for moves in itertools.product((-1, 0, 1), repeat=5):
        position = torch.tensor(moves, dtype=torch.float).cumsum(0)
        costs.append(float((position - 2).square().sum()))
    assert plan.cost.item() == pytest.approx(min(costs))
    assert MOVES["a"].holds(plan.actions["a"])


def test_a_plan_does_not_depend_on_the_batch_it_was_made_in() -> None:
    planner, goal = CEM(horizon=4, candidates=50, elites=5, iterations=3), torch.tensor([0.5, 0.5])
    starts = torch.randn(16, 2)
    together = planner.plan(
        world(),
        distance(goal),
        {"s": starts},
        space=TWO,
        generators=[torch.Generator().manual_seed(i) for i in range(16)],
    )
    for i in (0, 7, 15):
        alone = planner.plan(
            world(), distance(goal), {"s": starts[i : i + 1]}, space=TWO, generators=[torch.Generator().manual_seed(i)]
        )
        torch.testing.assert_close(together.actions["a"][i], alone.actions["a"][0])


def test_the_trace_never_rises_and_ends_at_the_cost() -> None:
    plan = CEM(horizon=6).plan(world(), distance(torch.ones(2)), {"s": torch.zeros(3, 2)}, space=TWO)
    trace = torch.stack(plan.trace)
    assert (trace[1:] <= trace[:-1]).all()
    assert torch.equal(trace[-1], plan.cost)


def test_a_warm_start_at_the_optimum_stays_there() -> None:
    goal, planner = torch.tensor([0.4, 0.0]), CEM(horizon=4, candidates=100, elites=10, iterations=4, std=0.2)
    warm = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    cold = planner.plan(world(), distance(goal), {"s": torch.zeros(1, 2)}, space=TWO)
    warmed = planner.plan(world(), distance(goal), {"s": torch.zeros(1, 2)}, space=TWO, warm={"a": warm})
    assert warmed.cost < cold.cost


def test_a_mask_forbids_choices_at_the_first_step_alone() -> None:
    goal, start = torch.tensor([2.0, 0.0]), {"s": torch.zeros(1, 2)}
    planner = CEM(horizon=5, candidates=100, elites=10)
    mask = {"a": torch.tensor([[True, True, False]])}  # not to the right
    plan = planner.plan(world(3), distance(goal), start, space=MOVES, mask=mask)
    costs = [
        float((torch.tensor(moves, dtype=torch.float).cumsum(0) - 2).square().sum())
        for moves in itertools.product((-1, 0, 1), repeat=5)
        if moves[0] < 1
    ]
    assert plan.cost.item() == pytest.approx(min(costs))
    assert plan.actions["a"][0].argmax(-1).tolist()[:3] == [1, 2, 2]
    right = torch.nn.functional.one_hot(torch.full((1, 1, 5), 2), 3).float()
    proposed = planner.plan(world(3), distance(goal), start, space=MOVES, mask=mask, proposals={"a": right})
    assert proposed.actions["a"][0, 0, 2] == 0, "a forbidden proposal is not taken"
    nothing = planner.plan(world(3), distance(goal), start, space=MOVES, mask={"a": torch.zeros(1, 3)})
    assert nothing.actions["a"][0, 0].tolist() == [1, 0, 0], "where nothing is allowed, the first choice"


def test_a_proposal_that_nobody_would_draw_is_taken_if_it_is_best() -> None:
    goal, planner = torch.tensor([0.4, 0.0]), CEM(horizon=3, candidates=2, elites=1, iterations=1)
    best = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]])
    plan = planner.plan(world(), distance(goal), {"s": torch.zeros(1, 2)}, space=TWO, proposals={"a": best})
    torch.testing.assert_close(plan.actions["a"], best[:, 0])
    assert plan.calls == 3 * 3
    torch.testing.assert_close(plan.states["s"][0, :, 0], torch.tensor([0.0, 0.2, 0.4, 0.4]))
    torch.testing.assert_close(plan.shifted()["a"][0, :, 0], torch.tensor([1.0, 0.0, 0.0]))


# --------------------------------------------------------------------------------------------------------------- tasks


def scored(task: Task, actions: Tensor, dynamics: World | PriorDynamics, seed: int = 0) -> Tensor:
    start = {"s": torch.zeros(len(actions), 2)}
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(actions))]
    return Score(dynamics, task, start, TWO, actions.shape[2], generators)({"a": actions})


def test_a_task_sees_arriving_states_and_the_actions_that_led_there() -> None:
    actions = torch.rand(2, 3, 4, 2)
    s = 0.2 * actions.cumsum(2)
    both = Task(lambda states, a: states["s"].sum(-1) * 10 + a["a"].square().sum(-1))
    torch.testing.assert_close(scored(both, actions, world()), (10 * s.sum(-1) + actions.square().sum(-1)).sum(-1))
    last = Task(lambda states, a: states["s"].sum(-1), reduce="last")
    torch.testing.assert_close(scored(last, actions, world()), s[:, :, -1].sum(-1))


def test_what_comes_after_an_end_weighs_less_and_the_value_stands_behind_the_last_state() -> None:
    actions = torch.rand(1, 2, 3, 2)
    s = 0.2 * actions.cumsum(2)
    task = Task(
        lambda states, a: states["s"].sum(-1),
        value=lambda state: state["s"].square().sum(-1),
        proceed=lambda states: 0.5 + 0.1 * states["s"][..., 0],
    )
    cost, going, end = s.sum(-1), 0.5 + 0.1 * s[..., 0], s[:, :, -1].square().sum(-1)
    by_hand = cost[..., 0] + going[..., 0] * cost[..., 1] + going[..., 0] * going[..., 1] * cost[..., 2]
    by_hand = by_hand + going.prod(-1) * end
    torch.testing.assert_close(scored(task, actions, world()), by_hand)
    led = replace(task, guide=lambda states, a: a["a"].sum(-1) - states["s"][..., 1], discount=0.9)
    weight = 0.9 * going
    by_hand = cost[..., 0] + weight[..., 0] * cost[..., 1] + weight[..., 0] * weight[..., 1] * cost[..., 2]
    by_hand = by_hand + weight.prod(-1) * end + (actions.sum(-1) - s[..., 1]).sum(-1)  # whatever ends
    torch.testing.assert_close(scored(led, actions, world()), by_hand)
    last = scored(replace(led, reduce="last", value=None), actions, world())
    torch.testing.assert_close(last, weight[..., :2].prod(-1) * cost[..., 2] + actions[:, :, 2].sum(-1) - s[:, :, 2, 1])


class Noisy:
    """s_t ~ N(s_{t-1} + 0.2 a_{t-1}, 1)."""

    def __new__(cls) -> PriorDynamics:
        return PriorDynamics(Normal("p(s_t|s_{t-1},a_{t-1})", Point(), shape=2, scale=1.0))


def test_all_candidates_of_an_episode_share_the_noise_of_their_dreams() -> None:
    """Cost s_T: two candidates differ by what their actions differ, whatever the noise; samples are averaged."""
    task = Task(lambda states, a: states["s"].sum(-1), samples=5, reduce="last")
    actions = torch.rand(2, 3, 4, 2)
    cost = scored(task, actions, Noisy())
    moved = 0.2 * actions.sum((2, 3))
    torch.testing.assert_close(cost - cost[:, :1], moved - moved[:, :1])
    noise = (cost - moved)[:, 0]
    assert noise.abs().min() > 1e-3
    assert (noise[0] - noise[1]).abs() > 1e-3, "each episode has its own"
    torch.testing.assert_close(scored(task, actions[1:], Noisy(), seed=1), cost[1:])


def test_a_world_is_sampled_as_its_prior_and_a_certain_one_costs_what_its_modes_cost() -> None:
    move = Normal("p(s_t|s_{t-1},a_{t-1})", Point(), shape=2, scale=1.0)
    seen = Normal("q(s_t|x_t)", nn.Identity(), shape=2, scale=1.0)
    whole = World(prior=move, posterior=seen, loss=Sum("t", E(seen, log(seen) - log(move))).mean())
    actions, task = torch.rand(2, 3, 4, 2), Task(lambda states, a: states["s"].sum(-1), samples=3)
    torch.testing.assert_close(scored(task, actions, whole), scored(task, actions, Noisy()))
    certain = replace(task, samples=0)
    torch.testing.assert_close(scored(task, actions, world()), scored(certain, actions, world()))


def test_risk_adds_deviations_over_the_samples() -> None:
    """With a cost s² the risky task prefers what the mean does not see: by hand from the dreams under shared noise."""
    actions, model = torch.rand(1, 2, 3, 2), Noisy()
    generator = torch.Generator().manual_seed(0)
    noise = model.dream_noise({"s": torch.zeros(4, 2)}, {"a": torch.zeros(4, 3, 2)}, generator)["s"]
    s = (0.2 * actions[0][:, None] + noise[None]).cumsum(2)  # [candidates, samples, H, 2]
    cost = s.square().sum((2, 3))
    got = scored(Task(lambda states, a: states["s"].square().sum(-1), samples=4, risk=2.0), actions, model)
    torch.testing.assert_close(got[0], cost.mean(1) + 2.0 * cost.std(1))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.3, 0.5, 0.77, 1.0])
def test_cvar_is_the_least_of_a_linear_programme(alpha: float) -> None:
    """min over c of c + mean(max(cost − c, 0))/α (Rockafellar & Uryasev 2000, theorem 1), by SciPy."""
    costs = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = Task(lambda s, a: s, samples=8, risk=CVaR(alpha)).over(costs)
    for row, found in zip(costs.numpy(), got.tolist(), strict=True):
        if alpha * 8 < 1:
            assert found == row.max()
            continue
        tail = linprog(np.r_[1.0, np.full(8, 1 / (8 * alpha))], A_ub=np.c_[-np.ones(8), -np.eye(8)], b_ub=-row,
                       bounds=[(None, None)] + [(0, None)] * 8)  # fmt: skip
        assert found == pytest.approx(tail.fun, abs=1e-9)


def test_cvar_of_what_is_infinite_and_of_what_is_no_number() -> None:
    costs = torch.tensor([[1.0, torch.inf, 3.0, 2.0], [1.0, torch.nan, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]])
    assert CVaR(0.5)(costs).tolist()[::2] == [torch.inf, 3.5]
    assert CVaR(0.5)(costs).isnan().tolist() == [False, True, False]


def test_the_tail_of_the_samples_is_what_a_plan_avoids() -> None:
    """s² of a noisy walk, whose samples all candidates share: by hand from the noise."""
    actions, model = torch.rand(1, 2, 3, 2), Noisy()
    noise = model.dream_noise({"s": torch.zeros(4, 2)}, {"a": torch.zeros(4, 3, 2)}, torch.Generator().manual_seed(0))[
        "s"
    ]
    cost = (0.2 * actions[0][:, None] + noise[None]).cumsum(2).square().sum((2, 3))
    for alpha, hand in ((0.5, cost.topk(2).values.mean(1)), (0.0, cost.max(1).values), (1.0, cost.mean(1))):
        got = scored(Task(lambda states, a: states["s"].square().sum(-1), samples=4, risk=CVaR(alpha)), actions, model)
        torch.testing.assert_close(got[0], hand)


class Simulator:
    """The point, written by hand: no formula, no noise."""

    actions = ("a",)

    def initial(self, batch, *, device=None, dtype=None, **options):
        return State({"s": torch.zeros(batch, 2)})

    def imagine(self, start, policy=None, *, actions=None, horizon=None, **options):
        s = start["s"][:, None] + torch.cat((torch.zeros_like(actions["a"][:, :1]), 0.2 * actions["a"]), 1).cumsum(1)
        return {"s": s, "a": actions["a"]}

    def decode(self, states, heads=None, **numbers):
        return {}


def test_a_simulator_by_hand_is_planned_on_as_a_world_is() -> None:
    goal, planner = torch.tensor([0.5, -0.5]), CEM(horizon=4, candidates=50, elites=5, iterations=3)
    start = {"s": torch.zeros(2, 2)}
    one, two = (planner.plan(model, distance(goal), start, space=TWO) for model in (world(), Simulator()))
    torch.testing.assert_close(one.actions, two.actions)
    torch.testing.assert_close(dict(one.states), dict(two.states))
    with pytest.raises(ConfigError, match="Simulator has no dream_noise"):
        planner.plan(Simulator(), Task(lambda s, a: s["s"].sum(-1), samples=2), start, space=TWO)


def plan_with(**changes: Any) -> None:
    given = {"space": TWO, "state": {"s": torch.zeros(2, 2)}, "task": distance(torch.ones(2))} | changes
    CEM(horizon=4, candidates=20, elites=4, iterations=2).plan(world(), given.pop("task"), given.pop("state"), **given)


def test_a_search_that_knows_no_adversary_refuses_one() -> None:
    with pytest.raises(ConfigError, match="adversary"):
        plan_with(space={"a": ActionSet(2, aim="max")})


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: CEM(elites=0), ConfigError, "expected 1 ≤ elites"),
        (lambda: CEM(candidates=5, elites=6), ConfigError, "expected 1 ≤ elites"),
        (lambda: CEM(horizon=0), ConfigError, "expected horizon"),
        (lambda: ActionSet(0), ConfigError, "expected an action of size"),
        (lambda: ActionSet(2, "choise"), ConfigError, "expected an action of size"),
        (lambda: ActionSet(2, aim="least"), ConfigError, "with the aim min or max"),
        (lambda: CVaR(1.5), ConfigError, "alpha from 0 to 1"),
        (lambda: Task(lambda s, a: s, risk=CVaR(0.1)), ConfigError, "needs a deviation"),
        (lambda: Task(lambda s, a: s, reduce="mean"), ConfigError, "expected samples ≥ 0 and reduce"),
        (lambda: Task(lambda s, a: s, risk=1.0), ConfigError, "needs a deviation"),
        (lambda: plan_with(generators=[]), ShapeError, "one generator per episode, 2"),
        (lambda: plan_with(task=Task(lambda s, a: s["s"])), ShapeError, "expected one per imagined state"),
        (lambda: plan_with(space={"b": ActionSet(2)}), ConfigError, "expected a space of the actions a, got b"),
        (lambda: plan_with(warm={"a": torch.zeros(2, 3, 2)}), ShapeError, "warm: expected these actions"),
        (lambda: plan_with(warm={"b": torch.zeros(2, 4, 2)}), ShapeError, "no such action"),
        (lambda: plan_with(proposals={"a": torch.full((2, 1, 4, 2), 3.0)}), ConfigError, "none of ActionSet"),
        (lambda: plan_with(proposals={}), ShapeError, "'a' is missing"),
        (lambda: plan_with(mask={"a": torch.ones(2, 2)}), ConfigError, "expected masks of choices"),
        (
            lambda: plan_with(task=Task(lambda s, a: s["s"].sum(-1) * torch.nan)),
            NonFiniteError,
            "cost of every candidate is NaN in the episodes 0, 1",
        ),
    ],
)
def test_bad_input_is_refused(make, error, told) -> None:
    with pytest.raises(error, match=told):
        make()


def test_candidates_without_a_cost_are_never_the_plan() -> None:
    task = Task(lambda states, a: torch.where(a["a"][..., 0] > 0, torch.nan, a["a"].sum(-1)))
    plan = CEM(horizon=2, candidates=60, elites=4, iterations=2).plan(
        world(), task, {"s": torch.zeros(2, 2)}, space=TWO
    )
    assert plan.cost.isfinite().all()
    assert (plan.actions["a"][..., 0] <= 0).all()


def test_a_configurator_is_a_table_and_knows_near_misses() -> None:
    configurator = Configurator(
        {"swing up": Configuration(), "save force": Configuration({"reward": 2.0}, CEM(horizon=3))}
    )
    assert configurator("save force").weights == {"reward": 2.0}
    with pytest.raises(CatalogueError, match="Did you mean 'swing up'"):
        configurator("swingup")


def test_planet_acts_by_the_mean_of_the_last_elites():
    """The search written out, 3 rounds, the best 5 of 40, and the mean of the last; a point moves by its actions."""
    target, N, H, best, rounds = 0.7, 40, 4, 5, 3

    class Point:
        actions, heads = ("a",), ()

        def imagine(self, start, policy=None, *, actions=None, **options):
            steps = actions["a"].cumsum(1)
            return State({"s": torch.cat((start["s"][:, None], start["s"][:, None] + steps), 1), **actions}, 2)

    task = Task(lambda states, actions: (states["s"][..., 0] - target) ** 2)
    planner = CEM(horizon=H, candidates=N, elites=best, iterations=rounds, answer="mean")
    start = State({"s": torch.tensor([[-0.4]])})
    found = planner.plan(Point(), task, start, space={"a": ActionSet(1)}, generators=[torch.Generator().manual_seed(3)])
    draws, mean, std = torch.Generator().manual_seed(3), torch.zeros(H), torch.ones(H)
    for _ in range(rounds):
        tried = (mean + std * torch.randn(N, H, 1, generator=draws)[..., 0]).clamp(-1, 1)
        costs = ((-0.4 + tried.cumsum(1) - target) ** 2).sum(1)
        elites = tried[costs.argsort()[:best]]
        mean, std = elites.mean(0), (elites.var(0, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(found.actions["a"][0, :, 0], mean)
    torch.testing.assert_close(found.cost, ((-0.4 + mean.cumsum(0) - target) ** 2).sum()[None])
    assert found.calls == (rounds * N + 1) * H
    with pytest.raises(ConfigError, match="'best' or 'mean'"):
        CEM(answer="median")


def test_what_has_no_finite_cost_shapes_no_law_and_is_counted() -> None:
    """Only every tenth candidate may be: the others cost ∞ or NaN, and are elites in number alone."""
    start = {"s": torch.zeros(2, 2)}

    def cost(states: State, actions: dict[str, Tensor]) -> Tensor:
        first = actions["a"][:, :1, 0].expand_as(actions["a"][..., 0])
        return torch.where(first > 0.9, 0.0, torch.where(first > 0, torch.inf, torch.nan)) + actions["a"][..., 1]

    pool = Pool(world(), Task(cost), start, space=TWO, horizon=3, std=1.0)
    drawn = pool.draw(60)
    elites, _ = pool.try_(drawn, 30)
    fine = drawn["a"][:, :, 0, 0] > 0.9
    assert ((fine.sum(1) > 1) & (fine.sum(1) < 30)).all()
    assert (elites["a"][:, :, 0, 0] > 0.9).all()
    plan = CEM(horizon=3, candidates=60, elites=30, iterations=4, answer="mean").plan(
        world(), Task(cost), start, space=TWO
    )
    assert plan.cost.isfinite().all()
    assert plan.discarded is not None
    assert (plan.discarded >= (drawn["a"][:, :, 0, 0] <= 0).sum(1)).all()


def test_where_nothing_has_a_finite_cost_the_search_stays_wide() -> None:
    """A single candidate would end it: its copies have no deviation."""
    pool = Pool(
        world(), Task(lambda s, a: torch.full_like(a["a"][..., 0], torch.inf)), {"s": torch.zeros(1, 2)}, space=TWO,
        horizon=2, std=1.0,
    )  # fmt: skip
    elites, _ = pool.try_(pool.draw(40), 20)
    assert elites["a"].std(1).min() > 0.3
