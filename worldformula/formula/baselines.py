"""What emitted code subtracts from the signal of the score function: what the other samples have."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def signal(x: Tensor) -> Tensor:
    """What the score is weighted by: nothing where that is infinite, which has no gradient, as −∞ times 0 is NaN, or
    the difference of two infinities.
    """
    return torch.where(x.isfinite(), x, 0.0)


def leave_one_out(x: Tensor, axis: int) -> Tensor:
    """For every sample, the mean of the others (Mnih & Rezende 2016, arXiv:1602.06725)."""
    return (x.sum(axis, keepdim=True) - x) / (x.shape[axis] - 1)


def log_leave_one_out(log_weights: Tensor, axis: int) -> Tensor:
    """For every sample, the log-mean-exp with the geometric mean of the others in its place (VIMCO, Mnih & Rezende
    2016, eq. 10). Sums from both ends leave the sample out: nothing is subtracted, so that −∞ stays a number.
    """
    count, first = log_weights.shape[axis], log_weights.narrow(axis, 0, 1)

    def others(shut: float, sums: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        none = torch.full_like(first, shut)
        before = torch.cat((none, log_weights.narrow(axis, 0, count - 1)), axis)
        after = torch.cat((log_weights.narrow(axis, 1, count - 1), none), axis)
        return sums(before), sums(after.flip(axis)).flip(axis)

    rest = torch.logaddexp(*others(-torch.inf, lambda x: x.logcumsumexp(axis)))
    before, after = others(0.0, lambda x: x.cumsum(axis))
    return torch.logaddexp(rest, (before + after) / (count - 1)) - math.log(count)


def log_of_others(x: Tensor, axis: int) -> Tensor:
    """`log_leave_one_out` of values that may be 0 or less. Where one of the others is so, the log of the mean of the
    others, or 0 where that has none: whatever the others alone tell leaves the gradient unbiased.
    """
    lacking = x <= 0
    all_positive = lacking.sum(axis, keepdim=True) == lacking.to(torch.int64)
    mean = leave_one_out(x, axis)
    alone = torch.where(mean > 0, mean, 1.0).log()
    return torch.where(all_positive, log_leave_one_out(torch.where(x > 0, x, 1.0).log(), axis), alone)
