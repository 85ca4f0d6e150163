"""The page of a plan: what it shows is what the planner found, and what candidates beside it would cost."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.agent.acts import space_of
from worldformula.agent.terms import Effort
from worldformula.agents import dreamer_v3, plan2explore, thick_planet
from worldformula.cli.commands import own_planner
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet
from worldformula.planners.cem import CEM
from worldformula.planners.hierarchy import Hierarchy
from worldformula.planners.lagrangian import Lagrangian
from worldformula.report.planned import GRID, cells, page, planned
from worldformula.score import Score

PICTURES = {"image": Column("image", (16, 16, 3), "uint8", low=0, high=255)}
PLANNER = CEM(horizon=3, candidates=20, elites=4, iterations=2)


def agent_of(actions: ActionSpec, columns=PICTURES):
    agent = dreamer_v3.build(dreamer_v3.tiny(), columns, actions, seed=0)
    torch.nn.init.normal_(agent.world.heads["r"].net.head.weight)
    return agent


def batch(action: np.ndarray, columns=PICTURES):
    rng = np.random.default_rng(0)
    T = action.shape[1]
    first = np.zeros((1, T), bool)
    first[:, 0] = True
    noise = {key: rng.uniform(0, 255 if c.kind == "image" else 1, (1, T, *c.shape)) for key, c in columns.items()}
    seen = {key: value.astype(columns[key].dtype) for key, value in noise.items()}
    flags = {"is_first": first, "is_last": np.zeros((1, T), bool), "is_terminal": np.zeros((1, T), bool)}
    return {**seen, **flags, "reward": np.zeros((1, T), np.float32), "action": action}


def test_two_numbers_have_a_landscape_of_cells_that_other_first_actions_cost() -> None:
    agent, rows = agent_of(ActionSpec("continuous", 2)), batch(np.zeros((1, 5, 2), np.float32))
    found = planned(agent, PLANNER, rows)
    assert found.pictures is not None
    assert found.pictures.shape == (4, 16, 16, 3)
    assert found.landscape is not None
    assert found.landscape.shape == (GRID, GRID)
    state = agent.world.filter(agent.perception.learn(rows, agent.device), deterministic=True).last()
    space = space_of(agent.perception.acts)
    score = Score(agent.world, agent.task(), state, space, 3, [torch.Generator().manual_seed(0)])
    other = torch.from_numpy(found.actions["a"]).clone()[None, None]
    other[0, 0, 0] = torch.tensor([-1.0, 1.0])  # the first number lowest, the second highest
    assert found.landscape[-1, 0] == pytest.approx(score({"a": other}).item(), rel=1e-4)
    assert found.costs.shape == (3,)
    shown = page(found, "<A plan>", [("agent", "dreamer & co")])
    assert "&lt;A plan&gt;" in shown
    assert "dreamer &amp; co" in shown
    assert shown.count("<rect") >= GRID**2
    assert "data:image/webp" in shown


def test_a_choice_has_a_row_for_each_and_one_number_a_line() -> None:
    agent = agent_of(ActionSpec("discrete", 3), {"x": Column("vector", (2,), "float32")})
    found = planned(agent, PLANNER, batch(np.zeros((1, 4), np.int64), {"x": Column("vector", (2,), "float32")}))
    assert found.landscape is not None
    assert found.landscape.shape == (3,)
    chosen = int(found.actions["a"][0].argmax())
    assert found.landscape[chosen] == pytest.approx(found.total, rel=1e-4)
    assert "choice 2" in page(found, "a plan", [])
    assert found.pictures is None
    one = replace(found, actions={"a": np.zeros((3, 1))}, sets={"a": ActionSet(1)}, landscape=np.linspace(0, 1, GRID))
    assert "The landscape" in page(one, "a plan", [])
    assert "The landscape" not in page(replace(found, landscape=None), "a plan", [])


def test_what_the_last_row_forbids_is_not_planned() -> None:
    columns = {"x": Column("vector", (2,), "float32")}
    agent = agent_of(ActionSpec("discrete", 3, masked=True), columns)
    for only in range(3):
        allowed = np.ones((1, 4, 3), bool)
        allowed[:, -1] = np.arange(3) == only
        found = planned(agent, PLANNER, batch(np.zeros((1, 4), np.int64), columns) | {"mask/action": allowed})
        assert found.actions["a"][0].argmax() == only
        assert found.landscape is not None
        assert np.isinf(found.landscape).tolist() == [k != only for k in range(3)]


def test_of_a_stack_of_four_grey_pictures_the_newest_is_shown() -> None:
    columns = {"image": Column("image", (16, 16, 4), "uint8", low=0, high=255)}
    found = planned(
        agent_of(ActionSpec("continuous", 2), columns), PLANNER, batch(np.zeros((1, 4, 2), np.float32), columns)
    )
    assert found.pictures is not None
    assert found.pictures.shape == (4, 16, 16, 1)


def test_cells_are_dark_where_costs_are_low_and_blank_where_there_are_none() -> None:
    costs = np.array([[0.0, 1.0], [np.nan, 2.0]])
    svg = cells(costs, np.array([1.0, -1.0]), ("a 1", "a 2"))
    assert [float(v) for v in re.findall(r'fill-opacity="([\d.]+)"', svg)] == [1.0, 0.53, 0.05, 0.05]
    assert 'cx="88.0" cy="0.0"' in svg  # the right end of the first number, the upper one of the second


def test_bonuses_of_steps_are_left_out_and_an_agent_that_wants_nothing_else_wants_the_reward() -> None:
    columns = {"x": Column("vector", (2,), "float32")}
    agent = plan2explore.build(plan2explore.tiny(), columns, ActionSpec("continuous", 1), seed=0)
    torch.nn.init.normal_(agent.world.heads["r"].net.head.weight)
    rows, before = batch(np.zeros((1, 4, 1), np.float32), columns), agent.cost
    found = planned(agent, PLANNER, rows)
    assert agent.cost is before  # and with it what the agent learns by
    assert found.apart == ("disagreement",)
    assert "disagreement: bonuses of steps" in page(found, "a plan", [])
    agent.configure(replace(agent.configuration, weights={"reward": 1.0, "disagreement": 0.0}))
    told = planned(agent, PLANNER, rows)
    assert told.apart == ()
    assert told.total == found.total
    assert np.ptp(told.costs) > 0


def test_what_has_a_limit_is_planned_by_who_keeps_it() -> None:
    columns = {"x": Column("vector", (2,), "float32")}
    spec, rows = ActionSpec("continuous", 1), batch(np.zeros((1, 4, 1), np.float32), columns)
    parts = dreamer_v3.build(dreamer_v3.tiny(), columns, spec, seed=0)
    parts.cost = replace(parts.cost, intrinsic={"effort": Effort()})
    keeps = Lagrangian(PLANNER)
    parts.configuration = replace(parts.configuration, limits={"effort": 0.01}, planner=keeps)
    found = planned(parts, keeps, rows)
    assert found.violation is not None
    assert found.violation == pytest.approx(max(0.0, float((found.actions["a"] ** 2).max()) - 0.01), abs=1e-6)
    assert "exceeds its constraints by" in page(found, "a plan", [])
    with pytest.raises(ConfigError, match="constraints, effort"):
        planned(parts, PLANNER, rows)


def test_an_agent_is_shown_by_what_it_plans_with_and_one_with_a_policy_by_nothing_of_its_own() -> None:
    columns = {"x": Column("vector", (3,), "float32")}
    agent = thick_planet.build(thick_planet.tiny(), columns, ActionSpec("continuous", 2), seed=0)
    own = own_planner(agent)
    assert isinstance(own, Hierarchy)
    assert own is agent.habits.usual.planner
    found = planned(agent, own, batch(np.zeros((1, 5, 2), np.float32), columns))
    assert found.name == "Hierarchy"
    assert found.actions["a"].shape == (12, 2)
    with pytest.raises(ConfigError, match="--preset paper is of a planner that is named.*own, Hierarchy"):
        own_planner(agent, "paper")
    assert own_planner(agent_of(ActionSpec("continuous", 2)), "paper") is None


def test_what_has_no_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="no world to plan in"):
        planned(object(), PLANNER, {})


def test_numbers_are_called_what_the_environment_calls_them() -> None:
    """Not a 1 and y 1: a single action, of two numbers, and three observed ones in two columns."""
    columns = {"speed": Column("vector", (1,), "float32"), "position": Column("vector", (2,), "float32")}
    agent = agent_of(ActionSpec("continuous", 2), columns)
    found = planned(agent, PLANNER, batch(np.zeros((1, 5, 2), np.float32), columns))
    shown = page(found, "A plan", [])
    for name in ("action 1 (a)", "action 2 (a)", "speed", "position 1", "position 2", "reward (r)"):
        assert f">{name}<" in shown
    assert "another action 1 (a) and action 2 (a) at its first step" in shown
    assert not re.search(r">[ay] \d<", shown)
    one = agent_of(ActionSpec("continuous", 1), {"speed": columns["speed"]})
    shown = page(planned(one, PLANNER, batch(np.zeros((1, 5, 1), np.float32), {"speed": columns["speed"]})), "", [])
    assert ">action (a)<" in shown
    assert ">speed<" in shown


def test_a_page_names_actions_and_heads_as_the_environment_does() -> None:
    spaces = {"move": ActionSpec("discrete", 3, masked=True), "force": ActionSpec("continuous", 1)}
    agent = dreamer_v3.build(dreamer_v3.tiny(), PICTURES, spaces, seed=0)
    rows = batch(np.zeros((1, 5), np.int64))
    rows |= {"action/move": rows.pop("action"), "action/force": np.zeros((1, 5, 1), np.float32)}
    found = planned(agent, PLANNER, rows | {"mask/move": np.ones((1, 5, 3), bool)})
    assert sorted(found.numbers) == ["c", "r"]  # what is allowed is no number of the path
    shown = page(found, "A plan", [])
    assert "move (a_1), choices:" in shown
    for name in ("force (a_2)", "reward (r)", "continue (c)"):
        assert f">{name}<" in shown
