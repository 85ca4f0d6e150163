"""The distance between two clouds of points, by their projections on lines."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.errors import ShapeError


def sliced_wasserstein(a: Tensor, b: Tensor, lines: int = 256, seed: int = 0) -> float:
    """√ of the mean over random lines of W₂² between the projections of a and b ``[N, D]``, in float64.

    (Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3.) Both have as many rows, so that sorting pairs them. Two clouds
    of one distribution are not at 0: print what fresh data have at the same N beside it.

    Raises:
        ShapeError: other shapes than two equal ``[N, D]``.
    """
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ShapeError(f"expected two clouds of as many points [N, D], got {list(a.shape)} and {list(b.shape)}")
    generator = torch.Generator().manual_seed(seed)
    ways = torch.randn(a.shape[1], lines, generator=generator, dtype=torch.float64).to(a.device)
    ways = ways / ways.norm(dim=0)
    found = [(cloud.double() @ ways).sort(dim=0).values for cloud in (a, b)]
    return float((found[0] - found[1]).square().mean().sqrt())
