"""What the network of a factor makes in a direct call: its failures named, heads of two readings told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, HeadError, ShapeError, table
from worldformula.families.tensors import with_ones
from worldformula.formula.syntax.kinds import of_other_kind
from worldformula.formula.syntax.names import Variable


def network_failed(factor: Any, conditions: Sequence[Any], error: Exception) -> FormulaError:
    """The error that names the factor, with what its network was given."""
    if (other := of_other_kind(factor, conditions, error)) is not None:
        return other
    if isinstance(error, TypeError) and not factor.conditions:
        return ShapeError(unread(factor, error))
    got = [str(list(c.shape)) if isinstance(c, Tensor) else repr(c) for c in conditions]
    rows = list(zip(map(str, factor.conditions), got, strict=False))
    return ShapeError(
        f"{factor}: its network failed: {error}\n{table(('variable', 'got'), rows)}\nmake it take these shapes"
    )


def unread(factor: Any, error: Exception) -> str:
    """What to write where the network of a factor without conditions failed: it was called with nothing."""
    return (
        f"{factor}: its network failed: {error}\nits header names no condition, so the network is called without "
        f"arguments\nname what it reads, {factor.header.letter}({factor.variable}|...), or leave the network out"
    )


def refuse_nothing(factor: Any, head: Any) -> None:
    """Refuse the None of a network that lacks its ``return``: the standard distribution is meant by no network."""
    if head is None:
        raise HeadError(
            f"{factor}: its network returned None\nend it in return head; without a network, and without conditions, a "
            f"factor is the standard distribution"
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


def outputs(factor: Any, value: Any) -> list[Any]:
    """What the network of a deterministic factor returned, one for each variable of its header."""
    count, several = len(factor.variables), isinstance(value, tuple | list)
    if (len(value) != count if several else count > 1) or not (several or isinstance(value, Tensor)):
        expected = "a tensor" if count == 1 else f"a tuple of {count} tensors"
        got = f"{type(value).__name__} of {len(value)}" if several else type(value).__name__
        raise HeadError(
            f"{factor}: expected {expected} from its network, got {got}; a header names all outputs, 'a, b = f(x)'"
        )
    return list(value) if several else [value]


def check_output(
    factor: Any,
    variable: Variable,
    value: Any,
    inputs: Sequence[Any],
    shape: tuple[int, ...] | None,
    *,
    lead: int = 0,
    step: bool = False,
) -> None:
    """Raise HeadError where what the network of a deterministic factor returned is no batch of events of this shape.

    ``inputs``: what it read, of which one has the same batch axes; at a ``step`` there is one. ``lead``: how many axes
    are in front of them.
    """
    if shape is None or not isinstance(value, Tensor):
        return
    end = value.ndim - len(shape)
    batch = tuple(value.shape[lead : max(end, 0)])
    ends = end >= lead and tuple(value.shape[end:]) == shape
    known = [tuple(x.shape[: len(batch)]) for x in inputs if isinstance(x, Tensor)]
    if ends and not (known and batch not in known) and not (step and len(batch) != 1):
        return
    declared = f"[{', '.join(('*batch', *map(str, shape)))}]" if ends else list(shape)
    rows = [(variable, declared, list(value.shape))]
    read = zip(factor.conditions, inputs if ends else (), strict=False)
    rows += [(condition, "-", list(x.shape)) for condition, x in read if isinstance(x, Tensor)]
    what = "have the batch axes of what it reads" if ends else "end in the declared event shape"
    raise HeadError(
        f"{factor}: the network's result does not {what}\n"
        + table(("variable", "declared", "got"), rows)
        + "\nchange the network, or shape="
    )


def refuse_per_row(factor: Any, head: Any, conditions: Sequence[Any], *, direct: bool = False) -> None:
    """Refuse a parameter that a network gives by name as one number per row, ``[B]``.

    Without batch axes it is one event for all rows, as a learnt scale. Where a batch has as many rows as the event has
    elements, the shapes do not tell; so the network is asked about one row more. What a ``direct`` call gives may have
    no batch axes, and then no parameter has any.
    """
    if not isinstance(head, Mapping) or factor.family is None or torch.compiler.is_compiling():
        return
    rows = {c.shape[0] for c in conditions if isinstance(c, Tensor) and c.ndim}
    names = {name: factor.family.alternatives.get(name, name) for name in head}
    doubtful = [
        name
        for name, p in head.items()
        if isinstance(p, Tensor) and 0 < p.ndim <= factor.family.axes(names[name], factor.rank) and p.shape[0] in rows
    ]
    tensors = sum(isinstance(p, Tensor) for p in head.values())
    if not doubtful or rows == {1} or (direct and len(doubtful) == tensors):
        return
    more = _asked_again(factor.net, [_one_more(c, rows) for c in conditions])
    for name in doubtful:
        p, other = head[name], more.get(name)
        if isinstance(other, Tensor) and other.shape[:1] == (p.shape[0] + 1,):
            raise HeadError(
                f"{factor}: {factor.family.name}: {name} is one number per row, and without the axes of the event it "
                f"would be read as one event for all rows\n"
                + table(("parameter", "declared", "got"), [(name, "batch + event", list(p.shape))])
                + f"\ngive it an axis for the event: {name}[..., None]"
            )


def _one_more(condition: Any, rows: set[int]) -> Any:
    """The rows of a condition, and the first of them once more."""
    if not isinstance(condition, Tensor) or not condition.ndim or condition.shape[0] not in rows:
        return condition
    return torch.cat((condition, condition[:1]))


def _asked_again(net: Any, conditions: Sequence[Any]) -> Mapping[str, Any]:
    """What a network returns, as it is judged, and without a trace: no gradient, statistics or random numbers."""
    modes = [(m, m.training) for m in net.modules()] if isinstance(net, nn.Module) else []
    devices = {c.device for c in conditions if isinstance(c, Tensor) and c.device.type == "cuda"}
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            found = net(*conditions)
    except Exception:  # noqa: BLE001  a network that takes no other batch has told nothing
        return {}
    finally:
        for module, mode in modes:
            module.training = mode
    return found if isinstance(found, Mapping) else {}
