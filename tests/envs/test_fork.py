"""The forked road: the coin is fair and told by nothing, cliffs come as often as the fog says, trees are noise."""

import numpy as np
import pytest

from worldformula.envs import make
from worldformula.envs.fork import AT, CAR, FALL, FOG, LANE, Fork, drive, moved, reference


def play(env, seed, action):
    """Observations, rewards and events of an episode under one action."""
    observation, _ = env.reset(seed=seed)
    seen, rewards, events, end = [observation], [], [], False
    while not end:
        observation, reward, end, _, info = env.step(np.array(action))
        seen.append(observation)
        rewards.append(reward)
        events += info["event"]
    return np.array(seen), rewards, events


def test_a_seed_says_everything():
    env, other = Fork(), Fork()
    a, b = (play(e, 3, [0.5, 0.0]) for e in (env, other))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(env.render(), other.render())


def test_the_coin_is_fair_whatever_the_steering():
    env = Fork()
    for steering in (-1.0, 1.0):
        right = sum(play(env, seed, [1.0, steering])[0][-1][1] > 0 for seed in range(400))
        assert abs(right - 200) < 3.3 * 10  # the deviation of 400 fair coins is 10


def test_the_car_is_in_the_middle_before_the_fork_and_in_a_lane_behind_it():
    for seed in range(20):
        seen, rewards, events = play(Fork(), seed, [0.0, 0.0])
        before = seen[:, 0] < AT
        assert (seen[before, 1] == 0).all()
        assert len(np.unique(seen[~before, 1])) == 1
        assert abs(seen[-1, 1]) == LANE
        assert events == ["fork"]
        np.testing.assert_allclose(np.diff(seen[:-1, 0]), 0.125, atol=1e-6)
        assert rewards == [-0.1] * (len(seen) - 1)


def test_the_cliff_is_met_as_often_as_the_fog_says_and_the_long_road_never():
    env = Fork(cliff=True)
    falls, fogs = [], []
    for seed in range(600):
        seen, rewards, events = play(env, seed, [1.0, 1.0])
        falls.append("accident" in events)
        fogs.append(seen[0, 2])
        assert ("accident" in events) == (rewards[-1] == FALL) == bool(seen[-1, 3])
    falls, fogs = np.array(falls), np.array(fogs, np.float64)
    assert fogs.max() <= FOG
    assert abs(falls.sum() - fogs.sum()) < 3.3 * np.sqrt((fogs * (1 - fogs)).sum())
    foggy = fogs > FOG / 2
    assert falls[foggy].mean() > 2 * falls[~foggy].mean()
    short, long = (
        len(play(env, seed, [1.0, s])[1]) for seed, s in ((np.flatnonzero(~falls)[0].item(), 1.0), (0, -1.0))
    )
    assert long > 2 * short
    assert "accident" not in play(env, 0, [1.0, -1.0])[2]


@pytest.mark.parametrize(("id", "best"), [("fork", -0.7), ("cliff", -1.8)])
def test_it_is_made_by_name_and_the_reference_is_fast(id, best):
    env = make(id)
    totals = []
    for seed in range(60):
        _, info = env.reset(seed=seed)
        end, whole = False, 0.0
        while not end:
            _, reward, terminated, truncated, info = env.step(reference(info["state"]))
            end, whole = terminated or truncated, whole + reward
        totals.append(whole)
    assert np.mean(totals) > best


def test_pictures_show_the_car_and_trees_are_new_at_every_step():
    env = Fork()
    env.reset(seed=1)
    first = env.render()
    env.step([1.0, 0.0])
    second = env.render()
    assert first.shape == (32, 32, 3)
    assert (np.abs(first.astype(int) - second).sum(-1) > 10).mean() > 0.3
    shown = env.batch_render([[0.75, LANE, 0.0, 0.0], [0.75, 0.0, 0.0, 0.0], [0.75, -LANE, 0.0, 0.0]])
    columns = [np.flatnonzero((np.abs(p.astype(int) - CAR).sum(-1) < 30).any(0)).mean() for p in shown]
    np.testing.assert_allclose(columns, [15.5 + 8, 15.5, 15.5 - 8], atol=0.6)
    foggy = env.batch_render([[0.1, 0.0, FOG, 0.0], [0.1, 0.0, 0.0, 0.0]]).astype(int)
    assert (foggy[0] - foggy[1])[:14, 22:26].mean() > 50


def test_data_are_those_of_the_environment():
    seen, trees, actions = drive(0, 300, 8)
    assert trees.shape == (300, 8, 64)
    y, x = seen[..., 0], seen[..., 1]
    for t in range(7):
        after, lane = moved(y[:, t], np.sign(x[:, t]), actions[:, t], np.sign(x[:, -1]))
        np.testing.assert_allclose(after, y[:, t + 1])
        np.testing.assert_allclose(LANE * lane, x[:, t + 1])
    right = (x[:, -1] > 0).sum()
    assert abs(right - 150) < 3.3 * np.sqrt(75)
    assert abs(np.corrcoef(actions[:, :4, 0].mean(1), x[:, -1])[0, 1]) < 0.2
    np.testing.assert_array_equal(drive(0, 300, 8)[0], seen)
