"""Values held against what is declared: those at which densities are taken against their support (unscaled images,
negative counts, NaN), those that a network computes against their shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from worldformula.errors import HeadError, SupportError
from worldformula.families.domains import REAL, levels_of, told
from worldformula.formula import runtime
from worldformula.formula.plan.plan import Op, Plan
from worldformula.formula.plan.rules import RULES, factor_of, family_of
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.heads import check_output
from worldformula.formula.syntax.names import Variable

SEEN_THROUGH = ("along", "repeat")  # operations that change neither values nor their event


def check_value(plan: Plan, op: Op, value: Any) -> None:
    """Raise SupportError where the value of a log-density lies outside its support, or is NaN."""
    if not isinstance(value, Tensor) or value.is_meta or _vectorised(value):
        return
    factor = factor_of(op)
    if fault := family_of(op).wrong_value(value, plan.rank_of(factor)):
        raise SupportError(f"{factor}: {fault}")
    if value.is_floating_point() and bool(value.isnan().any()):
        raise SupportError(
            f"{factor}: expected numbers, got NaN in {factor.variable.key}\nrows that lack it are told by "
            f"present={{{factor.variable.key!r}: flags}}, steps that do not count by Sum(..., mask=...)"
        )


def _vectorised(value: Tensor) -> bool:
    """Whether a value stands for many, under ``vmap``: none of them can be looked at."""
    while functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


def check_inputs(plan: Plan, arguments: Mapping[str, Any]) -> None:
    """The same for everything that a call is given: done at the first call of a formula, without running it."""
    if plan.checks:
        check_numbers(plan, arguments)
    ends = {op.how for op in plan.ops if op.kind == "alive"}
    for op in plan.inputs.values():
        if op.kind in ("flags", "mask", "present"):
            check_flag_values(op, arguments.get(plan.argument(op)), soft=op.kind == "mask" and op.how not in ends)
        elif op.variable is not None and op.variable.key in plan.levels:
            check_levels(*plan.levels[op.variable.key], _there(plan, op, arguments))
        elif op.variable is not None and op.variable.at(0).key in plan.counting:
            check_flag_values(op, _there(plan, op, arguments), soft=False)
    for op in plan.ops:
        if op.kind == "logp" and (given := _data(plan, plan.by_name[op.args[1]])) is not None:
            source, flags = given
            value = arguments[plan.argument(source)]
            if isinstance(value, Tensor):
                value = _kept(value, [arguments[plan.argument(flag)] for flag in flags])
            check_value(plan, op, value)


def _there(plan: Plan, given: Op, arguments: Mapping[str, Any]) -> Any:
    """A value that is given, without the rows that lack it and the steps that a sum leaves out."""
    value, key = arguments.get(plan.argument(given)), given.variable and given.variable.key
    masks = [op for op in plan.inputs.values() if op.kind == "mask" or (op.kind, op.how) == ("present", key)]
    flags = [mask for op in masks if isinstance(mask := arguments.get(plan.argument(op)), Tensor)]
    return _kept(value, flags) if isinstance(value, Tensor) and flags and not _vectorised(value) else value


def check_levels(factor: Factor, levels: int, value: Any) -> None:
    """Raise SupportError where data that have so many levels hold other numbers; NaN may be of rows that lack them."""
    if not isinstance(value, Tensor) or value.is_meta or _vectorised(value):
        return
    if fault := told(levels_of(levels), value, missing=True):
        raise SupportError(
            f"{factor}: expected a value {fault}\nsay how many levels the data have: levels= of {factor}, which is a "
            f"size of a model of the catalogue, --set levels=256; or number their values from 0 to {levels - 1}"
        )


def check_flag_values(op: Op, value: Any, *, soft: bool) -> None:
    """Flags are booleans, or 0 and 1; the weights of a mask may be ``soft``, but never NaN, which counts as set.

    Raises:
        SupportError: they are something else.
    """
    if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_meta or _vectorised(value):
        return
    right = value.isfinite() if soft and value.is_floating_point() else (value == 0) | (value == 1)
    if (soft and not value.is_floating_point()) or bool(right.all()):
        return
    bad = value[~right].flatten()[0].item()
    present = op.kind == "present"
    key = op.how or (op.variable.key if op.variable else "")
    name, written = (
        (f"present of {key}", f"present={{{key!r}: flags == 1}}") if present else (key, f"{key}=(flags == 1)")
    )
    wanted = "finite weights" if soft else "flags as booleans, or as 0 and 1"
    raise SupportError(f"{name}: expected {wanted}, got {bad:g} among them\nwrite e.g. {written}")


def check_numbers(plan: Plan, arguments: Mapping[str, Any], *, tensors: bool = True) -> None:
    """Hold the numbers of a call against what they have to be where they stand, as if they were written there.

    Without ``tensors`` those are passed over: what they hold is on the device.
    """
    held = {op.name: arguments[argument] for op, argument in plan.symbols}
    for op in plan.ops if plan.checks else ():
        if op.kind in ("binary", "negative", "detach", "function") and op.reads and held.keys() >= {*op.reads}:
            values = [held[a] if isinstance(a, str) else a for a in op.args]
            with suppress(ArithmeticError):  # refused below, or where the formula itself is run
                held[op.name] = RULES[op.kind].evaluate(None, op, values)
            if isinstance(held.get(op.name), complex):
                del held[op.name]
    for check, refs in plan.checks:
        values = [held.get(ref) if isinstance(ref, str) else ref for ref in refs]
        if all(value is not None and _known(value, tensors=tensors) for value in values):
            check(*(value.detach().item() if isinstance(value, Tensor) else value for value in values))


def _known(value: Any, *, tensors: bool) -> bool:
    """Whether a number can be looked at."""
    return not isinstance(value, Tensor) or (tensors and not value.is_meta and not _vectorised(value))


def filled_in(plan: Plan, op: Op) -> bool:
    """Whether the value of a log-density has rows or steps that do not count, and hold something made up."""
    value = plan.by_name[op.args[1]]
    while value.kind in SEEN_THROUGH:
        value = plan.by_name[value.reads[0]]
    return value.target in (runtime.filled, runtime.padded)


def _data(plan: Plan, op: Op) -> tuple[Op, list[Op]] | None:
    """The input that a value is, and the flags of its rows that count; None for what is drawn or computed."""
    flags: list[Op] = []
    while op.kind in SEEN_THROUGH or op.target in (runtime.filled, runtime.padded):
        flags += [plan.by_name[name] for name in op.reads[1:]]
        op = plan.by_name[op.reads[0]]
    known = [flag for flag in flags if flag.kind in ("mask", "present")]
    return (op, known) if op.kind == "input" and len(known) == len(flags) else None


def _kept(value: Tensor, flags: list[Tensor]) -> Tensor:
    """The rows (and steps) whose flags are all set; flags [B] beside [B, T, ...] are of whole rows."""
    fitting = [flag != 0 for flag in flags if flag.shape == value.shape[: flag.ndim]]
    if not fitting:
        return value
    axes = max(flag.ndim for flag in fitting)
    keep = torch.ones(value.shape[:axes], dtype=torch.bool, device=value.device)
    for flag in fitting:
        keep = keep & flag.reshape(flag.shape + (1,) * (axes - flag.ndim))
    return value[keep]


def check_numeric(plan: Plan, factor: Factor, variable: Variable, value: Any) -> None:
    """Raise HeadError where a formula computes with the whole numbers or flags that a network returned: they wrap
    around, 200 + 100 = 44 in uint8, and flags add up to flags.
    """
    if variable.key not in plan.reckoned or not isinstance(value, Tensor):
        return
    if not (value.is_floating_point() or value.is_complex()):
        kind = str(value.dtype).removeprefix("torch.")
        raise HeadError(
            f"{factor}: its network returned {variable} as {kind}, and the formula computes with {variable}\nwhole "
            f"numbers wrap around and flags do not add up: end the network in .float(); where another network reads "
            f"them as classes, return both, '{variable}, n = {factor.header.letter}(...)'"
        )


def check_outputs(plan: Plan, arguments: Mapping[str, Any], samples: Sequence[Any]) -> None:
    """The same for what the networks of a call computed, without running them once more."""
    held = dict(zip(plan.samples.values(), samples, strict=True))
    series = [arguments[plan.argument(op)] for op in plan.inputs.values() if plan.series(op)]
    rows = [torch.empty(series[0].shape[:2].numel(), device="meta")] if series else []  # B·T of the steps
    for name, value in held.items():
        op, step = plan.by_name[name], plan.by_name[name].step
        while op.kind in ("stop", "unroll"):
            op = plan.by_name[op.reads[0]]
        if op.kind in ("net", "item") and op.factor is not None and op.factor.family is None:
            reads = (op if op.kind == "net" else plan.by_name[op.reads[0]]).reads if not step else ()
            found = rows if step else [_batch(plan, plan.by_name[ref], arguments, held) for ref in reads]
            inputs = found if all(x is not None for x in found) else []
            variable = op.variable or op.factor.variable
            shape = plan.shape_of_output(op.factor, variable)
            check_output(op.factor, variable, value, inputs, shape, lead=len(op.axes), step=step)
            check_numeric(plan, op.factor, variable, value)


def _batch(plan: Plan, op: Op, arguments: Mapping[str, Any], held: Mapping[str, Any]) -> Tensor | None:
    """A value behind its sample axes, where the call gave or returned it; None where neither did."""
    while op.target is runtime.filled:
        op = plan.by_name[op.reads[0]]
    if op.kind == "first" and op.variable is not None:
        given = arguments.get(plan.arguments[op.variable.key])
        return given[:, 0] if isinstance(given, Tensor) else None
    value = arguments.get(plan.argument(op)) if op.kind in ("input", "whole") else held.get(op.name)
    if not isinstance(value, Tensor) or value.ndim < len(op.axes):
        return None
    return value if not op.axes else value[(0,) * len(op.axes)]


def pixels(plan: Plan) -> frozenset[str]:
    """The inputs that cannot be whole numbers of 8 bits: scored as real numbers, or both scored and read by a network,
    of which image networks divide them by 255.
    """
    read = {name for op in plan.ops if op.kind == "net" for name in op.reads}
    found = set()
    for op in plan.ops:
        given = _data(plan, plan.by_name[op.args[1]]) if op.kind == "logp" else None
        if given is not None and given[0].variable is not None:
            source = given[0]
            if family_of(op).values is REAL or source.name in read:
                found.add(source.variable.key if source.variable else "")
    return frozenset(found)


def check_type(key: str, value: Tensor) -> None:
    """Refuse whole numbers of 8 bits where real ones are scored: networks divide them by 255, densities do not."""
    if value.dtype == torch.uint8:
        raise SupportError(
            f"{key}: expected real numbers, got uint8; image networks divide such pixels by 255, and a density scores "
            f"them as they are\npass {key}={key}.float() / 255, or {key}.float() where they are 0 and 1"
        )
