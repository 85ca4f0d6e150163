"""Draws and densities of a product, from causes to effects, every value held by the variable that it belongs to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.formula.runtime import one_batch, rows
from worldformula.formula.syntax.check import draw_order
from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.given import Who, by_variable, need
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Product

Values = dict[Variable, Any]


class Joint(Protocol):
    """What a draw reads of a product."""

    uses: Product

    @property
    def factors(self) -> tuple[Factor, ...]:
        """In written order."""


def _who(joint: Joint) -> Who:
    return lambda variable: next((f for f in joint.factors if variable in f.variables), "data")


def given(joint: Joint, values: Mapping[str, Any]) -> Values:
    """The values that a draw starts from, by variable: every condition that no factor declares, and the data."""
    drawn = [v for f in joint.factors if not f.observed for v in f.variables]
    wanted = [v for f in joint.factors for v in (*f.conditions, *f.variables) if v not in drawn]
    held = by_variable(joint, values, wanted, _who(joint), drawn=drawn)
    need(joint, values, held, wanted, _who(joint))
    return {v: torch.as_tensor(value) for v, value in held.items()}


def noises(joint: Joint, noise: Mapping[str, Tensor] | None) -> Values:
    """The given noise by variable."""
    random = [f.variable for f in joint.factors if f.family is not None]
    if noise is not None and not isinstance(noise, Mapping):
        raise FormulaError(
            f"{joint}: expected noise= by variable, e.g. noise={{{(random[0].key if random else 'z')!r}: tensor}}, "
            f"got {type(noise).__name__}"
        )
    return by_variable(f"the noise of {joint}", noise or {}, random, _who(joint))


def sample(
    joint: Joint,
    held: Values,
    sample_shape: tuple[int, ...],
    generator: torch.Generator | None,
    noise: Values,
    deterministic: bool,
) -> dict[str, Tensor]:
    """Every variable of the product by name. A network sees the axes of ``sample_shape`` only behind a draw."""
    widened = set[Variable]()  # what has the axes of sample_shape already
    batch, common = _batch(joint, held), _common(joint)
    for factor in (u.factor for u in draw_order(joint.uses)):
        if factor.observed:
            continue
        inherits = factor.net is not None and any(c in widened for c in factor.conditions)
        values = [
            held[c].expand(*sample_shape, *held[c].shape) if inherits and c not in widened else held[c]
            for c in factor.conditions
        ]
        if common.isdisjoint(factor.variables) and not common.issuperset(factor.conditions):
            read = zip(factor.conditions, values, strict=True)
            values = [rows(v, len(sample_shape) * inherits, batch) if c in common else v for c, v in read]
        own = () if inherits else sample_shape
        if factor.family is not None and factor.unbatched and not factor.shared and factor.variable not in noise:
            own = (*sample_shape, *batch)  # such as the prior beside p(x|z,y): one draw for every row of y
        drawn = factor.draw(values, own, generator, noise.get(factor.variable), deterministic)
        held |= dict(zip(factor.variables, drawn if len(factor.variables) > 1 else (drawn,), strict=True))
        if inherits or factor.family is not None:
            widened |= set(factor.variables)
    shown = [v for f in joint.factors for v in f.variables]
    return {v.key: held[v] if v in widened else held[v].expand(*sample_shape, *held[v].shape) for v in shown}


def _common(joint: Joint) -> set[Variable]:
    """The variables of which all rows have one value: what is shared, and what is computed of such alone."""
    found = set[Variable]()
    for factor in (u.factor for u in draw_order(joint.uses)):
        computed = factor.family is None and factor.conditions and found.issuperset(factor.conditions)
        if factor.shared and not found.issuperset(factor.conditions):
            read = next(c for c in factor.conditions if c not in found)
            raise FormulaError(
                f"{factor} is shared by all rows (shared=True), and it reads {read}, which each row has of its own\n"
                f"let it read shared variables alone"
            )
        if factor.shared or computed:
            found.update(factor.variables)
    return found


def _batch(joint: Joint, held: Values) -> tuple[int, ...]:
    """The batch axes of what is given: all but the declared event axes; one axis where none are declared."""
    shapes = {v: s for f in joint.factors for v, s in f.event_shapes() if s is not None}
    found: list[tuple[int, ...]] = [()]
    common = _common(joint)
    for variable, value in held.items():
        if variable in common:
            continue
        vector = value.is_floating_point()  # and not a class number or a flag
        axes = value.ndim - len(shapes[variable]) if variable in shapes else min(value.ndim - vector, 1)
        found.append(tuple(value.shape[: max(axes, 0)]))
    return max(found, key=len)


def log_prob(joint: Joint, values: Mapping[str, Any]) -> Tensor:
    """The sum of the factors' log-densities, which have one batch shape."""
    factors = [u.factor for u in draw_order(joint.uses)]
    wanted, _ = _read(factors, ())
    every = [v for f in factors for v in (*f.variables, *f.conditions)]
    held = by_variable(joint, values, wanted, _who(joint), optional=every)
    wanted, computed = _read(factors, held)
    need(joint, values, held, wanted, _who(joint))
    terms: list[Tensor] = []
    common = _common(joint)
    _refuse_mixed(factors, common)
    for factor in factors:
        conditions = [held.get(c) for c in factor.conditions]
        if factor in computed:
            drawn = factor.draw(conditions)
            held |= dict(zip(factor.variables, drawn if len(factor.variables) > 1 else (drawn,), strict=True))
        elif factor.family is not None:
            terms.append(factor.density(held[factor.variable], conditions))
    one_batch(*terms)
    return sum(terms[1:], start=terms[0])


def _refuse_mixed(factors: Sequence[Factor], common: Collection[Variable]) -> None:
    """Refuse the sum of a density that all rows share and of one that each row has."""
    random = [f for f in factors if f.family is not None]
    shared, own = ([f for f in random if (f.variable in common) is wanted] for wanted in (True, False))
    if shared and own:
        raise FormulaError(
            f"log {shared[0]} is one number for all rows, and log {own[0]} is one for each row\n"
            f"add the sum over the rows: {shared[0].header.letter}.log_prob(...) + "
            f"{own[0].header.letter}.log_prob(...).sum()"
        )


def _read(factors: Sequence[Factor], held: Collection[Variable]) -> tuple[list[Variable], list[Factor]]:
    """What the densities of sorted factors read and nobody computes, and the deterministic factors that they need."""
    read: dict[Variable, None] = {}
    computed: list[Factor] = []
    for factor in reversed(factors):
        if factor.family is not None:
            read |= dict.fromkeys((factor.variable, *factor.conditions))
        elif not factor.observed and any(v in read and v not in held for v in factor.variables):
            computed.append(factor)
            read |= dict.fromkeys(factor.conditions)
    return [v for v in read if all(v not in f.variables for f in computed)], computed
