"""Pictures show the true state, the right way up, and the observation is what render() returns."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.envs import Envs, ids, make
from worldformula.envs.cartpole import CART, POLE
from worldformula.envs.drawing import Canvas
from worldformula.envs.pendulum import ROD
from worldformula.errors import ConfigError

SIZES = (16, 24, 32, 64)


def centre_of(frame, colour, tolerance=30):
    """Mean (x, y) of the pixels of a colour, in units of half the picture, y up."""
    near = np.abs(frame.astype(int) - np.array(colour)).max(-1) < tolerance
    rows, columns = np.nonzero(near)
    assert rows.size, "the colour is not in the picture"
    size = frame.shape[0]
    return (columns.mean() + 0.5) * 2 / size - 1, 1 - (rows.mean() + 0.5) * 2 / size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theta", [0.7, 2.2, -0.7, -2.2])
def test_the_rod_points_where_the_pendulum_is(size, theta):
    x, y = centre_of(make("pendulum", size=size).unwrapped.batch_render([[theta, 0.0]])[0], ROD)
    assert np.arctan2(-x, y) == pytest.approx(theta, abs=0.15)  # counter-clockwise from the top, as in Gymnasium


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("id", "theta"), [("cartpole", 0.2), ("cartpole_swingup", 0.9), ("cartpole_swingup", 2.0)])
def test_cart_and_pole_are_where_they_are(size, id, theta):
    states = [[-1.6, 0.0, theta, 0.0], [1.6, 0.0, theta, 0.0], [1.6, 0.0, -theta, 0.0]]
    frames = make(id, size=size).unwrapped.batch_render(states)
    (left, rail), (right, _), _ = (centre_of(frame, CART, 60) for frame in frames)
    assert left < -0.15 < 0.15 < right
    (_, height), (leaning_right, _), (leaning_left, _) = (centre_of(frame, POLE, 60) for frame in frames)
    assert leaning_right > leaning_left + 0.1
    assert np.sign(height - rail) == np.sign(np.cos(theta))


def test_arrays_start_at_the_top_left_and_colours_are_red_green_blue():
    canvas = Canvas(16, (0, 0, 0))
    frame = canvas.frames([(canvas.disc(-0.5, 0.5, 0.3), (255, 128, 0)), (canvas.box(0.5, 0.0, 0.2, 1.1), (0, 0, 9))])
    assert tuple(frame[0, 4, 4]) == (255, 128, 0)
    assert tuple(frame[0, 15, 12]) == (0, 0, 9)
    assert not frame[0, 11:, :10].any()


@pytest.mark.parametrize("radius", [0.2, 0.4])
def test_edges_are_smooth_and_areas_right(radius):
    canvas = Canvas(32, (0, 0, 0))
    pixel = (2 / 32) ** 2
    disc = canvas.disc([0.03, -0.2], [0.01, 0.1], radius)
    assert disc.sum(1) * pixel == pytest.approx(np.pi * radius**2, rel=0.02)
    assert ((disc > 0.1) & (disc < 0.9)).any()
    rod = canvas.rod(-0.4, 0.1, 0.3, 0.2, radius / 4)
    length = np.hypot(0.7, 0.1)
    assert rod.sum() * pixel == pytest.approx(length * radius / 2 + np.pi * (radius / 4) ** 2, rel=0.03)
    box = canvas.box(0.11, 0.07, radius, 0.3)
    assert box.sum() * pixel == pytest.approx(2 * radius * 0.6, rel=0.01)


def test_a_small_movement_changes_the_picture():
    for id, step in (("pendulum", 0.03), ("cartpole", 0.03), ("cartpole_swingup", 0.06)):
        env = make(id).unwrapped
        width = 2 if id == "pendulum" else 4
        states = np.zeros((2, width))
        states[1, -2] = step
        a, b = env.batch_render(states).astype(int)
        assert np.abs(a - b).max() >= 10


@pytest.mark.parametrize("id", ids())
def test_render_returns_the_pixels_of_the_observation(id):
    envs = Envs(id, 2, pixels=True, size=24)
    rows = envs.reset()
    rng, differ = np.random.default_rng(0), False
    for _ in range(8):
        assert rows["image"].shape == (2, 24, 24, 3)
        assert rows["image"].dtype == np.uint8
        assert (envs.render() == rows["image"]).all()
        rows = envs.step(envs.random(rng, rows))
        differ |= bool((rows["image"][0] != rows["image"][1]).any())
    assert differ


@pytest.mark.parametrize("id", ["pendulum", "cartpole", "cartpole_swingup"])
def test_many_pictures_at_once_equal_single_ones(id):
    env, rng = make(id).unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    states = rng.normal(size=(37, len(env.state)))
    batch = env.batch_render(states)
    for i in (0, 15, 16, 36):
        env.state = states[i]
        assert (env.render() == batch[i]).all()


@pytest.mark.parametrize("size", [0, 7, 513])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ConfigError, match="size between 8 and 512"):
        make("pendulum", size=size)
