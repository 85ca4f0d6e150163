"""Densities in the plane: normalised, gradients by differences, samples that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from worldformula.data.rings import DENSITIES, Density
from worldformula.metrics.likelihood import quadrature


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_is_normalised(name):
    density = DENSITIES[name]()
    total = quadrature(lambda z: torch.from_numpy(density.log_prob(z.numpy(), noise=0.1)), points=301, limit=6.0)
    assert abs(float(total)) < 1e-4


@pytest.mark.parametrize("name", DENSITIES)
def test_log_prob_against_scipy_and_the_score_against_differences(name):
    density = DENSITIES[name]()
    x = density.sample(20, seed=3).astype(np.float64)
    for noise in (0.0, 0.4):
        cov = (density.deviation**2 + noise**2) * np.eye(2)
        expected = np.log(np.mean([multivariate_normal(m, cov).pdf(x) for m in density.means], 0))
        assert np.allclose(density.log_prob(x, noise), expected)
        for axis in range(2):
            step = 1e-6 * np.eye(2)[axis]
            slope = (density.log_prob(x + step, noise) - density.log_prob(x - step, noise)) / 2e-6
            assert np.allclose(density.score(x, noise)[:, axis], slope, atol=1e-3)


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_come_from_the_density(name):
    density = DENSITIES[name]()
    x = density.sample(40_000)
    entropy = [-density.log_prob(density.sample(40_000, seed=s)).mean() for s in (1, 2)]
    assert -density.log_prob(x).mean() == pytest.approx(np.mean(entropy), abs=0.02)
    assert np.allclose(x.mean(0), density.means.mean(0), atol=0.05)
    assert np.allclose(np.cov(x.T), np.cov(density.means.T, ddof=0) + density.deviation**2 * np.eye(2), atol=0.1)


def test_the_entropy_of_three_gaussians_is_that_of_the_pilot():
    density = DENSITIES["three"]()
    assert -density.log_prob(density.sample(100_000)).mean() == pytest.approx(1.53, abs=0.06)


def test_modes_hit_counts_modes_and_points():
    density = Density(np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 0.0]]), 0.1)
    x = np.array([[0.1, 0.0], [0.0, 0.2], [4.0, 0.9], [8.0, 0.1]])
    assert density.modes_hit(x, within=0.5) == (2, 0.75)
    assert density.modes_hit(x, within=1.0) == (3, 1.0)
    assert DENSITIES["ring"]().modes_hit(DENSITIES["ring"]().sample(500), within=0.25) == (8, 1.0)
