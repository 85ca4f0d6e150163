"""Probes: what a simple predictor reads from a representation. Print the same probe on raw inputs and noise beside it.

All take scikit-learn, from the extra ``eval``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldformula.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class Split:
    """A representation and what is read from it, in a part to fit on and a part to score on.

    Attributes:
        train_x: ``[N, D]``.
        train_y: labels ``[N]``, or real values ``[N, S]``.
        test_x: ``[M, D]``.
        test_y: ``[M]`` or ``[M, S]``.

    Raises:
        ShapeError: rows or widths that do not belong together.
    """

    train_x: NDArray[np.floating]
    train_y: NDArray[np.generic]
    test_x: NDArray[np.floating]
    test_y: NDArray[np.generic]

    def __post_init__(self) -> None:
        fits = len(self.train_x) == len(self.train_y) and len(self.test_x) == len(self.test_y)
        if not fits or self.train_x.ndim != 2 or self.train_x.shape[1:] != self.test_x.shape[1:]:
            shapes = [getattr(self, n).shape for n in ("train_x", "train_y", "test_x", "test_y")]
            raise ShapeError(f"expected [N, D], [N, …], [M, D], [M, …], got {', '.join(map(str, shapes))}")

    def few(self, per_class: int, seed: int = 0) -> Split:
        """The same split with ``per_class`` random training rows of each class."""
        rows = few_labels(self.train_y, per_class, seed)
        return Split(self.train_x[rows], self.train_y[rows], self.test_x, self.test_y)


def few_labels(labels: ArrayLike, per_class: int, seed: int = 0) -> NDArray[np.int64]:
    """Rows of ``per_class`` random members of every class, ``[classes · per_class]``.

    Raises:
        ConfigError: a class is smaller.
    """
    y = np.asarray(labels)
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(y == k)) for k in np.unique(y)]
    smallest = min(len(rows) for rows in members)
    if not 1 <= per_class <= smallest:
        raise ConfigError(f"expected 1 to {smallest} labels per class, the size of the smallest, got {per_class}")
    return np.concatenate([rows[:per_class] for rows in members])


def logistic_accuracy(split: Split, *, strength: float = 1.0) -> float:
    """Test accuracy of multinomial logistic regression with an L2 penalty.

    Args:
        split: with labels.
        strength: C of scikit-learn, the inverse of the penalty.
    """
    from_sklearn = _need("linear_model").LogisticRegression(C=strength, max_iter=3000)
    return float(from_sklearn.fit(split.train_x, split.train_y).score(split.test_x, split.test_y))


def nearest_accuracy(split: Split, neighbours: int = 1) -> float:
    """Test accuracy of the vote of the nearest training rows, Euclidean."""
    from_sklearn = _need("neighbors").KNeighborsClassifier(neighbours)
    return float(from_sklearn.fit(split.train_x, split.train_y).score(split.test_x, split.test_y))


def ridge_r2(split: Split, *, strength: float = 1e-3) -> float:
    """Held-out R² of ridge regression on standardised inputs, mean over the values; pass angles as sin and cos."""
    pipeline = _need("pipeline").make_pipeline(
        _need("preprocessing").StandardScaler(), _need("linear_model").Ridge(strength)
    )
    return float(pipeline.fit(split.train_x, split.train_y).score(split.test_x, split.test_y))


def mlp_r2(split: Split, *, hidden: int = 64, seed: int = 0) -> float:
    """As `ridge_r2` by a network of one hidden layer; the difference is what is encoded, but not linearly."""
    pipeline = _need("pipeline").make_pipeline(
        _need("preprocessing").StandardScaler(),
        _need("neural_network").MLPRegressor(
            hidden_layer_sizes=(hidden,), random_state=seed, max_iter=500, early_stopping=True
        ),
    )
    return float(pipeline.fit(split.train_x, split.train_y).score(split.test_x, split.test_y))


def _need(part: str) -> ModuleType:
    """A part of scikit-learn."""
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ImportError as error:
        raise ConfigError("probes need scikit-learn: pip install 'worldformula[eval]'") from error
