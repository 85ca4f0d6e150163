"""Image encoder and decoder of DreamerV3, for square images in the layout of the data: ``[N, H, W, C]``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.layers import BlockLinear, Dense, Linear, RMSNorm, init_weight, join, to_blocks

STAGES = (2, 3, 4, 4)
Style = Literal["pool", "stride"]


class Conv(nn.Conv2d):
    """Convolution on ``[N, H, W, C]`` with DreamerV3's initialisation (fan-in ``kernel² · inputs``), bias zero.

    An ``[N, H, W, C]`` tensor seen as ``[N, C, H, W]`` is torch's channels_last layout, so neither direction copies.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - stride + 1) // 2)

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's global generator."""
        init_weight(self.weight, self.weight[0].numel())
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, H, W, inputs]`` to ``[N, H / stride, W / stride, outputs]``."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two, then a ``5×5`` convolution, in one.

    Computed on the small image: the five taps over a doubled row touch three original pixels, so each of the four
    output phases is a ``3×3`` convolution whose kernel sums the taps that meet. Same result, 9/25 of the work.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 5, 5))
        self.bias = nn.Parameter(torch.zeros(outputs))
        init_weight(self.weight, 25 * inputs)
        # taps[phase, s, k] = 1 where tap k of an output pixel of this phase reads source pixel s (left, own, right).
        taps = torch.tensor([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
                             [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]], dtype=torch.float32)  # fmt: skip
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, H, W, inputs]`` to ``[N, 2H, 2W, outputs]``."""
        n, height, width, _ = x.shape
        outputs, inputs = self.weight.shape[:2]
        taps = self.taps.to(self.weight.dtype)
        small = torch.einsum("oikl,psk,qtl->pqoist", self.weight, taps, taps).reshape(4 * outputs, inputs, 3, 3)
        y = F.conv2d(x.permute(0, 3, 1, 2), small, self.bias.repeat(4), padding=1).permute(0, 2, 3, 1)
        y = y.reshape(n, height, width, 2, 2, outputs).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(n, 2 * height, 2 * width, outputs)


class ImageEncoder(nn.Module):
    """Images to a token ``[N, width]``: one stage per entry of ``stages``, each halves the image.

    size: height and width of the images. channels: channels of all images together; several images are concatenated on
    the channel axis in the order of the call. depth: channels of stage i are ``depth · stages[i]``.
    style: ``"pool"`` is the paper's stage (convolution of ``kernel`` = 5, 2×2 max-pool, norm, SiLU); ``"stride"`` is a
    convolution of stride 2 (``kernel`` = 4, norm, SiLU), about a sixth of the work.
    patch: squares of ``patch × patch`` pixels become one pixel of ``patch²`` times the channels before the first stage;
    together with ``"stride"`` this is what makes small images affordable on a CPU. The paper has 1.
    """

    def __init__(
        self, size: int, channels: int, depth: int, stages: Sequence[int] = STAGES,
        style: Style = "pool", kernel: int | None = None, patch: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        check_style(style)
        self.size, self.channels, self.style, self.patch = size, channels, style, patch
        self.resolution = resolution(size, len(stages), patch)
        widths = [channels * patch**2, *(depth * s for s in stages)]
        kernel = kernel or (5 if style == "pool" else 4)
        stride = 1 if style == "pool" else 2
        pairs = list(itertools.pairwise(widths))
        self.convs = nn.ModuleList(Conv(i, o, kernel, stride) for i, o in pairs)
        self.norms = nn.ModuleList(RMSNorm(o) for _, o in pairs)
        self.width = self.resolution**2 * widths[-1]

    def forward(self, *images: Tensor) -> Tensor:
        """Images ``[N, size, size, C]``, floats in [0, 1] or uint8, to ``[N, width]``."""
        x = torch.cat(images, -1) if len(images) > 1 else images[0]
        if x.shape[1:] != (self.size, self.size, self.channels):
            raise ShapeError(
                f"ImageEncoder expected [N, {self.size}, {self.size}, {self.channels}] (channels last), "
                f"got {list(x.shape)}. Pass rows as the replay stores them, or build the encoder for this size."
            )
        # uint8 is scaled here as well, so that a row taken straight from an environment is never read as 0…255.
        x = (x.to(next(self.parameters()).dtype) / 255 if x.dtype == torch.uint8 else x) - 0.5
        x = fold(x, self.patch) if self.patch > 1 else x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            if self.style == "pool":
                x = F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            x = F.silu(norm(x))
        return x.flatten(1)


class ImageDecoder(nn.Module):
    """``(h, z)`` to the mean image ``[N, size, size, channels]`` in (0, 1).

    h passes a block-linear map and z a dense layer of ``2·units`` and a linear map, both to a small map of
    ``depth · stages[-1]`` channels; their sum passes norm and SiLU. Each of ``len(stages)`` steps doubles the map with
    a 5×5 convolution; all but the last are followed by norm and SiLU, the last by a sigmoid.

    size, channels, depth, stages, patch: as in the encoder, mirrored. deter, stoch: widths of h and of the flattened z.
    """

    def __init__(
        self, size: int, channels: int, depth: int, deter: int, stoch: int, units: int,
        stages: Sequence[int] = STAGES, blocks: int = 8, patch: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.resolution, self.stoch, self.blocks = resolution(size, len(stages), patch), stoch, blocks
        self.patch = patch
        widths = [depth * s for s in reversed(stages)]
        self.map_channels = widths[0]
        if self.map_channels % blocks:
            raise ConfigError(
                f"ImageDecoder expected depth · stages[-1] to be a multiple of blocks={blocks}, "
                f"got {self.map_channels}. Choose another depth or number of blocks."
            )
        numbers = self.resolution**2 * self.map_channels
        self.from_h = BlockLinear(deter, numbers, blocks)
        self.from_z = nn.Sequential(Dense(stoch, 2 * units), Linear(2 * units, numbers))
        self.norms = nn.ModuleList(RMSNorm(w) for w in widths)
        outputs = [*widths[1:], channels * patch**2]
        self.convs = nn.ModuleList(UpsampleConv(i, o) for i, o in zip(widths, outputs, strict=True))

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """h ``[N, D]``, z ``[N, G, K]`` or ``[N, S]``; returns ``[N, size, size, channels]``."""
        r, c, g = self.resolution, self.map_channels, self.blocks
        # Each block of h fills its own group of channels: [g, N, r·r·c/g] -> [N, r, r, g·c/g].
        x = self.from_h(to_blocks(h, g)).view(g, -1, r, r, c // g).permute(1, 2, 3, 0, 4).reshape(-1, r, r, c)
        x = x + self.from_z(join((z,), self.stoch, "ImageDecoder.z")).view(-1, r, r, c)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(F.silu(norm(x)))
        x = torch.sigmoid(x)
        return unfold(x, self.patch) if self.patch > 1 else x


def fold(x: Tensor, patch: int) -> Tensor:
    """``[N, H, W, C] -> [N, H/p, W/p, p·p·C]``: every square of p × p pixels becomes the channels of one pixel."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // patch, patch, w // patch, patch, c).transpose(2, 3)
    return x.reshape(n, h // patch, w // patch, patch * patch * c)


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`: ``[N, H, W, p·p·C] -> [N, p·H, p·W, C]``."""
    n, h, w, c = x.shape
    c //= patch * patch
    return x.reshape(n, h, w, patch, patch, c).transpose(2, 3).reshape(n, h * patch, w * patch, c)


def resolution(size: int, stages: int, patch: int) -> int:
    """Height of the smallest map after folding and ``stages`` halvings; ConfigError if ``size`` does not divide."""
    divisor = patch * 2**stages
    if size % divisor:
        nearest = max(divisor, round(size / divisor) * divisor)
        raise ConfigError(
            f"expected an image size that halves {stages} times after patches of {patch} (a multiple of {divisor}), "
            f"got {size}. Resize the images (--set env.size={nearest}), take smaller patches or fewer stages."
        )
    return size // divisor


def check_style(style: str) -> None:
    """ConfigError unless ``style`` is one of the two styles of a stage."""
    if style not in ("pool", "stride"):
        raise ConfigError(f"expected style 'pool' or 'stride', got {style!r}.")
