"""Rooms with doors: layouts keep their rules, nothing passes a wall, and the shortest way is that of SciPy."""

import itertools

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, shortest_path

from worldformula.envs import make
from worldformula.envs.two_rooms import (
    GOAL,
    POINT,
    SPEED,
    Rooms,
    free,
    lying_rooms,
    moved,
    reference,
    three_by_three,
    two_rooms,
    wander,
    ways,
)
from worldformula.errors import ConfigError

LAYOUTS = {"two": two_rooms, "lying": lying_rooms, "nine": three_by_three}


def graph(layout):
    """The free pixels as a graph of neighbours."""
    n = int(layout.edge)
    middles = np.stack(np.meshgrid(np.arange(n) + 0.5, np.arange(n) + 0.5), -1)
    open_ = np.array(
        [[not any(w[0] <= x < w[1] and w[2] <= y < w[3] for w in layout.walls) for x, y in r] for r in middles]
    )
    pairs = [(r * n + c, (r + dr) * n + c + dc) for r in range(n) for c in range(n) for dr, dc in ((0, 1), (1, 0))
             if r + dr < n and c + dc < n and open_[r, c] and open_[r + dr, c + dc]]  # fmt: skip
    a, b = np.array(pairs).T
    return coo_array((np.ones(len(a)), (a, b)), (n * n, n * n)).tocsr(), open_


@pytest.mark.parametrize("kind", LAYOUTS)
def test_all_rooms_are_joined_and_the_shortest_way_is_that_of_a_graph(kind):
    layout = LAYOUTS[kind](np.random.default_rng(5))
    whole, open_ = graph(layout)
    _, group = connected_components(whole, directed=False)
    assert len(set(group[open_.flatten()])) == 1
    goal = layout.rooms[-1].reshape(2, 2).mean(1)
    n = int(layout.edge)
    right = shortest_path(whole, directed=False, unweighted=True, indices=int(goal[1]) * n + int(goal[0]))
    np.testing.assert_array_equal(ways(layout.walls, layout.edge, goal), right.reshape(n, n))


@pytest.mark.parametrize("seed", range(6))
def test_nine_rooms_have_a_spanning_tree_of_doors_and_the_goal_is_three_away(seed):
    env = Rooms(layout="nine")
    _, info = env.reset(seed=seed)
    assert len(env.layout.doors) == 8
    rooms = env.layout.rooms
    at, goal = (
        next(k for k, (x0, x1, y0, y1) in enumerate(rooms) if x0 < x < x1 and y0 < y < y1)
        for x, y in (info["state"]["position"], info["state"]["goal"])
    )
    near, steps = {at}, 0
    while goal not in near:
        near |= {int(b) for a, b in env.layout.doors if a in near} | {int(a) for a, b in env.layout.doors if b in near}
        steps += 1
    assert steps == 3


@pytest.mark.parametrize("seed", range(6))
def test_two_rooms_have_the_published_sizes(seed):
    env = Rooms()
    observation, info = env.reset(seed=seed)
    upper, lower = info["state"]["walls"][4:]
    assert upper[1] - upper[0] == 3
    assert 20 <= (upper[0] + upper[1]) / 2 <= 44
    assert lower[2] - upper[3] == 9
    assert 12 <= (lower[2] + upper[3]) / 2 <= 52
    x, goal = info["state"]["position"][0], info["state"]["goal"][0]
    assert (x < upper[0]) != (goal < upper[0])
    assert observation[4:] * 65 == pytest.approx([(upper[0] + upper[1]) / 2, (upper[3] + lower[2]) / 2], abs=0.1)


def test_a_step_is_the_action_and_never_longer_than_the_speed():
    walls = np.array([[50.0, 53.0, 0.0, 65.0]])
    at = np.array([20.0, 20.0])
    np.testing.assert_allclose(moved(walls, at, np.array([0.5, 0.0])), [20 + SPEED / 2, 20])
    np.testing.assert_allclose(moved(walls, at, np.array([3.0, 4.0])), [20 + 0.6 * SPEED, 20 + 0.8 * SPEED])


def test_it_stops_at_the_last_free_quarter_of_a_step():
    """The wall begins at 21.5; quarters of 0.6125 lead to 20.6125, 21.225, and would lead to 21.8375."""
    walls = np.array([[21.5, 24.5, 0.0, 65.0]])
    np.testing.assert_allclose(moved(walls, np.array([20.0, 20.0]), np.array([1.0, 0.0])), [21.225, 20.0])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_wanderers_stay_in_the_free_and_pass_doors_alone(kind):
    layouts, positions, actions = wander(0, 30, 200, kind)
    changed = 0
    for layout, way, done in zip(layouts, positions, actions, strict=True):
        assert free(layout.walls, way).all()
        np.testing.assert_allclose(moved(layout.walls, way[:-1], done[:-1].astype(float)), way[1:], atol=1e-5)
        room = [
            next((k for k, (x0, x1, y0, y1) in enumerate(layout.rooms) if x0 <= x < x1 and y0 <= y < y1), None)
            for x, y in way
        ]
        inside = [r for r in room if r is not None]
        steps = [(a, b) for a, b in itertools.pairwise(inside) if a != b]
        changed += len(steps)
        assert all((min(pair), max(pair)) in {tuple(sorted(door)) for door in layout.doors.tolist()} for pair in steps)
    assert changed > 10


@pytest.mark.parametrize(("id", "steps"), [("two_rooms", 200), ("rooms_3x3", 300)])
def test_the_reference_ends_at_the_goal_and_standing_does_not(id, steps):
    for seed in range(3):
        env = make(id)
        _, info = env.reset(seed=seed)
        events, cut = 0, False
        while not cut:
            _, reward, over, cut, info = env.step(reference(info["state"]))
            far = np.linalg.norm(info["state"]["position"] - info["state"]["goal"])
            assert not over
            assert reward == pytest.approx(-far / (65 if id == "two_rooms" else 102), abs=1e-5)
            events += info["event"] == ["reached"]
        assert info["success"]
        assert events == 1
        _, info = env.reset(seed=seed)
        assert not env.step(np.zeros(2, np.float32))[4]["success"]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_the_picture_shows(kind):
    env = Rooms(64, kind)
    _, info = env.reset(seed=2)
    picture, scale = env.render(), 64 / env.layout.edge
    for name, colour in (("position", POINT), ("goal", GOAL)):
        x, y = (info["state"][name] * scale).astype(int)
        assert np.abs(picture[y, x].astype(int) - colour).max() < 60
    hidden = Rooms(64, kind, shown=False)
    hidden.reset(seed=2)
    x, y = (info["state"]["goal"] * scale).astype(int)
    assert np.abs(hidden.render()[y, x].astype(int) - GOAL).max() > 80


def test_another_layout_is_refused():
    with pytest.raises(ConfigError, match="'two', 'lying' or 'nine'"):
        Rooms(layout="four")


def test_wandering_in_one_layout_keeps_to_its_walls():
    own = three_by_three(np.random.default_rng(5))
    layouts, positions, actions = wander(3, 4, 60, own)
    assert all(layout is own for layout in layouts)
    assert free(own.walls, positions).all()
    after = moved(own.walls, positions[:, :-1], actions[:, :-1].astype(np.float64))
    np.testing.assert_allclose(after, positions[:, 1:], atol=1e-5)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_doors_that_are_hidden_are_where_they_were(kind):
    shown, hiding = Rooms(64, kind), Rooms(64, kind, hides=3)
    rows = []
    for env in (shown, hiding):
        rng, seen = np.random.default_rng(0), [env.reset(seed=4)[0]]
        pictures = [env.render()]
        for _ in range(6):
            seen.append(env.step(rng.uniform(-1, 1, 2))[0])
            pictures.append(env.render())
        rows.append((np.stack(seen), np.stack(pictures)))
    (plain, open_), (hidden, shut) = rows
    np.testing.assert_array_equal(hidden[:3], plain[:3])
    np.testing.assert_array_equal(hidden[3:, :4], plain[3:, :4])  # it moves as before
    assert (hidden[3:, 4:] == 0).all()
    assert (plain[3:, 4:] > 0).all()
    np.testing.assert_array_equal(shut[:3], open_[:3])
    scale = 64 / shown.layout.edge
    for x, y in (plain[0, 4:].reshape(-1, 2) * 64).astype(int):  # the middle of a door
        assert np.abs(open_[5, y, x].astype(int) - shut[5, y, x]).max() > 40
    x, y = (shown.position * scale).astype(int)
    assert np.abs(shut[-1, y, x].astype(int) - POINT).max() < 60
    np.testing.assert_array_equal(hiding.reset(seed=4)[0], plain[0])  # a new episode shows them


def test_doors_are_hidden_behind_a_first_row_at_least():
    with pytest.raises(ConfigError, match="hides as a number of rows"):
        Rooms(hides=0)
