"""Distances between two sets of samples in the feature space of a network that is trained here.

FD-32 stands in for the FID (Heusel et al. 2017, arXiv:1706.08500), whose network would have to be downloaded. It
depends on the number of samples and on the network: fix n, name the network by its digest, and print the distance of
real training data at the same n beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.errors import ShapeError
from worldformula.metrics.base import Classifier, train_classifier


def digit_features(x: Tensor, y: Tensor, seed: int = 0) -> Classifier:
    """The network of FD-32: 64-128-32-10, 120 epochs, label smoothing .05, on grey digits in [0, 1].

    Args:
        x: grey training digits ``[N, 64]``.
        y: labels ``[N]``.
        seed: another seed is another feature space, and distances in the two do not compare.
    """
    return train_classifier(x, y, hidden=(128, 32), epochs=120, smoothing=0.05, seed=seed)


def frechet(a: Tensor, b: Tensor) -> float:
    """‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½) of features ``[N, H]`` and ``[M, H]``, in float64.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^½ C_b C_a^½, which is symmetric; those that
    rounding makes negative are clipped at 0.

    Raises:
        ShapeError: features of different widths, or fewer than two rows.
    """
    _check(a, b)
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).view(a.shape[1], -1), torch.cov(b.T).view(a.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * cross)


def kid(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD under the kernel (⟨u, v⟩/H + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401, section 4).

    Its mean is 0 for samples of one distribution, whatever their number, so single values may be negative.

    Raises:
        ShapeError: features of different widths, or fewer than two rows.
    """
    _check(a, b)
    a, b = a.double(), b.double()
    within = [(_kernel(s, s).sum() - _kernel(s, s).trace()) / (len(s) * (len(s) - 1)) for s in (a, b)]
    return float(within[0] + within[1] - 2 * _kernel(a, b).mean())


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ShapeError(
            f"expected features [N, H] and [M, H] with at least two rows, got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def nearest_train_distance(samples: Tensor, train: Tensor) -> float:
    """Mean Euclidean distance of ``[N, D]`` to the nearest row of ``[M, D]``; far below test rows: memorised."""
    return float(torch.cdist(samples.flatten(1), train.flatten(1)).min(-1).values.mean())


def mode_coverage(classes: Tensor, count: int, least: int = 1) -> float:
    """Share of ``count`` classes that at least ``least`` samples fall into; ``classes [N]`` int64."""
    return float((torch.bincount(classes, minlength=count)[:count] >= least).double().mean())


def within_class_variance(x: Tensor, classes: Tensor) -> float:
    """Variance summed over dimensions, averaged over the classes that have two rows or more.

    Beside the same number of real data it shows a collapse that class accuracy cannot see.

    Args:
        x: ``[N, D]``.
        classes: ``[N]`` int64, of labels or of a classifier.

    Raises:
        ShapeError: no class has two rows.
    """
    parts = [x[classes == k].var(0).sum() for k in classes.unique() if int((classes == k).sum()) > 1]
    if not parts:
        raise ShapeError(f"expected a class with two rows or more among {len(x)} rows")
    return float(torch.stack(parts).mean())
