"""Whole numbers that name classes, against an identity matrix of NumPy; what names none is told."""

import numpy as np
import pytest
import torch

from worldformula.errors import SpaceError
from worldformula.nets.classes import one_hots

CLASSES, STARTS = (3, 5), (2, -1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64])
def test_elements_stand_side_by_side(dtype):
    rng = np.random.default_rng(0)
    starts = (2, 0) if dtype == torch.uint8 else STARTS
    numbers = np.stack([rng.integers(s, s + n, (4, 6)) for s, n in zip(starts, CLASSES, strict=True)], -1)
    found = one_hots(torch.from_numpy(numbers).to(dtype), CLASSES, starts)
    wanted = np.concatenate([np.eye(n)[numbers[..., i] - starts[i]] for i, n in enumerate(CLASSES)], -1)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("wrong", [5, 1, -7, 2.5, float("nan"), float("inf")])
def test_a_number_that_names_no_class_is_told(wrong):
    numbers = torch.tensor([[2, -1], [4, 3]], dtype=torch.float32 if isinstance(wrong, float) else torch.int64)
    one_hots(numbers, CLASSES, STARTS)
    numbers[1, 0] = wrong
    with pytest.raises(SpaceError, match=r"^word at place 0 names one of 3 classes: expected .* from 2 to 4"):
        one_hots(numbers, CLASSES, STARTS, name="word")
