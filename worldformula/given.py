"""What a search is given, checked before it begins: settings, spaces, states, generators, sequences to begin from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real

import torch
from torch import Tensor

from worldformula.errors import ConfigError, ShapeError, table
from worldformula.planner import ActionSet, Named, Planner, Space, some
from worldformula.world import Dynamics, State, Values
from worldformula.world.contract import Kind


def check_space(dynamics: Dynamics, space: Space) -> None:
    """A space has the actions of the dynamics, and besides them nothing but its choices.

    Raises:
        ConfigError: it has others, or lacks one.
    """
    if wrong := [(k, v) for k, v in space.items() if not isinstance(v, ActionSet)]:
        name, value = wrong[0]
        raise ConfigError(f"space: expected an ActionSet for {name!r}, got {value!r}\nwrite {{{name!r}: ActionSet(2)}}")
    known = {*dynamics.actions, *getattr(dynamics, "choices", ())}
    if not set(dynamics.actions) <= set(space) <= known or not space:
        raise ConfigError(
            f"expected a space of the actions {', '.join(dynamics.actions) or 'none'}, got {', '.join(space) or 'none'}"
            f"\nwrite space={{{', '.join(f'{a!r}: ActionSet(...)' for a in dynamics.actions)}}}"
        )
    drawn = {f.variable.key: f for f in getattr(getattr(dynamics, "prior", None), "factors", ())}
    kinds: dict[str, Kind] = {"one_hot": "choice", "bernoulli": "flags"}
    for name in set(space) - set(dynamics.actions):
        family = getattr(drawn.get(name), "family", None)
        kind = kinds.get(getattr(family, "name", ""), "numbers")
        if family is not None and space[name].kind != kind:
            raise ConfigError(
                f"{name}: the prior draws it by {drawn[name]}, and what is chosen for it is of kind "
                f"{space[name].kind}\nwrite ActionSet({space[name].size}, {kind!r})"
            )


def check_fields(planner: object) -> None:
    """The settings of a search are of their types: whole numbers, finite ones, planners.

    Raises:
        ConfigError: one is not; NaN would pass every comparison that looks for what is wrong.
    """
    for own in fields(planner):  # type: ignore[arg-type]
        value = getattr(planner, own.name)
        if own.type == "int" and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise ConfigError(f"{own.name}: expected a whole number, got {value!r}")
        if own.type == "Planner" and not isinstance(value, Planner):
            raise ConfigError(
                f"{own.name}: expected a planner, got {value!r}\nwrite {own.name}=CEM(horizon=12), of "
                f"worldformula.planners.cem"
            )
        if own.type in ("float", "float | None") and value is not None:
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise ConfigError(f"{own.name}: expected a finite number, got {value!r}")


def like_of(state: Values) -> Tensor:
    """A tensor ``[B, ...]`` of the type that actions and costs of states ``[B, ...]`` have, on their device: that of
    the first numbers among them; of states that are counted alone, such as the cell of a table, torch's own.

    Raises:
        ShapeError: a state without variables, or of no episode.
    """
    series = State(state).series
    if not series or not len(next(iter(series.values()))):
        shown = ", ".join(f"{k} {list(v.shape)}" for k, v in series.items()) or "nothing"
        raise ShapeError(
            f"expected a state of at least one episode to search from, [B, ...] by name, got {shown}\nwrite "
            f"dynamics.initial(1), or a state that a world has inferred"
        )
    found: Tensor | None = next((v for v in series.values() if v.is_floating_point()), None)
    if found is not None:
        return found
    first = next(iter(series.values()))
    return torch.zeros(len(first), device=first.device)


def of_space(given: Named | None, space: Space) -> dict[str, Tensor] | None:
    """What is given for the actions of a space, of a search that has others too; None where that is nothing."""
    return {name: value for name, value in (given or {}).items() if name in space} or None


def check_given(what: str, given: Named | None, space: Space, shape: tuple[int | None, ...]) -> None:
    """Tensors by action of this shape, whose last axis is the size of the action; None is any number.

    Raises:
        ShapeError: another action, or another shape.
    """
    if given is None:
        return
    if what == "proposals" and (lacking := [name for name in space if name not in given]):
        raise ShapeError(f"{what}: expected sequences of every action, and {lacking[0]!r} is missing")
    for name, value in given.items():
        expected = (*shape, space[name].size if name in space else None)
        fits = len(expected) == value.ndim and all(e in (None, n) for e, n in zip(expected, value.shape, strict=True))
        if name not in space or not fits:
            rows = [
                (k, [*shape, space[k].size] if k in space else "no such action", list(v.shape))
                for k, v in given.items()
            ]
            raise ShapeError(f"{what}: expected these actions\n" + table(("action", "expected", "got"), rows))
        if what == "proposals" and not space[name].holds(value):
            raise ConfigError(f"{what}: {name!r} holds actions that are none of {space[name]}")
        if what == "mask" and space[name].kind != "choice":
            raise ConfigError(f"{what}: expected masks of choices, and {name!r} is {space[name].kind}")


def allowed(masks: Named | None, first: Named) -> Tensor | None:
    """Which candidates ``[B, N]`` take no forbidden choice at first, ``[B, N, size]`` by name; None where all may."""
    found: Tensor | None = None
    for name, mask in (masks or {}).items():
        own = ~((first[name] > 0) & ~some(mask).unsqueeze(1)).any(-1)
        found = own if found is None else found & own
    return found


def per_episode(
    generators: Sequence[torch.Generator] | None, batch: int, device: torch.device
) -> Sequence[torch.Generator]:
    """The given generators, one per episode, or fresh ones seeded 0, 1, …"""
    if generators is None:
        return [torch.Generator(device).manual_seed(i) for i in range(batch)]
    if len(generators) != batch:
        raise ShapeError(f"expected one generator per episode, {batch} of them, got {len(generators)}")
    if len({id(g) for g in generators}) < batch:
        raise ConfigError(
            "two episodes have the same generator, so that the plan of one would depend on the other\nwrite "
            f"[torch.Generator().manual_seed(i) for i in range({batch})]"
        )
    return generators
