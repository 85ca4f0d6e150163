"""How far apart two values are, as a distance between what a network makes of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldformula.nets.perceptron import Perceptron


class Waves(nn.Module):
    """Numbers in [0, 1] and the sines and cosines of π f x for each frequency f: ``[N, D]`` to ``[N, D (1 + 2 F)]``.

    What changes abruptly from place to place, as at a wall, is then within reach of a small network (Tancik et al.
    2020, arXiv:2006.10739).
    """

    frequencies: Tensor

    def __init__(self, frequencies: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.pi * torch.tensor([float(f) for f in frequencies]))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, D]``."""
        turned = (x.unsqueeze(-1) * self.frequencies).flatten(-2)
        return torch.cat((2 * x - 1, turned.sin(), turned.cos()), -1)


class Separation(nn.Module):
    """``unit · Σ_i |φ_i(s) − φ_i(g)| / K`` of two values ``[N, D]``: nothing between equals, the same both ways, and
    never longer than by way of a third. Trees, such as rooms with one way between any two, have distances of this kind.

    Args:
        size: D.
        width: K, numbers of φ.
        hidden: widths of its hidden layers.
        frequencies: of `Waves`.
        unit: what the numbers of a new network are multiplied by, about the distances that are learnt.
    """

    def __init__(
        self, size: int, width: int, hidden: Sequence[int], frequencies: Sequence[float] = (), unit: float = 1.0
    ) -> None:
        super().__init__()
        self.waves, self.unit = Waves(frequencies), unit
        self.phi = Perceptron(size * (1 + 2 * len(frequencies)), width, hidden)

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        """``[N, D]`` each to ``[N]``."""
        here, there = self.phi(self.waves(torch.cat((s, g)))).chunk(2)
        found: Tensor = self.unit * (here - there).abs().mean(-1)
        return found
