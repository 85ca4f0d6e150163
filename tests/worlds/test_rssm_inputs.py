"""Observations of any name reach the RSSM as themselves, and impossible settings are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worldformula.errors import ConfigError, SpaceError
from worldformula.learners.imagination import BehaviourSettings
from worldformula.nets.sizes import Sizes
from worldformula.worlds.rssm import Names, RSSMConfig, build

SMALL = RSSMConfig(Sizes(16, 16, 4, 4, 16, groups=4, blocks=2), stages=(1, 1), style="stride", patch=4)


@pytest.mark.parametrize("key", [*"arcehzyqptTfπ", "first", "seed", "noise"])
def test_an_observation_may_be_called_like_a_variable_of_the_formula(key: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {key: (3,), "image": (16, 16, 1)}
    names = Names.of(shapes).all
    world = build(SMALL, shapes, 2)
    inputs: dict[str, Any] = {names["image"]: torch.rand(2, 4, 16, 16, 1), names[key]: torch.rand(2, 4, 3)}
    inputs |= {"a": torch.rand(2, 4, 2), "r": torch.rand(2, 4), "c": torch.ones(2, 4)}
    assert len(inputs) == 5
    inputs["first"] = torch.zeros(2, 4, dtype=torch.bool)
    one = world.loss(**inputs, seed=0).value
    other = world.loss(**inputs | {names[key]: inputs[names[key]] + 1}, seed=0).value
    assert one.isfinite()
    assert one != other


def test_pictures_that_are_not_square_say_how_to_make_them() -> None:
    with pytest.raises(SpaceError, match=r"image \(48, 32, 3\); resize them with --set env.size=64"):
        build(SMALL, {"image": (48, 32, 3)}, 2)


@pytest.mark.parametrize(
    "change", [{"stages": ()}, {"stages": (4, 0)}, {"patch": 0}, {"free_nats": -1.0}, {"dynamics": -1.0}]
)
def test_impossible_settings_of_the_world(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected .* got"):
        RSSMConfig(**change)


@pytest.mark.parametrize(
    "change", [{"horizon": 1.0}, {"lam": 1.5}, {"entropy": -1.0}, {"slow_rate": 0.0}, {"return_rate": 2.0}]
)
def test_impossible_settings_of_the_learner(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected .* got"):
        BehaviourSettings(**change)
