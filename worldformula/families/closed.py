"""Closed KLs: registered for two families, or a family's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from worldformula.families.base import Family
from worldformula.families.tensors import Parameter

ClosedKL: TypeAlias = Callable[..., Parameter]

_CLOSED: dict[tuple[type[Family], type[Family]], ClosedKL] = {}


def register_kl(q: type[Family], p: type[Family]) -> Callable[[ClosedKL], ClosedKL]:
    """Decorator: ``f(q_params, p_params, rank, shape=None)`` is the closed KL of these two families."""

    def register(function: ClosedKL) -> ClosedKL:
        _CLOSED[q, p] = function
        return function

    return register


def kl_pair(q: Family, p: Family) -> ClosedKL | None:
    """The closed KL(q ‖ p) of two families, ``f(q_params, p_params, rank, shape=None)``, or None if there is none.

    It is registered for the pair, or the family's own `Family.kl` where both are of one class; in both cases the two
    must agree about the settings that decide which values there are. A subclass has the KLs of its base as long as it
    has its density.
    """
    settings = ((getattr(q, name), getattr(p, name, None)) for name in q.defining)
    if any(a != b and None not in (a, b) for a, b in settings):
        return None
    for a in _of_one_density(type(q)):
        for b in _of_one_density(type(p)):
            if (a, b) in _CLOSED:
                return _CLOSED[a, b]
    return q.kl if type(q) is type(p) and type(q).kl is not Family.kl else None


def _of_one_density(kind: type[Family]) -> tuple[type, ...]:
    """The classes up to the one that has the density."""
    own = next(i for i, known in enumerate(kind.__mro__) if "log_prob" in vars(known))
    return kind.__mro__[: own + 1]
