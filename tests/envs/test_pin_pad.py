"""Visual PinPad: boards cell by cell, the history, the countdown, pictures, floors and references."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import make
from worldformula.envs.pin_pad import BOARDS, PinPad, board, reference, wanted
from worldformula.errors import ConfigError

NONE, DOWN, UP, RIGHT, LEFT = range(5)
SEVEN = """
################
#111        444#
#111        444#
#11          44#
#              #
#33          55#
#33          55#
#33          55#
#33          55#
#              #
#66          22#
#666  7777  222#
#666  7777  222#
################
"""


def at(x, y, pads="three", history=(), countdown=0, size=64):
    env = PinPad(size, pads)
    env.reset(seed=0)
    env.x, env.y, env.countdown = x, y, countdown
    env.history.extend(history)
    return env


def test_the_board_of_seven_pads():
    drawn = ["".join("#" if c < 0 else " 12345678"[c] for c in row) for row in board("seven")]
    assert drawn == SEVEN.strip("\n").split("\n")
    eight = np.array(board("eight"))
    assert (eight[1:3, 6:10] == 8).all()
    eight[eight == 8] = 0
    np.testing.assert_array_equal(eight, board("seven"))


@pytest.mark.parametrize(
    ("pads", "sizes"),
    [("three", (16, 16, 16)), ("four", (16,) * 4), ("five", (12, 12, 12, 12, 12)), ("six", (9, 9, 8, 9, 9, 8))],
)
def test_blocks_do_not_lie_over_each_other(pads, sizes):
    assert tuple(int((board(pads) == k).sum()) for k in range(1, len(sizes) + 1)) == sizes
    assert (board(pads) == -1).sum() == 2 * 16 + 2 * 12


def test_a_pad_is_added_when_it_is_another_than_the_last_and_the_oldest_is_forgotten():
    env = at(5, 1)
    events = [env.step(a)[4]["event"] for a in (LEFT, LEFT, RIGHT, RIGHT, LEFT, NONE)]
    assert events == [["pad_1"], [], [], [], [], []]
    assert list(env.history) == [1]
    env.history.extend([3, 2])
    assert env.step(NONE)[4]["event"] == ["pad_1"]
    assert list(env.history) == [3, 2, 1]
    np.testing.assert_array_equal(env.step(NONE)[4]["state"]["history"], [3, 2, 1])


def test_the_sequence_earns_10_and_a_countdown_of_10_steps():
    """The ninth step counts down to 1; the tenth puts the figure elsewhere, empties the history and then moves."""
    env = at(10, 3, history=(1, 2))
    _, reward, end, cut, info = env.step(RIGHT)
    assert (reward, end, cut, info["event"], info["success"]) == (10.0, False, False, ["pad_3", "sequence_done"], True)
    rows = [env.step(NONE) for _ in range(9)]
    assert [(r[1], r[4]["event"]) for r in rows] == [(0.0, [])] * 9
    assert (rows[-1][0][20, 20] == [223, 255, 223]).all()
    _, reward, *_, info = env.step(NONE)
    assert reward == 0.0
    assert info["event"][0] == "respawn"
    assert info["state"]["countdown"] == 0
    assert (info["state"]["history"][1:] == 0).all()


def test_starts_are_uniform_on_all_cells_but_walls_and_walls_block():
    env, found = PinPad(8), np.zeros((14, 16))
    for seed in range(1500):
        env.reset(seed=seed)
        found[env.y, env.x] += 1
    assert (found[board("three") == -1] == 0).all()
    inner = found[1:-1, 1:-1]
    assert ((inner - 1500 / 168) ** 2 / (1500 / 168)).sum() < 168 + 4 * np.sqrt(2 * 168)
    env = at(1, 5)
    env.step(LEFT), env.step(UP)
    assert (env.x, env.y) == (1, 4)


def test_the_picture_by_hand():
    """Walls grey, pads tinted by a tenth, an occupied pad in full, the figure black, the history in row 14."""
    frame = at(2, 3, history=(3, 1)).render()
    cell = frame[2::4, 2::4].astype(int)
    assert cell[3, 2].tolist() == [0, 0, 0]
    assert cell[1, 1].tolist() == [255, 0, 0]
    assert cell[1, 11].tolist() == [229, 229, 255]
    assert cell[9, 6].tolist() == [229, 255, 229]
    assert cell[5, 7].tolist() == [255, 255, 255]
    assert cell[14, 1].tolist() == [0, 0, 255]
    assert cell[14, 3].tolist() == [255, 0, 0]
    assert cell[14, 5].tolist() == cell[15, 0].tolist() == cell[0, 5].tolist() == [192, 192, 192]
    np.testing.assert_array_equal(frame, np.kron(cell, np.ones((4, 4, 1))))
    assert at(2, 3, size=32).render().shape == (32, 32, 3)


def test_the_next_pad_is_read_from_the_end_of_the_history():
    for history, expected in (((0, 0, 0), 1), ((1, 0, 0), 2), ((3, 1, 2), 3), ((1, 3, 0), 1), ((2, 3, 1), 2)):
        assert wanted(np.array(history, float)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pads", "floor", "best"), [("three", 9.8, 565.5), ("four", 0, 403.5), ("five", 0, 345.5), ("six", 0, 290.5)]
)
def test_floors_and_references_are_those_that_were_measured_before(pads, floor, best):
    """Of 2 000 steps each; the floor of three pads was measured with an error of 1.0."""
    ahead = play(PinPad(8, pads), 12, 2000, policy=reference)
    assert abs(ahead.returns.mean() - best) < 3 * np.hypot(ahead.returns.std(ddof=1), 10.0 / 3) / np.sqrt(12)
    random = play(PinPad(8, pads), 12, 2000)
    if floor:
        assert random.off(floor, 1.0) < 3
    else:
        assert random.returns.sum() <= 10


def test_the_reference_finishes_every_board():
    for pads in BOARDS:
        found = play(PinPad(8, pads), 1, 200, policy=reference)
        assert "sequence_done" in found.events[0]


def test_a_seed_says_everything_and_2000_steps_are_an_episode():
    assert all(same(a, b) for a, b in twice(lambda: PinPad(16), 60))
    env = make("pin_pad_three", size=8)
    env.reset(seed=0)
    assert [env.step(np.array(0))[2:4] for _ in range(2000)][-1] == (False, True)


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="Did you mean 'three'"):
        PinPad(pads="thre")
    with pytest.raises(ConfigError, match="size between"):
        PinPad(4)
