"""Rank correlation, against SciPy's."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from worldformula.errors import ShapeError
from worldformula.metrics.rank import spearman


@pytest.mark.parametrize("values", [1000, 5])
def test_it_is_scipys_with_ties_and_without(values):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, values, 200), rng.integers(0, values, 200)
    b = b + a / 2 if values == 1000 else np.maximum(a, b)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert 0.1 < spearman(a, b) < 1


def test_any_increasing_function_is_one_and_a_constant_is_nothing():
    x = np.linspace(-3, 3, 50)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(spearman(x, np.ones(50)))


@pytest.mark.parametrize("given", [([1.0], [2.0]), ([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]])])
def test_wrong_shapes(given):
    with pytest.raises(ShapeError, match="two lists of one length"):
        spearman(*given)
