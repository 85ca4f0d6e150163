"""What can be imagined: the contract that planners, learners and costs rely on, a prior of formulas or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldformula.errors import FormulaError, near
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.world.state import State, Values

Kind = Literal["numbers", "choice", "flags"]
"""What an action is: numbers in [−1, 1], a one-hot choice, or flags of 0 and 1."""

Actions = Tensor | Mapping[str, Tensor]
"""A series ``[N, H, ...]`` for each action by name, or the tensor itself where there is one action."""


@runtime_checkable
class Dynamics(Protocol):
    """What can be imagined: states, the actions that move them, and what is predicted at them.

    `worldformula.world.PriorDynamics` answers to it with a product of factors, `worldformula.world.World` with its
    prior, and a simulator written by hand may answer too. Where it also has ``roles``, a mapping of roles such as
    "reward" and "continue" to the names of heads, costs find those heads. Where it has a ``duration``, the name of a
    variable of its dreams, that says how many steps of time each step took. Where it has ``choices``, names of what it
    draws, they may stand among the actions of a dream.
    """

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of its actions; none where nothing can be done."""
        ...

    def initial(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> State:
        """The state before the first step, for so many rows, without actions."""
        ...

    def imagine(
        self,
        start: Values,
        policy: Factor | Joint | None = None,
        *,
        actions: Actions | None = None,
        horizon: int | None = None,
        given: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> State:
        """States ``[N, H + 1, ...]`` from ``start`` ``[N, ...]``, the start first, and the actions by name.

        ``start`` may hold more than is read. ``given`` are conditions that are held through the dream. ``options`` are
        ``seed``, ``generator``, ``noise``, ``deterministic``, and numbers by name.
        """
        ...

    def decode(
        self, states: Values, heads: Iterable[str] | None = None, **numbers: float | Tensor
    ) -> dict[str, Tensor]:
        """The mean of every head, or of those named, at states ``[..., event]``."""
        ...


def head_of(dynamics: Dynamics, role: str) -> str:
    """The name of the head that has a role.

    Raises:
        FormulaError: none has it; the message says what to write.
    """
    roles: Mapping[str, str] = getattr(dynamics, "roles", {})
    if role not in roles:
        heads = ", ".join(getattr(dynamics, "heads", {})) or "none"
        given = ", ".join(f"{k} is {v}" for k, v in roles.items()) or "none"
        raise FormulaError(
            f"no head of this {type(dynamics).__name__} has the role {role!r} (roles: {given}; heads: {heads})."
            f"{near(role, roles)}\nsay which head it is, {type(dynamics).__name__}(..., roles={{{role!r}: 'r'}}), or "
            f"use a cost that does not need it"
        )
    return roles[role]
