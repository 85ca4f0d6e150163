"""Probes: linear and non-linear codes, few labels, shuffled labels."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from worldformula.data import load
from worldformula.errors import ConfigError, ShapeError
from worldformula.metrics.probe import Split, few_labels, logistic_accuracy, mlp_r2, nearest_accuracy, ridge_r2

DATA = load("digits")


def digits(reading):
    return Split(DATA.train[reading], DATA.train["y"], DATA.test[reading], DATA.test["y"])


def test_floors_of_labels():
    assert logistic_accuracy(digits("grey")) == pytest.approx(0.958, abs=0.015)
    assert logistic_accuracy(digits("binary"), strength=0.05) == pytest.approx(0.911, abs=0.005)
    few = [digits("binary").few(10, seed) for seed in range(5)]
    assert np.mean([logistic_accuracy(s) for s in few]) == pytest.approx(0.827, abs=0.03)
    assert np.mean([nearest_accuracy(s) for s in few]) == pytest.approx(0.792, abs=0.03)


def test_shuffled_labels_are_at_chance():
    split = digits("grey")
    broken = replace(split, train_y=np.random.default_rng(0).permutation(split.train_y))
    assert logistic_accuracy(broken, strength=0.01) < 0.2
    assert nearest_accuracy(broken) < 0.2


def test_few_labels_takes_as_many_of_each_class():
    rows = few_labels(DATA.train["y"], 5, seed=3)
    assert np.bincount(DATA.train["y"][rows]).tolist() == [5] * 10
    assert len(set(rows)) == 50
    assert set(rows) != set(few_labels(DATA.train["y"], 5, seed=4))
    with pytest.raises(ConfigError, match="expected 1 to 2 labels per class"):
        few_labels([0, 0, 1, 1, 1], 3)


def test_a_linear_code_is_read_by_both_and_an_angle_by_the_network_alone():
    rng = np.random.default_rng(0)
    state = rng.uniform(-1, 1, (2000, 2))
    linear = state @ rng.standard_normal((2, 5)) + 3
    bent = np.stack([np.sin(3 * state[:, 0]) * np.exp(state[:, 1]), np.cos(3 * state[:, 0]) * np.exp(state[:, 1])], -1)
    splits = [
        Split(z[:1500], state[:1500], z[1500:], state[1500:]) for z in (linear, bent, rng.standard_normal((2000, 5)))
    ]
    assert ridge_r2(splits[0]) > 0.999
    assert mlp_r2(splits[0]) > 0.95
    assert mlp_r2(splits[1]) > ridge_r2(splits[1]) + 0.2
    assert abs(ridge_r2(splits[2])) < 0.02


def test_ridge_against_least_squares():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    y = x @ [[1.0], [2.0], [0.0]] + rng.standard_normal((60, 1))
    fit = np.linalg.lstsq(np.c_[x[:40], np.ones(40)], y[:40], rcond=None)[0]
    error = np.square(y[40:] - np.c_[x[40:], np.ones(20)] @ fit).sum()
    expected = 1 - error / np.square(y[40:] - y[40:].mean()).sum()
    assert ridge_r2(Split(x[:40], y[:40], x[40:], y[40:]), strength=1e-9) == pytest.approx(expected)


def test_errors(monkeypatch):
    with pytest.raises(ShapeError, match=r"got \(3, 2\), \(4,\)"):
        Split(np.zeros((3, 2)), np.zeros(4), np.zeros((3, 2)), np.zeros(3))
    split = digits("grey")
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[eval\]'"):
        logistic_accuracy(split)
