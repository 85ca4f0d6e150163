"""Networks of PlaNet and of Dreamer v1 and v2 on vectors: dense layers without norms, and their recurrent cores.

Hafner et al. 2019, 2020, 2021 (arXiv:1811.04551, 1912.01603, 2010.02193); layer lists of the authors' code. Weights
begin as the authors' framework has them: Glorot's uniform distribution, biases zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.nets.gates import gated
from worldformula.nets.layers import join, tanh
from worldformula.nets.perceptron import Perceptron

Cell = Literal["block", "keras", "norm"]
M = TypeVar("M", bound=nn.Module)


def glorot(module: M) -> M:
    """The module with weights drawn from Glorot's uniform distribution and biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class Plain(Perceptron):
    """``layers`` dense layers of ``units`` and a linear one, on all conditions side by side, event axes flattened.

    stopped: no gradient reaches the conditions, as of a policy that a dream is differentiated through.
    """

    def __init__(
        self, inputs: int, outputs: int, units: int, layers: int, activation: Callable[[], nn.Module] = nn.ELU,
        stopped: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(inputs, outputs, (units,) * layers, activation)
        self.stopped = stopped
        glorot(self)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Conditions ``[N, ...]`` in the order of the header to ``[N, outputs]``."""
        joined = join(inputs, self.inputs, "Plain")
        return super().forward(joined.detach() if self.stopped else joined)


class Core(nn.Module):
    """``h_t = f(h_{t-1}, z_{t-1}, a_{t-1})``: a dense layer reads z and a, a recurrent cell its result and h.

    Args:
        deter, stoch, action: widths of h, of the flattened z, and of all actions together.
        hidden: width of the dense layer.
        cell: ``block`` (PlaNet's, `ResetCell`), ``keras`` (Dreamer v1's, `torch.nn.GRUCell`), ``norm`` (Dreamer v2's,
            `NormCell`).
        activation: makes the activation behind the dense layer.
    """

    def __init__(
        self, deter: int, stoch: int, action: int, hidden: int, cell: Cell, activation: Callable[[], nn.Module] = nn.ELU
    ) -> None:
        super().__init__()
        self.inputs = stoch + action
        self.read = nn.Sequential(glorot(nn.Linear(self.inputs, hidden)), activation())
        if cell not in CELLS:
            raise ConfigError(f"expected a cell of {', '.join(CELLS)}, got {cell!r}")
        self.cell = CELLS[cell](hidden, deter)

    def forward(self, h: Tensor, z: Tensor, *actions: Tensor) -> Tensor:
        """h ``[N, D]``, z ``[N, ...]``, actions ``[N, A]``; returns h' ``[N, D]``."""
        found: Tensor = self.cell(self.read(join((z, *actions), self.inputs, "Core")), h)
        return found


class ResetCell(nn.Module):
    """The gated cell whose reset acts before the candidate's matrix: h' = u·h + (1 − u)·tanh(W[x, r·h]).

    The biases of both gates begin at 1, so that at first much is kept.
    """

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gates, self.candidate = (glorot(nn.Linear(inputs + size, n)) for n in (2 * size, size))
        nn.init.ones_(self.gates.bias)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """x ``[N, inputs]`` and h ``[N, size]``; h'."""
        reset, keep = torch.sigmoid(self.gates(torch.cat((x, h), -1))).chunk(2, -1)
        candidate = tanh(self.candidate(torch.cat((x, reset * h), -1)))
        return torch.lerp(candidate, h, keep)


class NormCell(nn.Module):
    """The gated cell with a layer norm over all gates: r, c, u = LN(W[x, h]), h' = u·tanh(r·c) + (1 − u)·h.

    u = σ(u − 1): at first much is kept. Without ``norm``, LN is left out.
    """

    def __init__(self, inputs: int, size: int, norm: bool = True) -> None:
        super().__init__()
        self.gates = glorot(nn.Linear(inputs + size, 3 * size))
        self.norm = nn.LayerNorm(3 * size, eps=1e-3) if norm else nn.Identity()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """x ``[N, inputs]`` and h ``[N, size]``; h'."""
        return gated(h, self.norm(self.gates(torch.cat((x, h), -1))))


def gru_cell(inputs: int, size: int) -> nn.GRUCell:
    """PyTorch's own, which is Keras's with two biases, begun as Keras does: recurrent matrices orthogonal."""
    cell = nn.GRUCell(inputs, size)
    for part in cell.weight_ih.chunk(3):
        nn.init.xavier_uniform_(part)
    for part in cell.weight_hh.chunk(3):
        nn.init.orthogonal_(part)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return cell


CELLS: dict[str, Callable[[int, int], nn.Module]] = {"block": ResetCell, "keras": gru_cell, "norm": NormCell}
