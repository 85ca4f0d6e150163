"""A multilayer perceptron of plain linear layers, on one vector or on several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worldformula.errors import ShapeError


class Perceptron(nn.Module):
    """Hidden layers with their activation, then a linear layer, on the concatenation of all inputs.

    Args:
        inputs: total width of the conditions: ``q(z|x,y)`` calls ``net(x, y)`` and the first layer reads ``[x, y]``.
        outputs: width of the last, linear layer.
        hidden: widths of the hidden layers.
        activation: makes the activation behind each of them.
        dropout: share of the hidden units that a training step leaves out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module] = nn.SiLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), activation(), *([nn.Dropout(dropout)] if dropout else [])]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, outputs))

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, *inputs: Tensor) -> Tensor:
        """Vectors ``[..., width]`` with the same leading axes to ``[..., outputs]``."""
        if sum(x.shape[-1] for x in inputs) != self.inputs:
            widths = " + ".join(str(x.shape[-1]) for x in inputs)
            raise ShapeError(f"Perceptron expected {self.inputs} numbers per row, got {widths}; set inputs={widths}")
        found: Tensor = self.layers(inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1))
        return found
