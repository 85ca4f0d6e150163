"""Lever and door: what is in the way, when the door opens, what is seen of it, how far the goal is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import make
from worldformula.envs.lever_door import HANDLE, POINT, SHUT, TARGET, LeverDoor, reference
from worldformula.envs.play import play as data


def at(x, y, *, open_=False, **options):
    env = LeverDoor(**options)
    env.reset(seed=0)
    env.position, env.open = np.array([x, y]), np.array(open_)
    return env


@pytest.mark.parametrize(
    ("start", "action", "open_", "end"),
    [
        ((0.4, 0.2), (1.0, -0.4), False, (0.45, 0.18)),
        ((0.48, 0.5), (1.0, 0.0), False, (0.48, 0.5)),
        ((0.48, 0.5), (1.0, 1.0), True, (0.53, 0.55)),
        ((0.48, 0.7), (1.0, 1.0), True, (0.48, 0.75)),
        ((0.51, 0.3), (-1.0, 0.0), True, (0.51, 0.3)),
        ((0.495, 0.59), (1.0, 1.0), True, (0.545, 0.64)),  # it crosses at y = 0.595
        ((0.46, 0.58), (1.0, 1.0), True, (0.46, 0.63)),  # it would cross at y = 0.62
        ((0.98, 0.01), (7.0, -7.0), False, (1.0, 0.0)),
    ],
)
def test_the_wall_stops_what_does_not_pass_the_open_door(start, action, open_, end):
    np.testing.assert_allclose(at(*start, open_=open_).step(np.array(action))[0][:2], end, atol=1e-6)


def test_the_door_opens_for_good_when_the_point_comes_to_the_lever():
    env = at(0.1, 0.78)
    seen, *_, info = env.step(np.array([0.0, 0.5]))
    assert (info["event"], info["state"]["open"][0], seen[2]) == (["lever"], 1.0, 1.0)
    seen, *_, info = env.step(np.array([0.0, -1.0]))
    assert (info["event"], seen[2]) == ([], 1.0)
    env.position = np.array([0.48, 0.5])
    assert env.step(np.array([1.0, 0.0]))[4]["event"] == ["door_pass"]
    env.position = np.array([0.77, 0.5])
    _, reward, end, cut, info = env.step(np.array([1.0, 0.0]))
    assert (reward, end, cut, info["event"], info["success"]) == (1.0, True, False, ["goal"], True)


def test_a_hidden_door_is_seen_from_near_alone():
    rows = []
    for open_ in (False, True):
        env = at(0.3, 0.2, open_=open_, hidden_door=True)
        seen, *_, info = env.step(np.zeros(2))
        rows.append((seen, env.render()))
        assert info["hidden"] == {"door": float(open_)}
        env.position = np.array([0.4, 0.4])
        seen, *_, info = env.step(np.zeros(2))
        assert (seen[2], info["hidden"]) == (1.0 if open_ else -1.0, {})
    assert same(*rows)
    assert at(0.3, 0.2).step(np.zeros(2))[4]["hidden"] == {}


def test_random_play_never_gets_there_and_the_reference_always():
    assert play(LeverDoor(8), 100, 80).returns.sum() == 0.0
    best = play(LeverDoor(8), 100, 80, policy=reference)
    assert best.success.all()
    assert best.steps.max() <= 40
    assert all(events == ["lever", "door_pass", "goal"] for events in best.events)
    env = make("lever_door")
    env.reset(seed=0)
    assert [env.step(np.zeros(2, np.float32))[2:4] for _ in range(80)][-1] == (False, True)


def test_the_lever_is_ten_steps_from_the_start_and_the_goal_twenty():
    env = LeverDoor(8)
    for seed in range(30):
        _, info = env.reset(seed=seed)
        steps = {}
        for k in range(1, 50):
            info = env.step(reference(info["state"]))[4]
            steps |= dict.fromkeys(info["event"], k)
        assert steps["lever"] >= 10
        assert steps["goal"] > 20


def test_a_seed_says_everything():
    assert all(same(a, b) for a, b in twice(LeverDoor, 30))


def test_scripted_play_is_data():
    rows = data("lever_door", 100, 20, 80, labels=("state/open",), events=("lever", "door_pass", "goal"))
    opened = np.diff(rows["label/state/open"][..., 0], axis=1) == 1
    np.testing.assert_array_equal(opened, rows["event"][:, 1:, 0])
    assert rows["event"][..., 2].any()
    np.testing.assert_array_equal(rows["event"][..., 2], rows["reward"] == 1)


@pytest.mark.parametrize("size", [32, 64])
def test_the_picture_shows_lever_door_and_point_where_they_are(size):
    picture = LeverDoor(size).batch_render([[0.3, 0.2, -1.0]])[0].astype(int)
    for colour, (x, y) in ((POINT, (0.3, 0.2)), (HANDLE, (0.1, 0.9)), (TARGET, (0.9, 0.5)), (SHUT, (0.5, 0.5))):
        rows, columns = (np.abs(picture - colour).sum(-1) < 40).nonzero()
        assert ((columns.mean() + 0.5) / size, 1 - (rows.mean() + 0.5) / size) == pytest.approx((x, y), abs=1.6 / size)


def test_a_random_action_that_goes_on_comes_to_the_closed_door():
    """Which the controller never does: without such play nothing says that a closed door stops."""

    def stopped(hold, random):
        rows = data("lever_door", seed=7, chunks=40, steps=80, random=random, hold=hold)
        x, push = rows["vector"][..., 0], rows["action"][:, :-1, 0]
        ahead = x[:, :-1] + 0.05 * push
        return int(((x[:, :-1] < 0.5) & (ahead > 0.5) & (x[:, 1:] < 0.5) & ~rows["is_first"][:, 1:]).sum())

    assert stopped(1, (0.1, 0.3, 0.5)) == 0
    assert stopped(12, (0.03, 0.1, 0.3)) > 40
    rows = data("lever_door", seed=7, chunks=20, steps=80, random=(1.0,), hold=5)
    on = (rows["action"][:, 1:] == rows["action"][:, :-1]).all(-1)
    assert on.mean() > 0.7  # four in five, less the ends of episodes
