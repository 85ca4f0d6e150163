"""The recurrent core of DreamerV3's world model: a block-diagonal GRU that reads state, latent and action."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from worldformula.gradients import Kept, Uses, by_steps, gradients_of, uses_of
from worldformula.nets.gates import gated, gates_backward, gates_forward
from worldformula.nets.layers import (
    BlockLinear,
    Linear,
    RMSNorm,
    from_blocks,
    init_weight,
    join,
    normed,
    normed_backward,
    plain_weights,
    silu_backward,
    to_blocks,
)

LAYERS = ("read_h", "read_z", "read_a", "read_norm", "own", "norm", "gates")


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
        weights = plain_weights(self, ("shared",), LAYERS, h, z, a)
        if weights is None:
            return self._layers(h, z, a)
        if not torch.is_grad_enabled():
            return _step(h, z, a, *weights, keep=False)[0]
        uses, token = uses_of(weights, _of_weights)
        found: Tensor = _Step.apply(token, h, z, a, uses)  # type: ignore[no-untyped-call]
        return found

    def _layers(self, h: Tensor, z: Tensor, a: Tensor) -> Tensor:
        """The step by its layers."""
        read = torch.stack((self.read_h(h), self.read_z(z), self.read_a(a)), 1)
        x = F.silu(self.read_norm(read)).flatten(1)
        before = to_blocks(h, self.blocks)
        own = from_blocks(self.own(before))
        if is_compiling():  # see Linear
            x = ((x @ self.shared).unsqueeze(0) + own).squeeze(0)
        else:
            x = torch.addmm(own, x, self.shared)
        x = F.silu(self.norm(x))
        gates = self.gates(to_blocks(x, self.blocks))
        gates = gates if gates.dtype == h.dtype else gates.to(h.dtype)  # of autocast; the state keeps its precision
        return from_blocks(gated(before, gates))


def _step(h: Tensor, z: Tensor, a: Tensor, *weights: Tensor, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h' by the weights that `plain_weights` gives, and what its gradient needs; without it, some are overwritten."""
    shared, read_h, bias_h, read_z, bias_z, read_a, bias_a, read_scale, own, own_bias, scale, gates, bias = weights
    blocks = len(own)
    reads = F.linear(h, read_h, bias_h), F.linear(z, read_z, bias_z), F.linear(a, read_a, bias_a)
    shares, size = normed(torch.stack(reads, 1))
    read = shares * read_scale if keep else shares.mul_(read_scale)
    x = F.silu(read, inplace=not keep).flatten(1)
    before = to_blocks(h, blocks)
    joined = torch.addmm(own_bias.view(-1), x, shared)
    to_blocks(joined, blocks).baddbmm_(before, own)
    shares_2, size_2 = normed(joined)
    inner = shares_2 * scale if keep else shares_2.mul_(scale)
    x_2 = F.silu(inner, inplace=not keep)
    found, *kept = gates_forward(before, torch.baddbmm(bias, to_blocks(x_2, blocks), gates), keep)
    return from_blocks(found), (h, z, a, shares, size, read, x, shares_2, size_2, inner, x_2, *kept)


def _plain(h: Tensor, z: Tensor, a: Tensor, *weights: Tensor) -> Tensor:
    return _step(h, z, a, *weights, keep=True)[0]


class _Step(torch.autograd.Function):
    """`BlockGRU` as one step: a third of the operations that the gradients of its layers take."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, h: Tensor, z: Tensor, a: Tensor, uses: Uses) -> Tensor:
        """``[N, D]``, ``[N, S]`` and ``[N, A]`` to ``[N, D]``."""
        found, kept = _step(h, z, a, *uses.weights, keep=True)
        ctx.uses = uses
        ctx.save_for_backward(*kept, *uses.weights)  # also those: it is noticed where one is changed in between
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of h, z and a; what the weights need of this step is left with them."""
        uses, (learnt, *wanted, _) = ctx.uses, ctx.needs_input_grad
        saved = ctx.saved_tensors[: -len(uses.weights)]
        h, z, a, shares, size, read, x, shares_2, size_2, inner, x_2, *kept = saved
        if by_steps(gradient):
            every = (*wanted, *(learnt and w.requires_grad for w in uses.weights))
            found = gradients_of(_plain, (h, z, a, *uses.weights), gradient, every)
            uses.add(found[3:])
            return None, *found[:3], None
        shared, read_h, _, read_z, _, read_a, _, read_scale, own, _, scale, gates, _ = uses.weights
        blocks = len(own)
        of_before, of_gates = gates_backward(to_blocks(gradient, blocks), to_blocks(h, blocks), *kept)
        of_x = from_blocks(torch.bmm(of_gates, gates.transpose(1, 2)))
        of_joined, product_2 = normed_backward(silu_backward(of_x, inner), shares_2, size_2, scale)
        of_read = silu_backward((of_joined @ shared.t()).view_as(read), read)
        of_read, product = normed_backward(of_read, shares, size, read_scale)
        of_h, of_z, of_a = of_read.unbind(1)
        if learnt:
            uses.leave(h, z, a, x, x_2, of_gates, of_joined, of_read, product, product_2)
        if wanted[0]:
            back = torch.baddbmm(of_before, to_blocks(of_joined, blocks), own.transpose(1, 2))
            of_h = torch.addmm(from_blocks(back), of_h, read_h)
        of_inputs = (
            of_h if wanted[0] else None, of_z @ read_z if wanted[1] else None, of_a @ read_a if wanted[2] else None
        )  # fmt: skip
        return None, *of_inputs, None


def _of_weights(left: list[Kept]) -> tuple[Tensor, ...]:
    """The gradients by the weights, of all steps."""
    blocks = len(left[0][5])
    h, z, a, x, x_2, of_gates, of_joined, of_read, product, product_2 = (
        torch.cat(steps, 1 if i == 5 else 0) for i, steps in enumerate(zip(*left, strict=True))
    )
    reads = [of for g, given in zip(of_read.unbind(1), (h, z, a), strict=True) for of in (g.t() @ given, g.sum(0))]
    of_own = to_blocks(of_joined, blocks)
    return (
        x.t() @ of_joined, *reads, product.sum(0), to_blocks(h, blocks).transpose(1, 2) @ of_own,
        of_own.sum(1, keepdim=True), product_2.sum(0), to_blocks(x_2, blocks).transpose(1, 2) @ of_gates,
        of_gates.sum(1, keepdim=True),
    )  # fmt: skip
