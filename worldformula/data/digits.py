"""Real handwritten digits, 8 × 8 pixels, that come with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldformula.errors import ConfigError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """Images ``[N, 64]`` float32 in [0, 1] and labels ``[N]`` int64, split into training and test."""

    train_x: Images
    train_y: Labels
    test_x: Images
    test_y: Labels


def digits(*, binarise: bool = True, test: int = 360, seed: int = 0) -> Digits:
    """The 1797 digits of the UCI optical recognition set (Alpaydin and Kaynak 1998).

    Args:
        binarise: 1 where a pixel is at least half of the maximum, else 0; otherwise grey values in [0, 1].
        test: size of the test set.
        seed: of the shuffle before the split; the same seed gives the same split everywhere.

    Raises:
        ConfigError: scikit-learn is not installed, or the test set takes everything.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("the digits come with scikit-learn: pip install 'worldformula[eval]'") from error
    images, labels = load_digits(return_X_y=True)
    if not 0 < test < len(images):
        raise ConfigError(f"expected a test set between 1 and {len(images) - 1} digits, got {test}")
    order = np.random.default_rng(seed).permutation(len(images))
    x = (images >= 8.0 if binarise else images / 16.0).astype(np.float32)[order]
    y = labels.astype(np.int64)[order]
    return Digits(x[:-test], y[:-test], x[-test:], y[-test:])
