"""What is held through a dream: conditions without time, such as a goal, which prior, heads or policy read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, MissingInputError, ShapeError, near, table
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.plan.plan import Plan
from worldformula.world.state import State, Values


def read_by(plan: Plan, heads: Iterable[Factor], policy: Factor | Joint | None = None) -> tuple[str, ...]:
    """The conditions without time of a prior, of heads and of a policy, which none of them declares."""
    acts = policy.factors if isinstance(policy, Joint) else (policy,) if isinstance(policy, Factor) else ()
    factors = [*heads, *acts]
    declared = {*plan.carries, *plan.ranks} - plan.inputs.keys() | {v.key for f in factors for v in f.variables}
    told = [k for k, op in plan.inputs.items() if op.kind == "input" and not op.step]
    told += [c.key for f in factors for c in f.conditions if c.index is None and c.key not in declared]
    return tuple(dict.fromkeys(told))


def conditions_of(*products: Factor | Joint | None) -> tuple[str, ...]:
    """What factors read that has no time and none of them declares."""
    found = [f for p in products if p is not None for f in (p.factors if isinstance(p, Joint) else (p,))]
    declared = {v.key for f in found for v in f.variables}
    told = (c.key for f in found for c in f.conditions if c.index is None and c.key not in declared)
    return tuple(dict.fromkeys(told))


def held(
    names: tuple[str, ...],
    plan: Plan,
    start: Values,
    given: Mapping[str, Tensor],
    options: dict[str, Any],
    lead: tuple[int, ...],
) -> dict[str, Tensor]:
    """The values of conditions ``[*lead, ...]``: those that are given, else those that the start holds.

    ``options`` are the keywords of the call, which may give them too, as they do to an expression.

    Raises:
        FormulaError: something is given that nobody reads.
        MissingInputError: what the prior reads is neither given nor in the start.
        ShapeError: other leading axes than those of the start.
    """
    if unread := [name for name in given if name not in names]:
        raise FormulaError(
            f"given: nothing in this dream reads {unread[0]!r}; conditions without time: {', '.join(names) or 'none'}."
            f"{near(unread[0], names)}"
        )
    known = {**start, **{name: options.pop(name) for name in names if name in options}, **given}
    found: dict[str, Tensor] = {name: known[name] for name in names if name in known}
    if missing := [name for name in names if name in plan.inputs and name not in found]:
        name = missing[0]
        raise MissingInputError(
            f"imagine: the prior reads {name}, which has no time, and nothing says what it is\nsay it for the whole "
            f"dream, given={{{name!r}: ...}}, or put it into the start, start | {{{name!r}: ...}}"
        )
    if any(tuple(value.shape[: len(lead)]) != lead for value in found.values()):
        rows = [(k, [*lead, "..."], list(v.shape)) for k, v in found.items()]
        raise ShapeError(
            "imagine: what is held has other rows than the start\n" + table(("variable", "expected", "got"), rows)
        )
    return found


def no_time(
    duration: str | None, plan: Plan, carried: Collection[str], start: Values, lead: tuple[int, ...]
) -> dict[str, Tensor]:
    """The duration of a start, to which no step has led: 0."""
    if duration is None or duration in carried:
        return {}
    like = next(v for v in start.values() if isinstance(v, Tensor))
    return {duration: torch.zeros(*lead, *plan.shapes.get(duration, ()), device=like.device)}


def throughout(dream: State, values: Mapping[str, Tensor]) -> State:
    """The states of a dream ``[N, H + 1, ...]`` with what was held, the same at every step."""
    steps = next(iter(dream.series.values())).shape[1]
    return dream | {k: v.unsqueeze(1).expand(-1, steps, *v.shape[1:]) for k, v in values.items()}
