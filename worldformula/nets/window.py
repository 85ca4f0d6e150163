"""An MLP over the last k positions: the frame stack, as a network over a past."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.nets.causal import Memory, begins, joined
from worldformula.nets.layers import Dense, Linear


@dataclass(frozen=True)
class Frames(Memory):
    """The last k − 1 positions ``[B, k − 1, inputs]``; zero before the sequence begins."""

    frames: Tensor

    def select(self, rows: Tensor) -> Frames:
        """The frames of some rows."""
        return replace(self, frames=self.frames[rows])

    def repeat(self, times: int) -> Frames:
        """Every row ``times`` times."""
        return replace(self, frames=self.frames.repeat_interleave(times, 0))

    def detach(self) -> Frames:
        """The same without gradient."""
        return replace(self, frames=self.frames.detach())

    def stored(self) -> dict[str, Any]:
        """The frames."""
        return {"frames": self.frames}

    def restored(self, kept: Mapping[str, Any], device: torch.device) -> Frames:
        """With these frames."""
        return replace(self, frames=kept["frames"].to(device))


class WindowMLP(nn.Module):
    """``layers`` dense layers of ``units`` over the last ``context`` positions, then a linear layer of ``outputs``.

    inputs: total width of all series. The positions are concatenated, the oldest first; one before the sequence begins
    is zero.
    """

    def __init__(self, inputs: int, outputs: int, context: int, units: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.inputs = inputs
        self.context: int | None = context
        self.reach = context
        widths = [context * inputs, *[units] * layers]
        self.trunk = nn.Sequential(*(Dense(a, b) for a, b in itertools.pairwise(widths)))
        self.head = Linear(widths[-1], outputs, 1.0)

    def forward(self, *series: Tensor, reset: Tensor | None = None) -> Tensor:
        """Series ``[B, T, ...]`` to ``[B, T, outputs]``."""
        first = series[0]
        return self.step(self.cache(first.shape[0], 0, first.device, first.dtype), *series, reset=reset)[1]

    def step(self, cache: Frames, *x: Tensor, reset: Tensor | None = None) -> tuple[Frames, Tensor]:
        """The next n positions ``[B, n, ...]``: the new frames, and ``[B, n, outputs]``."""
        new = joined(x, self.inputs, "WindowMLP")
        frames, k = torch.cat((cache.frames.to(new.dtype), new), 1), self.reach
        if reset is None:
            stacked = frames.unfold(1, k, 1).transpose(-1, -2)
            last = frames[:, frames.shape[1] - (k - 1) :]
        else:
            starts = begins(reset != 0, frames.new_zeros(len(frames), dtype=torch.long), k - 1, new.shape[1])
            places = torch.arange(frames.shape[1], device=frames.device).unfold(0, k, 1)  # [n, k]
            seen = places >= starts.unsqueeze(-1)
            stacked = torch.where(seen.unsqueeze(-1), frames.unfold(1, k, 1).transpose(-1, -2), 0.0)
            kept = torch.arange(frames.shape[1] - (k - 1), frames.shape[1], device=frames.device) >= starts[:, -1:]
            last = torch.where(kept.unsqueeze(-1), frames[:, frames.shape[1] - (k - 1) :], 0.0)
        return Frames(last), self.head(self.trunk(stacked.flatten(2)))

    def cache(
        self, batch: int, length: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Frames:
        """Zeros: no position yet."""
        del length  # it never holds more than k − 1
        return Frames(torch.zeros(batch, self.reach - 1, self.inputs, device=device, dtype=dtype))
