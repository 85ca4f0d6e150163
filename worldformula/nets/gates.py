"""The gates of a recurrent cell: how much of its state it keeps, with the gradient written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldformula.gradients import by_steps, gradients_of, transformed
from worldformula.nets.layers import tanh


def gated(h: Tensor, gates: Tensor) -> Tensor:
    """``h' = u·c + (1 − u)·h``, ``c = tanh(σ(r)·k)``, ``u = σ(v − 1)`` of gates ``[..., 3·D]``: r, k and v, in thirds.

    At first much of h ``[..., D]`` is kept.
    """
    if transformed() or not torch.is_grad_enabled():
        return _plain(h, gates)
    found: Tensor = _Gated.apply(h, gates)  # type: ignore[no-untyped-call]
    return found


def gates_forward(h: Tensor, gates: Tensor, keep: bool = True) -> tuple[Tensor, ...]:
    """h', and what its gradient needs: k, σ(r), c and u; else written in the place of one another."""
    reset, candidate, update = gates.chunk(3, -1)
    r = torch.sigmoid(reset)
    c = tanh(r * candidate) if keep else tanh(r.mul_(candidate))
    u = (update - 1.0).sigmoid_()
    return torch.lerp(h, c, u), candidate, r, c, u


def gates_backward(
    gradient: Tensor, h: Tensor, candidate: Tensor, r: Tensor, c: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """With g of h': of h, g·(1 − u); of v, g·(c − h)·u·(1 − u); of k and r by the chain through c."""
    found = gradient.new_empty((*gradient.shape[:-1], 3 * gradient.shape[-1]))
    of_reset, of_candidate, of_update = found.chunk(3, -1)
    of_c = gradient * u
    before = torch.addcmul(of_c, of_c * c, c, value=-1)  # of σ(r)·k
    through = torch.mul(before, r, out=of_candidate) * candidate
    torch.addcmul(through, through, r, value=-1, out=of_reset)
    through = (c - h).mul_(gradient).mul_(u)
    torch.addcmul(through, through, u, value=-1, out=of_update)
    return gradient - of_c, found


def _plain(h: Tensor, gates: Tensor) -> Tensor:
    return gates_forward(h, gates)[0]


class _Gated(torch.autograd.Function):
    """`gated` as one step: its gradient takes half the operations that those of its steps take."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, gates: Tensor) -> Tensor:
        """``[..., D]`` and ``[..., 3·D]`` to ``[..., D]``."""
        found, *kept = gates_forward(h, gates)
        ctx.save_for_backward(h, gates, *kept)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """`gates_backward`."""
        h, gates, *kept = ctx.saved_tensors
        if by_steps(gradient):
            return gradients_of(_plain, (h, gates), gradient, ctx.needs_input_grad)
        return gates_backward(gradient, h, *kept)
