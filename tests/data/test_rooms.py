"""Mini-rooms: the ray tracer against a march along single rays, and the floors."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.data import rooms as module
from worldformula.data.rooms import mean_image_error, nearest_view_error, render, rooms


def march(view, shape, place, pixel):
    """What one ray meets, by walking along it in small steps: 'object', 'floor', 'wall' or 'sky'."""
    row, column = divmod(pixel, 16)
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = view[3:]
    forward = np.array([cos_pitch * cos_yaw, cos_pitch * sin_yaw, sin_pitch])
    left = np.array([-sin_yaw, cos_yaw, 0.0])
    up = np.cross(forward, left)
    ray = forward + 0.55 * ((7.5 - row) / 8 * up + (7.5 - column) / 8 * left)
    ray /= np.linalg.norm(ray)
    for t in np.arange(0.0, 8.0, 0.002):
        x, y, z = view[:3] + t * ray
        if shape == 0 and (x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - 0.42) ** 2 < 0.42**2:
            return "object"
        if shape == 1 and max(abs(x - place[0]), abs(y - place[1]), abs(z - 0.36)) < 0.36:
            return "object"
        if z < 0:
            return "floor"
        if max(abs(x), abs(y)) > 2:
            return "wall" if z < 1.2 else "sky"
    raise AssertionError("the ray left the room")


def test_every_pixel_shows_what_a_march_along_its_ray_meets(monkeypatch):
    colours = {"object": [1.0, 0.0, 0.0], "wall": [0.0, 1.0, 0.0], "floor": [0.0, 0.0, 1.0], "sky": [0.0, 0.0, 0.0]}
    monkeypatch.setattr(module, "COLOURS", np.array([colours["object"]] * 4))
    monkeypatch.setattr(module, "WALLS", np.array([colours["wall"]] * 3))
    monkeypatch.setattr(module, "FLOOR", np.array([colours["floor"]] * 2))
    monkeypatch.setattr(module, "SKY", np.array(colours["sky"]))
    monkeypatch.setattr(module, "AMBIENT", 1.0)  # no shading: colours name things
    scene = rooms(4, 2, seed=5)
    rng = np.random.default_rng(0)
    place = rng.uniform(-0.35, 0.35, (4, 2))
    view = scene.views.reshape(8, 7).astype(float)
    shape = np.repeat([0, 1, 0, 1], 2)
    zero = np.zeros(8, int)
    picture = render(view, shape, zero, zero, np.repeat(place, 2, 0)).reshape(8, 256, 3)
    wrong = 0
    for n in range(8):
        for pixel in range(0, 256, 5):
            wrong += list(picture[n, pixel]) != colours[march(view[n], shape[n], place[n // 2], pixel)]
    assert wrong <= 4  # of 416; rays that graze an edge within a step of the march


def test_views_are_unit_vectors_on_the_circle_that_look_inwards():
    views = rooms(50).views.reshape(-1, 7)
    assert np.allclose(np.linalg.norm(views[:, :2], axis=1), 1.3, atol=1e-5)
    assert np.allclose(np.linalg.norm(views[:, 3:5], axis=1), 1, atol=1e-5)
    inwards = -(views[:, :2] * views[:, 3:5]).sum(1) / 1.3
    assert inwards.min() > np.cos(0.101)
    assert np.allclose(views[:, 6], np.sin(-0.15))


def test_colour_and_shape_are_seen():
    part = rooms(60)
    assert (part.images.min(), part.images.max()) > (0, 0)
    assert part.images.max() <= 1
    centre = part.images[:, :, 7:10, 6:10].mean((1, 2, 3))
    nearest = ((centre[:, None] / centre.sum(1)[:, None, None]) - module.COLOURS / module.COLOURS.sum(1)[:, None]) ** 2
    assert (nearest.sum(-1).argmin(1) == part.colour).mean() > 0.95


def test_floors_are_those_that_the_card_names():
    train, test = rooms(300, seed=0), rooms(200, seed=1)
    assert mean_image_error(train.images, test.images) == pytest.approx(0.0221, abs=0.002)
    assert nearest_view_error(test.images, test.views) == pytest.approx(0.0151, abs=0.002)


def test_the_nearest_view_is_another_one_of_the_same_scene():
    images = np.arange(6.0).reshape(2, 3)[..., None]
    views = np.zeros((2, 3, 7))
    views[:, :, 0] = [[0, 1, 5], [0, 4, 5]]
    # answers: scene 0: 1, 0, 1 for 0, 1, 2; scene 1: 4, 5, 4 for 3, 4, 5
    assert nearest_view_error(images, views) == pytest.approx((1 + 1 + 1 + 1 + 1 + 1) / 6)
