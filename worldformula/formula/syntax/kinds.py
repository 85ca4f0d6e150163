"""Numbers of the wrong kind: float64 data before networks of float32, whole numbers where a network computes.

PyTorch says which two kinds met, and not which value has which; the shapes are right all the while.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, table

_TOLD = re.compile(r"dtype|scalar type|tensor of type|[Tt]ype \(|LongTensor|not implemented for '", re.ASCII)
_SHORT = {torch.float32: "float", torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16"}


def of_other_kind(
    factor: Any, read: Sequence[Any], error: BaseException, given: Mapping[str, Any] | None = None
) -> FormulaError | None:
    """What a network that failed was given, by kind, and the line to write; None where it failed for another reason.

    ``read`` are the values of the conditions. ``given`` is what the call was given, by keyword: a kind goes on from
    there to what is computed; None of a direct call, which gives the conditions themselves.
    """
    values = {str(c): v for c, v in zip(factor.conditions, read, strict=False) if isinstance(v, Tensor)}
    whole = "loss" if given is not None else factor.header.letter
    if (elsewhere := _elsewhere(factor, values, error, whole)) is not None:
        return elsewhere
    if not _TOLD.search(str(error)):
        return None
    weights = sorted({str(p.dtype) for p in _weights(factor) if p.is_floating_point()})
    rows = [(name, f"{_kind(v.dtype)} {list(v.shape)}") for name, v in values.items()]
    rows += [("weights", ", ".join(kind.removeprefix("torch.") for kind in weights) or "none")]
    shown = table(("variable", "got"), rows)
    own = {c.key: v for c, v in zip(factor.conditions, read, strict=False) if isinstance(v, Tensor)}
    known = own if given is None else {k: v for k, v in given.items() if isinstance(v, Tensor)}
    return FormulaError(f"{factor}: its network failed: {error}\n{shown}\n{_advice(factor, own, known, error, whole)}")


def _elsewhere(factor: Any, values: Mapping[str, Tensor], error: BaseException, whole: str) -> FormulaError | None:
    """What lies on another device than the weights that read it; None where all are on one."""
    there = {w.device for w in _weights(factor)}
    if not there or all(v.device in there for v in values.values()):
        return None
    rows = [(name, f"{v.device} {list(v.shape)}") for name, v in values.items()]
    shown = table(("variable", "got"), [*rows, ("weights", ", ".join(sorted(map(str, there))))])
    name, value = next((name, v) for name, v in values.items() if v.device not in there)
    return FormulaError(
        f"{factor}: its network failed: {error}\n{shown}\n{name} and the weights lie on two devices: move the tensor, "
        f".to({str(next(iter(there)))!r}), or the networks, {whole}.to({str(value.device)!r})"
    )


def _weights(factor: Any) -> Iterable[Tensor]:
    net = factor.net
    return (*net.parameters(), *net.buffers()) if isinstance(net, nn.Module) else ()


def _advice(
    factor: Any, read: Mapping[str, Tensor], given: Mapping[str, Tensor], error: BaseException, whole: str
) -> str:
    """The line to write: which of what was given becomes what."""
    kinds = {p.dtype for p in _weights(factor) if p.is_floating_point()}
    wanted = next(iter(kinds)) if len(kinds) == 1 else torch.get_default_dtype()
    direct = [name for name in read if name in given and read[name].dtype != wanted]
    real = [name for name in direct if read[name].is_floating_point()]  # whole numbers beside them may be classes
    strangers = real or direct or [k for k, v in given.items() if v.is_floating_point() and v.dtype != wanted]
    if not strangers and "Long" in str(error) and (known := [k for k in read if k in given]):
        return f"it takes whole numbers: pass {known[0]}={known[0]}.long()"
    if not strangers:
        return f"make the network compute in one dtype, that of what it reads: {whole}.{_short(wanted)}()"
    line = ", ".join(f"{name}={name}.{_short(wanted)}()" for name in strangers)
    found = {given[name].dtype for name in strangers}
    if any(not kind.is_floating_point for kind in found):
        first = strangers[0]
        classes = f"{first}=torch.nn.functional.one_hot({first}, n).{_short(wanted)}()"
        return f"pass {line}; or, where they are classes, {classes}"
    return f"pass {line}; or compute in {_kind(found.pop())} throughout: {whole}.{_short(given[strangers[0]].dtype)}()"


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(dtype: torch.dtype) -> str:
    return _SHORT.get(dtype, "float")
