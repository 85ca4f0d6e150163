"""The cost: linear in its weights, right in its signs, differentiable in the states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldformula import Bernoulli, Deterministic, E, Normal, Sum, World, log
from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.agent.terms import Distance
from worldformula.errors import ConfigError, FormulaError, ShapeError
from worldformula.world import State

ROLES = {"reward": "r", "continue": "c"}


class Add(nn.Module):
    """s + a."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + a


@pytest.fixture
def world() -> World:
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2)
    reward = Normal("p(r_t|s_t)", nn.Linear(2, 1), shape=(), scale=1.0)
    proceed = Bernoulli("p(c_t|s_t)", nn.Linear(2, 1), shape=())
    loss = Sum("t", E(move, -log(reward) - log(proceed))).mean()
    return World(prior=move, posterior=move, heads=[reward, proceed], loss=loss, roles=ROLES)


def distance(states: dict[str, Tensor]) -> Tensor:
    return states["s"].square().sum(-1)


def value(states: dict[str, Tensor]) -> Tensor:
    return states["s"].sum(-1)


def test_the_total_is_the_weighted_sum_of_its_terms(world: World) -> None:
    states = {"s": torch.randn(3, 4, 2)}
    reward = world.decode(states, ("r",))["r"]
    weights = {"reward": 0.5, "distance": 2.0, "value": -3.0}
    cost = Cost(world, {"distance": distance}, {"value": value}, weights)
    torch.testing.assert_close(cost(states), -0.5 * reward + 2.0 * distance(states) - 3.0 * value(states))
    assert cost(states).shape == (3, 4)


def test_the_outcome_is_the_reward_less_the_intrinsic_terms_and_knows_no_critic(world: World) -> None:
    states = {"s": torch.randn(5, 2)}
    decoded = world.decode(states)
    reward, proceed = Cost(world, {"distance": distance}, {"value": value}, {"distance": 2.0}).outcome(states)
    torch.testing.assert_close(reward, decoded["r"] - 2.0 * distance(states))
    torch.testing.assert_close(proceed, decoded["c"])
    assert ((proceed > 0) & (proceed < 1)).all()


def test_gradients_reach_the_states(world: World) -> None:
    s = torch.randn(5, 2, requires_grad=True)
    Cost(world, {"distance": distance})({"s": s}).sum().backward()
    expected = 2 * s.detach() - world.heads["r"].net.weight.detach()
    torch.testing.assert_close(s.grad, expected)


@pytest.fixture
def silent() -> World:
    """A world that predicts what it sees, and no reward."""
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2)
    seen = Normal("p(x_t|s_t)", nn.Linear(2, 2), shape=2, scale=1.0)
    return World(prior=move, posterior=move, heads=[seen], loss=Sum("t", E(move, -log(seen))).mean())


def test_a_world_without_a_reward_costs_what_the_other_terms_say(silent: World) -> None:
    states = State({"s": torch.randn(3, 4, 2)}, 2)
    cost = Cost(silent, {"distance": distance}, {"value": value}, {"distance": 2.0}, discount=0.9)
    torch.testing.assert_close(cost(states), 2.0 * distance(states) + value(states))
    reward, proceed = cost.outcome(states)
    torch.testing.assert_close(reward, -2.0 * distance(states))
    torch.testing.assert_close(proceed, torch.full((3, 4), 0.9))


def test_a_term_that_weighs_nothing_is_not_asked(world: World, silent: World) -> None:
    def refuses(_: State) -> torch.Tensor:
        raise AssertionError("asked")

    states = State({"s": torch.randn(3, 4, 2)}, 2)
    torch.testing.assert_close(Cost(world, {"far": refuses}, weights={"far": 0.0})(states), Cost(world)(states))
    with pytest.raises(AssertionError, match="asked"):
        Cost(world, {"far": refuses})(states)
    alone = Cost(silent, {"distance": distance}, weights={"distance": 0.0})
    assert (alone(states) == 0).all()  # the only one says what shape nothing has


def test_a_reward_that_is_not_there_is_an_error_that_says_what_to_write(silent: World) -> None:
    states = State({"s": torch.randn(3, 2)})
    for asked in (Cost(silent), Cost(silent).outcome, Cost(silent, critics={"value": value}).outcome):
        with pytest.raises(FormulaError) as caught:
            asked(states)
        assert str(caught.value) == (
            "no head of this World has the role 'reward' (roles: none; heads: x).\n"
            "say which head it is, World(..., roles={'reward': 'r'}), or use a cost that does not need it"
        )


def test_weights_of_no_term_and_terms_named_twice(world: World, silent: World) -> None:
    with pytest.raises(ConfigError, match=r"no term of this cost is called 'r'; these are: reward, far"):
        Cost(world, {"far": distance}, weights={"r": 2.0})
    with pytest.raises(ConfigError, match="no term of this cost is called 'reward'; these are: none"):
        Cost(silent, weights={"reward": 2.0})
    for terms in ({"reward": distance}, {"far": distance}):
        with pytest.raises(ConfigError, match="names of their own"):
            Cost(world, terms, {"far": value})


def nothing(_: State) -> Tensor:
    raise AssertionError("asked")


def test_what_weighs_nothing_is_not_asked_wherever_it_stands(world: World, silent: World) -> None:
    """NaN times 0 is NaN, and a goal that no task has is none that is missing."""
    states = State({"s": torch.tensor([[3.0, 4.0], [1.0, 2.0]])})
    terms = {"forbidden": nothing, "far": distance, "late": nothing}
    off = {"forbidden": 0.0, "late": 0}
    assert Cost(silent, terms, weights=off)(states).tolist() == [25.0, 5.0]
    assert Cost(silent, terms, weights=off).immediate(states).tolist() == [25.0, 5.0]
    assert Cost(silent, terms, weights=off).outcome(states)[0].tolist() == [-25.0, -5.0]
    assert Cost(silent, {"goal": Distance("s")}, {"far": value}, {"goal": 0.0})(states).tolist() == [7.0, 3.0]
    assert Cost(silent, terms, weights=off | {"far": 0.0})(states).tolist() == [0.0, 0.0]
    with torch.no_grad():
        world.heads["r"].net.bias.fill_(torch.nan)
    assert Cost(world, {"far": distance}, weights={"reward": 0.0})(states).tolist() == [25.0, 5.0]
    assert Cost(world, {"far": distance}, weights={"reward": 0.0}).outcome(states)[0].tolist() == [-25.0, -5.0]


def test_a_term_is_one_number_for_each_state(silent: World) -> None:
    """``[N, 1]`` beside ``[N]`` would be ``[N, N]``."""
    states = State({"s": torch.randn(3, 2)})
    for wrong in ({"b": distance, "a": lambda s: s["s"][:, :1]}, {"a": lambda s: s["s"]}):
        with pytest.raises(ShapeError, match=r"one number for each state(.|\n)*a +\| \(3,\) +\| \(3, [12]\)"):
            Cost(silent, wrong)(states)
    with pytest.raises(ConfigError, match=r"far: expected a term, states \[..., event\] -> \[...\], got 3.0"):
        Cost(silent, {"far": 3.0})


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (float("nan"), "a finite number, got nan"), (float("inf"), "a finite number, got inf"), ("2", "got '2'"),
        (torch.ones(3), r"a number or a tensor \[\], got \[3\]"),
    ],
)  # fmt: skip
def test_a_weight_is_one_finite_number(silent: World, weight: object, told: str) -> None:
    with pytest.raises(ConfigError, match=f"the weight of far: expected {told}|{told}"):
        Cost(silent, {"far": distance}, weights={"far": weight})


def test_limits_of_all_terms_leave_nothing_to_minimise(silent: World, world: World) -> None:
    with pytest.raises(ConfigError, match=r"every term of this cost has one, far(.|\n)*such as Effort\(\)"):
        Cost(silent, {"far": distance}).task(limits={"far": 1.0})
    assert set(Cost(world, {"far": distance}).task(limits={"far": 1.0}).constraints) == {"far"}
    with pytest.raises(ConfigError, match="unit > 0, got 0.0"):
        Distance("s", unit=0.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"planner": "cem"}, r"expected a planner, got 'cem'(.|\n)*planner=CEM\(horizon=12\)"),
        ({"noise": "plann"}, "at least 0, or 'plan', got 'plann'"),
        ({"noise": -0.1}, "at least 0, or 'plan', got -0.1"),
        ({"noise": float("nan")}, "got nan"), ({"proposals": -3}, "0 or more, got -3"),
        ({"samples": -1}, "samples: expected how many dreams of a plan, 0 or more, got -1"),
        ({"samples": 1.5}, "got 1.5"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Configuration(**wrong)


def test_goals_are_tensors() -> None:
    rows = {"is_first": [True]}
    with pytest.raises(ShapeError, match=r"the goal 'g' is list: expected a tensor(.|\n)*torch.as_tensor"):
        Configuration(goal={"g": [1.0]}).given(rows)
    assert Configuration(goal={"g": torch.ones(1, 2)}).given(rows)["g"].tolist() == [[1.0, 1.0]]
