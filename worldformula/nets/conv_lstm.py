"""A convolutional LSTM cell (Shi et al. 2015, NeurIPS; arXiv:1506.04214), without peepholes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvLSTM(nn.Module):
    """Output h and memory c, ``[N, hidden, S, S]`` each, from those before and maps side by side.

    Args:
        inputs: channels of all maps together.
        hidden: channels of h and of c.
        kernel: edge of the square kernel, odd.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int = 3) -> None:
        super().__init__()
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)

    def forward(self, h: Tensor, c: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, C, S, S]`` each."""
        keep, write, show, new = self.gates(torch.cat((*maps, h), 1)).chunk(4, 1)
        c = (keep + 1).sigmoid() * c + write.sigmoid() * new.tanh()  # it begins by remembering
        return show.sigmoid() * c.tanh(), c
