"""Parameters that are learnt and have to stay in a set: `positive`, and what is refused where nothing would keep them.

A scale that is an ``nn.Parameter`` of its own crosses 0 sooner or later. What moves in its place is any real number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from worldformula.errors import FormulaError
from worldformula.families.base import Family
from worldformula.families.domains import FINITE, FINITE_FROM_0, FROM_0, LOGITS, NUMBER, POSITIVE, REAL, WEIGHTS, Domain
from worldformula.families.tensors import above_zero

MADE: Any = WeakIdKeyDictionary()  # of every nn.Parameter that still exists, its start and what `positive` made of it
FREE, ABOVE_0 = (NUMBER, REAL, LOGITS), (POSITIVE, FROM_0, FINITE, FINITE_FROM_0)


class Positive:
    """A learnt parameter greater than 0: softplus of ``raw``, which is what moves."""

    def __init__(self, raw: nn.Parameter) -> None:
        self.raw = raw

    @property
    def value(self) -> Tensor:
        """softplus(raw), in the shape of the parameter."""
        return above_zero(self.raw)

    def __repr__(self) -> str:
        return f"<positive {list(self.raw.shape)}>"


def positive(start: nn.Parameter) -> Any:
    """A parameter of a distribution that is learnt and stays greater than 0: ``scale=positive(nn.Parameter(...))``.

    It begins at ``start`` and is the softplus of what moves, a new ``nn.Parameter`` of the same shape; wherever that
    moves, the parameter stays greater than 0, in rounding too. Of one ``nn.Parameter`` it is one weight, wherever and
    however often it is written. Of
    ``Normal("p(x|z)", net, scale=positive(...))`` this is ``p_x_given_z_constants.scale_raw`` in the state of a loss.

    Raises:
        FormulaError: no ``nn.Parameter`` of real numbers, one that does not begin greater than 0, or one that holds
            other numbers than when its weight was made.
    """
    if not isinstance(start, nn.Parameter) or not start.is_floating_point():
        raise FormulaError(
            f"positive: expected an nn.Parameter of real numbers, got {type(start).__name__}; write "
            f"positive(nn.Parameter(torch.ones(3)))"
        )
    value = start.detach()
    if value.device.type != "meta" and not bool((value > 0).all() & value.isfinite().all()):
        wrong = value[~((value > 0) & value.isfinite())].flatten()[0].item()
        raise FormulaError(f"positive: expected a start greater than 0, got {wrong:.4g} in the nn.Parameter")
    if start in MADE:
        return _made(start)
    raw = value + torch.log(-torch.expm1(-value))  # the inverse of softplus, without overflow
    MADE[start] = value.clone(), Positive(nn.Parameter(raw, start.requires_grad))
    return MADE[start][1]


def _made(start: nn.Parameter) -> Any:
    """The same weight once more: two of one ``nn.Parameter`` would begin alike and move apart."""
    before, made = MADE[start]
    same = before.shape == start.shape and before.device == start.device and before.dtype == start.dtype
    if not same or (start.device.type != "meta" and not torch.equal(before, start.detach())):
        raise FormulaError(
            "positive: this nn.Parameter has changed since its weight was made, which does not follow it\nwrite "
            "positive(nn.Parameter(...)) with a new one, or keep what positive(...) returned and use it again"
        )
    return made


def check_learnt(header: str, family: Family, fixed: Mapping[str, Any]) -> None:
    """Refuse what would be learnt out of its set.

    Raises:
        FormulaError: an ``nn.Parameter`` that has to stay in a set; a `Positive` that has to stay in a smaller one.
    """
    for name, value in fixed.items():
        if isinstance(value, nn.Parameter | Positive):
            domain = _domain(family, name, fixed)
            kept = domain in (*ABOVE_0, WEIGHTS, *FREE) if isinstance(value, Positive) else domain in FREE
            if not kept:
                words = "between low and high" if domain is None else domain.words
                given = "positive(...)" if isinstance(value, Positive) else "an nn.Parameter"
                raise FormulaError(
                    f"{header}: expected {name}= {words}, got {given}, which training would take out of its set\n"
                    f"{_advice(family, name, domain)}"
                )


def _domain(family: Family, name: str, fixed: Mapping[str, Any]) -> Domain | None:
    """The set of a parameter; None for the ends of a Uniform, which depend on one another."""
    if name in ("low", "high") and {"low", "high"} <= {*family.parameters}:
        other = fixed.get("low", 0.0)
        below = isinstance(other, Tensor) and not isinstance(other, nn.Parameter) and bool((other <= 0).all())
        below = below or (isinstance(other, int | float) and other <= 0)
        return POSITIVE if name == "high" and below else None
    own = getattr(family, "component", None)
    if own is not None and name in ("weights", "log_weights"):
        return WEIGHTS if name == "weights" else LOGITS
    return (own or family).domains.get(name, NUMBER)  # type: ignore[no-any-return]


def _advice(family: Family, name: str, domain: Domain | None) -> str:
    """What to write in place of a parameter that nothing keeps in its set."""
    if domain in (*ABOVE_0, WEIGHTS):
        free = {"weights": "log_weights", "probs": "logits"}.get(name)
        also = f", or learn {free}=nn.Parameter(...)" if free else ""
        return f"write {name}=positive(nn.Parameter(...)){also}"
    if "logits" in family.parameters and name == "probs":
        return "learn logits=nn.Parameter(...)"
    if domain is None:
        return "write low=0.0, high=positive(nn.Parameter(...)), or let a network return both ends"
    return "give the whole head as one nn.Parameter in the place of the network: the family maps it into the set"
