"""Clusterings against labels. A cluster has no name, so the best naming counts; no score minds the numbering."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.errors import ConfigError, ShapeError


def hungarian_accuracy(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows in the right class under the best one-to-one naming of clusters (Kuhn 1955); needs SciPy.

    Raises:
        ConfigError: SciPy is not installed.
        ShapeError: not two equally long lists of integers ≥ 0.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError("the best naming needs SciPy: pip install 'worldformula[eval]'") from error
    table = contingency(clusters, labels)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def adjusted_rand(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal partitions, 0 on average for independent ones."""
    table = contingency(clusters, labels)
    together, left, right, pairs = (_pairs(n) for n in (table, table.sum(1), table.sum(0), table.sum()))
    expected = left * right / pairs if pairs else 0.0
    most = (left + right) / 2
    return float((together - expected) / (most - expected)) if most != expected else 1.0


def normalised_information(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Mutual information over the mean of the two entropies, 0 to 1; not corrected for chance."""
    joint = contingency(clusters, labels) / len(np.asarray(labels))
    a, b = joint.sum(1), joint.sum(0)
    both, apart = _entropy(joint.ravel()), _entropy(a) + _entropy(b)
    return float(2 * (apart - both) / apart) if apart else 1.0


def contingency(clusters: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """How many rows of each cluster have each label, ``[clusters, labels]``.

    Raises:
        ShapeError: not two equally long lists of integers ≥ 0.
    """
    a, b = np.asarray(clusters), np.asarray(labels)
    if a.shape != b.shape or a.ndim != 1 or not len(a) or min(a.min(), b.min()) < 0:
        raise ShapeError(f"expected two lists of integers ≥ 0 of one length, got {a.shape} and {b.shape}")
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1), np.int64)
    np.add.at(table, (a.astype(np.int64), b.astype(np.int64)), 1)
    return table


def _pairs(counts: NDArray[np.int64] | np.int64) -> float:
    return float(np.sum(counts * (counts - 1)) / 2)


def _entropy(shares: NDArray[np.float64]) -> float:
    seen = shares[shares > 0]
    return float(-(seen * np.log(seen)).sum())
