"""What a search is given that is wrong, and what is told; costs that are no numbers; states that are counted alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from worldformula.errors import ConfigError, NonFiniteError, ShapeError
from worldformula.formula import Deterministic
from worldformula.planner import ActionSet, Constraint, Task
from worldformula.planners.beam import Beam
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.grasp import GRASP
from worldformula.planners.icem import ICEM
from worldformula.planners.lagrangian import Lagrangian
from worldformula.planners.mcts import MCTS
from worldformula.planners.minimax import Minimax
from worldformula.planners.mppi import MPPI
from worldformula.planners.predictive_sampling import PredictiveSampling
from worldformula.world import PriorDynamics, State

TWO = {"a": ActionSet(2)}
WALK = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", lambda s, a: s + 0.4 * a, shape=2))
START = {"s": torch.zeros(2, 2)}
FAR = Task(lambda states, _: states["s"].square().sum(-1))


class Ring:
    """A table of five cells in a ring, whose states are whole numbers: choice k goes k cells on."""

    actions = ("a",)

    def initial(self, batch, **_):
        return State({"s": torch.zeros(batch, dtype=torch.long)})

    def imagine(self, start, policy=None, *, actions=None, horizon=None, given=None, **_):
        cells = [start["s"]]
        for t in range(actions["a"].shape[1]):
            cells.append((cells[-1] + actions["a"][:, t].argmax(-1)) % 5)
        return State({"s": torch.stack(cells, 1), **actions}, 2)

    def decode(self, *_, **__):
        return {}


RING = Task(lambda states, actions: (states["s"] - 3).abs() + actions["a"][..., 2])


@pytest.mark.parametrize(
    "planner",
    [CEM(3, 200, 10, 6), ICEM(3, 200, 10, 6), MPPI(3, 200, 10, 6, answer="best"), Beam(3, 9), MCTS(3, 200),
     PredictiveSampling(3, 300)],
    ids=lambda own: type(own).__name__,
)  # fmt: skip
def test_states_that_are_whole_numbers_are_searched_in(planner):
    begin = [0, 4]
    plan = planner.plan(Ring(), RING, {"s": torch.tensor(begin)}, space={"a": ActionSet(3, "choice")})
    for b, cell in enumerate(begin):
        costs = []
        for path in product(range(3), repeat=3):
            at = (cell + np.cumsum(path)) % 5
            costs.append(np.abs(at - 3).sum() + sum(k == 2 for k in path))
        assert plan.cost[b].item() == min(costs)


@pytest.mark.parametrize("kind", [torch.bool, torch.long])
def test_costs_that_are_counted_are_costs(kind):
    """Whether the third step is off the goal's side; of the last alone, and with what comes after weighed."""
    task = Task(lambda states, _: (states["s"][..., 0] < 0.9).to(kind), reduce="last", discount=0.5)
    plan = CEM(3, 200, 20, 6).plan(WALK, task, START, space=TWO)
    assert plan.cost.tolist() == [0.0, 0.0]  # three steps of 0.4 get there
    short = CEM(2, 200, 20, 6).plan(WALK, task, START, space=TWO)
    assert short.cost.tolist() == [0.5, 0.5]  # two do not


@pytest.mark.parametrize(
    "planner", [CEM(1, 40, 4, 40), ICEM(1, 40, 4, 40), MPPI(1, 40, 4, 40, answer="best")], ids=["cem", "icem", "mppi"]
)
def test_where_nothing_has_a_cost_later_rounds_are_as_wide_as_the_first(planner):
    rounds: list[torch.Tensor] = []

    def never(states, actions):
        rounds.append(actions["a"].reshape(2, -1))
        return torch.full(states.lead, torch.inf)

    planner.plan(WALK, Task(never), START, space=TWO)
    early, late = torch.cat(rounds[:5], 1).std(1), torch.cat(rounds[20:40], 1).std(1)
    assert (late > 0.85 * early).all()


def test_a_sample_that_costs_infinity_is_dear_and_not_discarded():
    costs = torch.tensor([[1.0, torch.inf, 2.0], [1.0, 2.0, 3.0]])
    found = Task(FAR.cost, samples=3, risk=2.0).over(costs)
    assert found.tolist() == [torch.inf, pytest.approx(4.0)]  # 2 and twice the deviation 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"horizon": 2.5}, "horizon: expected a whole number, got 2.5"),
        ({"horizon": True}, "horizon: expected a whole number, got True"),
        ({"candidates": "many"}, "candidates: expected a whole number, got 'many'"),
        ({"std": float("nan")}, "std: expected a finite number, got nan"),
        ({"std": -1.0}, "expected std > 0 and smoothing in"),
        ({"smoothing": 3.0}, "expected std > 0 and smoothing in"),
    ],
)
def test_settings_of_the_wrong_kind(settings, told):
    with pytest.raises(ConfigError, match=told):
        CEM(**settings)


@pytest.mark.parametrize(
    ("planner", "settings"),
    [
        (MPPI, {"temperature": float("nan")}), (MPPI, {"most": float("inf")}), (ICEM, {"std": float("nan")}),
        (ICEM, {"beta": float("nan")}), (Gradient, {"lr": float("nan")}), (GRASP, {"penalty": float("nan")}),
        (PredictiveSampling, {"std": float("nan")}), (MCTS, {"visit": float("nan")}),
        (Beam, {"surprise": float("nan")}), (Beam, {"merge": float("nan")}),
        (Lagrangian, {"planner": CEM(), "growth": float("nan")}),
        (Minimax, {"planner": CEM(), "reply": CEM(), "price": float("nan")}),
    ],
)  # fmt: skip
def test_no_number_is_refused_by_every_search(planner, settings):
    with pytest.raises(ConfigError, match="expected a finite number, got (nan|inf)"):
        planner(**settings)


def test_numpy_numbers_are_numbers():
    assert CEM(horizon=np.int64(3), std=np.float32(0.5)).plan(WALK, FAR, START, space=TWO).actions["a"].shape[1] == 3


SEARCH = CEM(2, 20, 4, 2)


def test_what_a_search_is_given():
    def asked(task=FAR, state=START, **more):
        return SEARCH.plan(WALK, task, state, **{"space": TWO, **more})

    with pytest.raises(ShapeError, match=r"at least one episode.*got s \[0, 2\]"):
        asked(state={"s": torch.zeros(0, 2)})
    with pytest.raises(ShapeError, match=r"at least one episode.*got nothing"):
        asked(state={})
    with pytest.raises(ShapeError, match=r"cost: expected a tensor \[40, 2\].*got float 1.0"):
        asked(Task(lambda states, _: 1.0))
    with pytest.raises(ShapeError, match="given: g is list; expected a tensor"):
        asked(Task(FAR.cost, given={"g": [1.0, 2.0]}))
    with pytest.raises(ConfigError, match=r"expected an ActionSet for 'a', got 2\nwrite \{'a': ActionSet\(2\)\}"):
        asked(space={"a": 2})
    with pytest.raises(ConfigError, match="risk as a finite number"):
        Task(FAR.cost, samples=3, risk=float("nan"))


@pytest.mark.parametrize(
    "planner", [SEARCH, Lagrangian(SEARCH), Minimax(SEARCH, SEARCH)], ids=["cem", "lagrangian", "minimax"]
)
def test_two_episodes_with_one_generator(planner):
    task, space = FAR, dict(TWO)
    if isinstance(planner, Lagrangian):
        task = Task(FAR.cost, constraints={"x": Constraint(lambda states, _: states["s"][..., 0])})
    same = torch.Generator().manual_seed(0)
    with pytest.raises(ConfigError, match="two episodes have the same generator"):
        planner.plan(WALK, task, START, space=space, generators=[same] * 2)
    alone = planner.plan(WALK, task, {"s": torch.zeros(1, 2)}, space=space, generators=[same])
    assert alone.cost.shape == (1,)


@pytest.mark.parametrize("planner", [CEM(3, 20, 4, 2), MPPI(3, 20, 4, 2), Gradient(3, 4, 3), PredictiveSampling(3, 20)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_goal_that_is_no_number_is_named_with_its_episodes(planner, value):
    """Of an infinite one every plan would cost as much, and one would be answered as if it had been found."""
    near = Task(
        lambda states, _: (states["s"] - states["goal"]).square().sum(-1),
        given={"goal": torch.tensor([[0.0, 1.0], [value, 0.0]])},
    )
    with pytest.raises(NonFiniteError, match="given: goal holds NaN or infinity in the episodes 1,"):
        planner.plan(WALK, near, START, space=TWO)
    with pytest.raises(NonFiniteError, match="the state: s holds NaN or infinity in the episodes 0,"):
        planner.plan(WALK, FAR, {"s": torch.tensor([[value, 0.0], [0.0, 0.0]])}, space=TWO)


def test_what_costs_infinity_by_itself_is_a_plan_all_the_same():
    wall = Task(lambda states, _: torch.full(states.lead, torch.inf))
    assert CEM(3, 20, 4, 2).plan(WALK, wall, START, space=TWO).cost.isinf().all()
