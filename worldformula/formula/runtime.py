"""The few functions that emitted code calls besides PyTorch and the families. All are shape arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import ShapeError, table
from worldformula.families.base import Family, Opaque

Value = Any  # a tensor, or a family's parameters: a tuple of tensors, numbers and opaque objects
RUNTIME = (
    "flat", "steps", "stack", "kept", "shift", "restart", "repeat", "wide", "stop", "noise_for", "mode_like",
    "one_batch", "matched",
)  # fmt: skip


def flat(x: Tensor) -> Tensor:
    """[B, T, ...] -> [B·T, ...]: the batch that networks outside the loop see."""
    return x.flatten(0, 1)


def steps(x: Value, B: int) -> Sequence[Value]:
    """[B·T, ...] -> T values [B, ...] (views)."""
    if isinstance(x, tuple):
        parts = [steps(p, B) if isinstance(p, Tensor) else p.steps(B) if isinstance(p, Opaque) else None for p in x]
        T = next(len(part) for part in parts if part is not None)
        return [tuple(p if part is None else part[t] for p, part in zip(x, parts, strict=True)) for t in range(T)]
    return x.view(B, -1, *x.shape[1:]).unbind(1) if x.is_contiguous() else torch.unflatten(x, 0, (B, -1)).unbind(1)


def stack(values: Sequence[Value]) -> Value:
    """T values [B, ...] of the loop -> [B·T, ...]."""
    if isinstance(values[0], tuple):
        return tuple(stack(v) for v in zip(*values, strict=True))
    if isinstance(values[0], Opaque):
        return values[0].stack(values)
    if not isinstance(values[0], Tensor):
        return values[0]
    return torch.stack(tuple(values), 1).flatten(0, 1)


def kept(flags: Tensor) -> Tensor:
    """Reset flags [B, T] -> true where the carry goes on, false where the sequence restarts."""
    return flags == 0


def restart(carry: Tensor, keep: Tensor, initial: Tensor | None = None) -> Tensor:
    """The carry where ``keep`` is true; zeros, or the initial state, elsewhere. Chosen, as NaN times zero stays NaN."""
    keep = keep.reshape(keep.shape + (1,) * (carry.ndim - keep.ndim))
    return torch.where(keep, carry, 0).to(carry.dtype) if initial is None else torch.where(keep, carry, initial)


def shift(x: Tensor, start: Tensor, keep: Tensor | None) -> Tensor:
    """x_{t-1} as [B·T, ...]: the series [B, T, ...] one step later, ``start`` first, zero where it restarts."""
    late = torch.cat((start.unsqueeze(1).to(x.dtype), x[:, :-1]), 1)
    return flat(late if keep is None else restart(late, keep))


def repeat(x: Value, T: int) -> Value:
    """[B, ...] -> [B·T, ...]: a value that all steps share."""
    if isinstance(x, tuple):
        return tuple(repeat(p, T) if isinstance(p, Tensor) else p.repeat(T) if isinstance(p, Opaque) else p for p in x)
    return x.unsqueeze(1).expand(-1, T, *x.shape[1:]).flatten(0, 1)


def wide(family: Family, params: Value, like: Value, rank: int) -> Value:
    """Parameters without batch axes, seen with the batch axes of ``like`` (a value, or the family's parameters)."""
    batch = family.shapes(like, rank)[0] if isinstance(like, tuple) else tuple(like.shape[: like.ndim - rank])
    return family.expand(params, batch, rank)


def stop(value: Value) -> Value:
    """Parameters, or a computed value, without gradient: sg(q)."""
    if isinstance(value, tuple):
        return tuple(p.detach() if isinstance(p, Tensor | Opaque) else p for p in value)
    return value.detach()


def noise_for(family: Family, params: Value, rank: int, noise: Tensor | None, rng: torch.Generator | None) -> Tensor:
    """The given noise, or fresh noise in the shape of the parameters (for a variable whose shape is not declared)."""
    like = next((p for p in params if isinstance(p, Tensor)), torch.empty(0))
    shape = family.noise_shape(*family.shapes(params, rank))
    if noise is not None:
        if noise.shape != shape:
            raise ShapeError(f"noise: expected {list(shape)}, got {list(noise.shape)}")
        return noise
    return family.noise(shape, dtype=like.dtype, device=like.device, generator=rng)


def mode_like(family: Family, params: Value, noise: Tensor) -> Tensor:
    """The mode of parameters without batch axes, with those of the noise that a sample would take."""
    mode = family.mode(params)
    if not isinstance(mode, Tensor):
        extra = len(family.noise_shape((), ()))  # axes that the noise has beyond the value
        return noise.new_full(noise.shape[: noise.ndim - extra], mode)
    event = tuple(mode.shape)
    return mode.expand(*noise.shape[: noise.ndim - len(family.noise_shape((), event))], *event)


def one_batch(*values: Tensor) -> None:
    """Nothing broadcasts silently: these terms are combined elementwise, so they have one batch shape."""
    if len(values) == 2 and values[0].shape == values[1].shape:  # the usual case costs next to nothing
        return
    shape = None
    for value in values:
        if value.ndim:
            if shape is not None and value.shape != shape:
                raise ShapeError(batch_table([(f"term {i}", v.shape) for i, v in enumerate(values, 1)]))
            shape = value.shape


def matched(value: Tensor, loc: Tensor) -> Tensor:
    """The value itself, once it has the shape of its distribution: nothing broadcasts silently."""
    if value.shape != loc.shape:
        raise ShapeError(batch_table([("value", value.shape), ("distribution", loc.shape)]))
    return value


def batch_table(terms: Sequence[tuple[str, Sequence[int]]]) -> str:
    """The message about terms whose batch shapes differ."""
    return (
        "the terms have different batch shapes, and combining them would broadcast one into another\n"
        + table(("variable", "declared", "got"), [(name, "one batch shape", list(shape)) for name, shape in terms])
        + "\ngive every input the same batch axes, and declare event shapes (shape=), so that log sums the right axes"
    )
