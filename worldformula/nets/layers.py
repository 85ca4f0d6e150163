"""The layers every DreamerV3 network is made of: Linear, RMSNorm, Dense and BlockLinear (Hafner et al. 2025, Nature).

Initialisation follows the authors' code: weights from a normal truncated at two standard deviations and rescaled to
variance 1 / fan_in, biases zero. A last layer multiplies its weights by ``outscale``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules.module import _has_any_global_hook

from worldformula.errors import ShapeError
from worldformula.gradients import PART, by_steps, gradients_of, parts, transformed

NORM_EPS = 1e-4
# A standard normal truncated at ±2 has standard deviation 1 / 1.1368; this factor brings it back to one.
UNTRUNCATE = 1.1368


@torch.no_grad()
def init_weight(weight: Tensor, fan_in: int, outscale: float = 1.0) -> None:
    """Fill ``weight`` in place with the truncated normal of standard deviation ``outscale / sqrt(fan_in)``."""
    scale = UNTRUNCATE * outscale / math.sqrt(fan_in)
    if scale == 0.0:
        weight.zero_()
    else:
        nn.init.trunc_normal_(weight, std=scale, a=-2 * scale, b=2 * scale)


def join(inputs: tuple[Tensor, ...], width: int, owner: str) -> Tensor:
    """Flatten the event axes of every input and concatenate in the order given: ``[N, ...]`` each to ``[N, width]``.

    Errors as of `flattened`.
    """
    flat = flattened(inputs, width, owner)
    return flat[0] if len(flat) == 1 else torch.cat(flat, -1)


def flattened(inputs: tuple[Tensor, ...], width: int, owner: str) -> list[Tensor]:
    """Every input with its event axes as one, ``[N, ...]`` to ``[N, n]``.

    The first axis is the batch, everything after it is event; a plain ``[N]`` counts as width 1. A ShapeError names the
    widths when they do not add up to ``width``.
    """
    flat = [x if x.dim() == 2 else x.reshape(x.shape[0], -1) for x in inputs]
    widths = [x.shape[1] for x in flat]
    if sum(widths) != width:
        raise ShapeError(
            f"{owner} expected inputs of {width} numbers in all, got {' + '.join(map(str, widths))} = {sum(widths)} "
            f"(shapes {[tuple(x.shape) for x in inputs]}). Build the network with inputs={sum(widths)}, "
            "or pass one leading batch axis and the conditions in the order of the header."
        )
    return flat


MANY = 1 << 16
"""Numbers whose copy takes longer than a further product does."""


def side_by_side(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of inputs ``[..., n]`` side by side; of many numbers as a sum of products, without a copy of them.

    The two sums are rounded in different places.
    """
    if len(inputs) == 1 or sum(x.numel() for x in inputs) < MANY:
        return F.linear(inputs[0] if len(inputs) == 1 else torch.cat(tuple(inputs), -1), weight, bias)
    first, *others = zip(inputs, weight.split_with_sizes([x.shape[-1] for x in inputs], -1), strict=True)
    found, seen = F.linear(*first, bias), transformed()
    for x, part in others:
        if x.ndim != 2:
            found = found + F.linear(x, part)
        elif seen or not found.dtype == x.dtype == part.dtype:  # a transform, or autocast
            found = torch.addmm(found, x, part.t())
        else:  # which saves a copy of the sum
            found.addmm_(x, part.t())
    return found


class Linear(nn.Linear):
    """``[..., inputs] -> [..., outputs]`` with bias; weights scaled by ``outscale`` at the start, bias zero."""

    def __init__(self, inputs: int, outputs: int, outscale: float = 1.0) -> None:
        self.outscale = outscale
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's global generator."""
        init_weight(self.weight, self.in_features, self.outscale)
        nn.init.zeros_(self.bias)

    def forward(self, *x: Tensor) -> Tensor:
        """``[..., inputs]``, or parts of it in their order, to ``[..., outputs]``."""
        if is_compiling():  # the bias joins what follows; a product with a bias would first write it to every row
            return (side_by_side(x, self.weight).unsqueeze(0) + self.bias).squeeze(0)
        if len(x) > 1 or x[0].ndim != 2 or len(x[0]) * self.out_features <= PART or not _plainly(x[0], self.weight):
            return side_by_side(x, self.weight, self.bias)
        given = x[0], self.weight, self.bias
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in given)):
            return _linear(*given)
        found: Tensor = _Linear.apply(*given)  # type: ignore[no-untyped-call]
        return found


def _plainly(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer computes what it says, in one type, and nobody looks into it."""
    return x.dtype == weight.dtype and not (transformed() or torch._C._is_any_autocast_enabled())


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear`` of rows ``[N, inputs]``, of many part by part: a sum begins with the bias in every row."""
    found = x.new_empty(len(x), len(weight))
    for of, rows in parts(found, x):
        torch.addmm(bias, rows, weight.t(), out=of)
    return found


class _Linear(torch.autograd.Function):
    """`_linear` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``[N, inputs]`` to ``[N, outputs]``."""
        ctx.save_for_backward(x, weight, bias)
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the rows, the weight and the bias."""
        x, weight, bias = ctx.saved_tensors
        if by_steps(gradient):
            return gradients_of(F.linear, (x, weight, bias), gradient, ctx.needs_input_grad)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            gradient @ weight if of_x else None, gradient.t() @ x if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )  # fmt: skip


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + 1e-4) · scale`` over the last axis; no shift (Zhang & Sennrich 2019).

    Half-precision inputs are normalised in float32 and returned in their own type. ``stack`` > 1 keeps one scale per
    entry of the last axis but one, so that several norms of the same width run as one operation.
    """

    def __init__(self, width: int, stack: int = 1) -> None:
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.ones(width) if stack == 1 else torch.ones(stack, width))

    def reset_parameters(self) -> None:
        """The scale as it was in the beginning."""
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` (``[..., stack, width]``) to the same shape."""
        if x.dtype in (torch.float16, torch.bfloat16):
            return (F.rms_norm(x.float(), (self.width,), eps=NORM_EPS) * self.scale.float()).to(x.dtype)
        if transformed():
            return F.rms_norm(x, (self.width,), eps=NORM_EPS) * self.scale
        if not torch.is_grad_enabled():
            return normed(x)[0].mul_(self.scale)
        found: Tensor = _Normed.apply(x, self.scale)  # type: ignore[no-untyped-call]
        return found


class _Normed(torch.autograd.Function):
    """`RMSNorm` with its gradient written out: fewer passes over the tensors than the gradients of its steps take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        """``[..., width]`` to the same shape."""
        shares, size = normed(x)
        ctx.save_for_backward(x, scale, shares, size)
        return shares * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """`normed_backward`."""
        x, scale, shares, size = ctx.saved_tensors
        if by_steps(gradient):
            return gradients_of(_rms_norm, (x, scale), gradient, ctx.needs_input_grad)
        of_x, product = normed_backward(gradient, shares, size, scale)
        return of_x, product.sum_to_size(scale.shape)


def _rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    return normed(x)[0] * scale


def normed(x: Tensor) -> tuple[Tensor, Tensor]:
    """x · s and s = 1 / sqrt(mean(x²) + 1e-4)."""
    if torch.is_grad_enabled():
        size = (x.square().mean(-1, keepdim=True) + NORM_EPS).rsqrt()
    else:  # one pass, without a tensor of the squares; at zero it has no second derivative
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        size = torch.addcmul(x.new_full((), NORM_EPS), length, length, value=1 / x.shape[-1]).rsqrt_()
    return x * size, size


def normed_backward(gradient: Tensor, shares: Tensor, size: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """With n = x · s and p = g · n: of x, s · (g · scale − n · mean(p · scale)); and p, whose sum is that of scale."""
    product = gradient * shares
    # No product of matrices for the sum, which autocast would take in bfloat16.
    total = (product * scale).sum(-1, keepdim=True)
    of_x = torch.addcmul(gradient * scale, shares, total, value=-1 / shares.shape[-1]).mul_(size)
    return of_x, product


silu_backward = torch.ops.aten.silu_backward.default


class Dense(nn.Module):
    """One layer of the paper, ``[..., inputs] -> [..., outputs]``: Linear, RMSNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = RMSNorm(outputs)

    def forward(self, *x: Tensor) -> Tensor:
        """``[..., inputs]``, or parts of it in their order, to ``[..., outputs]``."""
        return F.silu(self.norm(self.linear(*x)))


class BlockLinear(nn.Module):
    """A linear layer with a block-diagonal matrix, on blocks-first tensors: ``[blocks, N, in] -> [blocks, N, out]``.

    inputs, outputs: total widths over all blocks. fan_in: width that scales the initialisation; the authors' code uses
    the *total* input width (not the width of a block), which is also the default here.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, fan_in: int | None = None) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ShapeError(
                f"BlockLinear expected widths that divide into {blocks} blocks, got {inputs} -> {outputs}. "
                "Choose widths that are multiples of the number of blocks."
            )
        self.blocks = blocks
        self.fan_in = inputs if fan_in is None else fan_in
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))
        init_weight(self.weight, self.fan_in)

    def forward(self, x: Tensor) -> Tensor:
        """``[blocks, N, inputs / blocks]`` to ``[blocks, N, outputs / blocks]``."""
        if is_compiling():  # see Linear
            return torch.bmm(x, self.weight) + self.bias
        return torch.baddbmm(self.bias, x, self.weight)


def tanh(x: Tensor) -> Tensor:
    """tanh x; on a CPU as 2σ(2x) − 1, equal within 3e-7 in float32, which is faster there than torch's own."""
    return torch.rsub((2 * x).sigmoid_(), -1.0, alpha=-2.0) if x.device.type == "cpu" else torch.tanh(x)


def to_blocks(x: Tensor, blocks: int) -> Tensor:
    """``[N, blocks·w] -> [blocks, N, w]``, a view."""
    return x.view(x.shape[0], blocks, -1).transpose(0, 1)


def from_blocks(x: Tensor) -> Tensor:
    """``[blocks, N, w] -> [N, blocks·w]``, a copy."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def plain_weights(
    net: nn.Module, own: Sequence[str], layers: Sequence[str], *inputs: Tensor
) -> tuple[Tensor, ...] | None:
    """A network's own weights and then those of its layers, for who computes with them alone.

    None where that may be something else: layers that are not of this file or have hooks, numbers of different types,
    and where somebody looks into what runs.
    """
    if transformed() or _has_any_global_hook() or torch._C._is_any_autocast_enabled():
        return None
    found = [net._parameters.get(name) for name in own]
    for name in layers:
        layer = net._modules.get(name)
        if layer is None or type(layer) not in (Linear, BlockLinear, RMSNorm):
            return None
        if "forward" in layer.__dict__:  # put in the place of ours
            return None
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            return None
        names = ("scale",) if isinstance(layer, RMSNorm) else ("weight", "bias")
        found += [layer._parameters.get(name) for name in names]
    weights = tuple(w for w in found if w is not None)
    plain = len(weights) == len(found) and all(x.dtype == weights[0].dtype for x in inputs)
    return weights if plain else None
