"""Likelihoods: bounds, exact values, units, and the floors that every density model has to beat.

A bound names its estimator and its number of samples; a re-weighted objective is never called a likelihood. All values
are log-likelihoods or their means over test rows, in nats, unless a name says bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.errors import ConfigError, ShapeError

LOG2 = math.log(2.0)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log (1/K) Σ_k w_k, the IWAE-K bound of log p(x) (Burda et al. 2015, arXiv:1509.00519, eq. 8).

    Args:
        log_weights: log p(x, z_k) − log q(z_k|x) with z_k ~ q, ``[K, …]``; print K beside the value.

    Returns:
        ``[…]``, on average at most log p(x) and at least the ELBO, which is K = 1.
    """
    if log_weights.ndim == 0 or not len(log_weights):
        raise ShapeError(f"expected log-weights [K, …] with K ≥ 1, got {tuple(log_weights.shape)}")
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def effective_samples(log_weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² of ``[K, …]``: ``[…]``, from 1 to K. Near 1 the importance bound is far from tight."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def bits_per_dim(log_prob: float, dims: int, levels: int = 1) -> float:
    """A log-likelihood in nats as bits per dimension; lower is better.

    Args:
        log_prob: log P of the levels themselves (``levels=1``), or log p(u) of values u = (x + noise)/``levels`` in
            [0, 1], whose density is ``levels`` times that of x along every dimension.
        dims: D.
        levels: 17 for the digits, 256 for bytes. To forget it is the classic error: log₂ 17 is 4.09 bits.

    Raises:
        ConfigError: no dimension or no level.
    """
    if dims < 1 or levels < 1:
        raise ConfigError(f"expected dims ≥ 1 and levels ≥ 1, got {dims=}, {levels=}")
    return -(log_prob - dims * math.log(levels)) / (dims * LOG2)


def dequantise(levels: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.float64]:
    """u = (x + noise)/count with noise uniform on [0, 1), of levels 0 to count − 1, any shape."""
    return (levels + np.random.default_rng(seed).random(levels.shape)) / count


def quadrature(log_density: Callable[[Tensor], Tensor], *, points: int = 121, limit: float = 6.0) -> Tensor:
    """log ∫ exp(f(z)) dz over the square [−limit, limit]² by the trapezoidal rule, in float64.

    With f = log p(x|z) + log p(z) it is the exact log p(x) of a model with two latent dimensions; with f = log p it is
    0 for a density that is normalised and lies inside the square.

    Args:
        log_density: z ``[points², 2]`` -> ``[points², …]``.
        points: along each axis; doubling them must not change the value.
        limit: half-width of the square.

    Returns:
        ``[…]``.
    """
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    weight = torch.full((points,), 2 * limit / (points - 1), dtype=torch.float64).log()
    weight[[0, -1]] -= LOG2
    cell = (weight[:, None] + weight).flatten()
    values = log_density(torch.cartesian_prod(axis, axis)).double()
    return (values + cell.view(-1, *[1] * (values.ndim - 1))).logsumexp(0)


# ------------------------------------------------------------------------------------------------------------- floors


def bernoulli_mixture(
    train: Tensor, test: Tensor, components: int = 100, *, steps: int = 100, generator: torch.Generator | None = None
) -> Tensor:
    """log p(x) of each test row under a mixture of Bernoullis, by EM with a Beta(1.1, 1.1) prior on each pixel.

    Args:
        train: 0 or 1, ``[N, D]``.
        test: ``[M, D]``.
        components: K; with K = 1 the pixels are independent and counting is exact.
        steps: of EM.
        generator: of the rows that EM starts from; torch's own if None.

    Returns:
        ``[M]``, nats.
    """
    centres = train[torch.randperm(len(train), generator=generator)[:components]]
    nearest = torch.cdist(train, centres).argmin(-1)
    share = torch.nn.functional.one_hot(nearest, components).to(train.dtype)
    for _ in range(steps):
        count = share.sum(0)
        probs = (share.T @ train + 0.1) / (count[:, None] + 0.2)
        prior = ((count + 0.1) / (count + 0.1).sum()).log()
        share = (log_bernoulli(train, probs) + prior).softmax(-1)
    return (log_bernoulli(test, probs) + prior).logsumexp(-1)


def class_bernoulli(train: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """log p(x|y) of each test row and each class under one Bernoulli per pixel and class, Beta(1.1, 1.1) prior.

    Args:
        train: 0 or 1, ``[N, D]``.
        y: their labels ``[N]``, 0 to C − 1.
        test: ``[M, D]``.

    Returns:
        ``[M, C]``, nats: one column is the floor of a conditional model, the mean of the columns' exponentials (for
        equally likely classes) that of a model which used the labels in training.
    """
    share = torch.nn.functional.one_hot(y).to(train.dtype)
    return log_bernoulli(test, (share.T @ train + 0.1) / (share.sum(0)[:, None] + 0.2))


def log_bernoulli(x: Tensor, probs: Tensor) -> Tensor:
    """log p(x_n | component k) of ``x [N, D]`` under ``probs [K, D]``: ``[N, K]``."""
    return x @ probs.log().T + (1.0 - x) @ (1.0 - probs).log().T


def categorical_table(
    train: NDArray[np.int64], test: NDArray[np.int64], levels: int, pseudo: float = 0.1
) -> NDArray[np.float64]:
    """log P of each test row under one independent histogram per pixel.

    Args:
        train: levels 0 to ``levels`` − 1, ``[N, D]``.
        test: ``[M, D]``.
        levels: how many there are.
        pseudo: added to every count.

    Returns:
        ``[M]``, nats; as bits per dimension with ``bits_per_dim(mean, D)``.
    """
    counts = np.stack([(train == level).sum(0) for level in range(levels)]) + pseudo
    table = np.log(counts / counts.sum(0))
    return table[test, np.arange(test.shape[1])].sum(1)


def gaussian_mixture(
    train: NDArray[np.floating],
    test: NDArray[np.floating],
    components: int,
    *,
    covariance: str = "full",
    floor: float = 2e-4,
    seed: int = 0,
) -> NDArray[np.float64]:
    """log p(x) of each test row under a mixture of Gaussians, by scikit-learn's EM.

    Args:
        train: ``[N, D]``, dequantised.
        test: ``[M, D]``.
        components: K.
        covariance: ``full``, ``tied``, ``diag`` or ``spherical``.
        floor: added to the diagonal of every covariance.
        seed: of the start.

    Returns:
        ``[M]``, nats.
    """
    return np.asarray(fit_gaussian_mixture(train, components, covariance, floor, seed).score_samples(test))


def fit_gaussian_mixture(
    train: NDArray[np.floating], components: int, covariance: str = "full", floor: float = 2e-4, seed: int = 0
) -> Any:
    """scikit-learn's fitted ``GaussianMixture`` itself, to draw from: the floor of a Fréchet distance."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise ConfigError("Gaussian mixtures need scikit-learn: pip install 'worldformula[eval]'") from error
    return GaussianMixture(components, covariance_type=covariance, reg_covar=floor, random_state=seed).fit(train)
