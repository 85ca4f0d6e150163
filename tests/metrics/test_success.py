"""Wilson's interval, against SciPy's."""

import pytest
from scipy.stats import binomtest

from worldformula.errors import ConfigError
from worldformula.metrics.success import wilson


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 30), (18, 20), (7, 50), (100, 100), (493, 1000)])
def test_the_interval_is_that_of_scipy(hits, count, level):
    right = binomtest(hits, count).proportion_ci(level, method="wilson")
    found = wilson(hits, count, level)
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=1e-12)
    assert found.value == hits / count


def test_what_is_printed():
    assert str(wilson(18, 20)) == "0.90 (0.70 to 0.97, 18 of 20)"


@pytest.mark.parametrize("wrong", [(-1, 3), (4, 3), (0, 0)])
def test_refused(wrong):
    with pytest.raises(ConfigError, match="0 ≤ hits ≤ count"):
        wilson(*wrong)


@pytest.mark.parametrize("count", [1, 3, 10, 34, 100])
def test_none_and_all_lie_on_the_edge_of_their_interval(count):
    assert wilson(0, count).low == 0
    assert wilson(count, count).high == 1
