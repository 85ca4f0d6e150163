"""Hierarchies of plans, on a plane whose coarse steps are exact: laws, what is aimed for, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from worldformula.agent.search import Search
from worldformula.errors import ConfigError, MissingInputError, ShapeError
from worldformula.formula import Deterministic, E, Normal, Sum, Value, norm2
from worldformula.planner import ActionSet, Plan, Task
from worldformula.planners.cem import CEM
from worldformula.planners.hierarchy import Hierarchy, Level
from worldformula.planners.mcts import MCTS
from worldformula.world import PriorDynamics, State, World


class Step(nn.Module):
    """A point that moves by ``size``·a in the plane."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + self.size * a


FINE = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Step(0.1), shape=2))
COARSE = PriorDynamics(Deterministic("s_t = f(s_{t-1}, m_{t-1})", Step(0.4), shape=2))
DOUBLE = PriorDynamics(Deterministic("u_t = f(u_{t-1}, m_{t-1})", Step(0.8), shape=2))
TOP = PriorDynamics(Deterministic("w_t = f(w_{t-1}, n_{t-1})", Step(3.2), shape=2))
SPACE, MACRO = {"a": ActionSet(2)}, {"m": ActionSet(2)}
LOW = CEM(horizon=4, candidates=128, elites=16, iterations=8)
HIGH = CEM(horizon=3, candidates=128, elites=16, iterations=8)
GOAL = torch.tensor([1.2, -0.9])


def far(name: str, goal: Tensor = GOAL) -> Task:
    return Task(lambda states, actions: (states[name] - goal).square().sum(-1))


def two(near: float = 0.0) -> Hierarchy:
    return Hierarchy(LOW, (Level(COARSE, MACRO, HIGH),), near)


def test_without_a_level_above_it_is_the_planner_itself_bit_by_bit() -> None:
    start = {"s": torch.randn(3, 2)}
    alone = LOW.plan(FINE, far("s"), start, space=SPACE)
    found = Hierarchy(LOW).plan(FINE, far("s"), start, space=SPACE)
    assert torch.equal(found.actions["a"], alone.actions["a"])
    assert torch.equal(found.cost, alone.cost)
    assert found.calls == alone.calls
    assert found.upper == ()


def test_the_low_level_goes_to_the_first_state_of_the_high_one() -> None:
    start = {"s": torch.zeros(1, 2)}
    plan = two().plan(FINE, far("s"), start, space=SPACE)
    (high,) = plan.upper
    goal = high.states["s"][:, 1]
    # Full speed along both axes is best at first: 0.4 of each, which the low level reaches in its four steps.
    assert goal == pytest.approx(torch.tensor([[0.4, -0.4]]), abs=0.05)
    assert plan.states["s"][:, -1] == pytest.approx(goal, abs=0.05)
    # Its cost is the squared way to the sub-goal, of every step.
    assert plan.cost.item() == pytest.approx((plan.states["s"][:, 1:] - goal.unsqueeze(1)).square().sum().item(), 1e-4)
    assert plan.calls == high.calls + 8 * 128 * 4


def test_a_goal_within_one_macro_action_is_aimed_for_itself() -> None:
    near = torch.tensor([0.23, 0.11])
    start = {"s": torch.zeros(1, 2)}
    plan = two().plan(FINE, far("s", near), start, space=SPACE)
    reached = plan.states["s"][:, -1]
    assert reached == pytest.approx(near[None], abs=0.03)
    assert plan.cost.item() == pytest.approx((plan.states["s"][:, 1:] - near).square().sum().item(), rel=1e-4)
    told = two(near=1e6).plan(FINE, far("s"), start, space=SPACE)  # everything is near
    assert told.cost.item() == pytest.approx((told.states["s"][:, 1:] - GOAL).square().sum().item(), rel=1e-4)


def test_levels_with_encoders_of_their_own() -> None:
    """u = 2 s, w = 4 u: three levels, whose top knows the goal in its own numbers."""
    middle = Level(DOUBLE, MACRO, HIGH, up=lambda s: {"u": 2 * s["s"]})
    top = Level(TOP, {"n": ActionSet(2)}, HIGH, up=lambda s: {"w": 4 * s["u"]})
    plan = Hierarchy(LOW, (middle, top)).plan(FINE, far("w", 8 * GOAL), {"s": torch.zeros(2, 2)}, space=SPACE)
    highest, second = plan.upper
    assert highest.states["w"].shape == (2, 4, 2)
    assert second.states["u"].shape == (2, 4, 2)
    goal = second.states["u"][:, 1]
    assert (2 * plan.states["s"][:, -1] - goal).abs().max() < 0.1
    assert highest.states["w"][:, 1] == pytest.approx(torch.tensor([[3.2, -3.2]] * 2), abs=0.4)


def test_a_plan_does_not_depend_on_the_batch_it_was_made_in() -> None:
    starts = torch.randn(5, 2)
    own = [torch.Generator().manual_seed(i) for i in range(5)]
    together = two().plan(FINE, far("s"), {"s": starts}, space=SPACE, generators=own)
    alone = two().plan(FINE, far("s"), {"s": starts[3:4]}, space=SPACE, generators=[torch.Generator().manual_seed(3)])
    assert torch.equal(alone.actions["a"], together.actions["a"][3:4])


def test_both_plans_are_kept_within_an_episode() -> None:
    search = Search(two(), SPACE, noise=0.0)
    seen, begins = State({"s": torch.zeros(2, 2)}), torch.ones(2, dtype=torch.bool)
    _, kept = search.act(FINE, far("s"), seen, {}, begins, explore=False)
    assert kept["plan/m"].shape == (2, 3, 2)
    assert kept["plan/a"].shape == (2, 4, 2)
    actions, again = search.act(FINE, far("s"), seen, kept, ~begins, explore=False)
    assert again["plan_count"].tolist() == [2, 2]
    flat = Search(LOW, SPACE, noise=0.0)  # another planner within the episode knows nothing of macro-actions
    assert flat.act(FINE, far("s"), seen, kept, ~begins, explore=False)[0]["a"].shape == actions["a"].shape


def test_lower_levels_know_the_discount_and_where_episodes_end() -> None:
    """By hand, of what the lowest level's plan says it costs on its way to a sub-goal."""
    gates = lambda states: torch.where(states["w"][..., 0] > 2.0, 0.5, 1.0)  # noqa: E731 - of the top level's states
    cost = far("w", 8 * GOAL).cost
    middle = Level(DOUBLE, MACRO, HIGH, up=lambda s: {"u": 2 * s["s"]})
    top = Level(TOP, {"n": ActionSet(2)}, HIGH, up=lambda s: {"w": 4 * s["u"]})
    task = Task(cost, discount=0.9, proceed=gates)
    plan = Hierarchy(LOW, (middle, top)).plan(FINE, task, {"s": torch.zeros(1, 2)}, space=SPACE)
    goal, weight, total = plan.upper[1].states["u"][0, 1], 1.0, 0.0
    for s in plan.states["s"][0, 1:]:
        total += weight * (2 * s - goal).square().sum().item()
        weight *= 0.9 * (0.5 if 8 * s[0] > 2.0 else 1.0)
    assert (8 * plan.states["s"][0, 1:, 0] > 2.0).any()
    assert plan.cost.item() == pytest.approx(total, rel=1e-4)


def test_levels_with_one_name_for_two_actions_are_refused() -> None:
    twice = Hierarchy(LOW, (Level(FINE, SPACE, HIGH),))
    with pytest.raises(ConfigError, match="names of their own"):
        twice.plan(FINE, far("s"), {"s": torch.zeros(1, 2)}, space=SPACE)


def test_what_levels_below_would_not_know_of_is_refused() -> None:
    cost, start = far("s").cost, {"s": torch.zeros(1, 2)}
    for task, named in (
        (Task(cost, value=lambda states: states["s"].sum(-1)), "a value at the end"),
        (Task(cost, reduce="last"), "reduce='last'"),
    ):
        with pytest.raises(ConfigError, match=f"{named}: levels below the top"):
            two().plan(FINE, task, start, space=SPACE)
        assert Hierarchy(LOW).plan(FINE, task, start, space=SPACE).cost.isfinite().all()
    with pytest.raises(ConfigError, match="warm: no level has an action 'q'; these are: a, m"):
        two().plan(FINE, far("s"), start, space=SPACE, warm={"q": torch.zeros(1, 4, 2)})


def test_levels_that_do_not_match_are_named() -> None:
    start = {"s": torch.zeros(2, 2)}
    for up, error, told in (
        (
            lambda states: {"v": states["s"]},
            MissingInputError,
            r"level 1 above .*sees v \[2, 2\](.|\n)*the start lacks u",
        ),
        (lambda states: {"u": states["s"][..., :1]}, ShapeError, r"level 1 above .*sees u \[2, 1\], which Level\(up="),
    ):
        with pytest.raises(error, match=told):
            Hierarchy(LOW, (Level(DOUBLE, MACRO, HIGH, up=up),)).plan(FINE, far("u"), start, space=SPACE)
    doubled = Hierarchy(LOW, (Level(DOUBLE, MACRO, HIGH, up=lambda states: {"u": 2 * states["s"]}),))
    with pytest.raises(KeyError, match="the states hold u, and not 's'"):  # the task is that of the top level's states
        doubled.plan(FINE, far("s"), start, space=SPACE)


def test_levels_and_searches_that_are_none_are_told() -> None:
    level = Level(COARSE, MACRO, HIGH)
    with pytest.raises(ConfigError, match=r"above: expected levels(.|\n)*\(Level\(...\),\)"):
        Hierarchy(LOW, level)
    for wrong in (lambda: Hierarchy(None), lambda: Level(COARSE, MACRO, "cem")):
        with pytest.raises(ConfigError, match=r"planner: expected a planner, got (None|'cem')"):
            wrong()
    for wrong in (lambda: Hierarchy(LOW, near=float("nan")), lambda: Level(COARSE, MACRO, HIGH, price=float("nan"))):
        with pytest.raises(ConfigError, match="expected a finite number, got nan"):
            wrong()
    with pytest.raises(ConfigError, match="expected price ≥ 0"):
        Level(COARSE, MACRO, HIGH, price=-1.0)
    unknown = Hierarchy(LOW, (Level(COARSE, MACRO, HIGH, towards=("v",)),))
    with pytest.raises(ConfigError, match="the states of the level above hold s, and not v"):
        unknown.plan(FINE, far("s"), {"s": torch.zeros(1, 2)}, space=SPACE)


# ------------------------------------------------------------------------------------- levels that each know the task

PLACES, EARNED = (0.0, -1.5, 1.0, 3.0), (0.0, 0.2, 0.0, 1.0)
"""Where each code leads on a line, and what the place earns; the last one does so only once the second was visited."""
GAMMA = 0.9


class Tour(nn.Module):
    """A code leads to a place on the line, at one step of time for each 0.5 of the way; a lever lies at the second."""

    def forward(self, s: Tensor, lever: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place = (code * code.new_tensor(PLACES)).sum(-1, keepdim=True)
        return place, torch.maximum(lever, code[:, 1]), 2 * (place - s).abs()[:, 0] + 1


TOUR = PriorDynamics(
    Deterministic("s_t, v_t, n_t = tour(s_{t-1}, v_{t-1}, k_{t-1})", Tour(), shape=[1, (), ()]), duration="n"
)
WALK = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Step(0.25), shape=1))
CODES, PLAIN = {"k": ActionSet(4, "choice")}, {"a": ActionSet(1)}


def earned(states: State, _: object) -> Tensor:
    """Of places: the last one pays with the lever alone."""
    s, total = states["s"][..., 0], torch.zeros(states.lead)
    for place, pays in zip(PLACES[1:], EARNED[1:], strict=True):
        there = (s - place).abs() < 0.1
        total = total - pays * (there & ((place < 3) | (states["v"] > 0)))
    return total


def toured(codes: tuple[int, ...], start: float) -> float:
    """By arithmetic: what a sequence of codes costs."""
    at, lever, weight, total = start, False, 1.0, 0.0
    for code in codes:
        time = 2 * abs(PLACES[code] - at) + 1
        at, lever = PLACES[code], lever or code == 1
        total -= weight * (EARNED[code] if code != 3 or lever else 0.0)
        weight *= GAMMA**time
    return total


def knowing(weight: float = 0.5, planner: MCTS | None = None) -> Hierarchy:
    """A tree over codes, whose first place the lower level is drawn to, beside a task of its own."""
    level = Level(
        TOUR, CODES, planner or MCTS(horizon=3, simulations=150), up=lambda s: s,
        task=lambda low: Task(earned, discount=GAMMA), aim=lambda plan: {"s": plan.states["s"][:, 1]},
        far=lambda states, goal: weight * (states["s"] - goal["s"])[..., 0].abs(),
    )  # fmt: skip
    return Hierarchy(CEM(horizon=5, candidates=128, elites=16, iterations=8), (level,))


def low(states: State, actions: Mapping[str, Tensor]) -> Tensor:
    """Steps to the right cost."""
    return 0.01 * actions["a"][..., 0].clamp_min(0)


@pytest.mark.parametrize("at", [0.0, -1.0, 2.0])
def test_the_best_codes_by_enumeration_are_found_and_the_way_to_the_first_is_added_to_the_task(at: float) -> None:
    start = {"s": torch.tensor([[at]]), "v": torch.zeros(1), "n": torch.zeros(1)}
    plan = knowing().plan(WALK, Task(low), start, space=PLAIN)
    best = min(itertools.product(range(4), repeat=3), key=lambda codes: toured(codes, at))
    (high,) = plan.upper
    assert high.actions["k"][0].argmax(-1).tolist() == list(best)
    assert best[0] == 1  # the lever first, though the last place pays more and may be nearer
    assert high.cost.item() == pytest.approx(toured(best, at), rel=1e-5)
    assert high.durations[0, 0].item() == pytest.approx(2 * abs(-1.5 - at) + 1)
    steps, goal = plan.states["s"][0, 1:, 0], PLACES[best[0]]
    acts = plan.actions["a"][0, :, 0]
    by_hand = float((0.01 * acts.clamp_min(0) + 0.5 * (steps - goal).abs()).sum())
    assert plan.cost.item() == pytest.approx(by_hand, rel=1e-5)
    nearest = max(at - 0.25 * 5, -1.5) if at > -1.5 else -1.5
    assert steps[-1].item() == pytest.approx(nearest, abs=0.1)


def test_where_the_way_weighs_nothing_the_lowest_level_plans_as_it_does_alone() -> None:
    start, own = {"s": torch.zeros(2, 1), "v": torch.zeros(2), "n": torch.zeros(2)}, Task(low)
    task = replace(own, value=lambda last: 0.1 * last["s"].square().sum(-1))  # each level knows a value, or does not
    seeds = [[torch.Generator().manual_seed(i) for i in range(2)] for _ in range(2)]
    quiet = MCTS(horizon=1, simulations=1, considered=1)
    found = knowing(0.0, quiet).plan(WALK, task, start, space=PLAIN, generators=seeds[0])
    for g in seeds[1]:  # what the tree drew
        torch.rand(4, generator=g), torch.rand(1, 1, generator=g)
    alone = knowing().planner.plan(WALK, task, start, space=PLAIN, generators=seeds[1])
    assert torch.equal(found.actions["a"], alone.actions["a"])
    assert torch.equal(found.cost, alone.cost)


def test_levels_that_know_the_task_plan_the_same_whatever_is_beside_them() -> None:
    starts = {"s": torch.randn(6, 1), "v": torch.zeros(6), "n": torch.zeros(6)}
    seeds = [torch.Generator().manual_seed(i) for i in range(6)]
    together = knowing().plan(WALK, Task(low), starts, space=PLAIN, generators=seeds)
    for b in (0, 4):
        one = {key: value[b : b + 1] for key, value in starts.items()}
        alone = knowing().plan(WALK, Task(low), one, space=PLAIN, generators=[torch.Generator().manual_seed(b)])
        assert torch.equal(alone.actions["a"], together.actions["a"][b : b + 1])
        assert torch.equal(alone.upper[0].actions["k"], together.upper[0].actions["k"][b : b + 1])


def test_levels_of_which_some_know_the_task_are_refused() -> None:
    told = knowing().above[0]
    with pytest.raises(ConfigError, match="of every level above the lowest one, or of none"):
        Hierarchy(LOW, (told, Level(TOP, {"n": ActionSet(2)}, HIGH)))
    with pytest.raises(ConfigError, match="always plan by it"):
        Hierarchy(LOW, (told,), near=0.1)


# ------------------------------------------------------------------------------------------------- levels of a world


class Twice(nn.Module):
    """Four steps of the plane, in numbers that are twice those of the level below."""

    def forward(self, s: Tensor, m: Tensor) -> Tensor:
        return s + 0.8 * m


def two_levels(step: Deterministic | Normal | None = None) -> World:
    """``step`` is that of the level above."""
    seen = Deterministic("s_t = e(x_t)", lambda x: x, shape=2)
    above = Deterministic("s_{2,t} = e_2(s_t)", lambda s: 2 * s, shape=2)
    coarse = PriorDynamics(step or Deterministic("s_{2,t} = f_2(s_{2,t-1}, m_{t-1})", Twice(), shape=2))
    fine = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Step(0.1), shape=2))
    loss = Sum("t", E(seen * above, norm2(Value("s_{2,t}", shape=2)))).mean()
    return World(posterior=seen * above, levels={"1": fine, "2": coarse}, loss=loss)


def corners() -> dict[str, Tensor]:
    """Macro-actions that were seen: up to ½ along each axis."""
    return {"m": torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.4], [0.0, -0.4]])}


def test_a_level_of_a_world_sees_by_its_encoder_and_keeps_to_the_macro_actions_of_data() -> None:
    world = two_levels()
    own = Level.of(world, "2", HIGH, corners())
    state = State({"s": torch.randn(3, 5, 2), "goal": torch.zeros(3, 5, 1)}, 2)
    assert torch.equal(own.seen(state)["s_2"], 2 * state["s"])
    assert torch.equal(own.seen(state.at(1))["s_2"], 2 * state["s"][:, 1])
    planner = Hierarchy(LOW, (own,))
    plan = planner.plan(world.levels["1"], far("s_2", 2 * GOAL), {"s": torch.zeros(1, 2)}, space=SPACE)
    (high,) = plan.upper
    # In the plane a step above goes ½ · 0.4 and .4 · 0.4 at most, the longest that was seen, not 0.4.
    assert high.states["s_2"][:, 1].abs() == pytest.approx(2 * torch.tensor([[0.2, 0.16]]), abs=0.03)
    assert 2 * plan.states["s"][:, -1] == pytest.approx(high.states["s_2"][:, 1], abs=0.05)


class Gusty(nn.Module):
    """The plane above, in which whoever goes fast is blown about: a deviation of .02 and .6 |m|²."""

    def forward(self, s: Tensor, m: Tensor) -> Tensor:
        deviation = 0.02 + 0.6 * m.square().sum(-1, keepdim=True).expand(-1, 2)
        return torch.cat((s + 0.8 * m, deviation.expm1().log()), -1)


def test_a_level_above_fears_what_it_does_not_know() -> None:
    """Risk × levels: macro-actions as data have them, of dreams whose noise all candidates share."""
    world = two_levels(Normal("p(s_{2,t}|s_{2,t-1}, m_{t-1})", Gusty(), shape=2))
    macros = {"m": 2 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) - 1}
    fast = []
    for risk in (0.0, 1.0, 4.0):
        planner = Hierarchy(LOW, (Level.of(world, "2", HIGH, macros),))
        task = replace(far("s_2", 2 * GOAL), samples=32, risk=risk)
        plan = planner.plan(world.levels["1"], task, {"s": torch.zeros(1, 2)}, space=SPACE)
        (high,) = plan.upper
        u = world_actions(planner, high)
        fast.append(u.square().sum().item())
        assert plan.cost.isfinite().all()
    assert fast[0] > 1.1 * fast[1] > 1.1 * fast[2]


def world_actions(planner: Hierarchy, high: Plan) -> Tensor:
    """Macro-actions as the level itself takes them."""
    return planner.above[0].dynamics.meant("m", high.actions["m"])


def test_a_price_keeps_macro_actions_near_the_usual_ones() -> None:
    world, start = two_levels(), {"s": torch.zeros(1, 2)}
    costs = []
    for price in (0.0, 100.0):
        own = Level.of(world, "2", HIGH, corners(), price=price)
        plan = Hierarchy(LOW, (own,)).plan(world.levels["1"], far("s_2", 2 * GOAL), start, space=SPACE)
        costs.append((plan.upper[0].actions["m"].square().sum().item(), plan.upper[0].cost.item(), plan.upper[0]))
    assert costs[1][0] < 0.05 * costs[0][0]
    way = (costs[1][2].states["s_2"][:, 1:] - 2 * GOAL).square().sum().item()
    assert costs[1][1] == pytest.approx(way + 100 * costs[1][0], rel=1e-4)


def test_within_reach_the_lowest_level_may_know_more_of_the_goal() -> None:
    """The top level knows where along the first axis, the lowest one along the second too."""
    flat = Level(COARSE, MACRO, HIGH, up=lambda states: {"s": states["s"] * torch.tensor([1.0, 0.0])})
    near = torch.tensor([0.1, 0.15])
    above = far("s", near * torch.tensor([1.0, 0.0]))
    start = {"s": torch.zeros(1, 2)}
    told = Hierarchy(LOW, (flat,), ground=far("s", near).cost).plan(FINE, above, start, space=SPACE)
    assert told.states["s"][:, -1] == pytest.approx(near[None], abs=0.03)
    assert told.cost.item() == pytest.approx((told.states["s"][:, 1:] - near).square().sum().item(), rel=1e-4)
    untold = Hierarchy(LOW, (flat,)).plan(FINE, above, start, space=SPACE)
    assert untold.states["s"][0, -1, 0].item() == pytest.approx(0.1, abs=0.03)
    beyond = Hierarchy(LOW, (flat,), ground=far("s", near).cost).plan(
        FINE, far("s", torch.tensor([5.0, 0.0])), start, space=SPACE
    )
    seen = beyond.states["s"][:, 1:] * torch.tensor([1.0, 0.0])
    flat_way = (seen - beyond.upper[0].states["s"][:, 1:2]).square().sum().item()
    assert beyond.cost.item() == pytest.approx(flat_way, rel=1e-4)  # it goes to the sub-goal, as before


def test_levels_that_a_world_cannot_say_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of the levels 1, 2, got 'top'"):
        Level.of(two_levels(), "top", HIGH, corners())
    seen = Deterministic("s_t = e(s_{t-1}, x_t)", lambda s, x: s + x, shape=2)
    prior = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Step(0.1), shape=2))
    world = World(posterior=seen, levels={"1": prior}, loss=Sum("t", E(seen, norm2(Value("s_t", shape=2)))).mean())
    with pytest.raises(ConfigError, match="computed from other variables of its step"):
        Level.of(world, "1", HIGH, {"a": torch.rand(4, 2)})
