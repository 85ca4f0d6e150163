"""The policy networks of Dreamer v1, v2 and v3, and of TD-MPC2."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.nets.mlp import MLP
from worldformula.nets.normed import Normed
from worldformula.nets.plain import Plain

MIN_STD, MAX_STD = 0.1, 1.0
LOW, HIGH = -10.0, 2.0  # of the logarithms of TD-MPC2's deviations


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


class Allowing(nn.Module):
    """Logits of a network of the features, with a mask behind them: ``π(a_t|h_t,z_t,M_t)``, as `MaskedActor`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *features: Tensor) -> Tensor:
        """Features, then the mask ``[N, actions]``, above ½ where a choice is allowed, to logits ``[N, actions]``."""
        *given, mask = features
        return masked(self.net(*given), mask > 0.5)


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


class SquashedActor(nn.Module):
    """Dreamer v1's, of numbers: ``TanhNormal(5·tanh(m/5), softplus(s + softplus⁻¹(first)) + 1e-4)``.

    No gradient goes back into the features, so that an action in a dream is answered for at its own step.

    inputs: width of the features. actions, units, layers: as in the other actors. first: the deviation at the start.
    """

    def __init__(self, inputs: int, actions: int, units: int, layers: int = 4, first: float = 5.0) -> None:
        super().__init__()
        self.mlp = Plain(inputs, 2 * actions, units, layers, stopped=True)
        self.raw = math.log(math.expm1(first))

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        """Features ``[N, ...]`` to ``{"loc": [N, actions], "scale": [N, actions]}``."""
        mean, std = self.mlp(*features).chunk(2, -1)
        return {"loc": 5 * torch.tanh(mean / 5), "scale": F.softplus(std + self.raw) + 1e-4}


class TruncatedActor(nn.Module):
    """Dreamer v2's, of numbers: ``TruncatedNormal(tanh m, 2·σ(s/2) + 0.1)`` within [−1, 1].

    No gradient goes back into the features where they are ``stopped``.
    """

    def __init__(self, inputs: int, actions: int, units: int, layers: int = 4, stopped: bool = True) -> None:
        super().__init__()
        self.mlp = Plain(inputs, 2 * actions, units, layers, stopped=stopped)

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        """Features ``[N, ...]`` to ``{"loc": [N, actions], "scale": [N, actions]}``."""
        mean, std = self.mlp(*features).chunk(2, -1)
        return {"loc": torch.tanh(mean), "scale": 2 * torch.sigmoid(std / 2) + MIN_STD}


class LatentActor(nn.Module):
    """TD-MPC2's, of numbers: ``TanhNormal(m, exp(−10 + 6·(1 + tanh s)))``, whose deviation lies between e⁻¹⁰ and e².

    inputs: width of the latent. actions, units: as in the other actors.
    """

    def __init__(self, inputs: int, actions: int, units: int) -> None:
        super().__init__()
        self.mlp = Normed(inputs, 2 * actions, (units, units))

    def forward(self, *features: Tensor) -> dict[str, Tensor]:
        """Features ``[N, ...]`` to ``{"loc": [N, actions], "scale": [N, actions]}``."""
        mean, raw = self.mlp(*features).chunk(2, -1)
        return {"loc": mean, "scale": torch.exp(LOW + 0.5 * (HIGH - LOW) * (torch.tanh(raw) + 1))}
