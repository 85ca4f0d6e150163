"""The laws of agents: DreamerV3 keeps them with and without masks, and what breaks one is named."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.agents.test_several_actions import Steered
from worldformula.agents import dreamer_v3
from worldformula.envs import Envs
from worldformula.run.play import Randomly
from worldformula.testing import check_agent
from worldformula.training.settings import override

SMALL = ["batch=2", "length=6", "imag_last=3", "imagine=3"]


@pytest.fixture
def envs() -> Envs:
    """Four actions, one of them with a mask; the environment asserts that nothing forbidden is executed."""
    if "tests/Steered-v0" not in gymnasium.registry:
        gymnasium.register("tests/Steered-v0", entry_point=Steered)
    return Envs("tests/Steered-v0", 2, seed=0)


def dreamer(envs: Envs, *settings: str) -> Any:
    config = override(dreamer_v3.tiny(), [*SMALL, *settings])
    return dreamer_v3.build(config, envs.observations, envs.actions, seed=0)


@pytest.mark.parametrize("settings", [(), ("masks=false", "one_trunk=true"), ("context=1",)])
def test_dreamer_keeps_them(envs: Envs, settings: tuple[str, ...]) -> None:
    check_agent(dreamer(envs, *settings), envs, turns=20)


def test_what_acts_without_learning_keeps_them(envs: Envs) -> None:
    class Still(Randomly):
        """The same choice at every row: the first that is allowed."""

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            count = len(rows["is_first"])
            actions = {name: spec.zeros(count) for name, spec in envs.actions.items()}
            return actions | {"choice": rows["mask/choice"].argmax(1)}, state

    check_agent(Still(envs.actions), envs, turns=20)


def broken(law: str) -> Any:
    return pytest.raises(AssertionError, match=f"(?s){law}.*<- broken")


def test_what_breaks_a_law_is_named(envs: Envs) -> None:
    class Leaky(dreamer_v3.ImaginationAgent):
        """The first stream looks at the mean of all, and the state is written to."""

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            rows = {**rows, "vector": np.repeat(rows["vector"].mean(0, keepdims=True), len(rows["vector"]), 0)}
            actions, after = super().act(rows, state, explore)
            state["h"].add_(1.0)
            return actions, after

    agent = dreamer(envs)
    agent.__class__ = Leaky
    with broken("the state that it was given stays"):
        check_agent(agent, envs, turns=10)
    with broken("streams do not see each other"):
        check_agent(agent, envs, turns=10)

    class Stuck(dreamer_v3.ImaginationAgent):
        """Learns nothing, and keeps nothing."""

        def update(self, batch: Any) -> Any:
            return {"loss": torch.tensor(torch.nan)}

        def restore(self, state: Any) -> None:
            return

    agent = dreamer(envs)
    agent.__class__ = Stuck
    for law in (
        "an update gives finite numbers",
        "updates move weights",
        "its checkpoint learns on to the same bits",
    ):
        with broken(law):
            check_agent(agent, envs, turns=5)


def test_an_agent_that_ignores_masks_is_told(envs: Envs) -> None:
    class Wild(dreamer_v3.ImaginationAgent):
        """Plays on what its masks forbid, in an environment that lets it."""

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            actions, after = super().act(rows, state, explore)
            return {**actions, "choice": np.asarray((~rows["mask/choice"]).argmax(1))}, after

    class Lenient(Steered):
        def step(self, action: Any) -> Any:
            return super().step({**action, "choice": (self.count + 1) % 3})

    if "tests/Lenient-v0" not in gymnasium.registry:
        gymnasium.register("tests/Lenient-v0", entry_point=Lenient)
    lenient = Envs("tests/Lenient-v0", 2, seed=0)
    agent = dreamer(lenient)
    agent.__class__ = Wild
    with broken("nothing forbidden is chosen, exploring"):
        check_agent(agent, lenient, turns=10)
