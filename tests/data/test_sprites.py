"""Mini-sprites: every combination once, shapes where and as large as their factors say."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.data import load
from worldformula.data.sprites import TURNED_FACTORS, sprites, turned_sprites


def test_every_combination_is_there_once():
    s = sprites()
    assert s.images.shape == (768, 256)
    assert len({tuple(row) for row in s.factors}) == 768
    assert s.factors.max(0).tolist() == [2, 3, 7, 7]
    assert len({row.tobytes() for row in s.images}) == 768


def test_the_centre_of_mass_is_the_position():
    s = sprites()
    image, at = s.images.reshape(-1, 16, 16).astype(float), (np.arange(16) + 0.5) / 16
    mass = image.sum((1, 2))
    row = (image.sum(2) * at).sum(1) / mass
    column = (image.sum(1) * at).sum(1) / mass
    inside = np.isin(s.factors[:, 2], range(2, 6)) & np.isin(s.factors[:, 3], range(2, 6))
    assert np.abs(row - (0.25 + 0.5 * s.factors[:, 2] / 7))[inside].max() < 0.015
    assert np.abs(column - (0.25 + 0.5 * s.factors[:, 3] / 7))[inside].max() < 0.015


def test_areas_are_those_of_square_ellipse_and_plus():
    s = sprites()
    area = s.images.reshape(3, 4, 64, 256).sum(-1).mean(-1) / 256
    r = 0.09 + 0.035 * np.arange(4)
    assert np.allclose(area[0], (2 * r) ** 2, rtol=0.05)
    assert np.allclose(area[1], np.pi * r**2, rtol=0.05)
    assert np.allclose(area[2, 1:], (2 * 2.4 * 0.8 - 0.8**2) * r[1:] ** 2, rtol=0.1)  # two bars less their crossing


@pytest.mark.parametrize(("name", "whole"), [("sprites", sprites), ("turned-sprites", turned_sprites)])
def test_training_and_test_combinations_make_up_the_whole(name, whole):
    data = load(name)
    both = np.concatenate([data.train["factors"], data.test["factors"]])
    assert sorted(map(tuple, both)) == sorted(map(tuple, whole().factors))


def test_no_two_turned_sprites_are_alike():
    s = turned_sprites()
    assert s.images.shape == (10_368, 1024)
    assert s.factors.max(0).tolist() == [n - 1 for n in TURNED_FACTORS.values()]
    assert len({row.tobytes() for row in s.images}) == len({tuple(row) for row in s.factors}) == 10_368


def test_turning_keeps_area_and_centre_and_turns_the_axes():
    s = turned_sprites()
    image = s.images.reshape(3, 4, 6, 12, 12, 32, 32).astype(float)
    at = (np.arange(32) + 0.5) / 32
    area = image.sum((-1, -2)) / 1024
    r = (0.08 + 0.025 * np.arange(4))[:, None, None, None]
    for kind, known in enumerate(((2 * r) ** 2, np.pi * r**2, 2.88 * r**2)):
        assert np.allclose(area[kind].mean((1, 2, 3)), known[:, 0, 0, 0], rtol=0.03)
    inner = image[:, :, :, 3:9, 3:9]
    mass = inner.sum((-1, -2))
    row, column = (inner.sum(-1) * at).sum(-1) / mass, (inner.sum(-2) * at).sum(-1) / mass
    centre = 0.25 + 0.5 * np.arange(3, 9) / 11
    assert np.abs(row - centre[:, None]).max() < 0.01
    assert np.abs(column - centre).max() < 0.01
    ellipse = inner[1, 3, :, 3, 3] / mass[1, 3, :, 3, 3][:, None, None]
    dy, dx = at[:, None] - centre[3], at - centre[3]
    covariance = (ellipse * dx * dy).sum((-1, -2))
    spread = (ellipse * dx**2).sum((-1, -2)) - (ellipse * dy**2).sum((-1, -2))
    angle = np.rad2deg(np.arctan2(2 * covariance, spread) / 2)
    assert np.allclose(angle, 15 * np.arange(6), atol=2)
