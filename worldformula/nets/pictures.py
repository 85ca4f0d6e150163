"""Convolutions for pictures of any height and width that come and go as flat rows of numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from worldformula.errors import ShapeError

Shape = tuple[int, int, int]  # height, width, channels


def halved(shape: Shape, times: int) -> tuple[int, int]:
    """Height and width after so many convolutions of stride 2; what is odd is rounded up."""
    return tuple(math.ceil(side / 2**times) for side in shape[:2])  # type: ignore[return-value]


class PictureEncoder(nn.Module):
    """Rows ``[N, H · W · C]``, channels last, to ``[N, outputs]``: a halving convolution per entry of ``channels``."""

    def __init__(
        self, shape: Shape, outputs: int, channels: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.shape = shape
        widths = itertools.pairwise((shape[2], *channels))
        self.stages = nn.Sequential(
            *(layer for i, o in widths for layer in (nn.Conv2d(i, o, 3, 2, padding=1), activation()))
        )
        self.out = nn.Linear(channels[-1] * math.prod(halved(shape, len(channels))), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Any number of leading axes."""
        if x.shape[-1] != math.prod(self.shape):
            size = " × ".join(map(str, self.shape))
            raise ShapeError(f"pictures of {size} are rows of {math.prod(self.shape)} numbers, got {list(x.shape)}")
        images = x.reshape(-1, *self.shape).permute(0, 3, 1, 2)  # flat memory, seen as channels first
        found: Tensor = self.out(self.stages(images).flatten(1))
        return found.reshape(*x.shape[:-1], -1)


class PictureDecoder(nn.Module):
    """``[N, inputs]`` to rows ``[N, H · W · C]`` of any numbers: the encoder mirrored, what is too large cut off."""

    def __init__(
        self, inputs: int, shape: Shape, channels: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.shape, self.small = shape, (channels[-1], *halved(shape, len(channels)))
        self.into = nn.Sequential(nn.Linear(inputs, math.prod(self.small)), activation())
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(reversed((channels[0], *channels))):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, padding=1), activation()]
        self.stages = nn.Sequential(*layers, nn.Conv2d(channels[0], shape[2], 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Any number of leading axes."""
        height, width, _ = self.shape
        images = self.stages(self.into(z.reshape(-1, z.shape[-1])).reshape(-1, *self.small))
        return images[:, :, :height, :width].permute(0, 2, 3, 1).reshape(*z.shape[:-1], -1)
