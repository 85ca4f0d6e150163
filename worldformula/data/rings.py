"""Densities in the plane whose logarithm, gradient and samples are exact: all are mixtures of round Gaussians.

``ring`` 8 Gaussians on a circle of radius 2, σ .05; ``grid`` 5 × 5 Gaussians two apart, σ .05; ``three`` Gaussians at
(2, 0) and (−1, ±1.7), σ .3; ``moons`` two interleaving half circles of radius 1 under noise of σ .1, as 64 Gaussians
each, so densely that only the formula remembers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.data.base import Arrays, DataSet, Floats, Loader

ROWS, TEST_ROWS = 10_000, 2_000
Double = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Density(Arrays):
    """A mixture of equally likely Gaussians with one standard deviation.

    Attributes:
        means: ``[K, 2]``.
        deviation: of every component along every axis.
    """

    means: Double
    deviation: float

    def sample(self, count: int, seed: int = 0) -> Floats:
        """``[count, 2]`` float32."""
        rng = np.random.default_rng(seed)
        centre = self.means[rng.integers(len(self.means), size=count)]
        return (centre + self.deviation * rng.standard_normal((count, 2))).astype(np.float32)

    def log_prob(self, x: ArrayLike, noise: float = 0.0) -> Double:
        """log p(x) in nats of points ``[…, 2]``: ``[…]``; ``noise``: deviation of a Gaussian that blurs the density."""
        joint, variance = self._log_joint(x, noise)
        top = joint.max(-1)
        total = np.log(np.exp(joint - top[..., None]).sum(-1)) + top
        return total - np.log(len(self.means)) - np.log(2 * np.pi * variance)

    def score(self, x: ArrayLike, noise: float = 0.0) -> Double:
        """∇ log p(x) of points ``[…, 2]``: ``[…, 2]``; ``noise`` as in `log_prob`."""
        joint, variance = self._log_joint(x, noise)
        share = np.exp(joint - joint.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        return (share @ self.means - np.asarray(x, np.float64)) / variance

    def modes_hit(self, x: ArrayLike, within: float) -> tuple[int, float]:
        """How many components have a point of ``[N, 2]`` within a distance, and the share of points that have one."""
        distance = np.linalg.norm(np.asarray(x, np.float64)[:, None] - self.means, axis=-1)
        nearest, good = distance.argmin(-1), distance.min(-1) <= within
        return len(np.unique(nearest[good])), float(good.mean())

    def _log_joint(self, x: ArrayLike, noise: float) -> tuple[Double, float]:
        """Exponents ``[…, K]``, and the variance of a component."""
        variance = self.deviation**2 + noise**2
        squared = np.square(np.asarray(x, np.float64)[..., None, :] - self.means).sum(-1)
        return -0.5 * squared / variance, variance


def ring() -> Density:
    """Eight Gaussians on a circle: a generator that drops a mode is seen at once."""
    angle = 2 * np.pi * np.arange(8) / 8
    return Density(2 * np.stack([np.cos(angle), np.sin(angle)], -1), 0.05)


def grid() -> Density:
    """Twenty-five Gaussians on a square grid."""
    at = 2.0 * np.arange(-2, 3)
    return Density(np.stack(np.meshgrid(at, at), -1).reshape(-1, 2), 0.05)


def three() -> Density:
    """Three wide Gaussians: small enough for a closed-form score to be compared everywhere."""
    return Density(np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]]), 0.3)


def moons() -> Density:
    """Two half circles, the second turned and moved by (1, .5)."""
    angle = np.pi * (np.arange(64) + 0.5) / 64
    upper = np.stack([np.cos(angle), np.sin(angle)], -1)
    return Density(np.concatenate([upper, np.array([1.0, 0.5]) - upper]), 0.1)


DENSITIES: Mapping[str, Callable[[], Density]] = {"ring": ring, "grid": grid, "three": three, "moons": moons}


def _load(name: str) -> DataSet:
    density = DENSITIES[name]()
    train, test = density.sample(ROWS, seed=0), density.sample(TEST_ROWS, seed=1)
    note = f"Points in the plane from {len(density.means)} Gaussians; worldformula.data.rings.{name}() has the density."
    return DataSet(name, {"x": train}, {"x": test}, (2,), note)


DATA: Mapping[str, Loader] = {name: partial(_load, name) for name in DENSITIES}
