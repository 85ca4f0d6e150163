"""Key worlds keep their rules: what blocks, what a key or a ring changes, what is seen of it; floors and references."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import make
from worldformula.envs.key_world import FIGURE, GLYPHS, TILES, KeyWorld, reference
from worldformula.envs.play import play as data
from worldformula.envs.tiles import Mosaic, crop, glyph
from worldformula.errors import ConfigError, EnvironmentIdError

NORTH, EAST, SOUTH, WEST, PICKUP, APPLY = range(6)
VOID, WALL, FLOOR, STAIRS, KEY, LOCKED, OPEN = range(7)


def run(env, actions):
    """Events, rewards and ends of a sequence of actions."""
    rows = [env.step(a) for a in actions]
    return [r[4]["event"] for r in rows], [r[1] for r in rows], [r[2] for r in rows]


def test_the_corridor_by_hand():
    """Four tiles: right and down to the key at (4, 3), back to (1, 2), open, two steps up: 2 · 4 + 4 = 12 steps."""
    env = KeyWorld(length=4)
    seen, info = env.reset(seed=0)
    W, F = WALL, FLOOR
    expected = [[VOID, W, STAIRS, W, W], [VOID, W, LOCKED, W, W], [VOID, W, F, F, F], [VOID, W, F, F, F],
                [VOID, W, W, W, W]]  # fmt: skip
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(info["state"]["figure"], [1, 2])
    way = [EAST, EAST, EAST, SOUTH, PICKUP, NORTH, WEST, WEST, WEST, APPLY, NORTH, NORTH]
    events, rewards, ends = run(env, way)
    assert events == [[]] * 4 + [["pickup_key"]] + [[]] * 4 + [["door_open"], [], ["exit"]]
    assert rewards == [0.0] * 11 + [1.0]
    assert ends == [False] * 11 + [True]


def test_without_the_key_the_door_stays_shut_and_walls_block():
    env = KeyWorld(length=4, idle=-0.01)
    env.reset(seed=0)
    events, rewards, _ = run(env, [NORTH, APPLY, WEST, PICKUP, EAST])
    assert events == [[]] * 5
    assert rewards == [-0.01] * 4 + [0.0]  # walking is no idle step
    np.testing.assert_array_equal((env.x, env.y), (2, 2))


def test_a_key_opens_no_door_across_a_corner():
    env = KeyWorld()
    env.reset(seed=0)
    env.carried, env.x = True, 2
    assert run(env, [APPLY])[0] == [[]]
    env.x = 1
    assert run(env, [APPLY])[0] == [["door_open"]]


def test_what_is_carried_is_not_seen_and_what_is_seen_is_not_hidden():
    env = KeyWorld(length=6)
    env.reset(seed=0)
    env.tiles[3, 6] = FLOOR
    pairs = []
    for carried in (False, True):
        env.carried = carried
        seen, *_, info = env.step(WEST)
        pairs.append((seen, env.render(), info))
    (a, b, without), (c, d, with_) = pairs
    assert same((a, b), (c, d))
    assert (without["hidden"]["key"], with_["hidden"]["key"]) == (0.0, 1.0)
    assert "door" not in with_["hidden"]  # it is in sight at (1, 2)
    env.x = 5
    *_, info = env.step(EAST)
    assert info["hidden"]["door"] == 0.0
    env.tiles[1, 1] = OPEN
    *_, info = env.step(EAST)
    assert info["hidden"]["door"] == 1.0
    labels = make("key_corridor", labels=("hidden/key", "hidden/door"), length=6)
    row, _ = labels.reset(seed=0)
    assert row["label/hidden/key"] == 0.0
    assert np.isnan(row["label/hidden/door"])


@pytest.mark.parametrize(
    ("task", "tile", "left", "right"), [("water", 8, (6, 7), (8, 11)), ("lava", 9, (6, 6), (7, 11))]
)
def test_banks_are_where_they_should_be_and_the_ring_carries_over(task, tile, left, right):
    env, starts, rings = KeyWorld(task=task), set(), set()
    for seed in range(300):
        env.reset(seed=seed)
        (ry, rx), (sy, sx) = np.argwhere(env.tiles == 7)[0], np.argwhere(env.tiles == STAIRS)[0]
        starts.add((env.x, env.y)), rings.add((rx, ry))
        assert (rx, ry) != (env.x, env.y)
        assert right[0] <= sx <= right[1]
        assert 1 <= sy <= 5
    assert starts == rings == {(x, y) for x in range(1, 6) for y in range(1, 6)}
    rows, columns = np.nonzero(env.tiles == tile)
    assert set(columns) == set(range(left[0], left[1] + 1))
    assert set(rows) == set(range(1, 6))
    env.tiles[env.tiles == 7] = FLOOR
    env.x, env.y = 5, 3
    events, rewards, ends = run(env, [EAST])
    assert (events, rewards, ends) == (([["die"]], [-0.1], [True]) if task == "lava" else ([[]], [0.0], [False]))
    env.x, env.carried = 5, True
    env.tiles[3, 8] = FLOOR
    run(env, [EAST, EAST])
    assert env.x == 7


def test_the_closet_holds_the_stairs_and_the_key_lies_outside():
    env = KeyWorld(task="room")
    for seed in range(60):
        env.reset(seed=seed)
        y, x = np.argwhere(env.tiles == KEY)[0]
        assert not (x >= 3 and y >= 3)
        assert (env.tiles[5, 5], env.tiles[4, 3], env.x, env.y) == (STAIRS, LOCKED, 1, 1)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("length", "floor"), [pytest.param(2, 0.85, marks=SLOW), (4, 0.35), pytest.param(6, 0.13, marks=SLOW)]
)
def test_random_play_solves_corridors_as_often_as_was_measured_before(length, floor):
    """The figures are of 3 000 episodes of 200 steps."""
    found = play(KeyWorld(length=length), 150, 200)
    assert found.off(floor, np.sqrt(floor * (1 - floor) / 3000)) < 3
    best = play(KeyWorld(length=length), 2, 200, policy=reference)
    assert best.steps.tolist() == [2 * length + 4] * 2
    assert best.success.all()


@pytest.mark.slow
def test_random_play_and_shortest_ways_across_water_and_lava():
    water, lava = play(KeyWorld(task="water"), 250, 200), play(KeyWorld(task="lava"), 250, 200)
    for share, floor in ((water.share("exit"), 0.18), (lava.share("exit"), 0.09), (lava.share("die"), 0.78)):
        assert abs(share - floor) < 3 * np.sqrt(floor * (1 - floor) / 250)
    for task, mean in (("water", 12.4), ("lava", 11.9)):
        best = play(KeyWorld(task=task), 200, 200, policy=reference)
        assert best.success.all()
        assert abs(best.steps.mean() - mean) < 3 * best.steps.std() / np.sqrt(200)


@pytest.mark.parametrize("task", ["corridor", "room", "water", "lava"])
def test_a_seed_says_everything(task):
    assert all(same(a, b) for a, b in twice(lambda: KeyWorld(task=task), 60))


def test_scripted_play_is_the_data_of_the_segmentation_card():
    """Pick-ups were 4.3 % of steps and the key was held in 57 % of them, in 1 500 chunks of 50."""
    options = {"labels": ("hidden/key",), "events": ("pickup_key", "door_open", "exit")}
    rows = data("key_corridor", 100, 100, 50, **options)
    assert rows["vector"].shape == (100, 50, 5, 5)
    assert rows["event"][..., 0].mean() == pytest.approx(0.043, abs=0.008)
    held, first = rows["label/hidden/key"], rows["is_first"]
    assert held.mean() == pytest.approx(0.57, abs=0.06)
    picked = rows["event"][:, 1:, 0]
    np.testing.assert_array_equal(held[:, 1:] - held[:, :-1] == 1, picked)  # the label changes on the arriving row
    np.testing.assert_array_equal(rows["action"][:, :-1][picked], PICKUP)
    np.testing.assert_array_equal(rows["event"][..., 2], rows["is_terminal"])
    np.testing.assert_array_equal(rows["reward"], rows["is_terminal"])
    np.testing.assert_array_equal(first[:, 1:], rows["is_last"][:, :-1])
    assert first[:, 0].all()
    again = data("key_corridor", 100, 2, 50, **options)
    assert all(same(again[key], rows[key][:2]) for key in rows)
    shares = data("key_corridor", 5, 3, 20, random=(0.0,), events=("exit",))
    assert shares["event"][:, 12, 0].all()
    with pytest.raises(EnvironmentIdError, match="Did you mean 'key_corridor'"):
        data("key_coridor", 0, 1, 2)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        data("key_corridor", 0, 1, 2, random=(20,))


def test_controllers_of_numbers_are_data_as_agents_write_them():
    rows = data("pendulum", 0, 2, 30, random=(0.0,))
    assert np.abs(rows["action"]).max() <= 1.0
    assert np.abs(rows["action"]).max() > 0.9  # a torque of ±2 is ±1


def test_the_picture_is_the_crop_north_up_and_east_to_the_right():
    """At the start the stairs are two tiles up, void to the left, floor to the right: no turn or mirror is alike."""
    env = KeyWorld(size=80)
    env.reset(seed=0)
    frame = env.render()
    flat = {name: GLYPHS[i][8, 8, :3] for i, name in enumerate(TILES)}
    np.testing.assert_array_equal(frame[8, 8], flat["void"])
    np.testing.assert_array_equal(frame[40, 72], flat["floor"])
    np.testing.assert_array_equal(frame[56 - 1, 40], frame[56 - 1, 56])  # floor below the figure and beside it
    stairs = (GLYPHS[STAIRS][..., :3] + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(frame[:16, 32:48], stairs)
    assert (np.abs(frame[32:48, 32:48].astype(int) - np.array([40, 70, 220])).sum(-1) < 20).any()
    np.testing.assert_array_equal(KeyWorld(size=64).batch_render(env._observation()[None]).shape, (1, 64, 64, 3))


def test_mosaics_lay_tiles_over_each_other_and_nearest_pixels_are_kept():
    red, spot = glyph(ground=(255, 0, 0)), glyph(("disc", (0.0, 0.0, 0.5), (0, 255, 0)))
    frame = Mosaic([red, spot], 32, ground=(1, 2, 3))([[0, -1], [0, 0]], [[1, -1], [-1, -1]])
    assert frame.shape == (32, 32, 3)
    assert frame[8, 8].tolist() == [0, 255, 0]
    assert frame[1, 1].tolist() == frame[24, 24].tolist() == [255, 0, 0]
    assert frame[8, 24].tolist() == [1, 2, 3]
    small = Mosaic([red, spot], 8)([[0, -1], [0, 0]])
    np.testing.assert_array_equal(small[:4, 4:], 0)
    np.testing.assert_array_equal(crop(np.arange(6).reshape(2, 3), 2, 0, 1, 9), [[9, 9, 9], [1, 2, 9], [4, 5, 9]])


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="Did you mean 'corridor'"):
        KeyWorld(task="coridor")
    with pytest.raises(ConfigError, match="at least 2 tiles"):
        KeyWorld(length=1)
    assert FIGURE == len(TILES) == len(GLYPHS) - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chunks": 0}, "chunks and steps ≥ 1"), ({"steps": 0}, "chunks and steps ≥ 1"), ({"seed": -1}, "seed ≥ 0"),
        ({"hold": 0}, "hold ≥ 1"),
        ({"hold": 1.5}, "whole numbers"),
        ({"random": 0.5}, "such as"), ({"random": ()}, "such as"), ({"random": (float("nan"),)}, "such as"),
        ({"events": "pickup_key"}, "sequences of names"), ({"labels": "hidden/key"}, "sequences of names"),
        ({"events": ("door_opne",)}, "'door_opne' happens in key_corridor.*Did you mean 'door_open'"),
        ({"events": ("lever",)}, "Known: pickup_key, pickup_ring, door_open, exit, die"),
    ],
)  # fmt: skip
def test_play_of_nothing_is_told(change, said):
    with pytest.raises(ConfigError, match=said):
        data("key_corridor", **{"seed": 0, "chunks": 2, "steps": 3, **change})
