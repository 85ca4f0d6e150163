"""Fréchet distance, KID and what stands beside them: closed forms, SciPy, controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from worldformula.data import load
from worldformula.errors import ShapeError
from worldformula.metrics.base import train_classifier
from worldformula.metrics.frechet import (
    digit_features,
    frechet,
    kid,
    mode_coverage,
    nearest_train_distance,
    within_class_variance,
)


def test_frechet_against_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5)), rng.standard_normal((200, 5)) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)
    assert frechet(torch.from_numpy(b), torch.from_numpy(a)) == pytest.approx(expected)


def test_shift_and_scale_have_closed_forms():
    a = torch.randn(500, 4, dtype=torch.float64)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 2) == pytest.approx(16)
    centred = a - a.mean(0)
    assert frechet(centred, 3 * centred) == pytest.approx(4 * float(centred.var(0).sum()))


def test_features_that_are_constant_or_few_stay_finite():
    a = torch.randn(10, 32)
    a[:, :5] = 1.0
    assert frechet(a, a + 1e-3) == pytest.approx(32e-6, abs=1e-5)  # singular covariances: clipped, not NaN
    assert frechet(torch.zeros(9, 1), torch.ones(9, 1)) == pytest.approx(1)


def test_kid_is_unbiased_where_its_biased_sister_is_not():
    draws = [kid(torch.randn(30, 8), torch.randn(30, 8)) for _ in range(600)]
    assert abs(np.mean(draws)) < 3.5 * np.std(draws) / np.sqrt(600)
    assert min(draws) < 0
    assert np.mean([kid(torch.randn(30, 8), torch.randn(30, 8) + 0.5) for _ in range(100)]) > 0.1


def test_kid_against_loops():
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    between = sum(k(x, y) for x in a for y in b) / 20
    assert kid(a, b) == pytest.approx(sum(within) - 2 * between)


def test_wrong_features_are_refused():
    for score in (frechet, kid):
        with pytest.raises(ShapeError, match=r"at least two rows, got \(1, 3\) and \(4, 3\)"):
            score(torch.zeros(1, 3), torch.zeros(4, 3))
        with pytest.raises(ShapeError, match="features"):
            score(torch.zeros(4, 2), torch.zeros(4, 3))


def test_nearest_distance_finds_a_memoriser():
    train = torch.randn(50, 6)
    assert nearest_train_distance(train[:7], train) == pytest.approx(0, abs=1e-3)
    assert nearest_train_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [9.0, 9.0]])) == 5


def test_coverage_and_variance_see_two_kinds_of_collapse():
    classes = torch.arange(10).repeat(20)
    x = torch.randn(200, 4) + classes[:, None]
    assert mode_coverage(classes, 10) == 1
    assert mode_coverage(classes[classes < 7], 10) == pytest.approx(0.7)
    assert mode_coverage(torch.tensor([0, 0, 1]), 4, least=2) == 0.25
    assert within_class_variance(x, classes) == pytest.approx(4, abs=0.6)
    assert within_class_variance(classes[:, None].expand(-1, 4).float(), classes) == 0  # one image per class
    with pytest.raises(ShapeError, match="two rows or more among 3"):
        within_class_variance(x[:3], torch.arange(3))


def test_a_classifier_is_repeatable_and_leaves_the_generator_alone():
    data = load("digits")
    x, y = torch.from_numpy(data.train["grey"][:200]), torch.from_numpy(data.train["y"][:200])
    state = torch.get_rng_state()
    one, again, other = (train_classifier(x, y, epochs=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert one.digest() == again.digest() != other.digest()
    assert one.features(x).shape == (200, 64)
    with pytest.raises(ShapeError, match=r"got \(200, 64\) and \(3,\)"):
        train_classifier(x, y[:3])


@pytest.fixture(scope="module")
def network():
    data = load("digits")
    grey, y = torch.from_numpy(data.train["grey"]), torch.from_numpy(data.train["y"])
    with torch.random.fork_rng():
        return digit_features(grey, y), grey, torch.from_numpy(data.test["grey"]), torch.from_numpy(data.test["y"])


@pytest.mark.slow
def test_fd32_tells_real_digits_from_independent_pixels(network):
    net, train, test, y = network
    assert net.accuracy(test, y) > 0.975
    assert net.features(test).shape == (360, 32)
    real = net.features(test)
    some = [frechet(net.features(train[torch.randperm(1437)[:720]]), real) for _ in range(6)]
    assert np.mean(some) == pytest.approx(0.45, abs=0.15)
    apart = torch.stack([column[torch.randperm(1437)[:720]] for column in train.T], -1)
    assert frechet(net.features(apart), real) == pytest.approx(18, abs=5)
    assert frechet(net.features(train[:360]), real) > frechet(net.features(train), real)  # the count matters
