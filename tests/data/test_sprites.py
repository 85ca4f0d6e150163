"""Mini-sprites: every combination once, shapes where and as large as their factors say."""

from __future__ import annotations

import numpy as np

from worldformula.data import load
from worldformula.data.sprites import sprites


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


def test_training_and_test_combinations_make_up_the_whole():
    data = load("sprites")
    both = np.concatenate([data.train["factors"], data.test["factors"]])
    assert sorted(map(tuple, both)) == sorted(map(tuple, sprites().factors))
