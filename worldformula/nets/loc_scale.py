"""A head of location and scale whose scale has a floor, or shares a fixed total among the latents."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from worldformula.errors import ConfigError

Rule = Literal["softplus", "softmax"]


class LocScale(nn.Module):
    """The 2·Z outputs of a network as ``{"loc": [..., Z], "scale": [..., Z]}``.

    Args:
        net: returns ``[..., 2 Z]``.
        rule: ``softplus``: scale = softplus(·) + floor. ``softmax``: scale = Z · softmax(·) + floor, so that the scales
            of a row sum to Z, as in MMVAE (Shi et al. 2019): neither can all latents be sharp nor all be vague.
        floor: the smallest scale; a product of experts divides by its square.

    Raises:
        ConfigError: another rule.
    """

    def __init__(self, net: nn.Module, rule: Rule = "softplus", floor: float = 1e-3) -> None:
        super().__init__()
        if rule not in ("softplus", "softmax"):
            raise ConfigError(f"LocScale: expected rule='softplus' or 'softmax', got {rule!r}")
        self.net, self.rule, self.floor = net, rule, floor

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """What the network reads, to location and scale."""
        loc, raw = torch.chunk(self.net(*inputs), 2, -1)
        positive = softplus(raw) if self.rule == "softplus" else raw.softmax(-1) * raw.shape[-1]
        return {"loc": loc, "scale": positive + self.floor}


class Learned(nn.Module):
    """A distribution that no condition changes, centred at 0, with a learned scale that sums to its width.

    Args:
        width: Z.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(width))

    def forward(self) -> dict[str, Tensor]:
        """loc 0 and scale Z · softmax(·), ``[Z]`` each."""
        return {"loc": torch.zeros_like(self.raw), "scale": self.raw.softmax(-1) * len(self.raw)}
