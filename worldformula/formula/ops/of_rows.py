"""What operators share that compare the values of rows: one number of all rows, of a batch and of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula.plan.plan import Op
from worldformula.formula.syntax.nodes import Node, Operator, Product
from worldformula.formula.syntax.text import text


class OfRows(Operator):
    """A statistic of one or more values of every row. Outside time the rows are those of the batch, and it has no batch
    axes; inside a sum over time they are all steps of all rows, and it is the same number at each of them.

    A subclass is a dataclass with the nodes of the values. ``statistic`` gets each as ``[N, D]``, or with ``by_step``
    as ``[T, B, D]``; ``options`` are its keywords.
    """

    separator = ","
    statistic: ClassVar[Callable[..., Tensor]]
    wish: ClassVar[str]  # its name in emitted code
    by_step: bool = False

    @property
    def values(self) -> tuple[Node, ...]:
        """The nodes of the values."""
        raise NotImplementedError

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """The keywords of the statistic."""
        return ()

    @property
    def parts(self) -> tuple[Product | Node, ...]:
        """The values."""
        return self.values

    @property
    def estimator(self) -> tuple[str, str]:
        """A statistic of the rows."""
        return "a statistic of all rows", "exact"

    def lower(self, lowering: Any, scope: Any) -> Any:
        """The values of all rows, side by side; then one number."""
        found = []
        for node in self.values:
            name = yield node, scope.part(private=True)
            if lowering.plain(name) or lowering.number(name):
                raise FormulaError(f"{text(self)}: {text(node)} is one number, and has no rows to compare")
            if lowering.ops[name].axes:
                raise FormulaError(f"{text(self)}: {text(node)} has several draws for each row; leave out samples=")
            found.append((name, lowering.rank(name)))
        steps = [lowering.is_step(name) for name, _ in found]
        if any(steps) and not all(steps):
            once = text(self.values[steps.index(False)])
            raise FormulaError(f"{text(self)}: {once} is one value for all steps, and the others are of each step")
        names = [name for name, _ in found]
        if any(steps):
            if lowering.flags_of_time is not None or lowering.time.burn_in:
                raise FormulaError(
                    f"{text(self)}: steps that mask=, until= or burn_in= leave out would count among its rows\n"
                    f"write it in a sum over sequences of one length, all of whose steps count"
                )
            names = [lowering.add(f"{n}_series", Op("", "series", (n,), rank=rank)) for n, rank in found]
        options = (
            ("ranks", tuple(rank for _, rank in found)),
            *self.options,
            *((("by_step", True),) if self.by_step else ()),
        )
        value = lowering.call(self.wish, type(self).statistic, *names, how="batch", options=options)
        if not any(steps):
            return value
        return lowering.call(f"{value}_rows", each_row, value, names[0], how="batch")


def each_row(value: Tensor, like: Tensor) -> Tensor:
    """One number, as a view for every row of a series ``[B, T, ...]``: ``[B]``."""
    return value.expand(like.shape[:1])


def of_all_rows(values: tuple[Tensor, ...], ranks: tuple[int, ...], by_step: bool, what: str) -> list[Tensor]:
    """Each value as ``[N, D]``; with ``by_step`` as ``[T, B, D]``, where a batch without time is one step.

    Raises:
        ShapeError: unequal numbers of rows, or one row alone.
    """
    leads = [tuple(x.shape[: x.ndim - rank]) for x, rank in zip(values, ranks, strict=True)]
    if len(set(leads)) > 1:
        shown = table(("value", "rows"), [(i, list(lead)) for i, lead in enumerate(leads, 1)])
        raise ShapeError(
            f"{what}: expected values of the same rows\n{shown}\n"
            f"if one of them has event axes, declare them: shape= on its factor, or Value('e', shape=...)"
        )
    flat = [x.reshape(*lead, -1) for x, lead in zip(values, leads, strict=True)]
    lead = leads[0]
    if by_step:
        flat = [x.movedim(1, 0) if len(lead) == 2 else x.flatten(0, -2)[None] for x in flat]
        count = flat[0].shape[1]
    else:
        flat = [x.flatten(0, -2) if lead else x[None] for x in flat]
        count = len(flat[0])
    if count < 2:
        raise ShapeError(
            f"{what}: rows are compared with each other, and there is one alone; give a batch of two or more"
        )
    return flat


def standardised(x: Tensor, floor: float = 1e-8) -> Tensor:
    """Each column of ``[N, D]`` with mean 0 and (unbiased) standard deviation 1; a constant column is 0."""
    return (x - x.mean(0)) / (x.std(0) + floor)


def as_single(x: Tensor) -> Tensor:
    """At least single precision: sums over rows do not fit into a half."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
