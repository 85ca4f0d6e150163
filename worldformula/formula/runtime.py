"""The few functions that emitted code calls besides PyTorch and the families. All are shape arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributions import Distribution

from worldformula.errors import ShapeError, table
from worldformula.families import rows as of_shared
from worldformula.families import tensors
from worldformula.families.base import Family, Opaque, Unfoldable
from worldformula.families.objects import Wrapper
from worldformula.families.opaque import Folded
from worldformula.families.tensors import floating, with_axes
from worldformula.formula import series, sums

Operand = Any  # a tensor, or a family's parameters: a tuple of tensors, numbers and opaque objects
RUNTIME = (
    "flat", "steps", "stack", "kept", "shift", "restart", "repeat", "wide", "stop", "noise_for", "mode_like",
    "one_batch", "matched", "along", "fold", "unfold", "counted", "filled", "zeros", "support", "dreg",
    "alive", "both", "padded", "behind", "as_floats", "widened", "finite", "advance", "counting", "above_zero",
    "at_every_step", "of_number", "bounded", "as_value", "steps_kept", "rows", "by_row", "single", "expected",
    "log_expected", "logsumexp", "logmeanexp", "logaddexp", "log_weighted_sum", "possible",
)  # fmt: skip
widened, finite = tensors.wide, tensors.finite  # the precision of densities, and finite logits
rows, by_row, single = of_shared.rows, of_shared.by_row, of_shared.single  # what all rows share, seen by each
above_zero = tensors.above_zero  # of what moves in the place of a learnt scale
flat, steps, stack, kept, steps_kept = series.flat, series.steps, series.stack, series.kept, series.steps_kept
restart, shift = series.restart, series.shift  # what time does with a series
expected, log_expected = sums.expected, sums.log_expected  # sums over values and draws
logsumexp, logmeanexp, logaddexp, log_weighted_sum = (
    sums.logsumexp,
    sums.logmeanexp,
    sums.logaddexp,
    sums.log_weighted_sum,
)
possible = sums.possible  # numbers where they have a probability


def as_floats(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers and flags as numbers to compute with, which neither wrap around nor are true or false."""
    return x if x.is_floating_point() or x.is_complex() else x.to(dtype)


def counting(start: Tensor, T: int, keep: Tensor | None = None) -> Tensor:
    """The numbers of T steps behind the one of ``start`` [B], as [B·T]; where a sequence restarts, it is 1 again."""
    place = torch.arange(1, T + 1, dtype=start.dtype, device=start.device)
    if keep is None:
        return flat(start.unsqueeze(1) + place)
    begun = torch.where(keep, 0, place).cummax(1).values  # the step at which the sequence last restarted
    return flat(torch.where(begun == 0, start.unsqueeze(1) + place, place - begun + 1))


def repeat(x: Operand, T: int, lead: int = 0) -> Operand:
    """[B, ...] -> [B·T, ...]: a value that all steps share; ``lead`` sample axes come before."""
    if isinstance(x, tuple):
        return tuple(
            repeat(p, T, lead) if isinstance(p, Tensor) else p.repeat(T, lead) if isinstance(p, Opaque) else p
            for p in x
        )
    head, rest = x.shape[: lead + 1], x.shape[lead + 1 :]
    return x.unsqueeze(lead + 1).expand(*head, T, *rest).flatten(lead, lead + 1)


def along(x: Operand, *sizes: int) -> Operand:
    """A view with further sample axes in front: one size per axis, 0 for an axis that the value has already.

    >>> along(torch.zeros(3, 2), 50).shape, along(torch.zeros(4, 3), 0, 5).shape
    (torch.Size([50, 3, 2]), torch.Size([4, 5, 3]))
    """
    if isinstance(x, tuple):
        return tuple(
            along(p, *sizes) if isinstance(p, Tensor) else p.along(*sizes) if isinstance(p, Opaque) else p for p in x
        )
    return with_axes(x, sizes)


def fold(x: Operand, axes: int) -> Operand:
    """[K, B, ...] -> [K·B, ...]: the batch that networks see, whatever the samples."""
    return x.flatten(0, axes) if isinstance(x, Tensor) else x


def unfold(head: Any, *sizes: int, ones: int = 0) -> Any:
    """[K·B, ...] -> [K, B, ...], also where a network returns a dict, a tuple, a distribution or a flow.

    ``ones``: the leading event axes of size 1 that a flat head lacks, as a batch of one row would be taken for them.
    """
    if isinstance(head, Tensor):
        return torch.unflatten(tensors.with_ones(head, (1,) * ones, 1) if ones else head, 0, sizes)
    if isinstance(head, Unfoldable):
        return head.unfold(*sizes)
    if isinstance(head, Distribution):
        return Wrapper(head).unfold(*sizes).distribution
    if isinstance(head, Mapping):
        return Folded(head, sizes)
    return tuple(unfold(value, *sizes) for value in head)


def counted(
    x: Tensor, B: int, T: int, how: str, *, burn_in: int = 0, mask: Tensor | None = None, until: Tensor | None = None
) -> Tensor:
    """The sum or mean over the steps that count: behind the burn-in, each with the weight that its ``mask`` [B, T] has,
    and none behind the first step whose ``until`` is set.
    """
    x = torch.unflatten(x, -1, (B, T))[..., burn_in:]
    if mask is None and until is None:
        return x.sum(-1) if how == "sum" else x.mean(-1)
    weight = torch.ones((B, T), dtype=x.dtype, device=x.device) if mask is None else mask.to(x.dtype)
    if until is not None:
        weight = torch.where(alive(until), weight, 0.0)
    weight = weight[:, burn_in:]
    total = torch.where(weight != 0, x * weight, 0.0).sum(-1)  # chosen, as NaN times zero stays NaN
    if how == "sum":
        return total
    counts = weight.sum(-1)
    return total / torch.where(counts == 0, 1.0, counts)


def alive(until: Tensor) -> Tensor:
    """Flags [B, T] of the steps that end a sequence -> true up to and including the first of them."""
    ended = (until != 0).cumsum(1)
    return ended - (until != 0).to(ended.dtype) == 0


def both(first: Tensor, second: Tensor) -> Tensor:
    """Whether both flags are set."""
    return (first != 0) & (second != 0)


def at_every_step(flags: Tensor, value: Tensor | float) -> Tensor:
    """A number as a series: [B, T] like the flags of its steps."""
    found = torch.as_tensor(value, device=flags.device)
    return found.expand(flags.shape)


def of_number(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A function of a number is a number, found in double precision, whatever the data are; that of a tensor, as a
    number of the call may be, is a tensor.
    """
    if isinstance(value, Tensor):
        return function(value)
    found = function(torch.tensor(value, dtype=torch.float64))
    return found if is_compiling() else found.item()  # traced, an item would break the graph


def as_value(result: Any) -> Any:
    """What a formula is: a number as a tensor of double precision."""
    return torch.tensor(result, dtype=torch.float64) if isinstance(result, int | float) else result


def bounded(value: Any, low: Any = None, high: Any = None) -> Any:
    """A value within bounds, each of them a number or a tensor."""
    for bound, side, choose in ((low, "min", max), (high, "max", min)):
        if bound is None:
            continue
        if isinstance(value, Tensor):
            value = value.clamp(**{side: bound})
        elif isinstance(bound, Tensor):
            value = bound.clamp(**{side: value})
        else:
            value = choose(value, bound)
    return value


def behind(x: Tensor, burn_in: int) -> Tensor:
    """Flags [B, T] of the steps of a series [B, T, ...] behind the burn-in."""
    return (torch.arange(x.shape[1], device=x.device) >= burn_in).expand(x.shape[:2])


def filled(x: Tensor, present: Tensor, rank: int | None = None, value: float = 0.0) -> Tensor:
    """``value`` where a row is absent: chosen, so that no NaN and no gradient passes.

    The flags are those of the first axes of data; of what has sample axes in front, ``rank`` says the event axes.
    """
    keep = (present != 0).reshape(present.shape + (1,) * (x.ndim - present.ndim if rank is None else rank))
    return torch.where(keep, x, torch.full((), value, dtype=x.dtype, device=x.device))


def padded(x: Tensor, counts: Tensor) -> Tensor:
    """Zero where a step does not count and holds no finite number; what it holds otherwise is carried on."""
    keep = (counts != 0).reshape(counts.shape + (1,) * (x.ndim - counts.ndim))
    return x if not x.is_floating_point() else torch.where(keep | x.isfinite(), x, torch.zeros_like(x))


def advance(net: Any, cache: Any, keep: Tensor | bool | None, B: int, *x: Tensor) -> tuple[Any, Tensor]:
    """The next positions of a network over a past, ``[B·n, ...]``: its new cache, and what it returns at them."""
    reset = ~keep.reshape(B, -1) if isinstance(keep, Tensor) else None
    cache, y = net.step(cache, *(torch.unflatten(v, 0, (B, -1)) for v in x), reset=reset)
    return cache, y.flatten(0, 1)


def zeros(like: Tensor, rank: int, *shape: int) -> Tensor:
    """The value before the first iteration: zeros of an event shape, with the batch axes of ``like``."""
    return like.new_zeros((*like.shape[: like.ndim - rank], *shape))


def support(family: Family, rank: int, shape: tuple[int, ...], params: Operand, noise: Tensor | None = None) -> Tensor:
    """Every value of a discrete variable on a leading axis, with the batch axes of its parameters or of ``noise``."""
    like = noise if noise is not None else next(p for p in params if isinstance(p, Tensor))
    event = 0 if noise is None else len(family.noise_shape((), shape))
    batch = family.shapes(params, rank)[0] if noise is None else tuple(like.shape[: like.ndim - event])
    values = family.support(shape).to(like.device)
    values = values.to(like.dtype) if values.is_floating_point() else values
    return values.reshape(-1, *(1,) * len(batch), *shape).expand(-1, *batch, *shape)


def dreg(log_weights: Tensor, axis: int, *draws: Tensor) -> Tensor:
    """log-mean-exp over the samples with the doubly reparametrised gradient (Tucker et al. 2019, arXiv:1810.04152).

    The densities of q inside the weights hold its parameters fixed; what flows back through a draw is weighted by its
    normalised weight once more (eq. 8).
    """
    bound = logmeanexp(log_weights, axis)
    share = log_weights.detach() - (bound.detach() + math.log(log_weights.shape[axis])).unsqueeze(axis)
    weights = torch.where(bound.isinf().unsqueeze(axis), 0.0, share.exp())
    for draw in draws:
        if draw.requires_grad:
            own = weights.reshape(weights.shape + (1,) * (draw.ndim - weights.ndim))
            draw.register_hook(own.mul)  # type: ignore[no-untyped-call]
    return bound


def wide(family: Family, params: Operand, like: Operand, rank: int, of: Family | None = None) -> Operand:
    """Parameters without batch axes, seen with the batch axes of ``like``: a value, or parameters, of the family ``of``
    where that is another.
    """
    whose = family if of is None else of
    batch = whose.shapes(like, rank)[0] if isinstance(like, tuple) else tuple(like.shape[: like.ndim - rank])
    return family.expand(params, batch, rank)


def stop(value: Operand) -> Operand:
    """Parameters, or a computed value, without gradient: sg(q). A number that a call is given has none."""
    if isinstance(value, tuple):
        return tuple(p.detach() if isinstance(p, Tensor | Opaque) else p for p in value)
    return value if isinstance(value, int | float) else value.detach()


def noise_for(
    family: Family, params: Operand, rank: int, noise: Tensor | None, rng: torch.Generator | None, *lead: int
) -> Tensor:
    """The given noise, or fresh noise in the shape of the parameters (for a variable whose shape is not declared).

    ``lead`` are the sizes of sample axes that the parameters do not have.
    """
    like = next((p for p in params if isinstance(p, Tensor)), torch.empty(0))
    batch, event = family.shapes(params, rank)
    shape = family.noise_shape((*lead, *batch), event)
    if noise is not None:
        if noise.shape != shape:
            raise ShapeError(f"noise: expected {list(shape)}, got {list(noise.shape)}")
        return noise
    return family.noise(shape, dtype=like.dtype, device=like.device, generator=rng)


def mode_like(family: Family, params: Operand, noise: Tensor) -> Tensor:
    """The mode of parameters without batch axes, with those of the noise that a sample would take."""
    mode = family.mode(params)
    if not isinstance(mode, Tensor):
        extra = len(family.noise_shape((), ()))  # axes that the noise has beyond the value
        return noise.new_full(noise.shape[: noise.ndim - extra], mode)
    event = tuple(mode.shape)
    return mode.expand((*noise.shape[: noise.ndim - len(family.noise_shape((), event))], *event))


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
    """The value as `floating`, once it has the shape of its distribution: nothing broadcasts silently."""
    if value.shape != loc.shape:
        raise ShapeError(batch_table([("value", value.shape), ("distribution", loc.shape)]))
    return floating(value, loc)


def batch_table(terms: Sequence[tuple[str, Sequence[int]]]) -> str:
    """The message about terms whose batch shapes differ."""
    return (
        "the terms have different batch shapes, and combining them would broadcast one into another\n"
        + table(("variable", "declared", "got"), [(name, "one batch shape", list(shape)) for name, shape in terms])
        + "\ngive every input the same batch axes, and declare event shapes (shape=), so that log sums the right axes"
    )
