"""Dodge keeps its rules: who moves when, what is a hit, where balls fly; and what its picture shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from worldformula.envs import Envs, make, random_policy_return, reference_return
from worldformula.envs.dodge import BALL, FIGURE, Dodge, reference

STAY = 1


def begun(seed: int = 0, figure: float = 0.5, **ball: Any) -> Dodge:
    """An environment with one ball in the air, or none; ``age``, ``x`` now and where it ``lands``."""
    env = Dodge()
    env.reset(seed=seed)
    env.figure = figure
    if ball:
        env.balls[ball["age"]] = 1.0, ball["x"], ball["lands"]
    return env


def episode(env: Dodge, seed: int, actor: Callable[[Mapping[str, Any]], int]) -> int:
    """Steps until the hit, at most 300."""
    _, info = env.reset(seed=seed)
    for step in range(1, 301):
        _, reward, hit, cut, info = env.step(actor(info["state"]))
        assert reward == 1.0
        assert not cut
        if hit:
            return step
    return 300


def test_the_figure_steps_a_twentieth_and_stays_inside():
    env = begun()
    seen = [env.step(action)[4]["state"]["position"][0] for action in (0, 1, 2, 2)]
    assert seen == pytest.approx([0.45, 0.45, 0.5, 0.55])
    for _ in range(20):
        last = env.step(2)[4]["state"]["position"][0]
    assert last == pytest.approx(0.95)


@pytest.mark.parametrize(("figure", "over"), [(0.5, 23), (0.579, 23), (0.419, None), (0.65, 25), (0.3, None)])
def test_a_ball_flies_straight_in_25_steps_and_hits_what_is_near_it_when_low(figure, over):
    """From x = 0.28 to 0.58: at age k it is at 0.28 + 0.012 k: 0.556, 0.568 and 0.58 at the ages 23, 24 and 25."""
    env, hits = begun(figure=figure, age=0, x=0.28, lands=0.58), []
    for step in range(1, 26):
        env.balls[np.arange(25) != step - 1] = 0.0  # no other ball
        _, _, hit, _, info = env.step(STAY)
        hits += [step] * hit
        if step < 25:
            there, x, lands = info["state"]["balls"][step]
            assert (there, x, lands) == pytest.approx((1.0, 0.28 + 0.012 * step, 0.58))
    assert (hits[0] if hits else None) == over


def test_the_figure_moves_before_the_balls_do():
    """A ball that lands at 0.5 with the next step misses a figure that just reaches 0.6, and hits one at 0.55."""
    assert not begun(figure=0.55, age=24, x=0.5, lands=0.5).step(2)[2]
    assert begun(figure=0.6, age=24, x=0.5, lands=0.5).step(0)[2]


def test_balls_appear_in_15_of_100_steps_at_the_top_and_are_aimed_at_the_figure():
    env, new = begun(seed=3, figure=0.95), []
    for _ in range(6000):
        env.step(STAY)
        new += [env.balls[0].copy()] * int(env.balls[0, 0])
    share, (_, x, lands) = len(new) / 6000, np.array(new).T
    assert share == pytest.approx(0.15, abs=4 * np.sqrt(0.15 * 0.85 / 6000))
    assert x.min() >= 0.05
    assert x.max() <= 0.95
    assert x.mean() == pytest.approx(0.5, abs=4 * 0.9 / np.sqrt(12 * len(new)))
    assert lands.mean() == pytest.approx(0.95, abs=4 * 0.06 / np.sqrt(len(new)))
    assert lands.std() == pytest.approx(0.06, rel=0.12)


def test_a_search_with_the_true_model_is_never_hit_and_random_or_none_soon():
    assert reference_return("dodge", 6).mean == 300.0
    assert random_policy_return("dodge", 60).mean == pytest.approx(42, abs=9)
    env = Dodge()
    lengths = [episode(env, seed, lambda _: STAY) for seed in range(60)]
    assert np.mean(lengths) == pytest.approx(30.6, abs=3.5)
    assert min(lengths) >= 24  # the first ball can appear with the first step, and is low 23 steps later


def test_the_reference_steps_aside_and_no_further():
    env = begun(figure=0.5, age=18, x=0.5, lands=0.5)
    actions = []
    for _ in range(7):
        env.balls[0] = 0.0
        action = reference(env._named_state())
        actions.append(action)
        assert not env.step(action)[2]
    assert abs(env.figure - 0.5) >= 0.08
    assert abs(env.figure - 0.5) <= 0.2 + 1e-9
    assert reference(begun()._named_state()) == STAY


def test_the_same_seed_gives_the_same_episode_and_streams_do_not_see_each_other():
    one, other = Dodge(), Dodge()
    one.reset(seed=5), other.reset(seed=5)
    for step in range(40):
        a, b = one.step(step % 3), other.step(step % 3)
        assert (a[0] == b[0]).all()
        if a[2]:
            break
    alone, both = Envs("dodge", 1, seed=2), Envs("dodge", 2, seed=2)
    alone.reset(), both.reset()
    for _ in range(60):
        a, b = alone.step(np.array([1])), both.step(np.array([1, 0]))
        assert (a["vector"][0] == b["vector"][0]).all()


def test_an_episode_is_cut_at_300_steps():
    env = make("dodge")
    env.reset(seed=0)
    bare = env.unwrapped
    for _ in range(300):
        bare.balls[:] = 0.0
        _, _, hit, cut, _ = env.step(STAY)
    assert (hit, cut) == (False, True)


@pytest.mark.parametrize("size", [32, 64])
def test_the_picture_shows_figure_and_balls_where_they_are(size):
    state = np.zeros(76)
    state[0], balls = 0.25, state[1:].reshape(25, 3)
    balls[0], balls[20] = (1.0, 0.75, 0.3), (1.0, 0.9, 0.3)
    frame = Dodge(size).batch_render(state[None])[0].astype(int)

    def rows_and_columns(colour, part):
        near = np.abs(frame - np.array(colour)).max(-1) < 40
        rows, columns = np.nonzero(near * part)
        return (rows.mean() + 0.5) / size, (columns.mean() + 0.5) / size

    upper = np.arange(size)[:, None] < size / 2
    assert rows_and_columns(FIGURE, part=True) == pytest.approx((0.95, 0.25), abs=1.0 / size)
    assert rows_and_columns(BALL, ~upper) == pytest.approx((0.8, 0.9), abs=1.0 / size)
    assert rows_and_columns(BALL, upper)[1] == pytest.approx(0.75, abs=1.0 / size)
