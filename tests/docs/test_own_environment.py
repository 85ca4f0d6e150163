"""The environment of the examples: its laws, what it takes to score in it, and an agent that keeps to its mask."""

from __future__ import annotations

import re
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import worldformula
from worldformula import catalogue
from worldformula.agents import dreamer_v3
from worldformula.cards import load
from worldformula.cards.own_environment import config, example, ruled
from worldformula.envs import Envs
from worldformula.errors import CardError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.play import play
from worldformula.testing import check_env
from worldformula.training.settings import override

BLIND = ("camera", "scales", "order")


@pytest.fixture
def carousel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return example()


def test_the_command_of_the_tutorial_trains_what_the_card_measures(carousel: ModuleType) -> None:
    page = (Path(__file__).parents[2] / "docs/tutorials/11_own_environments.md").read_text(encoding="utf-8")
    command = re.findall(r"worldformula train --env 04_own.*?(?=\n```)", page, flags=re.DOTALL)[0]
    card, system = config(), catalogue.find("dreamer_v3")
    told = RunConfig(system.name, "tiny", EnvConfig(re.findall(r"--env (\S+)", command)[0]), system.sizes("tiny"))
    told = override(told, [*re.findall(r"--set (\S+)", command), f"steps={re.findall(r'--steps (.+?) ', command)[0]}"])
    assert (told.env, told.agent, told.steps) == (card.env, card.agent, card.steps)


def test_an_installed_package_says_that_the_example_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worldformula, "__file__", str(tmp_path / "worldformula" / "__init__.py"))
    with pytest.raises(CardError, match="expected examples/04_own_environment.py beside the package"):
        example()


def test_it_keeps_the_laws_of_an_environment(carousel: ModuleType) -> None:
    check_env(carousel.Carousel(), steps=100)


def test_the_rule_takes_a_right_plate_at_every_other_step(carousel: ModuleType) -> None:
    assert ruled(20, seed=0) == 12.0
    env = carousel.Carousel()
    env.reset(seed=0)
    assert [env.step(env.rule())[1] for _ in range(6)] == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("unseen", BLIND)
def test_without_one_of_its_observations_half_of_the_best_is_left(carousel: ModuleType, unseen: str) -> None:
    """A player that reads the observations alone, and guesses what it does not see."""
    env, rng, returns = carousel.Carousel(), np.random.default_rng(0), []
    for episode in range(200):
        (seen, _), total = env.reset(seed=episode), 0.0
        for _ in range(env.steps):
            firm = rng.integers(2) if unseen == "scales" else seen["scales"][0] > 10
            left = (seen["camera"][8, 1] == carousel.COLOURS[seen["order"]]).all()
            left = left if unseen not in {"camera", "order"} else rng.integers(2)
            tool = (carousel.FIRM if firm else carousel.SOFT) if seen["scales"][0] > 0 else carousel.WAIT
            turn = carousel.LEFT if left else carousel.RIGHT
            seen, reward, *_ = env.step({"turn": turn, "tool": tool})
            total += reward
        returns.append(total)
    error = np.std(returns) / len(returns) ** 0.5
    assert np.mean(returns) == pytest.approx(6.0, abs=4 * error)
    assert load("own_environment").threshold > 6.0 + 4 * error


def test_who_sees_all_reaches_the_best(carousel: ModuleType) -> None:
    env = carousel.Carousel()
    (seen, _), total = env.reset(seed=3), 0.0
    for _ in range(env.steps):
        left = (seen["camera"][8, 1] == carousel.COLOURS[seen["order"]]).all()
        weight = seen["scales"][0]
        tool = carousel.WAIT if weight == 0 else carousel.FIRM if weight > 10 else carousel.SOFT
        seen, reward, *_ = env.step({"turn": carousel.LEFT if left else carousel.RIGHT, "tool": tool})
        total += reward
    assert total == 12.0


@pytest.mark.parametrize("explore", [True, False])
def test_an_agent_that_always_wants_to_take_keeps_to_the_mask(carousel: ModuleType, explore: bool) -> None:
    settings = config(seed=0)
    envs = Envs(settings.env.id, 2, seed=0)
    agent = dreamer_v3.build(settings.agent, envs.observations, envs.actions, seed=0)
    factors = {factor.variable.key: factor for factor in agent.actor.policy.factors}
    tool = next(act.variable for act in agent.perception.acts if act.action == "tool")
    with torch.no_grad():
        factors[tool].net.mlp.head.bias[carousel.FIRM] = 9.0
    masked = taken = free = 0
    for turn in islice(play(envs, agent, explore=explore), 200):
        going = ~turn.rows["is_last"]
        mask, tools = turn.rows["mask/tool"][going], turn.actions["tool"][going]
        assert mask[np.arange(len(tools)), tools].all()
        open_ = mask.all(-1)
        masked, free, taken = masked + (~open_).sum(), free + open_.sum(), taken + (tools[open_] == carousel.FIRM).sum()
    assert masked > 50, "there was something to keep to"
    assert taken > 0.9 * free > 10, "where the mask allows it, the agent does as it wants"
