"""Gradients of networks by their inputs, and Langevin chains: what energies are learnt and sampled with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Net = Callable[..., Any]


def energies(net: Net, x: Tensor, *conditions: Tensor, rank: int) -> Tensor:
    """E(x) of ``x [*batch, *event]`` as ``[*batch]``; the network sees one batch axis, and may return ``[N, 1]``."""
    batch = x.shape[: x.ndim - rank]
    flat = x.reshape(-1, *x.shape[x.ndim - rank :])
    rest = (c.reshape(-1, *c.shape[len(batch) :]) for c in conditions)
    return torch.as_tensor(net(flat, *rest)).reshape(batch)


def slope(net: Net, x: Tensor, *conditions: Tensor, rank: int, keep: bool | None = None) -> Tensor:
    """∇_x of the network's number per row, in the shape of x.

    ``keep``: whether the result itself can be differentiated; by default where gradients are on at all. It works under
    ``torch.no_grad()`` too.
    """
    keep = torch.is_grad_enabled() if keep is None else keep
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        total = energies(net, x, *conditions, rank=rank).sum()
        if not total.requires_grad:
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad(total, x, create_graph=keep, allow_unused=True)
    if found is None:
        return torch.zeros_like(x)
    return found if keep else found.detach()


def langevin(
    net: Net,
    x: Tensor,
    noise: Tensor,
    *conditions: Tensor,
    rank: int,
    step_size: Tensor | float,
    noise_scale: Tensor | float | None,
) -> Tensor:
    """The end of a chain of unadjusted Langevin steps, without gradient (Welling & Teh 2011; Roberts & Tweedie 1996).

        x ← x − step_size·∇E(x) + noise_scale·ε

    Args:
        net: the energy, one number per row.
        x: ``[*batch, *event]``, where the chain begins.
        noise: ε of all steps, ``[*batch, steps, *event]``.
        conditions: further inputs of the energy.
        rank: event axes of x.
        step_size: of the gradient.
        noise_scale: √(2·step_size) where None.
    """
    scale = (2 * step_size) ** 0.5 if noise_scale is None else noise_scale
    x = x.detach()
    for drawn in noise.unbind(noise.ndim - rank - 1):
        down = slope(net, x, *(c.detach() for c in conditions), rank=rank, keep=False)
        x = (x - step_size * down + scale * drawn).detach()
    return x
