"""PlaNet, Dreamer v1 and v2 as assembled: weights, how they explore, what they refuse, what they print."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.early import CHOICE, COLUMNS, NUMBERS, rows
from worldformula.agent.configurator import Configuration
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v1, dreamer_v2, planet
from worldformula.catalogue import find
from worldformula.cli.train import Train
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError
from worldformula.learners.imagination import Behaviour
from worldformula.planners.cem import CEM
from worldformula.worlds.gaussian_rssm import GaussianRSSMConfig

PICTURES = {"image": Column("image", (64, 64, 3), "uint8", 0, 255)}
SEARCH = CEM(horizon=3, candidates=30, elites=5, iterations=2)
WORLD = GaussianRSSMConfig(deter=8, stoch=4, hidden=8, units=8, reward_layers=1, seen_layers=2, free_nats=0.0)
NAMES = ("planet", "dreamer_v1", "dreamer_v2")


def tiny(name: str, **changes: Any) -> ImaginationAgent:
    preset = find(name).sizes("tiny")
    dreams = {} if name == "planet" else {"imag_last": 3, "imagine": 3}
    preset = replace(preset, batch=3, length=5, **dreams, **changes)
    return find(name).build(preset, COLUMNS, NUMBERS, 0)


def small_planet(**changes: Any) -> ImaginationAgent:
    return planet.build(planet.PlaNetConfig(WORLD, SEARCH, batch=3, length=5, **changes), COLUMNS, NUMBERS, 0)


def at(t: int, num: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(t)
    return {"body": rng.normal(size=(num, 4)).astype(np.float32), "is_first": np.full(num, t == 0)}


def count(agent: ImaginationAgent) -> int:
    return sum(p.numel() for p in agent.parameters() if p.requires_grad)


def dense(*widths: int) -> int:
    return sum(i * o + o for i, o in itertools.pairwise(widths))


def test_the_published_agents_have_as_many_weights_as_their_layers() -> None:
    """64 × 64 × 3 pixels and 6 numbers; worlds are counted in `test_early_worlds`."""
    six = ActionSpec("continuous", 6)
    assert count(planet.build(planet.paper(), PICTURES, six)) == 5_293_220
    actor, critic = dense(230, 400, 400, 400, 400, 12), dense(230, 400, 400, 400, 1)
    assert count(dreamer_v1.build(dreamer_v1.paper(), PICTURES, six)) == 5_296_820 + actor + critic
    grey = {"image": Column("image", (64, 64, 1), "uint8", 0, 255)}
    atari = dreamer_v2.build(dreamer_v2.paper(), grey, ActionSpec("discrete", 18))
    heads = dense(1624, 400, 400, 400, 400, 18) + dense(1624, 400, 400, 400, 400, 1)
    world = sum(p.numel() for p in atari.world.parameters())
    assert count(atari) == world + heads
    assert 20e6 < count(atari) < 23e6  # the paper: 22 million


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_prints_all_that_it_learns_by(name: str) -> None:
    agent = tiny(name)
    text = repr(agent.loss)
    assert "KL(" in text
    assert "log p(r_t|h_t,z_t)" in text
    assert all("def formula(" in str(term.code) for term in agent.loss.terms.values() if term is not None)
    assert ("λ_return" in text) == (name != "planet")
    assert isinstance(agent.learner, Behaviour) == (name != "planet")
    if name == "dreamer_v2":
        assert text.startswith("<Objective world, then actor and critic")
        assert "after every 25th update" in agent.loss.terms["dream"].explain()


@pytest.mark.parametrize("name", NAMES)
def test_it_explores_at_random_until_it_has_learnt(name: str) -> None:
    agent = small_planet() if name == "planet" else tiny(name)
    torch.manual_seed(0)
    drawn = np.concatenate([agent.act(at(t, 50), agent.initial(50))[0] for t in range(8)])
    assert np.abs(drawn).max() <= 1
    # Uniform on [−1, 1]: mean 0, second moment 1/3, fourth 1/5; 800 draws.
    assert abs(drawn.mean()) < 0.1
    assert np.square(drawn).mean() == pytest.approx(1 / 3, abs=0.05)
    assert (drawn**4).mean() == pytest.approx(1 / 5, abs=0.05)
    torch.manual_seed(0)
    before, _ = agent.act(at(0), agent.initial(3))
    torch.manual_seed(0)
    again, _ = agent.act(at(3), agent.initial(3))
    assert np.array_equal(before, again), "whatever it sees"
    agent.update(rows())
    torch.manual_seed(0)
    after, _ = agent.act(at(0), agent.initial(3))
    assert not np.array_equal(before, after)


def test_planet_searches_anew_at_every_row_and_explores_by_its_noise() -> None:
    agent = small_planet(noise=0.1)
    agent.update(rows())
    torch.manual_seed(0)
    quiet, state = agent.act(at(0), agent.initial(3), explore=False)
    assert not [key for key in state if key.startswith("plan/")]
    assert {"plan_seed", "plan_count"} <= set(state)
    agent.configure(Configuration(planner=SEARCH, noise=0.1))
    torch.manual_seed(0)
    _, warm = agent.act(at(0), agent.initial(3), explore=False)
    assert warm["plan/a"].shape == (3, 3, 2)
    agent.configure(agent.habits.usual)
    assert (agent.search.planner, agent.search.noise, agent.search.warm) == (SEARCH, 0.1, False)  # see `test_search`
    assert quiet.shape == (3, 2)


def test_dreamer_v1_adds_noise_to_what_its_policy_draws_within_the_bounds() -> None:
    loud, quiet = tiny("dreamer_v1", noise=0.3, spread=0.05), tiny("dreamer_v1", noise=0.0, spread=0.05)
    found = []
    for agent in (loud, quiet):
        agent.updates.count = 1  # as if it had learnt
        torch.manual_seed(0)
        found.append(np.concatenate([agent.act(at(0, 100), agent.initial(100))[0] for _ in range(10)]))
    spread = found[1].std()
    assert found[0].std() == pytest.approx((spread**2 + 0.3**2) ** 0.5, rel=0.08)
    assert np.abs(found[0]).max() <= 1
    loud.habits = replace(loud.habits)
    still = [loud.act(at(0), loud.initial(3), explore=False)[0] for _ in range(2)]
    assert np.array_equal(*still)


def test_an_agent_without_a_policy_needs_a_planner_and_dreams_under_given_actions_alone() -> None:
    agent = small_planet()
    with pytest.raises(ConfigError, match="this agent has no policy, so it acts by a planner alone"):
        agent.configure(Configuration())
    with pytest.raises(ConfigError, match="no policy to dream under"):
        agent.dream(agent.world.initial(2))
    dream = agent.world.imagine(agent.world.initial(2), actions=torch.zeros(2, 4, 2))
    assert dream["h"].shape == (2, 5, 8)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("dreamer_v2", {"bounded": True, "unit": 1.0}, np.tanh(2.0)),
        ("dreamer_v2", {"bounded": True, "unit": 4.0}, np.tanh(0.5)),
        ("dreamer_v2", {"bounded": False, "unit": 1.0}, 2.0),
        ("dreamer_v1", {"unit": 4.0}, 0.5),
    ],
)
def test_rewards_are_learnt_as_the_preset_says(name: str, settings: dict[str, Any], expected: float) -> None:
    agent = tiny(name, **settings)
    batch = {**rows(), "reward": np.full((3, 5), 2.0, np.float32)}
    assert agent.perception.learn(batch, agent.device)["r"].numpy() == pytest.approx(expected)


def test_the_share_of_reinforce_follows_the_kind_of_action_unless_it_is_set() -> None:
    settings = dreamer_v2.tiny()
    for spec, rho, attached in ((NUMBERS, 0.0, ("dream",)), (CHOICE, 1.0, ())):
        learner = dreamer_v2.build(settings, COLUMNS, spec).learner
        assert (learner.rho, tuple(learner.attached)) == (rho, attached)
    mixed = replace(settings, behaviour=replace(settings.behaviour, rho=0.1))
    assert dreamer_v2.build(mixed, COLUMNS, CHOICE).learner.attached == ("dream",)


def test_the_command_line_takes_an_agent_by_its_name(tmp_path: Path) -> None:
    config = Train(agent="planet", env="pendulum", out=tmp_path / "run").config()
    assert (config.model, config.preset, config.agent) == ("planet", "tiny", planet.tiny())
    paper = Train(agent="planet", preset="paper", env="pendulum", out=tmp_path / "run").config()
    assert paper.env.action_repeat == 4
    with pytest.raises(ConfigError, match="got the agents planet and --model dreamer_v1; write one of them"):
        Train(agent="planet", model="dreamer_v1", env="pendulum", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("planet", {"batch": 0}), ("planet", {"noise": -1.0}), ("dreamer_v1", {"imagine": 1}),
        ("dreamer_v1", {"spread": 0.0}), ("dreamer_v1", {"imag_last": 99}), ("dreamer_v2", {"clip": 0.0}),
        ("dreamer_v2", {"decay": -1.0}),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        replace(find(name).sizes("tiny"), **wrong)
