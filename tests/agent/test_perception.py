"""Perception takes its words from the world: observations, actions, what the roles predict, and the flags."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.formula.models import Join
from worldformula import Bernoulli, Deterministic, E, Normal, Sum, World, log
from worldformula.agent.perception import Perception
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError

COLUMNS = {"position": Column("vector", (2,), "float32")}
CPU = torch.device("cpu")


def world(*, rewarded: bool = True, action: str = "a", reset: str | None = "begin") -> World:
    move = Deterministic(f"s_t = f(s_{{t-1}}, {action}_{{t-1}}, y_t)", Join(6, 2), shape=2)
    dream = Deterministic(f"s_t = g(s_{{t-1}}, {action}_{{t-1}})", Join(4, 2), shape=2)
    seen = Normal("p(y_t|s_t)", nn.Identity(), shape=2, scale=1.0)
    score, going = Normal("p(w_t|s_t)", Join(2, 1), shape=(), scale=1.0), Bernoulli("p(k_t|s_t)", Join(2, 1), shape=())
    step = -log(seen) - log(score) - log(going) if rewarded else -log(seen)
    heads = {"seen": seen, "score": score, "going": going} if rewarded else {"seen": seen}
    roles = {"reward": "score", "continue": "going"} if rewarded else {}
    loss = Sum("t", E(move, step), reset=reset).mean()
    return World(prior=dream, posterior=move, heads=heads, loss=loss, roles=roles, observations={"position": "y"})


def rows() -> dict[str, np.ndarray]:
    flags = {key: np.zeros((2, 3), bool) for key in ("is_first", "is_last", "is_terminal")}
    flags["is_terminal"][0, 1] = True
    return flags | {
        "position": np.ones((2, 3, 2), np.float32),
        "action": np.zeros((2, 3, 2), np.float32),
        "reward": np.full((2, 3), 5.0, np.float32),
    }


def test_the_loss_gets_what_it_reads_under_its_own_names() -> None:
    made = world()
    perception = Perception.of(made, 0.9, COLUMNS, ActionSpec("continuous", 2))
    read = perception.learn(rows(), CPU)
    assert set(read) == {"y", "a", "w", "k", "begin"}
    assert (read["w"] == 5).all()
    torch.testing.assert_close(read["k"], torch.tensor([[0.9, 0.0, 0.9], [0.9, 0.9, 0.9]]))
    assert made.loss(**read).value.isfinite()


def test_a_world_without_reward_is_given_none() -> None:
    made = world(rewarded=False)
    read = Perception.of(made, 0.9, COLUMNS, ActionSpec("continuous", 2)).learn(rows(), CPU)
    assert set(read) == {"y", "a", "begin"}
    assert made.loss(**read).value.isfinite()


def test_worlds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="the world observes 'position', and the columns are camera"):
        Perception.of(world(), 0.9, {"camera": COLUMNS["position"]}, ActionSpec("continuous", 2))
    with pytest.raises(ConfigError, match="begins anew with each episode"):
        Perception.of(world(reset=None), 0.9, COLUMNS, ActionSpec("continuous", 2))
    with pytest.raises(ConfigError, match=r"expected a world with the actions a .*, got one with m"):
        Perception.of(world(action="m"), 0.9, COLUMNS, ActionSpec("continuous", 2))
