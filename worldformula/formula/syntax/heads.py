"""What the network of a factor makes in a direct call: its failures named, heads of two readings told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from worldformula.errors import FormulaError, HeadError, ShapeError, table
from worldformula.families.tensors import with_ones
from worldformula.formula.syntax.kinds import of_other_kind


def network_failed(factor: Any, conditions: Sequence[Any], error: Exception) -> FormulaError:
    """The error that names the factor, with what its network was given."""
    if (other := of_other_kind(factor, conditions, error)) is not None:
        return other
    got = [str(list(c.shape)) if isinstance(c, Tensor) else repr(c) for c in conditions]
    rows = list(zip(map(str, factor.conditions), got, strict=False))
    return ShapeError(
        f"{factor}: its network failed: {error}\n{table(('variable', 'got'), rows)}\nmake it take these shapes"
    )


def one_reading(factor: Any, head: Any, conditions: Sequence[Any], batch: int | None) -> Any:
    """A head that may be flat or have the leading event axes, all of size 1, told apart by the batch axes."""
    assert factor.family is not None
    lead = factor.family.leading(factor.shape) if factor.shape else ()
    if not lead or not isinstance(head, Tensor) or not conditions or any(size != 1 for size in lead):
        return head
    if batch is not None:
        return with_ones(head, lead, batch)
    before = head.shape[:-1]
    inputs = [c for c in conditions if isinstance(c, Tensor)]
    if (
        head.ndim > len(lead) + 1
        and before[-len(lead) :] == lead
        and all(c.shape[: len(before)] == before for c in inputs)
    ):
        rows = [("head", f"[..., {', '.join(map(str, (*lead, 'n')))}] or [..., n]", list(head.shape))]
        raise HeadError(
            f"{factor}: the axes of size 1 in front of the last may be of the batch or of the event {factor.shape}\n"
            + table(("variable", "expected", "got"), rows + [("condition", "-", list(c.shape)) for c in inputs])
            + "\ngive the conditions one batch axis and end the network flat, or drop the axes of size 1 in shape="
        )
    return head
