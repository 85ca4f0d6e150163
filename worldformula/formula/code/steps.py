"""What the terms of a sum over time are at every step, before anything is reduced."""

from __future__ import annotations

from torch import Tensor

from worldformula.formula.code.program import Out


def steps_of(out: Out) -> dict[str, Tensor]:
    """The terms of a result that are one number a step, ``[B, T]`` by title; those of all rows together are none."""
    plan = out.plan
    found = {}
    for title, term, value in zip(plan.titles, plan.terms, out._terms, strict=True):
        op = plan.by_name[term.name] if isinstance(term.name, str) else None
        if op is not None and op.step and not op.axes:
            found[title] = value.unflatten(0, (-1, out._call.length))
    return found
