"""Networks that judge a batch: one number per row, and the batch with its coordinates mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worldformula.errors import ShapeError


class Critic(nn.Module):
    """A perceptron with one number per row, such as the logit of a discriminator.

    Args:
        inputs: total width of the conditions.
        hidden: widths of the hidden layers.
        activation: makes the activation behind each of them.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.2),
    ) -> None:
        super().__init__()
        self.inputs = inputs
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), activation()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Vectors ``[..., width]`` with the same leading axes to ``[...]``."""
        if sum(x.shape[-1] for x in inputs) != self.inputs:
            widths = " + ".join(str(x.shape[-1]) for x in inputs)
            raise ShapeError(f"Critic expected {self.inputs} numbers per row, got {widths}; set inputs={widths}")
        found: Tensor = self.layers(inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1))
        return found.squeeze(-1)


class PermuteEach(nn.Module):
    """Every coordinate of a batch in an order of its own: rows of q(z) become rows of ∏_j q(z_j).

    Kim & Mnih 2018, arXiv:1802.05983, algorithm 1. One permutation for all coordinates would only change the order of
    the rows.
    """

    batch_dependent = True

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """``z [B, Z]`` and noise ``u [B, Z]``, whose order in each column is the permutation; returns ``[B, Z]``."""
        if z.ndim != 2 or u.shape != z.shape:
            raise ShapeError(f"PermuteEach expected z and u as [B, Z], got {list(z.shape)} and {list(u.shape)}")
        return z.gather(0, u.argsort(0))
