"""What operators share that compare the values of rows: one number of all rows, of a batch and of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula.expressions.expression import Expression, as_node
from worldformula.formula.plan.plan import Op
from worldformula.formula.syntax.nodes import Binary, Node, Number, Operator, Product, Value, walk
from worldformula.formula.syntax.text import text


class OfRows(Operator):
    """A statistic of one or more values of every row. Outside time the rows are those of the batch, and it has no batch
    axes; inside a sum over time they are all steps of all rows that the sum counts, and it is the same number at each.

    A subclass is a dataclass with the nodes of the values. ``statistic`` gets a `Rows`; ``options`` are its keywords.
    What ``extra`` draws stands between the values and the flags.
    ``where`` are numbers of the rows that say which count, 1 or 0. With ``by_step`` the rows of a step are compared
    among themselves, and the number is the mean over the steps.
    """

    separator = ","
    statistic: ClassVar[Callable[..., Tensor]]
    wish: ClassVar[str]  # its name in emitted code
    flags_rank: ClassVar[int] = 0  # event axes of ``where``
    by_step: bool = False
    where: Node | None = None

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
        """The values, and behind them which rows count."""
        return (*self.values, *([] if self.where is None else [self.where]))

    @property
    def marks(self) -> tuple[str, ...]:
        """What its sign says of the rows: those of all steps, of each step apart, or some of them."""
        indices = {n.variable.index for node in self.values for n in walk(node) if isinstance(n, Value)} - {None}
        steps = ["step"] if self.by_step else [f"1:{str(index).upper()}" for index in sorted(map(str, indices))]
        return (*steps, *([] if self.where is None else ["where"]))

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
        for use in self.extra:
            (drawn,) = lowering.value_of(use, scope.part(private=True))
            found.append((drawn, lowering.rank(drawn)))
        if self.where is not None:
            lowering.counting |= flags_in(self.where)
            found.append(((yield self.where, scope.part(private=True)), self.flags_rank))
        ranks = tuple(rank for _, rank in found[: len(steps)])
        if any(steps):
            if lowering.burn_in:
                raise FormulaError(
                    f"{text(self)}: inside a sum with burn_in=, whose first steps would count among its rows\n"
                    f"give the sum mask=, flags that are 0 there"
                )
            if lowering.flags_of_time is not None:
                found.append((lowering.flags_of_time, 0))
            found = [(self._series(lowering, name, rank), rank) for name, rank in found]
        options = (("ranks", ranks), *self.options, *((("by_step", True),) if self.by_step else ()))
        names = [name for name, _ in found]
        value = lowering.call(self.wish, type(self).statistic, *names, how="batch", options=options)
        if not any(steps):
            return value
        return lowering.call(f"{value}_rows", each_row, value, names[0], how="batch")

    def _series(self, lowering: Any, name: Any, rank: int) -> str:
        """A value of a step, at all of them."""
        if not lowering.is_step(name):
            raise FormulaError(f"{text(self)}: which rows count has to be said of each step")
        return str(lowering.add(f"{name}_series", Op("", "series", (name,), rank=rank)))


def subscript(*marks: str) -> tuple[str, str]:
    """Marks below a sign, in LaTeX and in MathML: words upright, numbers as they are."""
    kept = [mark for mark in marks if mark]
    latex = r",\, ".join(_upright(m) for m in kept)
    return latex, "".join(f"<mi>{m}</mi>" if m[:1].isalpha() else f"<mn>{m}</mn>" for m in kept)


def _upright(mark: str) -> str:
    """A word, or what stands before the sign of ``knots=5``, upright; all else as it is."""
    word, sign, rest = mark.partition("=")
    return rf"\mathrm{{{word}}}{sign}{rest}" if word.isalpha() else mark


def each_row(value: Tensor, like: Tensor) -> Tensor:
    """One number, as a view for every row of a series ``[B, T, ...]``: ``[B]``."""
    return value.expand(like.shape[:1])


class Rows:
    """Values of the same rows: each ``[..., N, D]``, where leading axes are steps that are compared apart.

    weight: 1 of a row that counts, 0 of another, ``[..., N]``; None where all count. What a row that does not count
    holds is 0, NaN included.
    """

    def __init__(
        self,
        what: str,
        given: tuple[Tensor, ...],
        ranks: tuple[int, ...],
        *,
        by_step: bool = False,
        alike: bool = False,
    ) -> None:
        leads = [tuple(x.shape[: x.ndim - rank]) for x, rank in zip(given, (*ranks, *[0] * len(given)), strict=False)]
        if len(set(leads)) > 1:
            shown = table(("value", "rows"), [(i, list(lead)) for i, lead in enumerate(leads, 1)])
            raise ShapeError(
                f"{what}: expected values of the same rows\n{shown}\n"
                f"if one of them has event axes, declare them: shape= on its factor, or Value('e', shape=...)"
            )
        lead = leads[0]
        apart = by_step and len(lead) == 2
        flat = [as_single(x.reshape(*lead, -1)) for x in given]
        flat = [x.movedim(1, 0) if apart else x.reshape(-1, x.shape[-1]) for x in flat]
        if flat[0].shape[-2] < 2:
            raise ShapeError(f"{what}: rows are compared with each other, and there is one alone; give two or more")
        self.values, flags = flat[: len(ranks)], [x[..., 0] for x in flat[len(ranks) :]]
        if alike and len({x.shape[-1] for x in self.values}) > 1:
            widths = " and ".join(str(x.shape[-1]) for x in self.values)
            raise ShapeError(f"{what}: expected two values of one width, got {widths}")
        self.weight: Tensor | None = None
        if flags:
            keep = torch.stack([flag != 0 for flag in flags]).all(0)
            self.values = [torch.where(keep[..., None], x, torch.zeros_like(x)) for x in self.values]
            self.weight = keep.to(self.values[0].dtype)

    def mean(self, x: Tensor) -> Tensor:
        """The mean over rows that count, ``[..., D]``."""
        return x.mean(-2) if self.weight is None else (self.weight[..., None] * x).sum(-2) / self.count

    @property
    def count(self) -> Tensor:
        """How many rows count, at least one: ``[..., 1]``."""
        if self.weight is None:
            return self.values[0].new_full((1,), self.values[0].shape[-2])
        return self.weight.sum(-1, keepdim=True).clamp_min(1)

    def centred(self, x: Tensor) -> Tensor:
        """Less the mean; rows that do not count are 0."""
        centred = x - self.mean(x).unsqueeze(-2)
        return centred if self.weight is None else self.weight[..., None] * centred

    def variance(self, x: Tensor) -> Tensor:
        """The unbiased variance over rows that count: ``[..., D]``."""
        if self.weight is None:
            return x.var(-2)
        return self.centred(x).square().sum(-2) / (self.count - 1).clamp_min(1)

    def standardised(self, x: Tensor, floor: float = 1e-8) -> Tensor:
        """Each column with mean 0 and (unbiased) deviation 1; a constant column, and rows that do not count, are 0."""
        return self.centred(x) / (self.variance(x).clamp_min(torch.finfo(x.dtype).tiny).sqrt() + floor).unsqueeze(-2)

    def over_steps(self, value: Tensor) -> Tensor:
        """The mean over steps with two rows that count or more, 0 where there is none: one row says nothing of others.

        ``value`` is of each step, or one number of all rows.
        """
        if self.weight is None:
            return value.mean()
        enough = (self.weight.sum(-1) > 1).to(value.dtype)
        return (enough * value).sum() / enough.sum().clamp_min(1)


def counted(where: Expression | None) -> Node | None:
    """The node of what says which rows count."""
    return None if where is None else as_node(where)


def flags_in(where: Node) -> set[str]:
    """The keys of what says which rows count and is flags itself: w, what 1 - w turns, and factors of a product."""
    match where:
        case Value(variable):
            return {variable.at(0).key}
        case Binary("-", Number(1), turned):
            return flags_in(turned)
        case Binary("*", left, right):
            return flags_in(left) | flags_in(right)
    return set()


def as_single(x: Tensor) -> Tensor:
    """At least single precision: sums over rows do not fit into a half."""
    return x.float() if not x.is_floating_point() or x.dtype in (torch.float16, torch.bfloat16) else x
