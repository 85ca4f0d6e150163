"""Winding: its corridor by hand, walls, the reward of the last row, pictures, and what random steps reach."""

from itertools import pairwise

import numpy as np
import pytest

from worldformula.envs import Envs, make
from worldformula.envs.returns import random_policy_return, reference_return
from worldformula.envs.winding import FIGURE, PATH, Winding, centre, number

DRAWN = [  # what the corridor looks like, by hand: # wall, . floor
    ".........",
    "########.",
    ".........",
    ".########",
    ".........",
    "########.",
    ".........",
    ".########",
    ".........",
]
RIGHT, DOWN, LEFT, UP = range(4)


def test_the_corridor_winds_from_the_first_cell_to_the_last():
    free = {(c, r) for r, line in enumerate(DRAWN) for c, mark in enumerate(line) if mark == "."}
    assert set(PATH) == free
    assert len(PATH) == len(free) == 49
    assert PATH[0] == (0, 0)
    assert PATH[-1] == (8, 8)
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(PATH))


def test_a_step_leads_to_a_neighbour_or_nowhere():
    env = Winding()
    for cell in PATH:
        for action, (across, down) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
            env.reset(seed=0)
            env.cell = cell
            ahead = (cell[0] + across, cell[1] + down)
            free = all(0 <= x < 9 for x in ahead) and DRAWN[ahead[1]][ahead[0]] == "."
            seen, *_, info = env.step(action)
            wanted = ahead if free else cell
            np.testing.assert_allclose(seen, ((2 * wanted[0] - 8) / 9, (8 - 2 * wanted[1]) / 9), rtol=1e-6)
            assert PATH[int(info["state"]["place"][0])] == wanted


def test_places_are_told_from_what_is_observed():
    np.testing.assert_array_equal(number(centre(PATH)), np.arange(49))
    np.testing.assert_array_equal(number(centre(PATH).reshape(7, 7, 2)), np.arange(49).reshape(7, 7))


def test_steps_in_the_last_row_earn_1_and_whoever_goes_straight_there_21():
    """The last row begins 40 steps from the start, and the episode has 60: the 40th to the 60th arrive there."""
    assert reference_return("winding", 3).mean == 21.0
    assert random_policy_return("winding", 200, 1).mean == 0.0
    env = Winding(goal=False)
    env.reset(seed=0)
    env.cell = PATH[-2]
    assert env.step(RIGHT)[1] == 0.0
    env = Winding()
    for place, earned in ((39, 1.0), (38, 0.0), (48, 0.0), (47, 1.0)):
        env.reset(seed=0)
        env.cell = PATH[place]
        ahead = PATH[place + 1] if place < 48 else (9, 8)
        action = ((1, 0), (0, 1), (-1, 0), (0, -1)).index((ahead[0] - PATH[place][0], ahead[1] - PATH[place][1]))
        assert env.step(action)[1] == (1.0 if place == 48 else earned)


def test_an_episode_is_cut_at_60_steps_and_begins_in_the_first_cell():
    env = make("winding")
    seen, _ = env.reset(seed=3)
    np.testing.assert_allclose(seen["vector"], centre(PATH[0]))
    ends = [env.step(RIGHT)[2:4] for _ in range(60)]
    assert ends[:-1] == [(False, False)] * 59
    assert ends[-1] == (False, True)


def test_random_steps_do_not_get_far():
    """A walk of n free steps along a line ends about √n from where it began."""
    envs, rng, furthest = Envs("winding", 8, seed=0), np.random.default_rng(0), []
    rows = envs.reset()
    for _ in range(600):
        rows = envs.step(rng.integers(0, 4, 8))
        furthest.append(number(rows["vector"]).max())
    assert max(furthest) < 30
    assert np.mean(furthest) > 3


@pytest.mark.parametrize("size", [32, 64])
def test_the_picture_shows_the_figure_where_it_is(size):
    env = Winding(size)
    pictures = env.batch_render(centre(PATH))
    assert pictures.shape == (49, size, size, 3)
    for (column, line), picture in zip(PATH, pictures, strict=True):
        alike = (np.abs(picture.astype(int) - FIGURE).sum(-1) < 30).nonzero()
        place = [(np.mean(axis) + 0.5) / size * 9 - 0.5 for axis in alike]
        np.testing.assert_allclose(place, (line, column), atol=0.35)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), pictures[0])
