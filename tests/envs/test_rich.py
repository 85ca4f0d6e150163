"""A Dict of every kind of observation, a Dict of every kind of action and masks: through Envs and Replay and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.envs.rich import LENGTH, Rich, register
from worldformula.agent.perception import encoded
from worldformula.data.replay import Replay
from worldformula.envs import Envs
from worldformula.envs.actions import single
from worldformula.errors import SpaceError
from worldformula.testing import check_env
from worldformula.training import checkpoint

COLUMNS = {
    "camera": ((8, 10, 3), "uint8"),
    "board": ((4, 4, 1), "uint8"),
    "depth": ((8, 9, 1), "float32"),
    "body/speed": ((2,), "float32"),
    "body/heat": ((), "float32"),
    "word": ((), "int64"),
    "faces": ((2,), "int64"),
    "switches": ((2,), "bool"),
    "mask/choice": ((3,), "bool"),
    "mask/dice": ((5,), "bool"),
    "label/success": ((), "float32"),
    "label/map": ((2, 2), "float32"),
    "reward": ((), "float32"),
    "is_first": ((), "bool"),
    "is_last": ((), "bool"),
    "is_terminal": ((), "bool"),
    "action/choice": ((), "int64"),
    "action/force": ((2,), "float32"),
    "action/dice": ((2,), "int64"),
    "action/lamps": ((2,), "bool"),
}
LABELS = ("success", "map")


def recorded(steps=40, seed=0):
    envs = Envs(register(), 2, labels=LABELS)
    replay, rng = Replay(400, envs.row_spec, streams=2), np.random.default_rng(seed)
    rows = envs.reset()
    for _ in range(steps):
        actions = envs.random(rng, rows)
        replay.add(rows, envs.stored(actions))
        rows = envs.step(actions)
    return envs, replay


def test_every_column_is_declared():
    envs = Envs(register(), labels=LABELS)
    assert envs.row_spec == COLUMNS
    assert list(envs.observations) == list(COLUMNS)[:8]
    assert {name: spec.told for name, spec in envs.actions.items()} == {
        "choice": "one of 3 choices",
        "force": "2 numbers from -1 to 1",
        "dice": "2 choices (2 × 3)",
        "lamps": "2 booleans",
    }


def test_every_value_comes_back_from_the_replay_as_the_environment_gave_it():
    _, replay = recorded()
    batch = replay.sample(60, 9)
    found = 0
    for i in range(60):
        for t in range(9):
            row = {key: value[i, t] for key, value in batch.items()}
            n = int(row["body/heat"])
            assert (row["is_first"], row["is_last"]) == (n == 0, n == LENGTH)
            camera = np.full((8, 10, 3), 10 * n)
            camera[n, 2, 1] = 200
            assert (row["camera"] == camera).all()
            assert (row["board"] == n % 2).all()
            assert (row["depth"] == -2 + n / 2).all()
            assert (row["word"], row["faces"][0]) == (1 + n % 5, n % 7)
            assert row["mask/choice"].tolist() == [k != n % 3 for k in range(3)]
            assert row["mask/dice"].tolist() == [True, True, n % 2 == 1, n % 2 == 0, False]
            assert (row["label/success"], row["label/map"].tolist()) == (n == LENGTH, [[n, n], [n, n]])
            if t + 1 < 9 and n < LENGTH:  # what was done here arrived in the next row
                following = {key: value[i, t + 1] for key, value in batch.items()}
                a, b = row["action/force"]
                assert following["body/speed"] == pytest.approx([5 + 5 * a, -1 + 3 * b], abs=1e-5)
                assert following["faces"][1] == row["action/dice"][1]
                assert (following["switches"] == row["action/lamps"]).all()
                assert following["reward"] == 100 * (n + 1) + 2 + row["action/choice"]
                found += 1
            elif n == LENGTH:
                assert not any(row[key].any() for key in row if key.startswith("action/"))
    assert found > 300


def test_random_play_keeps_to_the_masks_and_uses_all_that_they_allow():
    _, replay = recorded(200)
    batch = replay.sample(200, 20)
    inside = ~batch["is_last"]
    allowed = np.take_along_axis(batch["mask/choice"], batch["action/choice"][..., None], -1)[..., 0]
    assert allowed[inside].all()
    second = batch["mask/dice"][..., 2:]
    assert np.take_along_axis(second, batch["action/dice"][..., 1:], -1)[..., 0][inside].all()
    for n in range(3):
        here = inside & (batch["body/heat"] == n)
        assert set(batch["action/choice"][here]) == {k for k in range(3) if k != n}
        assert set(batch["action/dice"][..., 0][here]) == {0, 1}


def test_a_mask_in_the_observation_is_a_mask_too():
    envs = Envs(register(), mask="observation")
    assert "action_mask" not in envs.observations
    rows = envs.reset()
    assert rows["mask/choice"].tolist() == [[False, True, True]]
    assert "mask/dice" not in rows


def test_what_the_environment_is_told_is_in_its_own_units():
    envs = Envs(register(), 1)
    envs.reset()
    actions = {"choice": [1], "force": [[-7.0, 0.5]], "dice": [[1, 2]], "lamps": [[True, False]]}
    stored = envs.stored({key: np.array(value) for key, value in actions.items()})
    assert stored["action/force"].tolist() == [[-1.0, 0.5]]
    envs.step({key: np.array(value) for key, value in actions.items()})
    told = envs._streams[0].env.unwrapped.told[-1]
    assert (told["choice"], told["force"].tolist(), told["dice"].tolist()) == (3, [0.0, 0.5], [1, 2])
    assert told["lamps"].tolist() == [1, 0]
    assert all(value in envs._streams[0].env.unwrapped.action_space[key] for key, value in told.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choice": np.array([3])}, r"expected 'choice' as one of 3 choices, counted from 0; got \[3\]"),
        ({"choice": np.array([-1])}, r"counted from 0; got \[-1\]"),
        ({"choice": np.eye(3)[[1]]}, r"of shape \[N\], got float64 \(1, 3\); a one-hot .* argmax"),
        ({"dice": np.array([[0, 3]])}, r"'dice' as 2 choices \(2 × 3\)"),
        ({"lamps": np.array([[0.5, 1]])}, "'lamps' as 2 booleans"),
        ({"jump": np.array([1])}, "expected the actions choice, force, dice, lamps; got choice, .*, jump"),
    ],
)
def test_actions_that_do_not_fit_are_told_by_name(change, says):
    envs = Envs(register(), 1)
    rows = envs.reset()
    actions = {**envs.random(np.random.default_rng(0), rows), **change}
    with pytest.raises(SpaceError, match=says):
        envs.step(actions)


def test_a_single_array_for_several_actions_is_refused():
    envs = Envs(register(), 1)
    envs.reset()
    with pytest.raises(SpaceError, match="one array per action, by name: choice, force, dice, lamps; got a single"):
        envs.step(np.zeros(1))
    with pytest.raises(SpaceError, match="takes several actions, choice, force, dice, lamps"):
        _ = envs.action


def test_an_agent_that_gives_one_action_says_so():
    envs = Envs(register(), 1)
    with pytest.raises(SpaceError, match="this agent gives one action.*choice: one of 3 choices; force: 2 numbers"):
        single(envs.actions)


def test_perception_scales_pictures_by_their_range_and_makes_the_one_hots():
    envs, replay = recorded()
    batch, device = replay.sample(4, 5), torch.device("cpu")

    def seen(key):
        return encoded(batch[key], envs.columns[key], device).numpy()

    heat = batch["body/heat"]
    assert np.allclose(seen("camera"), batch["camera"] / 255)
    assert (seen("board")[..., 0, 0, 0] == heat % 2).all()
    assert np.allclose(seen("depth")[..., 0, 0, 0], heat / 2 / 4)
    assert seen("body/heat").shape == (4, 5, 1)
    assert (seen("word") == np.eye(5)[(heat % 5).astype(int)]).all()
    faces = seen("faces")
    assert faces.shape == (4, 5, 10)
    assert (faces[..., :7] == np.eye(7)[(heat % 7).astype(int)]).all()
    assert (faces[..., 7:] == np.eye(3)[batch["faces"][..., 1]]).all()
    assert (seen("switches") == batch["switches"]).all()


def test_the_checker_accepts_it():
    check_env(Rich())


def test_running_episodes_go_on_from_a_checkpoint_to_the_last_bit(tmp_path):
    rng, envs = np.random.default_rng(0), Envs(register(), 3, seed=4, labels=LABELS)
    rows = envs.reset()
    for _ in range(9):  # in the second episode
        rows = envs.step(envs.random(rng, rows))
    checkpoint.save(tmp_path, 9, {"envs": envs.state()})
    other = Envs(register(), 3, seed=4, labels=LABELS)
    found, cut = other.restore(checkpoint.load_latest(tmp_path).state["envs"])
    assert cut == []
    for _ in range(9):
        assert found.keys() == rows.keys()
        assert all((found[key] == rows[key]).all() for key in rows if not key.startswith("label/"))
        actions = envs.random(rng, rows)
        rows, found = envs.step(actions), other.step(actions)
    state = envs.state()
    state["digests"][1] = "0" * 32
    again, cut = Envs(register(), 3, seed=4, labels=LABELS).restore(state)
    assert cut == [1]
    assert again["is_first"].tolist() == [bool(n == 1) for n in range(3)]
