"""Rolling and moving digits: against a loop that rolls and bounces, and the floors of forecasting."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.data import load
from worldformula.data.moving import moving
from worldformula.data.rolling import rolling
from worldformula.metrics.openloop import open_loop_error


@pytest.mark.parametrize("test", [False, True])
def test_a_rolling_digit_is_its_first_frame_rolled(test):
    part = rolling(test=test)
    for t in range(16):
        for way in (0, 1):
            mine = part.frames[part.direction == way]
            assert (mine[:, t] == np.roll(mine[:, 0], (2 * way - 1) * t, axis=-1)).all()
    assert abs(part.direction.mean() - 0.5) < 0.06
    assert set(np.unique(part.frames)) == {0.0, 1.0}


def test_the_direction_cannot_be_read_from_one_frame():
    """Nearest neighbours among training frames, an able reader, stay at chance on the first frame but not on two."""
    train, test = load("rolling").train, load("rolling").test
    read = {}
    for frames in (1, 2):
        near = test["x"][:, :frames].reshape(360, -1) @ train["x"][:, :frames].reshape(1437, -1).T
        size = train["x"][:, :frames].sum((1, 2))
        read[frames] = (train["direction"][(2 * near - size).argmax(1)] == test["direction"]).mean()
    assert abs(read[1] - 0.5) < 0.09  # three standard errors and a little
    assert read[2] > 0.75


def test_floors_of_rolling_digits():
    x = load("rolling").test["x"]
    error = open_loop_error(x, np.zeros_like(x), 1)
    assert 96 * error.model[0] == pytest.approx(20.7)
    for k, wrong in {1: 18.86, 2: 30.08, 4: 39.33, 8: 39.33}.items():
        assert 96 * error.persistence[k - 1] == pytest.approx(wrong, abs=0.01)


def test_a_moving_digit_bounces():
    part, digit = moving(frames=30), rolling()
    for n in range(0, 1437, 97):
        stamp = np.zeros((16, 16))
        first = digit.frames[n]
        start = part.position[n, 0]
        picture = part.frames[n, 0][start[0] : start[0] + 8, start[1] : start[1] + 8]
        assert picture.sum() == first[0].sum()  # the same rows of the digits, cut out whole
        stamp[:8, :8] = picture
        where = start.astype(int)
        step = np.where([part.direction[n, 0] // 2, part.direction[n, 0] % 2], 1, -1)
        speed = np.abs(np.diff(part.position[n], axis=0)).max(0)
        for t in range(30):
            assert (part.position[n, t] == where).all()
            assert (part.frames[n, t] == np.roll(stamp, tuple(where), (0, 1))).all()
            for axis in range(2):
                for _ in range(speed[axis]):
                    if where[axis] in (0, 8):
                        step[axis] = 1 if where[axis] == 0 else -1
                    where[axis] += step[axis]


def test_directions_and_positions_are_spread():
    part = moving()
    assert np.bincount(part.direction.ravel(), minlength=4).min() > 0.2 * part.direction.size
    assert set(np.unique(part.position)) == set(range(9))
    assert (moving(seed=1).frames != part.frames).any()
