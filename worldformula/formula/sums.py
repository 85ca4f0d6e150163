"""Sums over values and draws that emitted code takes, and their logarithms. What is 0, or infinite, stays so and has no
gradient, where torch's own functions have NaN.

The number for log 0 is `IMPOSSIBLE`, about −4·10³⁴; in the logarithm of a sum it is −∞.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from worldformula.families.tensors import IMPOSSIBLE, wide
from worldformula.gradients import transformed

APART = 8.0 * IMPOSSIBLE, -IMPOSSIBLE * 2.0**-8  # log 0 times a small weight is beyond it too
NOTHING = IMPOSSIBLE * 2.0**-20  # below it lie log 0 and soft weights of log 0
ORDINARY = 2.0**-60, 2.0**60  # between these lie numbers whose logarithms, roots, quotients and slopes are all finite


def expected(log_share: Tensor, x: Tensor | float, axis: int) -> Tensor:
    """Σ p·x over an axis of values, from their log-probabilities: 0 where p is 0, also of an infinite x, as measure
    theory has 0·∞ = 0. What is NaN there stays NaN. What is infinite elsewhere, the number for log 0 too, is so without
    a gradient, as a zero that comes back from an E around this one would make it NaN.
    """
    share = log_share.exp()
    if not isinstance(x, Tensor) or not x.is_floating_point() or (at_hand(x) and _all_below(x, APART[1])):
        return (share * x).sum(axis)
    infinite = x.abs() >= APART[1]
    beyond = torch.where(infinite & (share > 0), x.detach().sign() * math.inf, 0.0).sum(axis)
    return (share * x.masked_fill(infinite, 0.0)).sum(axis) + beyond


def log_expected(log_share: Tensor, x: Tensor | float, axis: int) -> Tensor:
    """log Σ p·eˣ over an axis of values, from their log-probabilities: a value whose p is 0 adds nothing, however large
    x is.

    Both sides are kept apart from what log 0 is computed as, which would swallow a density and give it back as log 1.
    """
    if not isinstance(x, Tensor) or (at_hand(x) and _all_below(x, APART[1])):
        return (log_share + x).logsumexp(axis)
    return F.threshold((log_share + wide(x).clamp(*APART)).logsumexp(axis), NOTHING, -math.inf)


def logsumexp(x: Tensor, axis: int) -> Tensor:
    """log Σ eˣ over an axis: −∞ with the gradient 0 where nothing is left to add. In float32 at least."""
    x = wide(x)
    if at_hand(x) and _all_above(found := x.logsumexp(axis), NOTHING):
        return found
    return F.threshold(x.clamp_min(APART[0]).logsumexp(axis), NOTHING, -math.inf)


def logmeanexp(x: Tensor, axis: int) -> Tensor:
    """log of the mean of eˣ over an axis: of K draws."""
    return logsumexp(x, axis) - math.log(x.shape[axis])


def logaddexp(*logs: Tensor | float) -> Tensor:
    """log Σ eˣ of several values, element by element."""
    return logsumexp(_stacked(logs), 0)


def log_weighted_sum(*pairs: Tensor | float) -> Tensor:
    """log Σ c·eˣ of c, x, c, x …, element by element, where a c may be 0, or negative: NaN where the sum is.

    The largest eˣ that counts is taken out, so that nothing overflows and no sum becomes 0 that is none.
    """
    both = _stacked(pairs)
    c, x = both[::2], both[1::2]
    top = torch.where(c == 0, -math.inf, x.detach()).amax(0)
    none = top < NOTHING
    top = torch.where(none, 0.0, top).clamp(max=torch.finfo(top.dtype).max)  # what is ∞ stays so: ∞ − ∞ would be NaN
    total = (c * torch.where(c == 0, x.clamp(max=top + 80.0), x).sub(top).exp()).sum(0)
    none = none | (total == 0)
    return torch.where(none, -math.inf, top + torch.where(none, 1.0, total).log())


def possible(x: Tensor, log_share: Tensor, *, most: float = ORDINARY[1], log: bool = False) -> Tensor:
    """1 in the place of an x that is 0, larger than ``most``, or close to 0 or ∞, where its probability is 0, and x
    elsewhere.

    What an exact expectation makes of x counts nothing there, and a gradient of 0 comes back. A logarithm, a root or a
    quotient would multiply that by ∞. ``log``: 0 is what log 0 stands for, and not what is rounded to 0, as a weight of
    e⁻²⁰⁰ times a ratio of e³⁰⁰ counts.
    """
    if at_hand(log_share) and _all_above(log_share, -80.0):
        return x
    never = log_share < NOTHING if log else log_share.exp() == 0
    size = x.detach().abs()
    return torch.where(never & ((size < ORDINARY[0]) | (size > most)), 1.0, x)


def _stacked(values: tuple[Tensor | float, ...]) -> Tensor:
    """Tensors of one shape once they are broadcast, and numbers, along a new first axis."""
    like = next((wide(v) for v in values if isinstance(v, Tensor)), torch.zeros(()))
    found = [wide(v) if isinstance(v, Tensor) else like.new_full((), v) for v in values]
    return torch.stack(torch.broadcast_tensors(*found))  # type: ignore[no-untyped-call]


def at_hand(x: Any) -> bool:
    """Whether a look at the numbers costs less than the operations that it saves: no device is waited for."""
    return isinstance(x, Tensor) and x.device.type == "cpu" and not is_compiling() and not transformed()


def _all_below(x: Tensor, bound: float) -> bool:
    """Whether all numbers are smaller than a bound, either way; NaN is not."""
    return x.numel() > 0 and x.detach().abs().max().item() < bound


def _all_above(x: Tensor, bound: float) -> bool:
    """Whether all numbers are larger than a bound; NaN is not."""
    return x.numel() > 0 and x.detach().min().item() > bound
