"""The digits of scikit-learn: split, values, labels."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from worldformula.data import load
from worldformula.data.digits import digits
from worldformula.errors import ConfigError


def test_the_split_is_fixed_and_complete():
    one, again, other = digits(), digits(), digits(seed=1)
    assert one.train_x.shape == (1437, 64)
    assert one.test_x.shape == (360, 64)
    assert (one.test_x == again.test_x).all()
    assert (one.test_y != other.test_y).any()
    assert np.bincount(np.concatenate([one.train_y, one.test_y])).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]


def test_images_are_binary_or_grey():
    binary, grey = digits().train_x, digits(binarise=False).train_x
    assert binary.dtype == grey.dtype == np.float32
    assert set(np.unique(binary)) == {0.0, 1.0}
    assert ((grey >= 0.5) == binary).all()
    assert grey.max() == 1.0


def test_labels_belong_to_their_images():
    d = digits(binarise=False)
    means = np.stack([d.train_x[d.train_y == k].mean(0) for k in range(10)])
    nearest = ((d.test_x[:, None] - means) ** 2).sum(-1).argmin(-1)
    assert (nearest == d.test_y).mean() > 0.85


def test_all_readings_of_a_pixel_belong_together():
    d = digits(binarise=False, stratified=True)
    assert (d.test_levels == np.round(16 * d.test_x)).all()
    assert d.train_levels.dtype == np.int64
    assert (d.train_levels.min(), d.train_levels.max()) == (0, 16)
    for name in ("digits", "digits-grey", "digits-17"):
        part = load(name).test
        assert (part["levels"] == d.test_levels).all()
        assert (part["binary"] == (part["levels"] > 7.5)).all()
        assert (part["x"] == part[{"digits": "binary", "digits-grey": "grey", "digits-17": "levels"}[name]]).all()
        assert (part["y"] == d.test_y).all()


def test_the_stratified_split_keeps_the_shares_of_the_classes():
    d = digits(stratified=True)
    assert (len(d.train_x), len(d.test_x)) == (1437, 360)
    shares = [np.bincount(y) / len(y) for y in (d.train_y, d.test_y)]
    assert np.abs(shares[0] - shares[1]).max() < 0.002
    assert np.abs(np.bincount(digits().test_y) / 360 - shares[0]).max() > 0.01  # the plain split does not
    both = np.concatenate([d.train_levels, d.test_levels])
    assert sorted(map(tuple, both)) == sorted(map(tuple, load_digits().data.astype(int)))


def test_errors(monkeypatch):
    with pytest.raises(ConfigError, match="fixed at 360 test digits"):
        digits(stratified=True, seed=1)
    with pytest.raises(ConfigError, match="between 1 and 1796"):
        digits(test=1797)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[eval\]'"):
        digits()
