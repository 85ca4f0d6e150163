"""The digits of scikit-learn: split, values, labels."""

from __future__ import annotations

import sys

import numpy as np
import pytest

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


def test_errors(monkeypatch):
    with pytest.raises(ConfigError, match="between 1 and 1796"):
        digits(test=1797)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[eval\]'"):
        digits()
