"""What acts in a dream: one factor for each action, which may read the state and the actions chosen before it.

One that reads the mask of a choice, π(a_t|h_t,z_t,M_t), reads what a head of the world says is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.formula.plan.histories import held
from worldformula.formula.syntax.check import draw_order
from worldformula.world.contract import Actions
from worldformula.world.state import State


def read_masks(policy: Factor | Joint, masks: Mapping[str, Factor]) -> tuple[Factor, ...]:
    """What says what is allowed, of those masks that a policy reads."""
    factors = policy.factors if isinstance(policy, Joint) else (policy,) if isinstance(policy, Factor) else ()
    read = {c.key for f in factors for c in f.conditions if not c.offset}
    return tuple(factor for key, factor in masks.items() if key in read)


def acting(policy: Factor | Joint, actions: tuple[str, ...], state: Iterable[str]) -> tuple[Factor, ...]:
    """The factors of a policy, those first that others read; ``state`` are the variables that are known before it.

    Raises:
        FormulaError: not one factor for each action, or one that reads what is neither in the state nor chosen.
    """
    if not isinstance(policy, Factor | Joint):
        known = state.series if isinstance(state, State) else state
        given = ",".join(f"{k}_t" for k in known)
        raise FormulaError(
            f"expected the policy as a factor, got {type(policy).__name__}; "
            f"write Normal('π({actions[0]}_t|{given})', net, shape=...), or OneHot(...) for discrete actions"
        )
    factors = policy.factors if isinstance(policy, Joint) else (policy,)
    declared = {f.variable.key for f in factors}
    unknown = {
        c
        for f in factors
        for c in f.conditions
        if c.several or (held(c) not in state and (c.key not in declared or c.offset))
    }
    if sorted(f.variable.key for f in factors) != sorted(actions) or unknown:
        rows = [
            (c, f, "not in a state" if c in unknown else "chosen" if c.key in declared else "carried")
            for f in factors
            for c in f.conditions
        ]
        several = "" if len(actions) == 1 else ", one factor for each,"
        raise FormulaError(
            f"expected a policy over {', '.join(actions)}{several} given variables of the state "
            f"({', '.join(state)}), got {policy}\n" + table(("variable", "declared by", "got"), rows)
        )
    if not isinstance(policy, Joint):
        return factors
    return tuple(cast(Factor, use.factor) for use in draw_order(policy.uses))


def first_action(
    factors: tuple[Factor, ...], start: State, options: Mapping[str, Any], noise: Mapping[str, Tensor] | None
) -> State:
    """The start with the actions that are drawn at it; ``noise`` by action."""
    modes, generator = bool(options.get("deterministic", False)), options.get("generator")
    for factor in factors:
        key = factor.variable.key
        own, _ = factor.for_call({v.key: options[v.key] for v in factor.symbols if v.key in options})
        seen = [start[held(c)] for c in factor.conditions]
        given = None if noise is None else noise.get(key)
        start = start | {key: own.draw(seen, (), generator, given, modes)}
    return start


def followed(
    actions: Actions, lead: tuple[int, ...], names: tuple[str, ...], choices: tuple[str, ...], prior: Joint
) -> dict[str, Tensor]:
    """What a dream is given, by name, ``[*lead, H, ...]`` with one H of at least one step: every action of the prior,
    and what it draws where that is chosen.
    """
    if isinstance(actions, Tensor):
        if len(names) > 1:
            written = ", ".join(f"{key!r}: ..." for key in names)
            raise FormulaError(
                f"the prior {prior} reads {len(names)} actions, got one tensor; write actions={{{written}}}"
            )
        if not names:
            raise FormulaError(f"expected imagine(start, horizon=...): the prior {prior} has no action")
        actions = {names[0]: actions}
    elif not set(names) <= actions.keys() <= {*names, *choices}:
        raise FormulaError(
            f"expected the actions {', '.join(names) or 'none'} by name, got {', '.join(actions) or 'none'}\n"
            f"of what the prior draws may be chosen too: {', '.join(choices) or 'nothing'}"
        )
    axes = len(lead)
    shapes = [tuple(v.shape[: axes + 1]) for v in actions.values()]
    if any(len(s) <= axes or s[:axes] != lead or s[axes] < 1 for s in shapes) or len(set(shapes)) > 1:
        expected = f"[{', '.join(map(str, lead))}{', ' if lead else ''}H ≥ 1, ...]"
        rows = [(key, expected, list(v.shape)) for key, v in actions.items()]
        series = axes > 1 and all(len(s) > 1 and s[0] == lead[0] for s in shapes)  # states of a filter are [B, T]
        raise ShapeError(
            f"imagine: the actions do not fit the start{', or one another' if len(shapes) > 1 else ''}\n"
            + table(("variable", "expected", "got"), rows)
            + ("\nimagine from the last step of the states, imagine(states.last(), ...)" if series else "")
        )
    return dict(actions)
