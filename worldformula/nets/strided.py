"""Image networks of PlaNet and of Dreamer v1 and v2: convolutions of stride 2 without padding, and their mirror.

Hafner et al. 2019, arXiv:1811.04551; layer list of the authors' code. Images are square, ``[N, H, W, C]`` in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.layers import join
from worldformula.nets.plain import Plain, glorot

KERNEL = 4


class StridedEncoder(nn.Module):
    """Images to a token ``[N, width]``: stage i has ``depth · 2^i`` channels, a 4 × 4 kernel and stride 2.

    Of 64 pixels there are four stages, which leave 2 × 2 places: 8·depth·4 numbers, the paper's 1024 for a depth of 32.

    Args:
        size: height and width, a power of two of at least 16.
        channels: of all images together; several are read as one, in the order of the call.
        depth: channels of the first stage.
        activation: makes the activation behind every stage.
    """

    def __init__(self, size: int, channels: int, depth: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.size, self.channels, layers = size, channels, list[nn.Module]()
        inputs, count = channels, stages(size)
        for i in range(count):
            layers += [nn.Conv2d(inputs, depth * 2**i, KERNEL, 2), activation()]
            inputs, size = depth * 2**i, (size - KERNEL) // 2 + 1
        self.layers = glorot(nn.Sequential(*layers))
        self.width = inputs * size**2

    def forward(self, *images: Tensor) -> Tensor:
        """Images ``[N, size, size, C]``, floats in [0, 1], to ``[N, width]``."""
        x = torch.cat(images, -1) if len(images) > 1 else images[0]
        if x.shape[1:] != (self.size, self.size, self.channels):
            raise ShapeError(
                f"StridedEncoder expected [N, {self.size}, {self.size}, {self.channels}] (channels last), got "
                f"{list(x.shape)}. Build the encoder for this size, or resize the pictures with --set env.size=64."
            )
        found: Tensor = self.layers((x - 0.5).permute(0, 3, 1, 2))
        return found.permute(0, 2, 3, 1).flatten(1)


class StridedDecoder(nn.Module):
    """``(h, z)`` to the mean image ``[N, size, size, channels]``, around ½: a linear layer to ``8 · depth · 4`` numbers
    at one place, then transposed convolutions of stride 2 whose kernels of 5 and 6 end at ``size``.

    Args:
        inputs: width of all conditions.
        size, channels, depth, activation: as in the encoder, mirrored.
    """

    def __init__(
        self, inputs: int, size: int, channels: int, depth: int, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        count = stages(size)
        self.inputs, width = inputs, 2 ** (count + 1) * depth
        kernels = (*((5,) * (count - 2)), 6, 6)
        layers: list[nn.Module] = []
        here = width
        for i, kernel in enumerate(kernels):
            last = i == count - 1
            after = channels if last else depth * 2 ** (count - 2 - i)
            layers += [nn.ConvTranspose2d(here, after, kernel, 2), *([] if last else [activation()])]
            here = after
        self.first, self.layers = glorot(nn.Linear(inputs, width)), glorot(nn.Sequential(*layers))

    def forward(self, *given: Tensor) -> Tensor:
        """Conditions ``[N, ...]`` to ``[N, size, size, channels]``."""
        x = self.first(join(given, self.inputs, "StridedDecoder"))
        found: Tensor = self.layers(x[..., None, None])
        return found.permute(0, 2, 3, 1) + 0.5


class Sight(nn.Module):
    """All observations of a step, images first, to one token ``[N, width]``.

    Args:
        images: network of all images together, or None.
        count: how many images there are.
        vectors: network of all vectors together, or None.
        bend: the activation behind its last layer.
    """

    def __init__(self, images: StridedEncoder | None, count: int, vectors: Plain | None, bend: nn.Module) -> None:
        super().__init__()
        self.images, self.count, self.vectors, self.bend = images, count, vectors, bend

    def forward(self, *observations: Tensor) -> Tensor:
        """Images ``[N, H, W, C]``, then vectors ``[N, n]``."""
        tokens = [self.images(*observations[: self.count])] if self.images is not None else []
        tokens += [self.bend(self.vectors(*observations[self.count :]))] if self.vectors is not None else []
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens, -1)


class Bits(nn.Module):
    """Images in [0, 1] with ``bits`` bits a colour, and noise u in [0, 1) of one step of these: as PlaNet sees them."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ConfigError(f"expected bits of a colour between 1 and 8, got {bits}")
        self.levels = 2**bits

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """``[N, H, W, C]`` both."""
        floor = (x * 255 / (256 // self.levels)).add(1e-4).floor()  # of k/255, whose product may lie just below k
        return (floor + u) / self.levels


def stages(size: int) -> int:
    """How many halvings lead from this size to 2 × 2 places; ConfigError unless it is a power of two from 16 on."""
    count = int(math.log2(size)) - 2 if size > 0 else 0
    if size < 16 or size != 2 ** (count + 2):
        near = max(16, 2 ** round(math.log2(max(size, 1))))
        raise ConfigError(
            f"expected pictures of 16, 32, 64 or 128 pixels, got {size}. Resize them: --set env.size={near}"
        )
    return count
