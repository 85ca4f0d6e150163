r"""Slow copies: a factor with averaged weights, for targets (BYOL, JEPA) and slow critics.

target = encode.slow(0.996)          # s = \bar f(x): w̄ ← 0.996·w̄ + 0.004·w after every update

The copy has weights of its own, which no gradient reaches and no optimiser sees. Training moves them
(`worldformula.training.slow`). One factor has one copy for each decay and ``every=``, which its ``fresh`` and renamed
forms share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from worldformula.errors import FormulaError
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.pace import Pace, SlowWeights, buffers, frozen, weights

F = TypeVar("F", bound=Factor)


def slow_of(factor: F, pace: Pace) -> F:
    """The slow copy of a factor at this pace: one, however often it is asked for."""
    known: dict[Pace, F] = factor.__dict__.setdefault("_slow", {})
    if pace not in known:
        known[pace] = _slow_copy(factor, pace)
    return known[pace]


def _slow_copy(factor: F, pace: Pace) -> F:
    """A slow copy of a factor; see `Factor.slow`.

    Raises:
        FormulaError: it is one already, has no weights, or has weights that cannot be copied.
    """
    if factor.pace is not None:
        raise FormulaError(f"{factor} is a slow copy already ({factor.pace}); take the slow copy of the factor itself")
    if weightless(factor):
        raise FormulaError(f"{factor} has no weights to average: its slow copy would be the factor itself")
    first = None if factor.origin is factor else slow_of(factor.origin, pace)
    other = factor.fresh()
    other.__dict__["header"] = replace(factor.header, bar=True)
    other.__dict__["pace"] = pace
    other.__dict__["_modules"] = dict(factor._modules)
    other.__dict__.pop("_energy", None)  # of a Gibbs factor, which reads the weights that are followed
    if factor.parts:
        parts = tuple(p if weightless(p) else slow_of(p, pace) for p in factor.parts)
        other.__dict__["parts"] = parts
        other.__dict__["_modules"] = {f"part_{number}": part for number, part in enumerate(parts)}
    elif first is not None:
        other.__dict__["_modules"] = dict(first._modules)
    else:
        copies = _copies(factor)
        other.__dict__["_modules"] |= copies
        pairs = [(factor._modules[name], module) for name, module in copies.items()]
        other.add_module("updates", SlowWeights(str(other), pairs, pace))  # type: ignore[arg-type]
    object.__setattr__(other, "origin", other if first is None else first.origin)
    return other


def weightless(factor: Factor) -> bool:
    """Whether nothing in a factor can change: no parameters, and no buffers that a network keeps."""
    if factor.parts:
        return all(map(weightless, factor.parts))
    net = factor.net
    if net is not None and not isinstance(net, nn.Module):
        raise FormulaError(
            f"{factor}: its network is a function, and what weights a function uses cannot be told, so it has no slow "
            f"copy; write it as an nn.Module"
        )
    return not weights([factor]) and (net is None or not buffers([net]))


def _copies(factor: Factor) -> dict[str, nn.Module]:
    """Copies of the network and of the constants, by attribute."""
    own = {name: m for name in ("net", "constants") if (m := factor._modules.get(name)) is not None}
    if any(is_lazy(p) for p in weights(own.values())):
        raise FormulaError(
            f"{factor}: its network takes its sizes from its first input, so there are no weights to copy yet; "
            f"call it once before .slow(...)"
        )
    try:
        return dict(zip(own, frozen(tuple(own.values())), strict=True))
    except (RuntimeError, TypeError) as error:
        raise FormulaError(
            f"{factor}: its network cannot be copied by copy.deepcopy: {error}\nkeep computed tensors out of its "
            f"attributes, as torch.nn.utils.parametrizations do"
        ) from error
