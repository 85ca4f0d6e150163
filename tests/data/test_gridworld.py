"""Grid worlds against loops that walk and look, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.data import load
from worldformula.data.gridworld import MOVES, gridworld

WORLDS = gridworld(300, steps=40, seed=3)


def test_an_action_leads_to_the_next_position_and_never_into_the_wall():
    names = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
    assert [tuple(move) for move in MOVES] == list(names.values())
    moved = np.diff(WORLDS.position, axis=1)
    for index, step in enumerate(names.values()):
        assert (moved[WORLDS.actions[:, :-1] == index] == step).all()
    last = WORLDS.position[:, -1] + MOVES[WORLDS.actions[:, -1]]
    everywhere = np.concatenate([WORLDS.position, last[:, None]], 1)
    assert everywhere.min() == 0
    assert everywhere.max() == 7


def test_a_view_is_what_lies_around_the_agent():
    for n in range(0, 300, 29):
        for t in range(0, 40, 7):
            row, column = WORLDS.position[n, t]
            for i in range(5):
                for j in range(5):
                    r, c = row + i - 2, column + j - 2
                    inside = 0 <= r < 8 and 0 <= c < 8
                    expected = (WORLDS.maps[n, r, c], 0) if inside else (0, 1)
                    assert tuple(WORLDS.views[n, t, :, i, j]) == expected


def test_the_action_before_a_view_shifts_it():
    """x_t and a_{t-1} belong together: what was seen in the direction of the move is one cell nearer."""
    shifted = 0
    for n in range(300):
        for t in range(1, 40):
            down, across = MOVES[WORLDS.actions[n, t - 1]]
            before, now = WORLDS.views[n, t - 1], WORLDS.views[n, t]
            kept = np.roll(before, (-down, -across), (1, 2))
            rows = slice(max(0, -down), 5 - max(0, down))
            columns = slice(max(0, -across), 5 - max(0, across))
            shifted += (kept[:, rows, columns] == now[:, rows, columns]).all()
    assert shifted == 300 * 39


def test_light_on_the_map_shows_what_the_view_shows():
    light, drawn = WORLDS.in_view(), WORLDS.lit()
    for n in range(0, 300, 37):
        for t in range(0, 40, 9):
            row, column = WORLDS.position[n, t]
            expected = np.zeros((2, 8, 8))
            for i, j in np.ndindex(5, 5):
                if not WORLDS.views[n, t, 1, i, j]:
                    expected[:, row + i - 2, column + j - 2] = WORLDS.views[n, t, 0, i, j], 1
            assert (drawn[n, t] == expected).all()
            assert (light[n, t] == expected[1]).all()


def test_rows_choose_episodes():
    few = WORLDS.rows(slice(3, 5))
    assert few.views.shape == (2, 40, 2, 5, 5)
    assert (few.maps == WORLDS.maps[3:5]).all()
    assert (WORLDS.rows(WORLDS.maps[:, 0, 0] == 1).maps[:, 0, 0] == 1).all()


def test_the_walk_goes_on_where_it_can_and_tiles_are_tossed():
    """The direction is kept with .8, and by chance when another was drawn: 1 of 4 in the open, more at a wall."""
    worlds = gridworld(2000, seed=1)
    beside = worlds.position[:, 1:] + MOVES[worlds.actions[:, :-1]]
    can = ((beside >= 0) & (beside < 8)).all(-1)
    kept = worlds.actions[:, 1:] == worlds.actions[:, :-1]
    open_floor = ((worlds.position[:, 1:] > 0) & (worlds.position[:, 1:] < 7)).all(-1)
    assert kept[can & open_floor].mean() == pytest.approx(0.85, abs=0.01)
    assert not kept[~can].any()
    tiles = worlds.maps.reshape(-1, 4, 2, 4, 2)
    assert (tiles == tiles[:, :, :1, :, :1]).all()
    assert np.abs(worlds.maps.mean(0) - 0.5).max() < 0.05
    assert set(map(tuple, worlds.position[:, 0])) == set(np.ndindex(8, 8))


def test_a_seed_is_a_world_and_the_set_is_flat():
    again, other = gridworld(300, steps=40, seed=3), gridworld(300, steps=40, seed=4)
    for name in ("maps", "views", "actions", "position"):
        assert (getattr(again, name) == getattr(WORLDS, name)).all()
        assert (getattr(other, name) != getattr(WORLDS, name)).any()
    data, made = load("gridworld"), gridworld()
    assert (data.train["x"].reshape(2000, 50, 2, 5, 5) == made.views).all()
    assert (data.train["a"].argmax(-1) == made.actions).all()
    assert (data.train["a"].sum(-1) == 1).all()


def test_the_floor_of_a_map_is_a_coin_and_the_view_is_a_third_of_it():
    """The majority map is right half of the time; what is in view is worth as much as a guess on what is not."""
    train, test = load("gridworld").train, load("gridworld").test
    majority = train["map"].mean(0) > 0.5
    assert (majority == (test["map"] == 1)).mean() == pytest.approx(0.5, abs=0.02)
    assert len({bytes(m) for m in test["map"]} & {bytes(m) for m in train["map"]}) < 25
