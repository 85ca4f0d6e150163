"""Room: steps, walls and the reward by hand, squares, pictures, and what random steps reach."""

import numpy as np
import pytest

from worldformula.envs import Envs, make
from worldformula.envs.returns import random_policy_return, reference_return
from worldformula.envs.room import FIGURE, Room, rewarded, square


def at(x, y, **options):
    env = Room(**options)
    env.reset(seed=0)
    env.position = np.array([x, y])
    return env


def test_a_step_is_a_twentieth_of_the_action_and_walls_stop_it():
    env = Room()
    seen, _ = env.reset(seed=0)
    np.testing.assert_allclose(seen, [-0.8, -0.8], rtol=1e-6)
    for action, wanted in (((1, 0), (-0.75, -0.8)), ((-0.4, 0.2), (-0.77, -0.79)), ((7, -7), (-0.72, -0.84))):
        seen, *_ = env.step(np.array(action, np.float32))
        np.testing.assert_allclose(seen, wanted, atol=1e-6)
    np.testing.assert_allclose(at(0.98, -1.0).step(np.array([1.0, -1.0]))[0], (1.0, -1.0))


@pytest.mark.slow
def test_arriving_in_the_far_corner_earns_1_and_whoever_goes_straight_there_36():
    """25 steps of 0.05 lead from −0.8 to 0.45; the 25th to the 60th arrive there."""
    assert reference_return("room", 3).mean == 36.0
    assert random_policy_return("room", 100, 1).mean == 0.0
    assert at(0.5, 0.3).step(np.array([0.0, 1.0]))[1] == 0.0
    assert at(0.5, 0.42).step(np.array([0.0, 1.0]))[1] == 1.0
    assert at(0.5, 0.42, goal=False).step(np.array([0.0, 1.0]))[1] == 0.0
    np.testing.assert_array_equal(rewarded([[0.5, 0.5], [0.44, 0.9], [0.9, -0.9]]), [True, False, False])


def test_an_episode_is_cut_at_60_steps():
    env = make("room")
    env.reset(seed=3)
    ends = [env.step(np.ones(2, np.float32))[2:4] for _ in range(60)]
    assert ends[:-1] == [(False, False)] * 59
    assert ends[-1] == (False, True)


def test_squares_are_numbered_by_rows_from_the_lower_left():
    where = [[-1, -1], [-0.81, -0.9], [-0.79, -0.9], [-0.9, -0.79], [0.05, 0.05], [1, 1], [1, -1]]
    np.testing.assert_array_equal(square(where), [0, 0, 1, 10, 55, 99, 9])
    assert square(np.zeros((3, 4, 2))).shape == (3, 4)


def test_random_steps_spread_by_the_root_of_their_number():
    """Uniform numbers have a variance of 1/3, so n steps one of n · 0.05²/3 where no wall is near."""
    envs, rng = Envs("room", 400, seed=0), np.random.default_rng(0)
    rows = envs.reset()
    for _ in range(9):
        rows = envs.step(rng.uniform(-1, 1, (400, 2)).astype(np.float32))
    spread = rows["vector"].std(0)
    np.testing.assert_allclose(spread, 0.05 * np.sqrt(9 / 3), rtol=4 / np.sqrt(2 * 400))


@pytest.mark.parametrize("size", [32, 64])
def test_the_picture_shows_the_point_where_it_is(size):
    env, places = Room(size), np.array([[-0.8, -0.8], [0.5, -0.3], [0.0, 0.7]])
    for (x, y), picture in zip(places, env.batch_render(places), strict=True):
        alike = (np.abs(picture.astype(int) - FIGURE).sum(-1) < 30).nonzero()
        down, across = ((np.mean(axis) + 0.5) / size * 2 - 1 for axis in alike)
        assert (across, -down) == (pytest.approx(x, abs=1.5 / size), pytest.approx(y, abs=1.5 / size))
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), env.batch_render(places)[0])
