"""RealNVP: affine couplings (Dinh et al. 2017, arXiv 1605.08803) with Glow's ActNorm (Kingma et al. 2018, 1807.03039).

Every layer normalises each feature and then lets one half decide, through a small network, how the other is scaled and
shifted; between layers the features are reversed. Both directions cost the same, and the Jacobian is triangular:

    u_a = x_a,   u_b = x_b·exp(s(x_a, c)) + t(x_a, c),   log |det ∂u/∂x| = Σ s
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError

BOUND = 2.0  # of a log-scale in one coupling: keeps exp(s) within 0.14 and 7.4, so that training cannot overflow


class ActNorm(nn.Module):
    """``u = (x - shift)·exp(log_scale)`` for each feature, both learnable.

    `initialise` sets them from data, once, when the user says so. `forward` never writes, so loaded values stay, and a
    batch never changes the model behind one's back.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Give ``forward(x)`` mean 0 and standard deviation 1 in each feature."""
        rows = x.reshape(-1, x.shape[-1])
        self.shift.copy_(rows.mean(0))
        self.log_scale.copy_(-rows.std(0, correction=0).clamp_min(1e-4).log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u, and log |det| as one number."""
        return (x - self.shift) * self.log_scale.exp(), self.log_scale.sum()

    def inverse(self, u: Tensor) -> Tensor:
        """x of u."""
        return u * (-self.log_scale).exp() + self.shift


class Coupling(nn.Module):
    """An affine coupling: the first half of the features, and the context, scale and shift the second half.

    The last layer starts at zero, so that a new coupling is the identity.
    """

    def __init__(self, features: int, context: int, units: int) -> None:
        super().__init__()
        self.kept = features // 2
        self.changed = features - self.kept
        self.net = nn.Sequential(
            nn.Linear(self.kept + context, units),
            nn.SiLU(),
            nn.Linear(units, units),
            nn.SiLU(),
            nn.Linear(units, 2 * self.changed),
        )
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def _scale_and_shift(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(kept if context is None else torch.cat((kept, context), -1)).chunk(2, -1)
        return BOUND * torch.tanh(raw / BOUND), shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u, and log |det ∂u/∂x| ``[*batch]``."""
        kept, changed = x.split_with_sizes((self.kept, self.changed), -1)
        log_scale, shift = self._scale_and_shift(kept, context)
        return torch.cat((kept, changed * log_scale.exp() + shift), -1), log_scale.sum(-1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """x of u."""
        kept, changed = u.split_with_sizes((self.kept, self.changed), -1)
        log_scale, shift = self._scale_and_shift(kept, context)
        return torch.cat((kept, (changed - shift) * (-log_scale).exp()), -1)


class RealNVP(nn.Module):
    """``layers`` times ActNorm, coupling and reversal, on vectors of ``features``, given ``context`` numbers.

    features: at least 2. context: width of the context, 0 for none. units: width of each coupling's two hidden layers.
    As a factor: ``Flow("q(z|x)", RealNVP(2, context=8), shape=2)``, whose encoder gives 8 numbers.
    """

    def __init__(self, features: int, context: int = 0, layers: int = 4, units: int = 64) -> None:
        super().__init__()
        if min(features - 1, layers, units) < 1 or context < 0:
            got = f"features={features}, context={context}, layers={layers}, units={units}"
            raise ConfigError(f"RealNVP: expected at least 2 features, 1 layer and 1 unit, got {got}.")
        self.features, self.context = features, context
        self.norms = nn.ModuleList(ActNorm(features) for _ in range(layers))
        self.couplings = nn.ModuleList(Coupling(features, context, units) for _ in range(layers))

    def _layers(self) -> list[tuple[ActNorm, Coupling]]:
        return [(cast(ActNorm, n), cast(Coupling, c)) for n, c in zip(self.norms, self.couplings, strict=True)]

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        width = 0 if context is None else context.shape[-1]
        if x.shape[-1] != self.features or width != self.context:
            raise ShapeError(
                f"RealNVP: expected {self.features} features and a context of {self.context}, got {x.shape[-1]} and "
                f"{width}. Build it with features={x.shape[-1]}, context={width}."
            )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x ``[*batch, features]``, context ``[*batch, context]``: u, and log |det ∂u/∂x| ``[*batch]``."""
        self._check(x, context)
        log_det = x.new_zeros(x.shape[:-1])
        for norm, coupling in self._layers():
            x, of_norm = norm(x)
            x, of_coupling = coupling(x, context)
            x, log_det = x.flip(-1), log_det + of_norm + of_coupling
        return x, log_det

    def inverse(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """x of u."""
        self._check(u, context)
        for norm, coupling in reversed(self._layers()):
            u = norm.inverse(coupling.inverse(u.flip(-1), context))
        return u

    @torch.no_grad()
    def initialise(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set every ActNorm from a batch of data, layer by layer; call it once, before training."""
        self._check(x, context)
        for norm, coupling in self._layers():
            norm.initialise(x)
            x = coupling(norm(x)[0], context)[0].flip(-1)
