r"""GateL0RD: a recurrent cell whose memory stays what it is, to the bit, until a gate opens (Gumbsch et al. 2021).

    u_t = [x_t, c_{t-1}]
    s_t = g(u_t) + ε_t,            ε_t ~ N(0, σ²I)
    Λ_t = max(0, tanh s_t)         how far each number of the memory opens; of most steps 0
    c_t = Λ_t ⊙ tanh(r(u_t)) + (1 − Λ_t) ⊙ c_{t-1}
    Θ_t = 1[Λ_t > 0]               what the penalty counts; dΘ/dΛ := 1, which the maximum cuts where tanh s ≤ 0
    y_t = tanh(W_p [x_t, c_t]) ⊙ σ(W_o [x_t, c_t])

Gumbsch, Butz & Martius 2021, NeurIPS, arXiv:2110.15949. The noise is an input, a factor p(ε_t) of the formula, so that
it prints and is had again; without it, zeros are given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.nets.layers import join
from worldformula.nets.plain import glorot


class GateL0RDCore(nn.Module):
    """``c_t, Θ_t = memory(x_t, c_{t-1}, ε_t)``: the memory alone, for worlds whose networks read c_t.

    Args:
        inputs: the width of x.
        size: H, of the memory.
        layers: of g and r; layer l of n has 2^(n−l−1)·H units, with tanh between.

    Raises:
        ConfigError: a width or number of layers below 1.
    """

    def __init__(self, inputs: int, size: int, layers: int = 1) -> None:
        super().__init__()
        if min(inputs, size, layers) < 1:
            raise ConfigError(f"expected inputs, size and layers ≥ 1, got {inputs}, {size} and {layers}")
        self.inputs, self.size = inputs, size
        self.gate, self.new = (narrowing(inputs + size, size, layers) for _ in range(2))

    def forward(self, x: Tensor, c: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x ``[N, inputs]``, c and noise ``[N, H]``; c' and Θ, ``[N, H]`` each.

        What a gate is, is decided in float32 under autocast too: a shut one must be zero, and not nearly so.
        """
        read = torch.cat((join((x,), self.inputs, "GateL0RDCore.x"), c), -1)
        gate = torch.tanh(_exact(self.gate(read), c) + noise).relu()
        return torch.lerp(c, torch.tanh(_exact(self.new(read), c)), gate), opened(gate)


class GateL0RD(nn.Module):
    """``y_t, c_t, Θ_t = cell(x_t, c_{t-1}, ε_t)``: the whole cell, a recurrent network by itself.

    Args:
        inputs, size, layers: as of `GateL0RDCore`.
        outputs: the width of y.
    """

    def __init__(self, inputs: int, size: int, outputs: int, layers: int = 1) -> None:
        super().__init__()
        self.core = GateL0RDCore(inputs, size, layers)
        self.told, self.shown = (glorot(nn.Linear(inputs + size, outputs)) for _ in range(2))

    def forward(self, x: Tensor, c: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ``[N, inputs]``, c and noise ``[N, H]``; y ``[N, outputs]``, c' and Θ ``[N, H]``."""
        kept, found = self.core(x, c, noise)
        read = torch.cat((x, kept), -1)
        return torch.tanh(self.told(read)) * torch.sigmoid(self.shown(read)), kept, found


def opened(gate: Tensor) -> Tensor:
    """Which gates are open, ``Λ > 0`` as numbers; the gradient goes on as if they were Λ."""
    return (gate > 0).to(gate.dtype) + (gate - gate.detach())


def narrowing(inputs: int, size: int, layers: int) -> nn.Sequential:
    """``layers`` dense layers with tanh between, whose widths halve down to ``size``."""
    widths = [inputs, *(2 ** (layers - i - 1) * size for i in range(layers))]
    found: list[nn.Module] = []
    for i in range(layers):
        found += [*([nn.Tanh()] if i else []), glorot(nn.Linear(widths[i], widths[i + 1]))]
    return nn.Sequential(*found)


def _exact(x: Tensor, like: Tensor) -> Tensor:
    return x if x.dtype == like.dtype else x.to(like.dtype)
