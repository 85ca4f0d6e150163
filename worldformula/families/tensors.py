"""The tensor helpers that families share: sums over event axes, heads, uniform noise, classes.

`worldformula.families.base` hands them on, so a family imports them from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from worldformula.errors import FormulaError, HeadError, ShapeError, table

if TYPE_CHECKING:
    from worldformula.families.base import Family

Parameter: TypeAlias = Tensor | float
Params: TypeAlias = tuple[Parameter, ...]
Shape: TypeAlias = tuple[int, ...]


IMPOSSIBLE = -(2.0**115)
"""log 0 as a number, about −4·10³⁴: its sums over factors, groups and steps stay finite in float32, so that no
difference of two of them is NaN."""


def total(x: Tensor, rank: int) -> Tensor:
    """The sum over the last ``rank`` axes. (``Tensor.sum(())`` would sum them all.)"""
    if rank == 0:
        return x
    return x.sum(-1) if rank == 1 else x.sum(tuple(range(-rank, 0)))


def size(x: Tensor, rank: int) -> int:
    """Number of elements in the last ``rank`` axes."""
    return math.prod(x.shape[x.ndim - rank :])


def is_number(x: Parameter, value: float) -> bool:
    """Whether a setting is this number. What a tensor holds is not looked at, as that would wait for the device."""
    return not isinstance(x, Tensor) and x == value


def above_zero(raw: Tensor) -> Tensor:
    """softplus(raw), greater than 0 where rounding would make it 0: in float32 that is below a raw of -87."""
    return F.softplus(raw).clamp_min(torch.finfo(raw.dtype).tiny)


def affine(x: Tensor, scale: Parameter, shift: Parameter) -> Tensor:
    """``scale · x + shift`` in one operation; in two where either is a tensor."""
    if isinstance(scale, Tensor) or isinstance(shift, Tensor):
        return x * scale + shift
    if shift == 0.0:
        return x if scale == 1.0 else x * scale
    return x + shift if scale == 1.0 else torch.rsub(x, shift, alpha=-scale)


def wide(x: Tensor) -> Tensor:
    """At least float32: log-probabilities of half-precision tensors lose too much, and whole numbers wrap around."""
    if x.is_floating_point():
        return x.float() if x.dtype is torch.float16 or x.dtype is torch.bfloat16 else x
    return x if x.is_complex() else x.to(torch.get_default_dtype())


def floating(value: Tensor, like: Parameter) -> Tensor:
    """A value as `wide` floating point: counts, classes and pixels in the type of the parameter that they meet."""
    if value.is_floating_point():
        return wide(value)
    return value.to(wide(like).dtype if isinstance(like, Tensor) else torch.get_default_dtype())


def finite(logits: Tensor) -> Tensor:
    """`wide`, with infinite logits as finite ones, ±`IMPOSSIBLE`, so that 0·log 0 is 0 in a cross-entropy."""
    return wide(logits).clamp(IMPOSSIBLE, -IMPOSSIBLE)


def widen(params: Params) -> Params:
    """`wide` for a tuple of parameters."""
    return tuple(wide(p) if isinstance(p, Tensor) else p for p in params)


def broadcast(*shapes: Shape) -> Shape:
    """The shape that these have together."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def shape_of(params: Params) -> Shape:
    """The shape that the tensors among the parameters have together; ``()`` where all are floats."""
    shapes = [p.shape for p in params if isinstance(p, Tensor)]
    if all(shape == shapes[0] for shape in shapes[1:]):
        return tuple(shapes[0]) if shapes else ()
    return broadcast(*shapes)


def with_event(params: Params, rank: int) -> Params:
    """Tensors without axes, as a scale that a call gives, seen with the ``rank`` event axes of the others."""
    if not rank or not any(isinstance(p, Tensor) and not p.ndim for p in params):
        return params
    whole = [p.shape[p.ndim - rank :] for p in params if isinstance(p, Tensor) and p.ndim >= rank]
    event = broadcast(*whole) if whole else ()
    return tuple(p.expand(event) if isinstance(p, Tensor) and not p.ndim else p for p in params)


def has_tensor(params: Params) -> bool:
    """Whether any parameter is a tensor; otherwise the distribution is a constant."""
    return any(isinstance(p, Tensor) for p in params)


def is_flat(head: Tensor, lead: Shape, width: int) -> bool:
    """Whether a head ends in ``width`` features for a whole event, and not in ``(*lead, features)``.

    Where all leading event axes are 1 both may fit; then it has them if it has a batch axis in front of them too.
    """
    if not head.ndim or head.shape[-1] != width:
        return False
    if not lead or head.ndim < len(lead) + 2 or math.prod(lead) != 1:
        return True
    return tuple(head.shape[-1 - len(lead) : -1]) != lead


def with_ones(head: Tensor, lead: Shape, batch: int) -> Tensor:
    """A head of ``batch`` batch axes with the leading event axes, all of size 1, that it lacks where it is flat."""
    return head.reshape((*head.shape[:-1], *lead, head.shape[-1])) if head.ndim == batch + 1 else head


def split_head(family: str, head: Tensor, shape: Shape | None, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Split a head along its last axis into equal pieces, one for each name, and give each the event ``shape``."""
    k = len(names)
    if shape is None:
        if head.ndim and head.shape[-1] % k == 0:
            return (head,) if k == 1 else head.chunk(k, -1)
        raise _head_error(family, head, names, None, [f"[..., {k}·n]"])
    if is_flat(head, shape[:-1], k * math.prod(shape)):
        pieces = (head,) if k == 1 else head.chunk(k, -1)
        return pieces if len(shape) == 1 else tuple(p.reshape((*p.shape[:-1], *shape)) for p in pieces)
    structured = (*shape[:-1], k * shape[-1]) if shape else (k,)
    if tuple(head.shape[-len(structured) :]) == structured:
        return (head,) if k == 1 else head.chunk(k, -1)
    expected = [(k * math.prod(shape),)] + ([structured] if len(shape) > 1 else [])
    raise _head_error(family, head, names, shape, [f"[..., {', '.join(map(str, e))}]" for e in expected])


def split_vectors(
    family: str, head: Tensor, shape: Shape | None, names: Sequence[str], widths: Callable[[str, int], int]
) -> tuple[Tensor, ...]:
    """Split a head into pieces of different widths for each vector of an event ``(..., D)``, for joint densities.

    ``widths(name, D)`` is the width of a piece; with N their sum, the head ends in ``(*shape[:-1], N)``, or flat.
    """
    if not shape:
        raise HeadError(f"{family}: the size of a vector is unknown. Declare shape=D, got {shape}.")
    each = [widths(name, shape[-1]) for name in names]
    flat = math.prod(shape[:-1]) * sum(each)
    if is_flat(head, shape[:-1], flat):
        head = head.reshape((*head.shape[:-1], *shape[:-1], sum(each)))
    elif tuple(head.shape[-len(shape) :]) != (*shape[:-1], sum(each)):
        parts = " + ".join(f"{width} ({name})" for name, width in zip(names, each, strict=True))
        raise HeadError(
            f"{family}: the head does not split into {', '.join(names)}, {parts} for each vector.\n"
            + table(("event shape", "expected head", "got head"), [(shape, f"[..., {flat}]", list(head.shape))])
            + f"\nEnd the network in {flat} features, declare another shape=..., or fix a parameter by keyword."
        )
    return head.split_with_sizes(each, -1)


def _head_error(
    family: str, head: Tensor, names: Sequence[str], shape: Shape | None, expected: Sequence[str]
) -> HeadError:
    rows = [("not declared" if shape is None else shape, " or ".join(expected), list(head.shape))]
    advice = "Change the network" if shape is None else f"End the network in {len(names) * math.prod(shape)} features"
    return HeadError(
        f"{family}: the head does not split into {', '.join(names)}.\n"
        + table(("event shape", "expected head", "got head"), rows)
        + f"\n{advice}, declare another shape=..., or fix a parameter by keyword."
    )


def uniform(
    shape: Shape, dtype: torch.dtype | None, device: torch.device | str | None, generator: torch.Generator | None
) -> Tensor:
    """Uniform noise in [0, 1), in float32 at least: the grid of half precision is too coarse to compare with."""
    dtype = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    return torch.rand(shape, dtype=dtype, device=device, generator=generator)


# --------------------------------------------------------------------------------------------- classes


VECTOR = 8
"""Numbers of float32 that a CPU computes with at once. Torch's softmax takes shorter rows one number at a time."""


def softmax(logits: Tensor) -> Tensor:
    """Shares over the last axis; of few classes in many rows computed side by side, which takes a tenth of the time."""
    classes = logits.shape[-1]
    if classes >= VECTOR or logits.numel() < VECTOR**3 or logits.device.type != "cpu" or is_compiling():
        return logits.softmax(-1)
    return logits.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1).contiguous()


def log_mix(logits: Tensor, unimix: Parameter) -> Tensor:
    """Normalised log-probabilities of ``(1 - unimix)·softmax(logits) + unimix/K``, over the last axis, all finite.

    A class that is masked by a logit of -inf gets `IMPOSSIBLE`, so that 0·log 0 stays 0 in the sums.
    """
    logits = wide(logits)
    if isinstance(unimix, Tensor):  # which may be 0, and is not looked at
        shares, tiny = (
            affine(softmax(logits), 1.0 - unimix, unimix / logits.shape[-1]),
            torch.finfo(logits.dtype).tiny,
        )
        return torch.where(shares > tiny, shares.clamp_min(tiny).log(), log_mix(logits, 0.0))
    if unimix == 0.0:
        return logits.log_softmax(-1).clamp_min(IMPOSSIBLE)
    return affine(softmax(logits), 1.0 - unimix, unimix / logits.shape[-1]).log()


def log_probs(probs: Tensor) -> Tensor:
    """Logits of given probabilities; that of 0 is `IMPOSSIBLE`, without a gradient."""
    probs = wide(probs)
    return torch.where(probs <= 0.0, IMPOSSIBLE, probs.clamp_min(torch.finfo(probs.dtype).tiny).log())


def divergence(total: Tensor) -> Tensor:
    """A divergence that was summed: ∞, without a gradient, where `IMPOSSIBLE` stands in it, as of what q has and p has
    not.
    """
    return total.masked_fill(total > math.sqrt(-IMPOSSIBLE), math.inf)


def mixes(unimix: Parameter) -> bool:
    """Whether this much of the uniform distribution is known to be some: what a tensor holds is not looked at."""
    return not isinstance(unimix, Tensor) and unimix > 0.0


def draw_class(probs: Tensor, noise: Tensor) -> Tensor:
    """Class indices (int64) by inverting the cumulative distribution over the last axis at uniform ``noise``.

    ``noise`` lacks the class axis and may have further leading axes. A class of probability 0 is never drawn: the
    noise is kept just below the rounded total.
    """
    cumulative = probs.cumsum(-1)
    ceiling = cumulative[..., -1] * (1.0 - 4.0 * torch.finfo(probs.dtype).eps)
    return (cumulative[..., :-1] <= (noise * ceiling).unsqueeze(-1)).sum(-1)


def patterns(count: int, entries: int) -> Tensor:
    """All ways to give each of so many entries one of ``count`` numbers, int64 ``[count ** entries, entries]``."""
    return torch.arange(count**entries)[:, None] // count ** torch.arange(entries) % count


def with_axes(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """A view with a further axis at every place whose size is not 0."""
    for place, size in enumerate(sizes):
        if size:
            x = x.unsqueeze(place)
            x = x.expand(*x.shape[:place], size, *x.shape[place + 1 :])
    return x


# --------------------------------------------------------------------------------------------- what families check


def require_same(family: Family, what: str, got: Sequence[int], declared: Sequence[int]) -> None:
    """Raise `ShapeError` unless the two shapes, ``what`` got and what the parameters declare, are equal."""
    if tuple(got) != tuple(declared):
        raise ShapeError(
            f"{family.name}: {what} and the parameters have different shapes, and nothing is broadcast silently.\n"
            + table(("variable", "declared", "got"), [(what, list(declared), list(got))])
            + "\nGive both the same batch axes and the same event shape."
        )


def require_event(family: Family, shape: Shape | None) -> Shape:
    """The event shape, which closed forms of constant parameters cannot do without."""
    if shape is None:
        raise FormulaError(
            f"{family.name}: all parameters are numbers, so the event shape is unknown here. Declare shape=..."
        )
    return shape
