"""Means with Student's interval, against SciPy and against how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from worldformula.errors import ConfigError
from worldformula.metrics.interval import mean, student


@pytest.mark.parametrize("freedom", [1, 2, 4, 7, 15, 100])
@pytest.mark.parametrize("share", [0.6, 0.95, 0.975, 0.995])
def test_quantiles_are_those_of_scipy(freedom, share):
    assert student(freedom, share) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-8)


def test_an_interval_is_that_of_a_t_test():
    values = np.random.default_rng(0).normal(0.3, 1.0, 9)
    found = mean(values.tolist(), 0.9)
    known = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), rel=1e-7)
    assert (found.value, found.deviation) == pytest.approx((values.mean(), values.std(ddof=1)))


def test_the_truth_lies_within_as_often_as_the_level_says():
    rng = np.random.default_rng(1)
    within = [found.low < 2 < found.high for found in (mean(rng.normal(2, 3, 5).tolist()) for _ in range(4000))]
    assert np.mean(within) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_equal_values_have_no_width_and_nan_has_no_mean():
    assert (mean([2.0, 2.0]).low, mean([2.0, 2.0]).high) == (2.0, 2.0)
    assert all(math.isnan(v) for v in (mean([1.0, math.nan]).value, mean([1.0, math.inf]).low))


@pytest.mark.parametrize(("values", "level"), [([1.0], 0.95), ([], 0.95), ([1.0, 2.0], 1.0)])
def test_what_has_no_interval_is_refused(values, level):
    with pytest.raises(ConfigError, match="two values or more and a level"):
        mean(values, level)
