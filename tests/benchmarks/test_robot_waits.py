"""What a robot that waits for its learner is compared at, by hand."""

import pytest

from benchmarks import robot_waits
from worldformula.run.config import DriveConfig


@pytest.mark.parametrize(("ticks", "moved"), [(500, 500), (1_000, 1_000), (3_000, 2_000), (8_000, 4_500)])
def test_from_the_first_update_on_half_of_the_time_is_waiting(ticks, moved):
    """1 000 ticks without learning, and then as much waiting as moving."""
    assert robot_waits.waited(ticks) == moved
    assert moved + max(0, moved - 1_000) == ticks


def test_both_arms_learn_as_much_at_an_action_and_one_of_them_late():
    robot = robot_waits.ROBOTS["pendulum_noreset"]
    apart, waits = (robot_waits.config(robot, arm, 3, 8_000) for arm in robot_waits.ARMS)
    assert apart.drive == DriveConfig("virtual", 0.5, 20, 2)
    assert waits.drive.clock == "none"
    assert apart.agent.train_ratio == waits.agent.train_ratio == 0.5 * apart.agent.batch * apart.agent.length
    assert robot.ticks("waits") == [3_500, 4_500, 6_000, 8_000]


def test_differences_are_those_of_one_seed():
    curves = {
        ("apart", 0): {6_000: -400, 8_000: -200}, ("apart", 1): {6_000: -500, 8_000: -260},
        ("waits", 0): {3_500: -700, 4_500: -600, 6_000: -410, 8_000: -180},
        ("waits", 1): {3_500: -900, 4_500: -660, 6_000: -470, 8_000: -300}, ("apart", 2): {6_000: -1, 8_000: -1},
    }  # fmt: skip
    rows = [
        {"env": "pendulum_noreset", "arm": arm, "seed": seed, "curve": [[t, 0, r, 1.0] for t, r in curve.items()]}
        for (arm, seed), curve in curves.items()
    ]
    early, late = robot_waits.summary(rows)
    assert early["seeds"] == [0, 1]
    assert early["minutes"] == 5.0
    assert early["over_equal_time"]["values"] == [300, 400]
    assert early["over_equal_ticks"]["values"] == [10, -30]
    assert late["equal_time"]["mean"] == -630
    low, high = late["over_equal_ticks"]["interval"]  # of -20 and 40: 10 ± 12.706 · 30
    assert (low, high) == (pytest.approx(-371.2), pytest.approx(391.2))
