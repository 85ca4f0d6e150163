"""Sliced Wasserstein distances of clouds whose distance is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from worldformula.errors import ShapeError
from worldformula.metrics.sliced import sliced_wasserstein


def test_a_moved_cloud_is_as_far_as_it_was_moved():
    """Projected on lines of all directions, a shift s has E⟨s, w⟩² = |s|²/D."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 0.0, 4.0])
    assert sliced_wasserstein(x, x + shift, lines=20_000) == pytest.approx(5 / math.sqrt(3), rel=0.02)
    assert sliced_wasserstein(x, x[torch.randperm(500)]) == pytest.approx(0.0, abs=1e-12)


def test_on_one_line_it_is_the_distance_of_sorted_points():
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 1, generator=rng), torch.randn(300, 1, generator=rng) + 6  # apart: W₁ is the shift of means
    first = wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    assert sliced_wasserstein(a, b) == pytest.approx(
        math.sqrt(float((a.sort(0)[0] - b.sort(0)[0]).double().square().mean())), rel=1e-6
    )
    assert sliced_wasserstein(a, b) >= first


@pytest.mark.parametrize("other", [(4, 3), (5, 2), (5,)])
def test_other_shapes_are_refused(other):
    with pytest.raises(ShapeError, match="as many points"):
        sliced_wasserstein(torch.zeros(5, 3), torch.zeros(*other))
