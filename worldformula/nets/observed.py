"""Networks of worlds that predict their own latents: observations to a latent, and a step from one to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from worldformula.nets.perceptron import Perceptron
from worldformula.nets.pictures import PictureEncoder


class Encoder(nn.Module):
    """All observations of a step to the latent ``[N, D]``: pictures first, their features beside the numbers.

    Args:
        latent: D.
        channels: of the convolutions, each of which halves the picture.
        units: the hidden layer of the numbers.
        pictures: the shape ``(H, W, C)`` of each; all are squares of one size.
        numbers: how many numbers there are.
        standard: pictures are taken less their mean and by their deviation, each its own, and not less ½. What is small
            on a plain ground is then seen.
    """

    def __init__(
        self, latent: int, channels: tuple[int, ...], units: int, pictures: Sequence[tuple[int, ...]], numbers: int, *,
        standard: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.count, self.standard = len(pictures), standard
        edge, depth = (pictures[0][0], sum(shape[-1] for shape in pictures)) if pictures else (0, 0)
        self.sight = PictureEncoder((edge, edge, depth), latent, channels) if pictures else None
        self.mix = Perceptron((latent if pictures else 0) + numbers, latent, (units,)) if numbers else None

    def forward(self, *observations: Tensor) -> Tensor:
        """Images ``[N, H, W, C]``, then vectors ``[N, n]``."""
        seen: list[Tensor] = []
        if self.sight is not None:
            images = observations[: self.count]
            picture = torch.cat(images, -1) if len(images) > 1 else images[0]
            rows = picture.flatten(1)
            seen = [self.sight(layer_norm(rows, rows.shape[1:]) if self.standard else rows - 0.5)]
        if self.mix is None:
            return seen[0]
        found: Tensor = self.mix(*seen, *observations[self.count :])
        return found


class Residual(nn.Module):
    """z and what the perceptron of all conditions adds to it, at the start nothing: ``[N, D]``."""

    def __init__(self, latent: int, inputs: int, units: int) -> None:
        super().__init__()
        self.net = Perceptron(latent + inputs, latent, (units, units))
        nn.init.zeros_(self.net.head.weight)
        nn.init.zeros_(self.net.head.bias)

    def forward(self, z: Tensor, *actions: Tensor) -> Tensor:
        """``[N, D]``, ``[N, A]``, …"""
        found: Tensor = z + self.net(z, *actions)
        return found


class Between(nn.Module):
    """The action ``[N, A]`` from two latents ``[N, D]``: the first, and the step to the second."""

    def __init__(self, latent: int, action: int, units: int) -> None:
        super().__init__()
        self.net = Perceptron(2 * latent, action, (units,))

    def forward(self, before: Tensor, z: Tensor) -> Tensor:
        """``[N, D]`` twice."""
        found: Tensor = self.net(before, z - before)
        return found
