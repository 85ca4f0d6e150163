"""What all rows of a batch share, without batch axes, as each of them sees it; and the way back for networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from worldformula.errors import ShapeError
from worldformula.families.base import Family, Opaque, Unfoldable

__all__ = ["by_row", "rows", "single"]

NO_ROWS = (
    "{} that reads shared variables alone has no parameters that rows could see\n"
    "let its network read something of each row too"
)
Operand = Any  # a tensor, or a family's parameters: a tuple of tensors, numbers and opaque objects


def rows(x: Tensor, lead: int, batch: Sequence[int] = (1,)) -> Tensor:
    """A value that all rows share, seen with batch axes behind its ``lead`` sample axes: a view.

    >>> rows(torch.zeros(8, 3), 1).shape, rows(torch.zeros(8, 3), 1, (5,)).shape
    (torch.Size([8, 1, 3]), torch.Size([8, 5, 3]))
    """
    wider = x.reshape(*x.shape[:lead], *(1,) * len(batch), *x.shape[lead:])
    return wider.expand(*x.shape[:lead], *batch, *x.shape[lead:])


def by_row(
    family: Family, params: Operand, like: Operand, rank: int, lead: int, begin: int, event: int,
    of: Family | None = None,
) -> Operand:  # fmt: skip
    """Parameters that all rows share, behind ``lead`` sample axes, seen with the batch axes of ``like``: those between
    its ``begin`` sample axes and its ``event`` axes; of parameters, of the family ``of`` where that is another.
    """
    if isinstance(like, tuple):
        batch = (of or family).shapes(like, rank)[0][begin:]
    else:
        batch = tuple(like.shape[begin : like.ndim - event])
    tensors = [p for p in params if isinstance(p, Tensor)]
    if any(isinstance(p, Opaque) for p in params):
        raise ShapeError(NO_ROWS.format(f"a {family.name}"))
    sizes = family.shapes(params, rank)[0][:lead] if tensors else ()
    one = tuple(
        p.reshape(*p.shape[:lead], *(1,) * len(batch), *p.shape[lead:]) if isinstance(p, Tensor) else p for p in params
    )
    return family.expand(one, (*sizes, *batch), rank)


def single(head: Any, rank: int = 0) -> Any:
    """What a network returned for a batch of one row, without the batch axis; a parameter that it gives by name may
    have the ``rank`` axes of the event alone.
    """
    if isinstance(head, Tensor):
        return head.squeeze(0)
    if isinstance(head, Mapping):
        return {key: v.squeeze(0) if v.ndim > rank else v for key, v in head.items()}
    if isinstance(head, Unfoldable):
        raise ShapeError(NO_ROWS.format("a flow or a chain"))
    return tuple(map(single, head)) if isinstance(head, tuple | list) else head
