"""Gradients that are written out, and functions of many rows that are computed part by part.

A gradient written out takes fewer passes over the tensors than the gradients of its steps take; rows whose tensors are
larger than a processor's cache take longer together than in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

PART = 1 << 19
"""Numbers of one part: 2 MB in float32, a small share of the cache that a processor's cores have in common."""


def transformed() -> bool:
    """Whether torch.compile, torch.func or forward differentiation looks into what runs: a written-out gradient is
    none of theirs.
    """
    return is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def gradients_of(
    steps: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of a function of several steps, with gradients of their own; None where none is ``wanted``."""
    with torch.enable_grad():
        of = [x for x, needed in zip(inputs, wanted, strict=True) if needed]
        found = iter(torch.autograd.grad(steps(*inputs), of, gradient, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)


def parts(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors ``[N, ...]`` cut along N where one of them is larger than a part, on a CPU; else as they are."""
    most, count = max(x.numel() for x in rows), len(rows[0])
    if most <= PART or rows[0].device.type != "cpu":
        return iter((rows,))
    return zip(*(x.split(max(count * PART // most, 1)) for x in rows), strict=True)


def in_parts(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """A function of each of the rows ``[N, ...]``: of many, part by part, where nothing is differentiated."""
    if torch.is_grad_enabled() or transformed():
        return function(*rows)
    found = [function(*part) for part in parts(*rows)]
    return found[0] if len(found) == 1 else torch.cat(found)
