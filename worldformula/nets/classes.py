"""Whole numbers that name classes, as networks read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldformula.errors import SpaceError


def one_hots(numbers: Tensor, classes: Sequence[int], starts: Sequence[int] = (), name: str = "the column") -> Tensor:
    """Numbers ``[..., E]`` as one-hots side by side, float32 ``[..., Σ classes]``.

    Element i names one of ``classes[i]`` classes, counted from ``starts[i]``, or from 0.

    Raises:
        SpaceError: a number that names no class, or a fraction.
    """
    counted = [*zip(starts or (0,) * len(classes), classes, strict=True)]
    if numbers.is_floating_point() or not numbers.is_cpu:  # fractions would be cut, and a GPU fails beyond repair
        _require(numbers, counted, name)
    whole = numbers.long()
    try:
        parts = [torch.nn.functional.one_hot(whole[..., i] - start, many) for i, (start, many) in enumerate(counted)]
    except RuntimeError:
        _require(numbers, counted, name)
        raise
    return torch.cat(parts, -1).float()


def _require(numbers: Tensor, counted: Sequence[tuple[int, int]], name: str) -> None:
    for place, (start, many) in enumerate(counted):
        own = numbers[..., place]
        if not bool(((own >= start) & (own < start + many) & (own.long() == own)).all()):
            at = f" at place {place}" if len(counted) > 1 else ""
            raise SpaceError(
                f"{name}{at} names one of {many} classes: expected whole numbers from {start} to {start + many - 1}, "
                f"got numbers from {own.min():g} to {own.max():g}"
            )
