"""Robot Remote Control: who moves when, where control begins, that it is not seen; and its data."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import make
from worldformula.envs.robot_remote import FIGURE, ROBOT, RobotRemote, reference, sequences
from worldformula.errors import ConfigError


def at(figure, robot, *, controlled=False, **options):
    env = RobotRemote(**options)
    env.reset(seed=0)
    env.figure, env.robot, env.controlled = np.array(figure, float), np.array(robot, float), np.array(controlled)
    return env


def test_a_robot_moves_from_the_step_after_the_figure_arrived():
    """The figure arrives within 0.1 of (0.5, 0.5) with the second step; the third one moves the robot by 0.1 · a."""
    env, seen = at((0.25, 0.5), (-0.5, 0.2)), []
    for action in ((1.0, 0.0), (0.6, 0.0), (-0.5, 1.0), (0.0, -5.0)):
        observation, reward, end, _, info = env.step(np.array(action))
        seen.append((*observation, info["event"], bool(info["hidden"]["controlled"]), reward, end))
    assert [row[4:] for row in seen] == [
        ([], False, 0.0, False), (["control"], True, 0.0, False), ([], True, 0.0, False), ([], True, 0.0, False),
    ]  # fmt: skip
    np.testing.assert_allclose([row[2:4] for row in seen], [(-0.5, 0.2)] * 2 + [(-0.55, 0.3), (-0.55, 0.2)], atol=1e-6)
    np.testing.assert_allclose([row[0] for row in seen], [0.35, 0.41, 0.36, 0.36], atol=1e-6)


@pytest.mark.parametrize(("radius", "there"), [(0.1, False), (0.2, True)])
def test_the_radius_is_an_option(radius, there):
    *_, info = at((0.35, 0.5), (0.0, 0.0), radius=radius).step(np.zeros(2))
    assert (info["event"] == ["control"]) == there


def test_points_stay_inside_and_the_robot_at_its_goal_ends_the_episode():
    env = at((0.94, -0.94), (0.45, -0.34), controlled=True)
    observation, reward, end, cut, info = env.step(np.array([1.0, -0.9]))
    np.testing.assert_allclose(observation, [0.95, -0.95, 0.55, -0.43], atol=1e-6)
    assert (reward, end, cut, info["event"], info["success"]) == (1.0, True, False, ["goal"], True)


def test_control_is_not_seen():
    rows = []
    for controlled in (False, True):
        env = at((-0.2, 0.1), (0.3, 0.3), controlled=controlled)
        observation, *_, info = env.step(np.zeros(2))
        rows.append((observation, env.render()))
        assert info["hidden"]["controlled"] == controlled
    assert same(*rows)


def test_walls_are_sensed_within_a_tenth():
    env = at((0.93, 0.0), (-0.5, -0.92), sensors=True)
    observation, *_ = env.step(np.zeros(2))
    np.testing.assert_allclose(observation[4:], [0.3, 0, 0, 0, 0, 0, 0, 0.2], atol=1e-5)
    assert env.observation_space.contains(observation)


def test_who_sees_control_always_succeeds_and_random_steps_hardly_ever():
    assert play(RobotRemote(), 100, 50, policy=reference).success.all()
    assert play(RobotRemote(), 200, 50).success.mean() < 0.05
    env = make("robot_remote")
    env.reset(seed=0)
    assert [env.step(np.zeros(2, np.float32))[2:4] for _ in range(50)][-1] == (False, True)


def test_a_seed_says_everything():
    assert all(same(a, b) for a, b in twice(RobotRemote, 30))


@pytest.mark.parametrize("size", [32, 64])
def test_the_picture_shows_both_where_they_are(size):
    state = np.array([-0.6, 0.7, 0.2, -0.3])
    picture = RobotRemote(size).batch_render(state[None])[0].astype(int)
    for colour, (x, y) in ((FIGURE, state[:2]), (ROBOT, state[2:])):
        down, across = ((np.mean(k) + 0.5) / size * 2 - 1 for k in (np.abs(picture - colour).sum(-1) < 30).nonzero())
        assert (across, -down) == (pytest.approx(x, abs=1.5 / size), pytest.approx(y, abs=1.5 / size))


def test_half_of_the_sequences_have_control_and_their_lengths_grow():
    data = sequences(100, 400)
    assert data["observation"].shape == (400, 50, 4)
    assert data["event"].any(1).sum() == 200
    assert (data["event"].sum(1) <= 1).all()
    np.testing.assert_allclose(
        np.linalg.norm(data["action"], axis=-1), np.tile(np.linspace(1e-4, 1, 50), (400, 1)), atol=1e-6
    )
    assert abs(data["action"].mean()) < 4 * np.sqrt(1 / 6 / data["action"].size)  # every direction alike
    assert same(sequences(100, 400), data)
    uniform = sequences(100, 400, actions="uniform", control=None)["action"]
    assert uniform.std() == pytest.approx(1 / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("radius", [0.1, 0.2])
def test_sequences_follow_the_rules_that_the_environment_follows(radius):
    """Step by step with arithmetic of this test alone, and with the environment."""
    data, env = sequences(3, 20, radius=radius, actions="uniform"), RobotRemote(radius=radius)
    columns = [data[k] for k in ("observation", "action", "controlled", "event")]
    for seen, actions, controlled, event in zip(*columns, strict=True):
        held = False
        env.reset(seed=0)
        env.figure, env.robot = seen[0, :2].astype(float), seen[0, 2:].astype(float)
        for t in range(49):
            own = np.clip(seen[t].astype(float) + 0.1 * np.concatenate((actions[t], actions[t] * held)), -0.95, 0.95)
            np.testing.assert_allclose(seen[t + 1], own, atol=1e-5)
            began = not held and np.hypot(own[0] - 0.5, own[1] - 0.5) < radius
            held = held or began
            assert (controlled[t + 1], event[t + 1]) == (held, began)
            told = env.step(actions[t])[4]
            np.testing.assert_allclose(told["state"]["robot"], seen[t + 1, 2:], atol=1e-5)


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match=r"in \(0, 0.4\]"):
        RobotRemote(radius=0.0)
    with pytest.raises(ConfigError, match="Did you mean 'uniform'"):
        sequences(0, actions="unform")
    with pytest.raises(ConfigError, match="control in"):
        sequences(0, control=2.0)
