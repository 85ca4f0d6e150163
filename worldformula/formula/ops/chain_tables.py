"""A chain as operations: its tables of log-probabilities before the loop, and the recursion in it.

The states have sample axes while networks and densities see them, one for the state of the step and one for that of the
step before, and become event axes of the tables: ``pair`` [S, S] is one for all rows where it reads nothing else, or
[B, S, S]; ``own`` [B, S] are the densities of what is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from worldformula.formula import runtime
from worldformula.formula.ops.chain import Chain, started
from worldformula.formula.ops.recursions import (
    Every,
    Law,
    Transition,
    Values,
    apart,
    joined,
    last,
    log_sum,
    normalised,
    nothing,
    paired,
)
from worldformula.formula.plan import densities, starts
from worldformula.formula.plan.hoist_before import mixes_rows
from worldformula.formula.plan.plan import Op
from worldformula.formula.plan.scope import Scope
from worldformula.formula.syntax.check import draw_order
from worldformula.formula.syntax.names import Variable
from worldformula.formula.syntax.nodes import Expectation, Number, Product, Use


class Tables(NamedTuple):
    """The operations of a chain: log p(z_t|x_{≤t}) and that of the step before, log p(x_t|x_{<t}), and the tables.

    ``around`` are the sample axes of what encloses the chain: in front of the event axes of all, and of the step again
    in front of the batch.
    """

    law: str
    before: str
    step: str
    pair: str
    own: str
    start: str
    around: tuple[int, ...]


class States(NamedTuple):
    """The sample axes of the states of a step and of the step before, in the order of the chain's variables."""

    now: tuple[int, ...]
    before: tuple[int, ...]


def tables(lowering: Any, chain: Chain, scope: Scope) -> Tables:
    """The recursion of a chain in a scope of its steps, written once for each place."""
    place = (id(chain), *((str(v), name) for v, name in scope.values.items()), lowering.flags_of_time)
    if place not in lowering.chains:
        lowering.chains[place] = _written(lowering, chain, scope)
    return lowering.chains[place]  # type: ignore[no-any-return]


def _written(lowering: Any, chain: Chain, scope: Scope) -> Tables:
    inside, states = _inside(lowering, chain, replace(scope, leaves=[]))
    law = _law_variable(lowering, chain)
    pair, own = _pair(lowering, chain, inside, states), _own(lowering, chain, inside, states)
    start = _start(lowering, chain, inside, states)
    around = tuple(sorted({axis for name in (pair, own, start) for axis in lowering.ops[name].axes}))
    pair, own, start = (_enclosed(lowering, name, around) for name in (pair, own, start))
    whole = [lowering.sizes[axis] for axis in states.now]
    lowering.shapes[law.key] = shape = (*(lowering.sizes[axis] for axis in around), math.prod(whole))
    lowering.ranks[law.key] = len(shape)
    lowering.carried.add(law)
    before = lowering.add(law.at(-1).identifier, Op("", "carry", variable=law.at(-1), step=True, rank=len(shape)))
    options = (("first", chain.first),)
    joint = lowering.call("joint", joined, before, start, pair, own, rank=len(shape), options=options)
    known = lowering.call(law.key, normalised, joint, rank=len(shape), how="known")
    lowering.carries[law.key] = lowering.samples[law.key] = known
    step = lowering.call("log_step", log_sum, joint, rank=len(around))
    for rank, axis in reversed([*enumerate(around)]):
        place = sorted({*lowering.ops[step].axes, axis}, reverse=True).index(axis)
        op = Op("", "call", (step,), target=apart, axes=(axis,), rank=rank, options=(("place", place),))
        step = lowering.add("log_step", op)
    return Tables(known, before, step, pair, own, start, around)


def _enclosed(lowering: Any, name: str, around: tuple[int, ...]) -> str:
    """A table with the sample axes of what encloses the chain in front of its own."""
    if not around or lowering.shared(name):
        return name
    known, rank = lowering.along(name, tuple(sorted(around, reverse=True))), lowering.rank(name)
    for further, axis in enumerate(around, 1):
        place = (("place", lowering.ops[known].axes.index(axis)), ("to", -rank - 1))
        op = Op("", "call", (known,), target=last, options=place, axis=axis, rank=rank + further)
        known = lowering.add(f"{name}_rows", op)
    return str(known)


def _law_variable(lowering: Any, chain: Chain) -> Variable:
    """The variable of what is carried, α_z: log p(z_t|x_{≤t}); another name where that is taken."""
    name = "_".join(v.key for v in chain.hidden)
    taken = {*lowering.written, *lowering.carries}
    count = next(n for n in range(1, len(taken) + 2) if f"alpha_{name}" + "_" * (n - 1) not in taken)
    return Variable("alpha", subscript=name + "_" * (count - 1), index=chain.index)


def _inside(lowering: Any, chain: Chain, scope: Scope) -> tuple[Scope, States]:
    """The scope of a step in which the states take all their values, and what is computed has its own."""
    plain = [u for u in draw_order(chain.uses) if u.factor.family is None]
    hidden, late = {v for h in chain.hidden for v in (h, h.at(-1))}, list[Use]()
    for use in plain:
        if hidden & {*use.factor.conditions}:
            hidden.update(use.factor.variables)
            late.append(use)
    if early := tuple(u for u in plain if u not in late):
        lowering.declared |= {v for u in early for v in u.factor.variables}
        scope = densities.draw(lowering, Expectation(early, Number(0)), scope)
    seen = chain.seen[0].factor
    like = lowering.read(seen.variable, scope, seen)
    values, axes = dict(scope.values), (list[int](), list[int]())
    for use in chain.states:
        variable, shape = use.factor.variable, use.factor.shape or ()
        family: Any = use.factor.family
        every = Values(family, shape, variable.key, [u.factor for u in chain.uses])
        for which, at in enumerate((variable, variable.at(-1))):
            axis = lowering.axis((id(use.factor), at, like), family.support_size(shape))
            options = (("rank", lowering.event_rank(seen.variable)),)
            axes[which].append(axis)
            reading = [u for u in chain.uses if at in u.factor.conditions]
            alone = [u for u in reading if _alone(lowering, chain, u, scope, at)]
            scored = not which and (
                len(chain.hidden) > 1 or not chain.moving or not alone
            )  # its own law is, or nothing
            if scored or len(alone) < len(reading):
                op = Op("", "call", (like,), how="known", target=every, axes=(axis,), rank=len(shape), options=options)
                values[at] = lowering.add(f"every_{at.identifier}", op)
    place = {v: i for i, v in enumerate(u.factor.variable for u in chain.states)}
    now, before = (tuple(kind[place[v]] for v in chain.hidden) for kind in axes)
    inside = scope.with_values(values)
    for use in late:
        names = lowering.value_of(use, inside)
        inside = inside.having(dict(zip(use.factor.variables, names, strict=True)))
    return inside, States(now, before)


# --------------------------------------------------------------------------------------------------------- the tables


def _pair(lowering: Any, chain: Chain, inside: Scope, states: States) -> str:
    """log p(z_t|z_{t-1}), times the densities of data that read z_{t-1}."""
    moving, reading = chain.moving, tuple(u for u in chain.seen if _reads(u, inside, states.before, lowering))
    if len(chain.hidden) == 1 and len(moving) == 1:
        found = _transition(lowering, chain, moving[0], inside, states)
    else:
        found = _cells(lowering, densities.log_density(lowering, moving, inside), states.before, states.now)
    if not reading:
        return found
    seen = _cells(lowering, _counted(lowering, reading, inside), states.before, states.now)
    return str(lowering.call("pair", torch.add, seen, found, rank=2))


def _own(lowering: Any, chain: Chain, inside: Scope, states: States) -> str:
    """The densities of data given the state of their step, and of states that read no step before."""
    still = tuple(u for u in chain.states if u not in chain.moving)
    seen = tuple(u for u in chain.seen if not _reads(u, inside, states.before, lowering))
    alone = [u for u in seen if _alone(lowering, chain, u, inside, chain.hidden[0])]
    parts = [(tuple(u for u in seen if u not in alone), inside)]
    parts += [((use,), _once(lowering, chain, use, inside, states)) for use in alone]
    value: Any = None
    for some, scope in parts:
        if some:
            found = _counted(lowering, some, scope)
            value = found if value is None else lowering.binary("+", value, found)
    if still:
        own = densities.log_density(lowering, still, inside)
        value = own if value is None else lowering.binary("+", value, own)
    if value is None:  # all data read the step before
        options = (("rank", len(chain.states[0].factor.shape or ())),)
        value = lowering.call("nothing", nothing, inside[chain.states[0].factor.variable], options=options)
    return _cells(lowering, value, (), states.now)


def _reads(use: Use, inside: Scope, axes: Sequence[int], lowering: Any) -> bool:
    """Whether the density of data depends on the state of the step before, itself or through what is computed."""
    known = (inside.values.get(c) for c in use.factor.conditions)
    return any(name is not None and set(axes) & set(lowering.ops[name].axes) for name in known)


def _counted(lowering: Any, seen: Product, inside: Scope) -> str:
    """The log-density of data, 0 at steps that do not count."""
    value = densities.log_density(lowering, seen, inside)
    if lowering.flags_of_time is None:
        return str(value)
    filled = Op("", "call", (value, lowering.flags_of_time, 0), target=runtime.filled)
    return str(lowering.add(f"{value}_counted", filled))


def _cells(lowering: Any, value: Any, before: Sequence[int], now: Sequence[int]) -> str:
    """A value with the sample axes of states as a table, [B, S] or [B, S, S], the step before first."""
    wanted = {*before, *now}
    known = lowering.along(value, tuple(sorted({*lowering.ops[value].axes, *wanted}, reverse=True)))
    for rank, axis in enumerate((*before, *now), 1):
        place = (("place", lowering.ops[known].axes.index(axis)),)
        op = Op("", "call", (known,), target=last, options=place, axis=axis, rank=rank)
        known = lowering.add(f"{value}_table", op)
    if len(now) < 2:
        return str(known)
    options = (("froms", len(before)), ("tos", len(now)))
    return str(lowering.call(f"{value}_table", paired, known, rank=1 + bool(before), options=options))


def _transition(lowering: Any, chain: Chain, use: Use, inside: Scope, states: States) -> str:
    """log p(z_t|z_{t-1}) of one variable: [S, S] where it reads that alone, else [B, S, S]."""
    factor, (axis,) = use.factor, states.before
    law = Law(factor.family, factor.shape or (), factor.variable.key)  # type: ignore[arg-type]
    if _alone(lowering, chain, use, inside, factor.variable.at(-1)):
        table = Transition(law, use.stopped)
        return str(lowering.call(table.__name__, table, net=factor, how="shared", rank=2))
    params = lowering.params(use, inside)
    found = lowering.call(law.__name__, law, params, rank=1)
    place = (("place", lowering.ops[found].axes.index(axis)), ("to", -2))
    return str(lowering.add(f"{found}_table", Op("", "call", (found,), target=last, options=place, axis=axis, rank=2)))


def _once(lowering: Any, chain: Chain, use: Use, inside: Scope, states: States) -> Scope:
    """A scope in which the only state is the same for all rows, so that a network of data which reads it alone sees
    its S values once.
    """
    state, (axis,) = chain.states[0].factor, states.now
    every = Every(state.family, state.shape or (), state.variable.key)  # type: ignore[arg-type]
    op = Op("", "call", (), use.factor, target=every, axes=(axis,), rank=len(state.shape or ()), common=True)
    return inside.having({state.variable: lowering.add(f"every_{state.variable.identifier}", op)})


def _alone(lowering: Any, chain: Chain, use: Use, scope: Scope, at: Variable) -> bool:
    """Whether a factor reads the only state alone, ``at`` the step or the one before, by a network whose
    weights say of which type its input is.
    """
    factor, net = use.factor, use.factor.net
    if len(chain.hidden) > 1 or factor.conditions != (at,) or at.at(0) != chain.hidden[0]:
        return False
    if at.offset and factor.variable != chain.hidden[0]:  # data that read the step before
        return False
    if not isinstance(net, nn.Module) or not any(p.is_floating_point() for p in net.parameters()):
        return False
    others = factor.parts or factor.symbols or factor.given or mixes_rows(net)
    return not (others or id(factor) in scope.held or any(factor is start for start in lowering.gone.values()))


def _start(lowering: Any, chain: Chain, inside: Scope, states: States) -> str:
    """log p(z_1) or log p(z_0): [S], one for each row, or with resets one for each step."""
    clock = replace(chain.clock, begin=chain.begin)
    rows = {}
    for use in chain.begin:
        for condition in use.factor.conditions:
            if condition not in inside.values and (row := starts.row(lowering, condition, clock, use.factor)):
                rows[condition] = row
    scope = inside.having(rows)
    if len(chain.hidden) == 1:
        factor = chain.begin[0].factor
        law = Law(factor.family, factor.shape or (), factor.variable.key)  # type: ignore[arg-type]
        known = lowering.params(chain.begin[0], scope)
        shared = "shared" if factor.unbatched else ""
        found = lowering.call(law.__name__, law, known, rank=1, how=shared)
        return str(found if shared else lowering.repeated(found))
    axes, offset = (states.now, 0) if chain.first else (states.before, -1)
    keys = {started(u.factor.variable, chain.first): u.factor.variable for u in chain.begin}
    own = {keys[v.key]: inside[v.at(offset)] for v in chain.hidden if v.key in keys}
    value = densities.log_density(lowering, chain.begin, scope.having(own))
    if not chain.first:  # of states that nothing reads, all values are one
        spare = [lowering.sizes[axis] for v, axis in zip(chain.hidden, axes, strict=True) if v.key not in keys]
        value = lowering.binary("-", value, math.log(math.prod(spare))) if spare else value
    return _cells(lowering, value, (), axes)
