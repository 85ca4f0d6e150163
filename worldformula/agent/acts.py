"""What an agent does, as variables of its world: one for each number-valued action, and one for each choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula import catalogue
from worldformula.catalogue import System
from worldformula.envs.actions import SINGLE, Actions, ActionSpec, column_name, mask_name
from worldformula.errors import MissingInputError, SpaceError
from worldformula.nets.classes import one_hots
from worldformula.planner import ActionSet
from worldformula.world.contract import Kind


@dataclass(frozen=True)
class Act:
    """One action variable of a world, ``[N, size]``: an action of the environment, or one of its choices.

    Attributes:
        variable: its name in formulas: ``a`` where it is the only one, else ``a_1``, ``a_2``, …
        action: the name of the environment's action.
        kind: "numbers" in [−1, 1], "choice", a one-hot, or "flags", zeros and ones.
        size: numbers, choices or flags.
        element: which choice of a MultiDiscrete it is; None where the action is the choice.
        first: where its choices begin among those of the action.
        masked: whether rows say which of its choices are allowed.
    """

    variable: str
    action: str
    kind: Kind
    size: int
    element: int | None = None
    first: int = 0
    masked: bool = False

    @property
    def at(self) -> str:
        """The variable with its index of time, ``a_t`` or ``a_{1,t}``."""
        return timed(self.variable)

    @property
    def mask(self) -> str:
        """The variable of its mask, ``M`` or ``M_1``."""
        _, line, number = self.variable.partition("_")
        return f"M{line}{number}"


def timed(variable: str) -> str:
    """A variable with its index of time: ``M_t`` of M, ``M_{1,t}`` of M_1."""
    base, _, number = variable.partition("_")
    return f"{base}_{{{number},t}}" if number else f"{base}_t"


def named(actions: ActionSpec | Mapping[str, ActionSpec]) -> dict[str, ActionSpec]:
    """Specifications by name."""
    return {SINGLE: actions} if isinstance(actions, ActionSpec) else dict(actions)


def acts_of(actions: Mapping[str, ActionSpec]) -> tuple[Act, ...]:
    """The variables of named actions, in order; every element of a MultiDiscrete is one of its own."""
    found: list[Act] = []
    for name, spec in actions.items():
        if spec.kind == "multi_discrete":
            firsts = [sum(spec.classes[:i]) for i in range(len(spec.classes))]
            found += [Act("a", name, "choice", n, i, firsts[i], spec.masked) for i, n in enumerate(spec.classes)]
        else:
            kind: Kind = "choice" if spec.classes else "flags" if spec.kind == "flags" else "numbers"
            found.append(Act("a", name, kind, spec.size, masked=spec.masked))
    if len(found) == 1:
        return tuple(found)
    return tuple(replace(act, variable=f"a_{i}") for i, act in enumerate(found, 1))


def require_kinds(agent: System, acts: Iterable[Act]) -> None:
    """Whether an agent takes these actions.

    Raises:
        SpaceError: it does not; the message names the agents that do.
    """
    acts = tuple(acts)
    for act in acts:
        if act.kind not in agent.acts:
            kinds = {each.kind for each in acts}
            fit = [system.name for system in catalogue.discover("agents") if kinds <= set(system.acts)]
            words = {"numbers": "numbers in [−1, 1]", "choice": f"a choice of {act.size}", "flags": "flags"}
            own = " and ".join(words[kind] for kind in agent.acts)
            raise SpaceError(
                f"{agent.name} acts by {own}, and the action {act.action!r} is {words[act.kind]}\n"
                f"take an agent for such actions: {', '.join(fit) or 'none is here'}"
            )


def space_of(acts: Iterable[Act]) -> dict[str, ActionSet]:
    """The sets that a planner searches in, by variable."""
    return {act.variable: ActionSet(act.size, act.kind) for act in acts}


def encoded(acts: Iterable[Act], columns: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """Columns of actions, ``action`` or ``action/<name>``, as float32 ``[..., size]`` by variable.

    Raises:
        MissingInputError: a column is missing.
        SpaceError: a number that names no choice.
    """
    found = {}
    for act in acts:
        name = column_name(act.action)
        if name not in columns:
            raise MissingInputError(f"perception needs the column {name!r} of the rows, got {', '.join(columns)}")
        value = torch.as_tensor(np.ascontiguousarray(columns[name]), device=device)
        if act.kind == "choice":
            index = value if act.element is None else value[..., act.element]
            found[act.variable] = one_hots(index[..., None], (act.size,), name=name)
        else:
            found[act.variable] = value.float()
    return found


def chosen(acts: Iterable[Act], values: Mapping[str, Tensor]) -> Actions:
    """What an agent chose, ``[N, size]`` by variable, as columns by action, or the column of the only action."""
    found: dict[str, NDArray[Any]] = {}
    for act in acts:
        value = values[act.variable]
        given = value.argmax(-1) if act.kind == "choice" else value > 0.5 if act.kind == "flags" else value
        column = given.cpu().numpy()
        if act.element is not None:
            before = [found[act.action]] if act.action in found else []
            column = np.concatenate((*before, column[..., None]), -1)
        found[act.action] = column
    return next(iter(found.values())) if len(found) == 1 else found


def masks(acts: Iterable[Act], rows: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """What is allowed at rows, booleans ``[N, size]`` by variable, for the choices that have a column of masks.

    Where nothing is allowed, the first choice is, as Gymnasium does.
    """
    found = {}
    for act in acts:
        column = rows.get(mask_name(act.action))
        if act.kind == "choice" and column is not None:
            mask = torch.as_tensor(column[..., act.first : act.first + act.size], device=device).bool()
            none = ~mask.any(-1, keepdim=True)
            found[act.variable] = torch.cat((mask[..., :1] | none, mask[..., 1:]), -1)
    return found
