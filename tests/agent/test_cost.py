"""The cost: linear in its weights, right in its signs, differentiable in the states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldformula import Bernoulli, Deterministic, E, Normal, Sum, World, log
from worldformula.agent.cost import Cost


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
    return World(prior=move, posterior=move, heads=[reward, proceed], loss=loss)


def distance(states: dict[str, Tensor]) -> Tensor:
    return states["s"].square().sum(-1)


def value(states: dict[str, Tensor]) -> Tensor:
    return states["s"].sum(-1)


def test_the_total_is_the_weighted_sum_of_its_terms(world: World) -> None:
    states = {"s": torch.randn(3, 4, 2)}
    reward = world.decode(states, ("r",))["r"]
    weights = {"r": 0.5, "distance": 2.0, "value": -3.0}
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
