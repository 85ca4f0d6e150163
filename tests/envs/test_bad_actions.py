"""Actions that none of our environments take: what is no number, what is no choice, what has another shape."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from gymnasium import spaces

from worldformula.envs import fork, lever_door, robot_remote, sphero_sim, two_rooms
from worldformula.envs.registry import entries
from worldformula.errors import ConfigError, NonFiniteError, SpaceError


def made(entry):
    env = entry.build(**entry.options)
    env.reset(seed=0)
    return env


def wrong(space):
    """Actions, and what is told of each."""
    if isinstance(space, spaces.Dict):
        first = next(iter(space.spaces))
        rest = dict.fromkeys(space.spaces, 0)
        for action, error, told in wrong(space[first]):
            yield {**rest, first: action}, error, told
    elif isinstance(space, spaces.Discrete):
        yield int(space.n), SpaceError, f"expected a whole number from 0 to {space.n - 1}, got {space.n}"
        yield -1, SpaceError, f"from 0 to {space.n - 1}, got -1"
        yield np.nan, SpaceError, "expected a whole number"
        yield 1.0, SpaceError, "expected a whole number"
    else:
        size = space.shape[0]
        yield np.full(size, np.nan), NonFiniteError, "expected finite numbers, got"
        yield np.r_[np.zeros(size - 1), np.inf], NonFiniteError, "expected finite numbers, got"
        yield np.zeros(size + 1), SpaceError, rf"expected numbers \[{size}\], got float64 \[{size + 1}\]"
        yield "left", SpaceError, rf"expected numbers \[{size}\]"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.alias)
def test_every_environment_of_ours_refuses_them_and_stays_as_it_was(entry):
    env, beside = made(entry), made(entry)
    for action, error, told in wrong(env.action_space):
        with pytest.raises(error, match=told):
            env.step(copy.deepcopy(action))
    env.action_space.seed(1)
    for _ in range(3):
        action = env.action_space.sample()
        one, other = env.step(action), beside.step(action)
        assert one[1:4] == other[1:4]
        parts = (one[0], other[0]) if isinstance(one[0], dict) else ({"": one[0]}, {"": other[0]})
        for key in parts[0]:
            np.testing.assert_array_equal(parts[0][key], parts[1][key])


def test_a_point_that_goes_nowhere_known_does_not_pass_walls():
    """NaN lies in no wall, so that the way was free; of several points the one that is wrong is told."""
    walls = two_rooms.two_rooms(np.random.default_rng(0)).walls
    points, actions = np.full((3, 2), 10.0), np.array([[0.5, 0.0], [np.nan, 1.0], [0.0, 0.0]])
    with pytest.raises(NonFiniteError, match=r"got \[nan, 1.0\]"):
        two_rooms.moved(walls, points, actions)
    assert np.array_equal(two_rooms.moved(walls, points, actions[[0, 2, 2]])[1:], points[1:])
    bad, flags = np.array([[np.inf, 0.0]]), np.zeros(1, bool)
    with pytest.raises(NonFiniteError):
        fork.moved(np.zeros(1), np.zeros(1), bad, np.ones(1))
    with pytest.raises(NonFiniteError):
        lever_door.moved(np.zeros((1, 2)), flags, bad)
    with pytest.raises(NonFiniteError):
        robot_remote.moved(np.zeros((1, 2)), np.zeros((1, 2)), flags, bad, 0.1)
    with pytest.raises(NonFiniteError, match="the command"):
        sphero_sim.moved(np.zeros(6), bad[0])


def test_a_layout_that_is_not_there_is_told_and_lying_rooms_lie():
    with pytest.raises(ConfigError, match="expected layout as 'two', 'lying' or 'nine', got 'tow'"):
        two_rooms.wander(0, 2, 3, "tow")
    layouts, positions, _ = two_rooms.wander(0, 3, 5, "lying")
    for own, points in zip(layouts, positions, strict=True):
        assert len(own.rooms) == 2  # and not nine
        (ax0, ax1, _, ay1), (bx0, bx1, by0, _) = own.rooms
        assert (ax0, ax1) == (bx0, bx1)  # one above the other
        assert ay1 < by0
        assert (points > 5).all()
        assert (points < 60).all()
