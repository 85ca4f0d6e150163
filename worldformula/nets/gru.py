"""The recurrent core of DreamerV3's world model: a block-diagonal GRU that reads state, latent and action."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from worldformula.nets.gates import gated
from worldformula.nets.layers import BlockLinear, Linear, RMSNorm, from_blocks, init_weight, join, to_blocks


class BlockGRU(nn.Module):
    """``h_t = f(h_{t-1}, z_{t-1}, a_{t-1})`` (Hafner et al. 2025; layer list of the authors' code).

    h, z and a each pass one layer of ``hidden`` units; their concatenation is shown to all blocks, each block adds its
    own slice of h, and a block-diagonal layer of ``deter`` units follows. A second block-diagonal map makes three gates
    per block, in this order *inside* each block: reset, candidate, update.

        r = σ(reset)   c = tanh(r · candidate)   u = σ(update − 1)   h' = u·c + (1 − u)·h

    deter, stoch, action: widths of h, of the flattened z, and of all actions together.

    The joint matrix [shared input; own slice] of a block is kept as its two halves: multiplying the shared half once
    for all blocks is an ordinary matrix product and nothing has to be repeated. Both halves are initialised with the
    fan-in of the whole layer, ``deter + blocks · 3 · hidden``.
    """

    def __init__(self, deter: int, stoch: int, action: int, hidden: int, blocks: int = 8) -> None:
        super().__init__()
        self.deter, self.stoch, self.action, self.blocks = deter, stoch, action, blocks
        self.read_h = Linear(deter, hidden)
        self.read_z = Linear(stoch, hidden)
        self.read_a = Linear(action, hidden)
        self.read_norm = RMSNorm(hidden, stack=3)
        fan_in = deter + blocks * 3 * hidden
        self.own = BlockLinear(deter, deter, blocks, fan_in)
        self.shared = nn.Parameter(torch.empty(3 * hidden, deter))
        init_weight(self.shared, fan_in)
        self.norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)
        # As the authors keep them: one matrix, three norms.
        self.clip_units = {"own.weight": "matrix", "shared": "matrix", "read_norm.scale": (1, 1, 1)}

    def forward(self, h: Tensor, z: Tensor, *actions: Tensor) -> Tensor:
        """h ``[N, D]``, z ``[N, G, K]`` or ``[N, S]``, actions ``[N, A]`` or ``[N]``; returns h' ``[N, D]``.

        Several actions are read side by side, as one.

        An action longer than 1 in any entry is cut to the range ±1; no gradient flows through the divisor.
        """
        z = join((z,), self.stoch, "BlockGRU.z")
        a = join(actions, self.action, "BlockGRU.a")
        a = a / a.detach().abs().clamp(min=1.0)
        read = torch.stack((self.read_h(h), self.read_z(z), self.read_a(a)), 1)
        x = F.silu(self.read_norm(read)).flatten(1)
        before = to_blocks(h, self.blocks)
        own = from_blocks(self.own(before))
        if is_compiling():  # see Linear
            x = ((x @ self.shared).unsqueeze(0) + own).squeeze(0)
        else:
            x = torch.addmm(own, x, self.shared)
        x = F.silu(self.norm(x))
        return from_blocks(gated(before, self.gates(to_blocks(x, self.blocks))))
