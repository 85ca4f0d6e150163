"""The area under the ROC curve, by the statistic of Mann and Whitney, which SciPy has."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from worldformula.metrics.roc import auroc


def test_auroc_is_the_rank_statistic():
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 40), rng.integers(0, 7, 30)
    found = auroc(torch.from_numpy(high), torch.from_numpy(low))
    assert found == pytest.approx(mannwhitneyu(high, low).statistic / (40 * 30))


def test_numbers_that_lie_apart_and_are_no_integers_too():
    rng = np.random.default_rng(0)
    right, wrong = rng.integers(0, 9, 30) + 2.0, rng.integers(0, 9, 40) + 0.0
    found = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert auroc(torch.from_numpy(right), torch.from_numpy(wrong)) == pytest.approx(found)
    assert auroc(torch.ones(3), torch.ones(2)) == 0.5
