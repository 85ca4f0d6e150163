"""Series [B, T, ...] in emitted code: joined to one batch [B·T, ...], step by step, from carry to carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from worldformula.families.base import Opaque
from worldformula.families.objects import Wrapper
from worldformula.families.opaque import ByName, Stacked
from worldformula.gradients import transformed

Operand = Any  # a tensor, or a family's parameters: a tuple of tensors, numbers and opaque objects
FEW = 32
"""Numbers that Python looks through in less time than one operation on a tensor takes."""
ALIGNED = 64
"""Bytes at a multiple of which torch's tensors begin in a processor's memory."""


class Now:
    """A series [B, 1, ...] of one step as the value [B, ...] of this step: nothing has to be cut or joined. As flags of
    `kept`, true where all carries go on.
    """

    __slots__ = ("shape", "value")

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape = value, shape

    def unbind(self, _: int) -> tuple[Any]:
        """Step by step."""
        return (self.value,)


def flat(x: Tensor | Now, lead: int = 0) -> Tensor:
    """[B, T, ...] -> [B·T, ...]: the batch that networks outside the loop see; ``lead`` sample axes come before."""
    found: Tensor = x.value if isinstance(x, Now) else x.flatten(lead, lead + 1)
    return found


def steps(x: Operand, B: int, lead: int = 0) -> Sequence[Operand]:
    """[B·T, ...] -> T values [B, ...] (views); ``lead`` sample axes come before."""
    if isinstance(x, tuple):
        parts = [
            steps(p, B, lead) if isinstance(p, Tensor) else p.steps(B, lead) if isinstance(p, Opaque) else None
            for p in x
        ]
        T = next(len(part) for part in parts if part is not None)
        return [tuple(p if part is None else part[t] for p, part in zip(x, parts, strict=True)) for t in range(T)]
    if x.shape[lead] == B:  # one step, as an agent takes: nothing to cut
        return (x,)
    plain = lead == 0 and x.is_contiguous()
    return x.view(B, -1, *x.shape[1:]).unbind(1) if plain else torch.unflatten(x, lead, (B, -1)).unbind(lead + 1)


def stack(values: Sequence[Operand], lead: int = 0) -> Operand:
    """T values [B, ...] of the loop -> [B·T, ...]; ``lead`` sample axes come before."""
    if isinstance(values[0], Tensor):
        return values[0] if len(values) == 1 else torch.stack(tuple(values), lead + 1).flatten(lead, lead + 1)
    if isinstance(values[0], tuple):
        return tuple(stack(v, lead) for v in zip(*values, strict=True))
    if isinstance(values[0], Opaque):
        return values[0].stack(values, lead)
    if isinstance(values[0], Mapping | ByName):
        return Stacked(values, lead)
    if isinstance(values[0], Distribution):
        return Wrapper(values[0]).stack([Wrapper(v) for v in values], lead)
    return values[0]


def kept(flags: Tensor | Now) -> Any:
    """Reset flags [B, T] -> true where the carry goes on, false where the sequence restarts."""
    if not isinstance(flags, Now):
        return flags.logical_not()
    now = flags.value
    seen = now.device.type == "cpu" and not transformed()
    whole = seen and not (any(now.tolist()) if now.shape[0] < FEW else bool(now.any()))
    return Now(True if whole else now.logical_not())


def steps_kept(keep: Tensor | Now) -> Sequence[Tensor | bool | None]:
    """Flags [B, T] of `kept`, step by step; None where all carries go on, where that is seen without waiting for it.

    True at the first step: its carry is given, and may lie anywhere in memory, which decides how products are rounded;
    a copy of it lies where all tensors do.
    """
    if isinstance(keep, Now) or keep.device.type != "cpu" or transformed():
        return keep.unbind(1)
    if keep.shape[1] == 1:
        return (True,) if bool(keep.all()) else keep.unbind(1)
    wholes = keep.all(0).tolist()
    first, *steps = zip(keep.unbind(1), wholes, strict=True)
    return [True if first[1] else first[0], *(None if whole else step for step, whole in steps)]


def restart(carry: Tensor, keep: Tensor | bool | None, initial: Tensor | None = None, lead: int = 0) -> Tensor:
    """The carry where ``keep`` is true; zeros, or the initial state, elsewhere. Chosen, as NaN times zero stays NaN.

    ``lead`` sample axes come before the batch.
    """
    if keep is None:
        return carry
    if keep is True:
        whole = torch.is_inference_mode_enabled() and carry.is_contiguous() and not carry.data_ptr() % ALIGNED
        return carry if whole else carry.clone()
    assert isinstance(keep, Tensor)
    keep = keep.reshape(keep.shape + (1,) * (carry.ndim - keep.ndim - lead))
    if initial is not None:
        return torch.where(keep, carry, initial)
    found = torch.where(keep, carry, 0)
    return found if found.dtype == carry.dtype else found.to(carry.dtype)


class Shifted:
    """A series [B, T, ...] that is given as its steps read it, x_{t-1}, the start first."""

    __slots__ = ("late", "shape")

    def __init__(self, late: Tensor) -> None:
        self.late, self.shape = late, late.shape


def shift(
    x: Tensor | Shifted | Now, start: Tensor, keep: Tensor | Now | None, initial: Tensor | None = None, lead: int = 0
) -> Tensor:
    """x_{t-1} as [B·T, ...]: the series [B, T, ...] one step later, ``start`` first; zero, or the initial value, where
    it restarts; ``lead`` sample axes come before.
    """
    if isinstance(x, Shifted):
        return flat(x.late)
    if isinstance(x, Now) or isinstance(keep, Now):  # one step, which reads the start
        own = x.value if isinstance(x, Now) else x
        return restart(start.to(own.dtype), keep.value if isinstance(keep, Now) else keep, initial, lead)
    late = start.unsqueeze(lead + 1).to(x.dtype)
    if x.shape[lead + 1] > 1:
        late = torch.cat((late, x.narrow(lead + 1, 0, x.shape[lead + 1] - 1)), lead + 1)
    return flat(late if keep is None else restart(late, keep, initial, lead), lead)
