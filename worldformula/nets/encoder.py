"""All observations of a step to one token, as DreamerV3 reads them; some may be left unread, zeros in their place."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from worldformula.nets.conv import ImageEncoder, Style
from worldformula.nets.mlp import VectorEncoder, VectorKey, symlog
from worldformula.nets.sizes import Sizes


class Encoder(nn.Module):
    """All observations of a step, images first, to one token ``[N, width]``.

    Args:
        images: observation key -> ``(H, W, C)``, squares of one size.
        vectors: observation key -> its shape.
        sizes: widths.
        stages: see `worldformula.nets.conv.ImageEncoder`, as ``style`` and ``patch``.
        style: how a stage halves the image.
        patch: pixels of an edge that enter as one.
        choices: the keys of vectors that are one-hots already.
        zeroed: keys that are not read: zeros stand in their place. Where all images are, their network is not run: its
            *output* is zero, it has no gradient, and no optimiser moves it (Lin et al. 2024, text-only pre-training).
    """

    def __init__(
        self, images: Mapping[str, tuple[int, ...]], vectors: Mapping[str, tuple[int, ...]], sizes: Sizes, *,
        stages: tuple[int, ...], style: Style, patch: int, choices: Collection[str] = (),
        zeroed: Collection[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.count, self.zeroed = len(images), tuple(key in zeroed for key in (*images, *vectors))
        self.image = self.vector = None
        if images:
            (edge,) = {shape[0] for shape in images.values()}
            channels = sum(shape[-1] for shape in images.values())
            self.image = ImageEncoder(edge, channels, sizes.depth, stages=stages, style=style, patch=patch)
        if vectors:
            keys = [VectorKey(math.prod(shape), encoded=key in choices) for key, shape in vectors.items()]
            self.vector = VectorEncoder(keys, sizes.units)
        self.width = (self.image.width if self.image else 0) + (sizes.units if self.vector else 0)

    def forward(self, *observations: Tensor) -> Tensor:
        """Images [N, H, W, C], then vectors [N, n]."""
        if any(self.zeroed):
            pairs = zip(observations, self.zeroed, strict=True)
            observations = tuple(torch.zeros_like(x) if zero else x for x, zero in pairs)
        images, vectors, tokens = observations[: self.count], observations[self.count :], list[Tensor]()
        if self.image is not None:
            blind = all(self.zeroed[: self.count])
            tokens += [images[0].new_zeros(len(images[0]), self.image.width) if blind else self.image(*images)]
        if self.vector is not None:
            tokens += [self.vector(*vectors)]
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens, -1)


class Symlog(nn.Module):
    """Vectors [N, ...] of one step, squashed and concatenated to [N, n]: what the vector decoder predicts."""

    def forward(self, *vectors: Tensor) -> Tensor:
        """Vectors in the order of the formula."""
        return symlog(torch.cat([v.flatten(1) for v in vectors], -1))
