"""A player of an agent that was trained with masks: what it may choose is passed on, or asked for by name."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.agents.test_several_actions import Steered
from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column, Envs
from worldformula.errors import MissingInputError, NonFiniteError, ShapeError, SpaceError
from worldformula.trained import TrainedAgent

COLUMNS = {"vector": Column("vector", (2,), "float32")}


def trained(actions: Any, columns: Any = None) -> TrainedAgent:
    columns = columns or COLUMNS
    agent = dreamer_v3.build(dreamer_v3.tiny(), columns, actions, seed=0).eval()
    return TrainedAgent(agent, columns, actions, None, {})


def test_a_player_keeps_to_the_masks_that_its_environment_gives() -> None:
    """It acts as the agent does, whether rows hold the masks or Gymnasium's info does."""
    if "tests/Steered-v0" not in gymnasium.registry:
        gymnasium.register("tests/Steered-v0", entry_point=Steered)
    envs = Envs("tests/Steered-v0", 3, seed=0)
    assert envs.actions["choice"].masked
    assert not envs.actions["dice"].masked
    agent = trained(envs.actions, envs.observations)
    rows, state = envs.reset(), agent.inner.initial(3)
    of_rows, of_info = agent.player(3), agent.player(3)
    for _ in range(20):
        begins = np.flatnonzero(rows["is_first"]).tolist()
        if begins:
            of_rows.reset(*begins), of_info.reset(*begins)
        actions, state = agent.inner.act(rows, state, explore=False)
        given = {"choice": np.stack([info["action_mask"]["choice"] for info in envs.infos])}
        seen = {"vector": rows["vector"]}
        for found in (of_rows.act(rows), of_info.act(seen, mask=given)):
            assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in actions.items()}
        rows = envs.step(actions)  # the environment asserts that nothing forbidden is executed


def test_a_single_observation_takes_a_single_mask() -> None:
    agent = trained({"action": ActionSpec("discrete", 4, masked=True)})
    for allowed in range(4):
        mask = np.eye(4, dtype=np.int8)[allowed]
        for player in (agent.player(), agent.player(explore=True)):
            assert int(player.act(np.zeros(2), mask=mask)) == allowed
            assert int(player.act({"vector": np.zeros(2), "mask/action": mask})) == allowed
            assert player.act(np.zeros((1, 2)), mask=mask[None]).tolist() == [allowed]
        assert int(agent.act(np.zeros(2), mask=mask)) == allowed


def test_elements_of_a_multi_discrete_may_have_a_mask_each() -> None:
    agent = trained({"dice": ActionSpec("multi_discrete", 5, (2, 3), masked=True), "go": ActionSpec("continuous", 1)})
    found = agent.player().act(np.zeros(2), mask={"dice": (np.array([0, 1]), np.array([0, 0, 1]))})
    assert found["dice"].tolist() == [1, 2]
    flat = np.array([[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]])
    assert agent.player(2).act(np.zeros((2, 2)), mask={"dice": flat})["dice"].tolist() == [[1, 2], [0, 0]]


def test_an_action_without_masks_in_training_may_have_one_now() -> None:
    agent = trained({"action": ActionSpec("discrete", 3)})
    assert agent.player().act(np.zeros(2)) in range(3)
    assert int(agent.player().act(np.zeros(2), mask=[0, 0, 1])) == 2


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        (None, MissingInputError, r"which choices of 'tool' are allowed, and nothing says it now: pass .*action_mask"),
        (
            {"toll": [1, 1, 1]},
            MissingInputError,
            r"or 3 ones where all are, act\(observation, mask=\{'tool': \[...\]\}\)",
        ),
        ([1, 1, 1], SpaceError, "expected a mask by action, {'tool': ...}"),
        ({"tool": [1, 1]}, SpaceError, "expected a mask of 3 zeros and ones for one of 3 choices"),
        ({"tool": [1, 2, 0]}, SpaceError, "expected a mask of 3 zeros and ones"),
    ],
)
def test_a_mask_that_is_missing_or_none_is_named(mask: Any, error: type[Exception], says: str) -> None:
    agent = trained({"tool": ActionSpec("discrete", 3, masked=True), "go": ActionSpec("continuous", 1)})
    with pytest.raises(error, match=says):
        agent.player().act(np.zeros(2), mask=mask)


def test_masks_of_many_streams_have_that_axis() -> None:
    agent = trained({"tool": ActionSpec("discrete", 3, masked=True), "go": ActionSpec("continuous", 1)})
    with pytest.raises(ShapeError, match=r"the mask of 'tool': expected the shape \(2, 3\), got \(3,\)"):
        agent.player(2).act(np.zeros((2, 2)), mask={"tool": [1, 1, 1]})
    with pytest.raises(SpaceError, match="this agent has no action with choices"):
        trained({"action": ActionSpec("continuous", 1)}).player().act(np.zeros(2), mask=[1])


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("camera", np.full((16, 16, 3), 0.5), SpaceError),
        ("camera", np.full((16, 16, 3), 256), SpaceError),
        ("word", np.array(4), SpaceError),
        ("word", np.array(-1), SpaceError),
        ("vector", np.array([np.nan, 0.0]), NonFiniteError),
        ("vector", np.array(["a", "b"]), SpaceError),
    ],
)
def test_values_that_a_column_cannot_hold_are_refused(key: str, value: Any, error: type[Exception]) -> None:
    columns = {
        **COLUMNS, "camera": Column("image", (16, 16, 3), "uint8", 0, 255),
        "word": Column("discrete", (), "int64", 0, 3, (4,), (0,)),
    }  # fmt: skip
    player = trained({"action": ActionSpec("continuous", 1)}, columns).player()
    right = {"camera": np.full((16, 16, 3), 7), "word": np.array(2.0), "vector": np.zeros(2)}
    assert player.act(right).shape == (1,)
    with pytest.raises(error, match=f"{key}"):
        player.act({**right, key: value})
