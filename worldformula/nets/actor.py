"""The policy networks of DreamerV3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldformula.nets.mlp import MLP

MIN_STD, MAX_STD = 0.1, 1.0


class DiscreteActor(nn.Module):
    """``π(a_t|h_t,z_t)`` over ``actions`` choices: logits ``[N, actions]``, close to uniform at the start."""

    def __init__(self, inputs: int, actions: int, units: int, layers: int = 3, outscale: float = 0.01) -> None:
        super().__init__()
        self.mlp = MLP(inputs, actions, units, layers, outscale)

    def forward(self, *features: Tensor) -> Tensor:
        """Features ``[N, ...]`` in the order of the header to logits ``[N, actions]``."""
        return self.mlp(*features)


class MaskedActor(DiscreteActor):
    """``π(a_t|h_t,z_t,M_t)``: what M_t forbids has probability 0, the rest shares 1.

    ``unimix`` of the uniform distribution over what is allowed is mixed in. Where nothing is allowed, everything is.
    """

    def __init__(
        self, inputs: int, actions: int, units: int, layers: int = 3, outscale: float = 0.01, unimix: float = 0.0
    ) -> None:
        super().__init__(inputs, actions, units, layers, outscale)
        self.unimix = unimix

    def forward(self, *features: Tensor) -> Tensor:
        """Features, then the mask ``[N, actions]``, above ½ where a choice is allowed, to logits ``[N, actions]``."""
        *given, mask = features
        allowed = mask > 0.5
        logits = masked(super().forward(*given), allowed)
        if not self.unimix:
            return logits
        even = allowed.to(logits.dtype)
        share = self.unimix * even / even.sum(-1, keepdim=True).clamp_min(1)
        mixed = (1 - self.unimix) * logits.softmax(-1) + share
        return masked(mixed.masked_fill(~allowed, 1.0).log(), allowed)  # a gradient through log 0 would be NaN


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits that are so low where nothing is allowed that the probability is 0, and its product with them too."""
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 4)


class ContinuousActor(nn.Module):
    """``π(a_t|h_t,z_t)`` over ``actions`` real numbers: ``Normal(tanh m, 0.1 + 0.9·σ(s + 2))``, samples not squashed.

    The environment clips samples to [−1, 1]; log-probabilities are those of the plain normal. At the start the standard
    deviation is 0.8927.
    """

    def __init__(self, inputs: int, actions: int, units: int, layers: int = 3, outscale: float = 0.01) -> None:
        super().__init__()
        self.mlp = MLP(inputs, 2 * actions, units, layers, outscale)
        # Mean and deviation are tensors of their own in the authors' code.
        self.clip_units = dict.fromkeys(("mlp.head.weight", "mlp.head.bias"), (actions, actions))

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        """Features ``[N, ...]`` in the order of the header to ``{"loc": [N, actions], "scale": [N, actions]}``."""
        mean, std = self.mlp(*features).chunk(2, -1)
        return {"loc": torch.tanh(mean), "scale": MIN_STD + (MAX_STD - MIN_STD) * torch.sigmoid(std + 2.0)}
