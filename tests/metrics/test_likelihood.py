"""Bounds, units and floors of likelihoods: against integrals, hand counting and the recorded values of the digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.distributions import Normal

from worldformula.data import load
from worldformula.errors import ConfigError, ShapeError
from worldformula.metrics import likelihood
from worldformula.metrics.likelihood import (
    bernoulli_mixture,
    bits_per_dim,
    categorical_table,
    class_bernoulli,
    dequantise,
    effective_samples,
    gaussian_mixture,
    importance_bound,
    log_bernoulli,
    quadrature,
)

DIGITS = load("digits")
TRAIN, TEST = (torch.from_numpy(part["binary"]) for part in (DIGITS.train, DIGITS.test))


def linear_gaussian(z, x):
    """log p(x|z) + log p(z) of x = Az + noise; its log p(x) has a closed form."""
    mean = z @ torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=z.dtype).T
    return Normal(mean, 0.7).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)


def exact(x):
    weight = np.array([[1.0, 0.5], [-0.3, 0.8]])
    return multivariate_normal(np.zeros(2), weight @ weight.T + 0.49 * np.eye(2)).logpdf(x)


def test_quadrature_is_the_exact_likelihood_of_a_model_with_two_latents():
    x = torch.tensor([[0.3, -1.0], [2.0, 0.1], [0.0, 0.0]], dtype=torch.float64)
    found = quadrature(lambda z: linear_gaussian(z[:, None], x))
    assert found.shape == (3,)
    assert np.allclose(found, exact(x), atol=1e-6)


def test_quadrature_of_a_constant_is_the_area():
    assert float(quadrature(lambda z: torch.zeros(len(z)), points=5, limit=3.0)) == pytest.approx(math.log(36))


def test_the_bound_rises_with_k_from_the_elbo_to_the_exact_value():
    x = torch.tensor([0.3, -1.0], dtype=torch.float64)
    proposal = Normal(torch.tensor([0.4, -0.5], dtype=torch.float64), 0.9)
    z = proposal.sample((20_000, 50))
    weights = (linear_gaussian(z, x) - proposal.log_prob(z).sum(-1)).T  # [50, 20000]
    elbo, five, fifty = (float(importance_bound(weights[:k]).mean()) for k in (1, 5, 50))
    assert elbo == pytest.approx(float(weights[0].mean()))
    assert elbo < five - 0.02 < fifty - 0.02 < exact(x) - 0.02 + 0.005
    assert fifty == pytest.approx(exact(x), abs=0.02)


def test_equal_weights_count_fully_and_one_large_weight_alone():
    assert effective_samples(torch.zeros(8, 2)).tolist() == pytest.approx([8, 8])
    assert float(effective_samples(torch.tensor([0.0, -50.0, -50.0]))) == pytest.approx(1)
    with pytest.raises(ShapeError, match=r"\[K, …\] with K ≥ 1, got \(\)"):
        importance_bound(torch.tensor(1.0))


def test_uniform_levels_cost_log2_of_their_number_in_either_unit():
    for levels in (17, 256):
        assert bits_per_dim(-64 * math.log(levels), 64) == pytest.approx(math.log2(levels))
        assert bits_per_dim(0.0, 64, levels) == pytest.approx(math.log2(levels))  # density 1 on [0, 1]
    assert bits_per_dim(0.0, 64) == 0  # the classic error: forgetting the levels
    with pytest.raises(ConfigError, match="dims ≥ 1"):
        bits_per_dim(0.0, 0)


def test_dequantised_values_give_their_levels_back():
    levels = DIGITS.train["levels"]
    u = dequantise(levels, 17)
    assert (np.floor(17 * u) == levels).all()
    assert (u.min() >= 0, u.max() < 1) == (True, True)


def test_floors_of_binary_digits():
    independent = -bernoulli_mixture(TRAIN, TEST, 1).mean()
    assert float(independent) == pytest.approx(25.21, abs=0.005)
    for components, known in ((10, 19.94), (60, 17.84)):
        generator = torch.Generator().manual_seed(0)
        found = -bernoulli_mixture(TRAIN, TEST, components, generator=generator).mean()
        assert float(found) == pytest.approx(known, abs=0.1)


def test_labels_summed_out_are_the_mixture_of_the_classes():
    by_class = class_bernoulli(TRAIN, torch.from_numpy(DIGITS.train["y"]), TEST)
    y = torch.from_numpy(DIGITS.test["y"])
    given, summed = by_class.gather(-1, y[:, None])[:, 0], by_class.logsumexp(-1) - math.log(10)
    assert float(-summed.mean()) == pytest.approx(20.11, abs=0.1)
    assert (summed >= given - math.log(10)).all()
    assert float((by_class.argmax(-1) == y).float().mean()) > 0.85
    wrong = class_bernoulli(TRAIN, torch.from_numpy(np.roll(DIGITS.train["y"], 7)), TEST)  # labels of other images
    assert float(-wrong.gather(-1, y[:, None]).mean()) > 24.5


def test_one_class_is_one_component():
    expected = bernoulli_mixture(TRAIN, TEST, 1)
    assert torch.allclose(class_bernoulli(TRAIN, torch.zeros(1437, dtype=torch.long), TEST)[:, 0], expected, atol=1e-3)


def test_log_bernoulli_against_torch():
    probs = torch.rand(3, 64)
    expected = torch.distributions.Bernoulli(probs).log_prob(TEST[:5, None]).sum(-1)
    assert torch.allclose(log_bernoulli(TEST[:5], probs), expected, rtol=1e-4)


def test_floors_of_the_seventeen_levels():
    train, test = DIGITS.train["levels"], DIGITS.test["levels"]
    table = categorical_table(train, test, 17)
    assert bits_per_dim(table.mean(), 64) == pytest.approx(2.433, abs=0.001)
    smooth, held = dequantise(train, 17), dequantise(test, 17, seed=1)
    for covariance, known in (("diag", 3.383), ("full", 2.951)):
        found = gaussian_mixture(smooth, held, 1, covariance=covariance).mean()
        assert bits_per_dim(float(found), 64, 17) == pytest.approx(known, abs=0.02)


def test_the_table_against_counting():
    train, test = np.array([[0], [0], [2]]), np.array([[0], [1], [2]])
    expected = np.log(np.array([2.5, 0.5, 1.5]) / 4.5)
    assert np.allclose(categorical_table(train, test, 3, pseudo=0.5), expected)


def test_one_full_gaussian_against_scipy():
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((200, 3)), rng.standard_normal((5, 3))
    cov = np.cov(train.T, ddof=0) + 1e-3 * np.eye(3)
    expected = multivariate_normal(train.mean(0), cov).logpdf(test)
    assert np.allclose(gaussian_mixture(train, test, 1, floor=1e-3), expected)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.mixture", None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[eval\]'"):
        likelihood.fit_gaussian_mixture(np.zeros((4, 2)), 1)
