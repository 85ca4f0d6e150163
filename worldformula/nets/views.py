"""Views of pictures for losses that compare them: cut out and resized, or shifted; what is random is an input.

Pictures are ``[N, H, W, C]``, uint8 or of floating point, and come back in floating point.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError


class Crop(nn.Module):
    """A part of a picture, resized to that of the whole by linear interpolation (Szegedy et al. 2015). Its area is
    uniform between ``least`` and all, its width to its height log-uniform between 3 : 4 and 4 : 3, its place uniform.
    A side that would be longer than that of the picture is as long.
    """

    noise = 4  # numbers from 0 to 1: area, ratio, place across, place down

    def __init__(self, least: float = 0.25) -> None:
        super().__init__()
        if not 0 < least <= 1:
            raise ConfigError(f"Crop: expected the least area between 0 and 1, got {least}")
        self.least = least

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """Pictures, and u ``[N, 4]`` in [0, 1], to ``[N, H, W, C]``."""
        area, ratio, across, down = self.least + (1 - self.least) * u[:, 0], u[:, 1], u[:, 2], u[:, 3]
        shape = torch.exp((2 * ratio - 1) * math.log(4 / 3)).sqrt()
        width, height = ((area.sqrt() * s).clamp(max=1.0) for s in (shape, 1 / shape))
        return moved(x, (width, height), ((2 * across - 1) * (1 - width), (2 * down - 1) * (1 - height)))


class Shift(nn.Module):
    """A picture shifted by up to ``reach`` of its edge each way, by linear interpolation; what lies beyond its edge
    looks like the edge.
    """

    noise = 2  # numbers from 0 to 1: across, down

    def __init__(self, reach: float = 3 / 64) -> None:
        super().__init__()
        if not 0 <= reach <= 1:
            raise ConfigError(f"Shift: expected a reach between 0 and 1, got {reach}")
        self.reach = reach

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """Pictures, and u ``[N, 2]`` in [0, 1], to ``[N, H, W, C]``."""
        across, down = (2 * self.reach * (2 * u - 1)).unbind(-1)
        whole = torch.ones_like(across)
        return moved(x, (whole, whole), (across, down))


def moved(x: Tensor, size: tuple[Tensor, Tensor], centre: tuple[Tensor, Tensor]) -> Tensor:
    """What a frame shows of pictures. Its size are width and height as shares of theirs, its centre is from −1 to 1
    across and down, ``[N]`` each.
    """
    if x.ndim != 4 or len(x) != len(size[0]):
        raise ShapeError(f"views: expected pictures [N, H, W, C] and numbers of N rows, got {list(x.shape)} and "
                         f"{len(size[0])} rows")  # fmt: skip
    x = x / 255 if x.dtype == torch.uint8 else x
    zero = torch.zeros_like(size[0])
    rows = (torch.stack((size[0], zero, centre[0]), -1), torch.stack((zero, size[1], centre[1]), -1))
    n, height, width, channels = x.shape
    grid = F.affine_grid(torch.stack(rows, 1).to(x.dtype), [n, channels, height, width], align_corners=False)
    seen = F.grid_sample(x.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False)
    return seen.permute(0, 2, 3, 1).contiguous()  # as pictures lie in memory; convolutions take half of the time
