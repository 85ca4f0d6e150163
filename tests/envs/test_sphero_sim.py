"""The ball keeps its rules: speeds that follow the motors, an edge, a picture that hides where it is heading."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from worldformula.envs import Envs
from worldformula.envs.sphero_sim import Ball, make, moved
from worldformula.errors import ConfigError

Q = 5 / 6  # what is left of a difference after a step of 0.05 s, with a time constant of 0.3 s
GROWN = 10 - Q * (1 - Q**10) / (1 - Q)  # the sum of 1 − Q^k over the ten steps of a tick


def ball(**options: Any) -> Ball:
    body: Any = make(**options).robot
    return body.body


def at(x: float, y: float, heading: float, speed: float = 0.0) -> np.ndarray:
    return np.array([x, y, heading, speed, 0.0, 0.0])


def test_with_both_motors_it_rolls_straight_on_by_arithmetic():
    """From rest the speed after k steps is 0.5 (1 − Q^k); the way is 0.05 times their sum, along the heading."""
    x, y, heading, speed, turning, ticks = moved(at(-0.2, 0.1, 0.3), (1.0, 1.0))
    assert speed == pytest.approx(0.5 * (1 - Q**10))
    assert (x + 0.2, y - 0.1) == pytest.approx((0.025 * GROWN * math.cos(0.3), 0.025 * GROWN * math.sin(0.3)))
    assert (heading, turning, ticks) == (0.3, 0.0, 1.0)


@pytest.mark.parametrize(("left", "right", "side"), [(-1.0, 1.0, 1), (1.0, -1.0, -1)])
def test_against_each_other_the_motors_turn_it_where_it_stands(left, right, side):
    x, y, heading, speed, turning, _ = moved(at(0.4, -0.3, 0.0), (left, right))
    assert (x, y, speed) == (0.4, -0.3, 0.0)
    assert turning == pytest.approx(side * 3 * (1 - Q**10))
    assert heading == pytest.approx(side * 0.15 * GROWN)


def test_one_motor_does_half_of_both():
    """Linear in the commands: l alone gives half of the speed, and turns to the right."""
    _, _, heading, speed, turning, _ = moved(at(0.0, 0.0, 0.0), (1.0, 0.0))
    assert speed == pytest.approx(0.25 * (1 - Q**10))
    assert turning == pytest.approx(-1.5 * (1 - Q**10))
    assert heading < 0


def test_the_edge_stops_it():
    x, y, _, speed, *_ = moved(at(0.88, 0.0, 0.0, 0.5), (1.0, 1.0))
    assert (x, y) == (0.9, 0.0)
    assert speed == 0.0


def test_the_reward_is_the_distance_to_the_goal():
    body = ball(goal=(0.5, 0.5))
    body.state = at(0.2, 0.1, 0.0)
    assert body.reward() == pytest.approx(-0.5)


def test_no_picture_shows_where_it_is_heading_and_every_one_shows_where_it_is():
    body = ball()
    frames = body.draw(np.stack([at(0.1, -0.4, 0.0), at(0.1, -0.4, 2.0), at(0.16, -0.4, 0.0)])).astype(int)
    assert (frames[0] == frames[1]).all()
    assert np.abs(frames[0] - frames[2]).max() > 50
    white = frames[0].min(-1) > 200
    row, column = (places.mean() for places in np.nonzero(white))
    assert (column, row) == pytest.approx(((0.1 + 1) * 16 - 0.5, (0.4 + 1) * 16 - 0.5), abs=0.3)


def test_numbers_do_not_tell_the_heading_either():
    body, rng = ball(noise=0.0), np.random.default_rng(0)
    body.state = at(0.3, -0.2, 1.0, 0.4)
    assert body.observe(rng) == pytest.approx([0.3, -0.2])


def test_a_pseudo_episode_is_a_hundred_ticks_and_ends_nothing():
    envs = Envs("sphero_sim", 1, seed=0)
    envs.reset()
    go = np.ones((1, 2), np.float32)
    rows = [envs.step(go) for _ in range(101)]
    assert [int(np.flatnonzero([r[key][0] for r in rows])[0]) for key in ("is_last", "is_first")] == [99, 100]
    assert not any(r["is_terminal"][0] for r in rows)
    assert (rows[100]["vector"] == rows[99]["vector"]).all()


@pytest.mark.parametrize("options", [{"goal": (0.95, 0.0)}, {"noise": -1.0}, {"fade": 2.0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError, match="expected noise"):
        make(**options)
