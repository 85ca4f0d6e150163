"""Disentanglement: does each latent dimension hold one factor?

Beside every score stand three codes (`controls`): the factors themselves, the factors under a random rotation, which
keeps all information and undoes the alignment, and noise. A score that does not tell the first two apart measures
information, not disentanglement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.errors import ConfigError, ShapeError

Codes = NDArray[np.float64]
Factors = NDArray[np.int64]
DEAD = 0.05  # a dimension with a smaller standard deviation is left out of the FactorVAE score


@dataclass(frozen=True)
class DCI:
    """Eastwood and Williams 2018: 1 is best in all three.

    Attributes:
        disentanglement: each dimension tells of one factor only, weighted by how much it tells.
        completeness: each factor is told by one dimension only.
        informativeness: accuracy of the factors that the trees predict on held-out rows.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def mig(codes: ArrayLike, factors: ArrayLike, *, bins: int = 20) -> float:
    """Mutual information gap: mean over factors of (I₁ − I₂)/H, the two most informative dimensions (Chen et al. 2018).

    Args:
        codes: ``[N, D]`` with D ≥ 2, each dimension cut into equal bins between its extremes; 10 000 rows are usual.
        factors: ``[N, F]`` int64.
        bins: per dimension.
    """
    z, v = _checked(codes, factors)
    if z.shape[1] < 2:
        raise ShapeError(f"a gap needs two dimensions or more, got codes {z.shape}")
    binned = np.stack([_bin(column, bins) for column in z.T], -1)
    gaps = []
    for factor in v.T:
        information = np.sort([_information(column, factor) for column in binned.T])
        gaps.append((information[-1] - information[-2]) / _information(factor, factor))
    return float(np.mean(gaps))


def sap(codes: ArrayLike, factors: ArrayLike, *, categorical: Sequence[int] = (), bins: int = 20) -> float:
    """Separated attribute predictability: mean over factors of the two best dimensions' scores, one less the other.

    A dimension's score of an ordered factor is R² of the line through it; of a categorical one, the accuracy of the
    most frequent value in each bin of the dimension (Kumar et al. 2018, arXiv:1711.00848, who fit thresholds).

    Args:
        codes: ``[N, D]`` with D ≥ 2.
        factors: ``[N, F]`` int64.
        categorical: columns of the factors whose values have no order.
        bins: of a dimension, for those.

    Raises:
        ShapeError: one dimension, or no such column.
    """
    z, v = _checked(codes, factors)
    if z.shape[1] < 2:
        raise ShapeError(f"a gap needs two dimensions or more, got codes {z.shape}")
    if not set(categorical) <= set(range(v.shape[1])):
        raise ShapeError(f"categorical= expects columns from 0 to {v.shape[1] - 1}, got {tuple(categorical)}")
    gaps = []
    for k, factor in enumerate(v.T):
        score = _accuracy if k in categorical else _explained
        best = np.sort([score(column, factor, bins) for column in z.T])
        gaps.append(best[-1] - best[-2])
    return float(np.mean(gaps))


def factor_vae_score(
    codes: ArrayLike, factors: ArrayLike, *, batch: int = 64, train: int = 10_000, test: int = 5_000, seed: int = 0
) -> float:
    """Accuracy of a majority vote: the dimension that varies least tells which factor was held (Kim and Mnih 2018).

    Args:
        codes: ``[N, D]``, one row for each combination of factors or a sample of them.
        factors: ``[N, F]`` int64.
        batch: rows that share the value of the held factor.
        train: votes that the majority is taken of.
        test: votes that it is scored on.
        seed: of the votes.

    Raises:
        ConfigError: every dimension is dead, its standard deviation below `DEAD`.
    """
    z, v = _checked(codes, factors)
    deviation = z.std(0)
    alive = deviation >= DEAD
    if not alive.any():
        raise ConfigError(f"every dimension of the codes has a standard deviation below {DEAD}")
    z = z[:, alive] / deviation[alive]
    rng = np.random.default_rng(seed)
    held = rng.integers(v.shape[1], size=train + test)
    least = np.empty_like(held)
    for k in range(v.shape[1]):
        votes = np.flatnonzero(held == k)
        values = v[rng.integers(len(v), size=len(votes)), k]
        for value in np.unique(values):
            mine, rows = votes[values == value], np.flatnonzero(v[:, k] == value)
            chosen = rows[rng.integers(len(rows), size=(len(mine), batch))]
            least[mine] = z[chosen].var(1).argmin(-1)
    table = np.zeros((z.shape[1], v.shape[1]))
    np.add.at(table, (least[:train], held[:train]), 1)
    return float((table.argmax(1)[least[train:]] == held[train:]).mean())


def dci(codes: ArrayLike, factors: ArrayLike, *, seed: int = 0) -> DCI:
    """Disentanglement, completeness, informativeness from the importances of random forests (DCI-like).

    The published score takes gradient-boosted trees; forests give the same order in a tenth of the time.

    Args:
        codes: ``[N, D]``; half of the rows train the trees.
        factors: ``[N, F]`` int64.
        seed: of the halves and the trees.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise ConfigError("DCI needs scikit-learn: pip install 'worldformula[eval]'") from error
    z, v = _checked(codes, factors)
    order = np.random.default_rng(seed).permutation(len(z))
    train, test = order[: len(z) // 2], order[len(z) // 2 :]
    importance, accuracy = [], []
    for factor in v.T:
        forest = RandomForestClassifier(40, max_depth=12, max_features=None, random_state=seed)
        trees = forest.fit(
            z[train], factor[train]
        )  # all dimensions at every split: a choice of few would spread credit
        importance.append(trees.feature_importances_)
        accuracy.append(trees.score(z[test], factor[test]))
    matrix = np.stack(importance, -1) + 1e-11  # [D, F]
    weight = matrix.sum(1) / matrix.sum()
    return DCI(
        float((weight * (1 - _entropy(matrix))).sum()), float((1 - _entropy(matrix.T)).mean()), float(np.mean(accuracy))
    )


def controls(factors: ArrayLike, seed: int = 0) -> dict[str, Codes]:
    """The codes to print beside a model's: ``oracle``, ``rotated`` and ``random``, each ``[N, F]``.

    ``oracle`` holds the factors, standardised; ``rotated`` the same under a random rotation of all dimensions.
    """
    v = np.asarray(factors, np.float64)
    oracle = (v - v.mean(0)) / v.std(0)
    rng = np.random.default_rng(seed)
    rotation, triangle = np.linalg.qr(rng.standard_normal((v.shape[1], v.shape[1])))
    rotation *= np.sign(np.diag(triangle))  # without the signs QR does not draw rotations uniformly
    return {"oracle": oracle, "rotated": oracle @ rotation, "random": rng.standard_normal(v.shape)}


def _checked(codes: ArrayLike, factors: ArrayLike) -> tuple[Codes, Factors]:
    z, v = np.asarray(codes, np.float64), np.asarray(factors)
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or not len(z):
        raise ShapeError(f"expected codes [N, D] and factors [N, F], got {z.shape} and {v.shape}")
    return z, v.astype(np.int64)


def _bin(column: NDArray[np.float64], bins: int) -> Factors:
    edges = np.linspace(column.min(), column.max(), bins + 1)[1:-1]
    return np.digitize(column, edges)


def _explained(column: NDArray[np.float64], factor: Factors, _bins: int) -> float:
    """R² of a factor on the line through a dimension; none of one that is constant."""
    spread = column.std() * factor.std()
    return 0.0 if spread == 0 else float(np.mean((column - column.mean()) * (factor - factor.mean())) / spread) ** 2


def _accuracy(column: NDArray[np.float64], factor: Factors, bins: int) -> float:
    """Share of rows whose value is the most frequent one of their bin."""
    counts = np.zeros((bins, factor.max() + 1))
    np.add.at(counts, (_bin(column, bins), factor), 1)
    return float(counts.max(1).sum() / len(factor))


def _information(a: Factors, b: Factors) -> float:
    """Mutual information of two columns of small integers, nats; of a column and itself, its entropy."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _entropy(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of every row in units of its maximum, ``[rows]``."""
    share = matrix / matrix.sum(1, keepdims=True)
    return -(share * np.log(share)).sum(1) / np.log(matrix.shape[1])
