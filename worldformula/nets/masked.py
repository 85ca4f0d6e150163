"""Networks that read x and may not look ahead: masked layers (MADE), shifted convolutions (PixelCNN), attention.

All give, for each element of x, features that depend on the elements before it alone, and are called as ``net(x)`` or
``net(x, context)``; the context reaches everything. The Jacobian of the outputs by x is exactly 0 wherever it must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError


def _width(net: nn.Module, context: Tensor | None, declared: int) -> None:
    got = 0 if context is None else context.shape[-1]
    if got != declared:
        raise ShapeError(f"{type(net).__name__}: expected a context of {declared} numbers, got {got}")


# ---------------------------------------------------------------------------------------------------------- vectors


class MaskedLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a mask of 0 and 1, ``[outputs, inputs]``."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedMLP(nn.Module):
    """MADE (Germain et al. 2015, arXiv 1502.03509): ``[N, features]`` to ``[N, each · features]``, in natural order.

    features: D. each: parameters of every element; the D numbers of one parameter stand side by side, as in every flat
    head. hidden: units of each layer. context: width of a context, which every layer may read. dropout: behind every
    hidden layer. seed: of the degrees of the hidden units, uniform on 1 … D − 1 (section 4.2).
    inputs: numbers that an element arrives as (its classes where it is one-hot): x is then ``[N, D · inputs]``.
    classes: the parameters are those of one class each: the head is ``[N, features, each]``, as Categorical wants it.
    """

    def __init__(
        self, features: int, each: int = 1, hidden: Sequence[int] = (512, 512), *, context: int = 0,
        dropout: float = 0.0, seed: int = 0, inputs: int = 1, classes: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(features - 1, each, inputs, *hidden) < 1 or context < 0:
            raise ConfigError(
                f"MaskedMLP: expected 2 features or more and widths of at least 1, got {features=}, {each=}, "
                f"hidden={tuple(hidden)}, {context=}, {inputs=}"
            )
        self.features, self.context, self.classes = features, context, classes
        generator = torch.Generator().manual_seed(seed)
        first = torch.arange(1, features + 1)
        degrees = [torch.cat((torch.zeros(context, dtype=torch.long), first.repeat_interleave(inputs)))]
        degrees += [torch.randint(1, features, (width,), generator=generator) for width in hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(degrees):
            layers += [MaskedLinear((after[:, None] >= before).float()), nn.ReLU(), nn.Dropout(dropout)]
        outputs = first.repeat_interleave(each) if classes else first.repeat(each)
        last = (outputs[:, None] > degrees[-1]).float()
        self.trunk, self.head = nn.Sequential(*layers), MaskedLinear(last)
        self.direct = nn.Linear(context, features * each, bias=False) if context else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x ``[N, D · inputs]``; the first element's output reads the context alone."""
        _width(self, context, self.context)
        x = x.to(self.head.weight.dtype)
        if context is None or self.direct is None:
            found = self.head(self.trunk(x))
        else:
            found = self.head(self.trunk(torch.cat((context, x), -1))) + self.direct(context)
        return cast(Tensor, found.unflatten(-1, (self.features, -1)) if self.classes else found)


# ---------------------------------------------------------------------------------------------------------- pictures


class GatedBlock(nn.Module):
    """tanh(a) · σ(b) with a residual connection, the gate of van den Oord et al. 2016 (arXiv 1606.05328, eq. 2 and 4).

    Its two stacks, which have no blind spot: the vertical one reads all rows above, the horizontal one its own row to
    the left and, from the vertical one, what stands above.
    """

    def __init__(self, channels: int, size: int, context: int, dropout: float) -> None:
        super().__init__()
        half = size // 2
        self.size = size
        self.vertical = nn.Conv2d(channels, 2 * channels, (half + 1, size))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, half + 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.given = nn.Linear(context, 4 * channels) if context else None
        self.drop = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks ``[N, C, H, W]``; row i of the vertical one knows rows up to i, and the link shifts it by one."""
        half = self.size // 2
        above = self.vertical(F.pad(v, (half, half, half, 0)))
        left = self.horizontal(F.pad(h, (half, 0, 0, 0))) + self.link(F.pad(above, (0, 0, 1, 0))[:, :, :-1])
        if context is not None and self.given is not None:
            of_v, of_h = self.given(context)[..., None, None].chunk(2, 1)
            above, left = above + of_v, left + of_h
        return v + self._gate(above), h + self.out(self.drop(self._gate(left)))

    @staticmethod
    def _gate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)


class GatedPixelCNN(nn.Module):
    """Gated PixelCNN (arXiv 1606.05328): pictures ``[N, H, W]`` of one channel to ``[N, H, W, each]``.

    each: numbers for every pixel. channels, blocks, size (odd, 3 or more): of the convolutions. context: its width.
    """

    def __init__(
        self, each: int, channels: int = 32, blocks: int = 4, size: int = 3, *, context: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        half = size // 2
        self.context, self.reach = context, half
        self.first_v = nn.Conv2d(1, channels, (half + 1, size))
        self.first_h = nn.Conv2d(1, channels, (1, half))
        self.blocks = nn.ModuleList(GatedBlock(channels, size, context, dropout) for _ in range(blocks))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, each, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x ``[N, H, W]``, about −1 to 1."""
        _width(self, context, self.context)
        pixels = x.to(self.first_v.weight.dtype)[:, None]
        v = self.first_v(F.pad(pixels, (self.reach, self.reach, self.reach, 0)))
        h = self.first_h(F.pad(pixels, (self.reach, 0, 0, 0))[..., :-1])
        for block in self.blocks:
            v, h = block(v, h, context)
        return cast(Tensor, self.head(h)).permute(0, 2, 3, 1)


# --------------------------------------------------------------------------------------------------------- sequences


class CausalBlock(nn.Module):
    """Attention to the positions up to one's own, then an MLP, both residual and normalised before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, L, width]`` to the same."""
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return cast(Tensor, x + self.mlp(self.between(x)))


class CausalTransformer(nn.Module):
    """A decoder-only transformer over a row of classes: ``[N, L]`` (0 … classes − 1) to logits ``[N, L, classes]``.

    The input is shifted by one: position d reads the start symbol, or the context, and x_<d (Radford et al. 2018).
    """

    def __init__(
        self, length: int, classes: int, width: int = 64, layers: int = 2, heads: int = 4, *, context: int = 0,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise ConfigError(f"CausalTransformer: expected width as a multiple of heads, got {width=}, {heads=}")
        self.length, self.context = length, context
        self.value = nn.Embedding(classes, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.given = nn.Linear(context, width) if context else None
        self.blocks = nn.Sequential(*(CausalBlock(width, heads, dropout) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        nn.init.normal_(self.value.weight, std=0.02)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x ``[N, L]``, numbers that are whole."""
        _width(self, context, self.context)
        if x.shape[-1] != self.length:
            raise ShapeError(f"CausalTransformer: expected rows of {self.length} elements, got {x.shape[-1]}")
        start = self.start.expand(len(x), 1, -1)
        if context is not None and self.given is not None:
            start = start + self.given(context)[:, None]
        tokens = torch.cat((start, self.value(x[:, :-1].long())), 1) + self.place
        return cast(Tensor, self.head(self.blocks(tokens)))
