"""The cost: linear in its weights, right in its signs, differentiable in the states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldformula import Bernoulli, Deterministic, E, Normal, Sum, World, log
from worldformula.agent.cost import Cost
from worldformula.errors import ConfigError, FormulaError
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
