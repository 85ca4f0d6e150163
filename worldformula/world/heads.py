"""The heads of a world, by name: what is predicted at a state, and which of it is the reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, UnknownVariableError, near, table
from worldformula.families.bernoulli import BernoulliFamily
from worldformula.families.categorical import CategoricalFamily
from worldformula.formula.code.rollout import require
from worldformula.formula.factors.independent import Deterministic
from worldformula.formula.factors.joint import Factor
from worldformula.formula.plan.histories import held
from worldformula.formula.plan.hoist_before import mixes_rows
from worldformula.gradients import in_parts
from worldformula.world.state import Values

Given = Mapping[str, Factor] | Iterable[Factor]
"""Heads by name; of a list, the name of a head is its variable."""

REWARD, CONTINUE = ROLES = "reward", "continue"
"""The roles that costs, controllers and pages look for."""

MASK = "mask/"
"""A head with the role ``mask/a`` says which choices of the action a are allowed at a state."""

NEAR = 0.8  # how much alike a role of one's own and one that is looked for must be for the first to be a slip


def by_name(heads: Given) -> dict[str, Factor]:
    """The heads by name.

    Raises:
        FormulaError: two in a list predict one variable; something that is no factor.
    """
    found: dict[str, Factor] = {}
    pairs = heads.items() if isinstance(heads, Mapping) else ((getattr(h, "variable", None), h) for h in heads)
    for name, head in pairs:
        if not isinstance(head, Factor):
            raise FormulaError(f"expected heads as factors, such as Normal('p(x_t|h_t)', net), got {head!r}")
        key = name if isinstance(name, str) else head.variable.key
        if key in found:
            raise FormulaError(
                f"two heads predict {key}: {found[key]} and {head}\ngive each a name, heads={{{key!r}: ..., "
                f"'{key}_coarse': ...}}"
            )
        found[key] = head
    return found


def checked_roles(roles: Mapping[str, str] | None, heads: Mapping[str, Factor]) -> dict[str, str]:
    """The roles, each of a head that is there; there may be roles of one's own.

    Raises:
        UnknownVariableError: a role of a head that is not there.
        FormulaError: a misspelt role, which nobody would look for.
    """
    if not isinstance(roles or {}, Mapping) or any(not isinstance(name, str) for name in (roles or {}).values()):
        raise FormulaError(f"roles= expects names of heads by role, roles={{'reward': 'r'}}, got {roles!r}")
    for role, name in (roles or {}).items():
        if hint := _slip(role):
            raise FormulaError(
                f"roles={{{role!r}: {name!r}}}: nothing looks for this role.{hint}\n"
                f"write it so; what is allowed of the action a is {MASK + 'a'!r}, and a role of your own has a name of "
                f"its own"
            )
        if name not in heads:
            known = ", ".join(heads) or "none"
            raise UnknownVariableError(
                f"roles={{{role!r}: {name!r}}}: no head has the name {name!r}; these are: {known}.{near(name, heads)}"
            )
    return dict(roles or {})


def _slip(role: str) -> str:
    """The hint for a role that is all but one of those that are looked for; "reward2" is somebody's own."""
    if role.startswith(MASK) or any(role.startswith(r) and not role.removeprefix(r).isalpha() for r in ROLES):
        return ""
    return near(role, (*ROLES, MASK), NEAR)


def checked_duration(duration: str | None, prior: Iterable[Factor]) -> str | None:
    """The variable that says how long a step takes.

    Raises:
        UnknownVariableError: the prior declares no such variable.
    """
    declared = [v.key for f in prior for v in f.variables]
    if duration is not None and duration not in declared:
        raise UnknownVariableError(
            f"duration={duration!r}: the prior declares {', '.join(declared)}.{near(duration, declared)}"
        )
    return duration


def allowing(roles: Mapping[str, str], heads: Mapping[str, Factor], actions: Iterable[str]) -> dict[str, Factor]:
    """What is allowed at a state of a dream, as heads say it: a Deterministic for each mask, by its variable.

    Raises:
        FormulaError: a mask of no action, or a head that gives no probability for each choice.
    """
    found: dict[str, Factor] = {}
    actions = tuple(actions)
    for role, name in roles.items():
        if not role.startswith(MASK):
            continue
        if (action := role.removeprefix(MASK)) not in actions:
            raise FormulaError(
                f"roles={{{role!r}: {name!r}}}: the prior has no action {action!r}; its actions are: "
                f"{', '.join(actions) or 'none'}.{near(action, actions)}"
            )
        head = heads[name]
        if head.family is not None and not isinstance(head.family, BernoulliFamily):
            raise FormulaError(
                f"roles={{{role!r}: {name!r}}}: expected a head that says of each choice whether it is allowed, such "
                f"as Bernoulli('p({head.variable}|...)', net, shape=...), got {head.family.name}"
            )
        header = f"{head.variable} = allowed({','.join(map(str, head.conditions))})"
        found[head.variable.key] = Deterministic(header, Allowed(head), shape=head.shape)
    return found


class Allowed(nn.Module):
    """1 for each choice whose probability of being allowed is above ½, else 0; the most probable one is always allowed.

    The head belongs to a world: it is no weight of this module.
    """

    head: Factor

    def __init__(self, head: Factor) -> None:
        super().__init__()
        self.__dict__["head"] = head

    def forward(self, *given: Tensor) -> Tensor:
        """Conditions of the head to zeros and ones ``[N, choices]``."""
        mean = torch.as_tensor(_mean(self.head, *given))
        return ((mean > 0.5) | (mean == mean.amax(-1, keepdim=True))).to(mean.dtype)


def check_read(heads: Iterable[Factor], known: Iterable[str | None], carried: Iterable[str]) -> None:
    """Heads read what a state holds: ``known`` are the keys of its variables.

    Raises:
        FormulaError: one reads something else.
    """
    known = set(known)
    for head in heads:
        if unknown := [c for c in head.conditions if c.key not in known or c.several]:
            needed = [(c, head, "not in the state" if c in unknown else "in the state") for c in head.conditions]
            held = dict.fromkeys((*carried, *sorted(key for key in known if key)))
            raise FormulaError(
                f"the head {head} reads what a state does not hold\n"
                + table(("variable", "needed by", "got"), needed)
                + f"\na state holds what the prior computes, and what goes from step to step: {', '.join(held)}"
            )


def decode(
    heads: Mapping[str, Factor],
    states: Values,
    names: Iterable[str] | None,
    numbers: Mapping[str, float | Tensor],
    rank: Callable[[str], int],
    means: Means | None = None,
) -> dict[str, Tensor]:
    """The means of heads at states ``[..., event]``; ``rank`` says how many event axes a variable of a state has.

    Class numbers have no mean: of a Categorical it is the probabilities of the classes, ``[..., event, K]``. ``means``
    is `means_of`, or the same compiled.
    """
    own: list[Factor] = []
    given: list[list[Tensor]] = []
    leads: dict[str, tuple[int, ...]] = {}
    for name in heads if names is None else names:
        if name not in heads:
            known = ", ".join(heads)
            raise UnknownVariableError(f"no head predicts {name!r}; these are: {known}.{near(name, heads)}")
        head = heads[name]
        require(f"decode: {head} needs", map(held, head.conditions), states, "state", "pass states of filter")
        values = [states[held(c)] for c in head.conditions]
        lead = leads[name] = values[0].shape[: values[0].ndim - rank(head.conditions[0].key)]
        given.append([v.reshape(-1, *v.shape[len(lead) :]) for v in values])
        own.append(head.for_call({v.key: numbers[v.key] for v in head.symbols if v.key in numbers})[0])
    found = (means or means_of)(own, given)
    return {n: mean.reshape(*lead, *mean.shape[1:]) for (n, lead), mean in zip(leads.items(), found, strict=True)}


Means = Callable[[list[Factor], list[list[Tensor]]], list[Tensor]]


def means_of(heads: list[Factor], given: list[list[Tensor]]) -> list[Tensor]:
    """The means of heads under their conditions ``[N, ...]``."""
    found = []
    for head, values in zip(heads, given, strict=True):
        mean: Callable[..., Any] = partial(_mean, head)
        alone = isinstance(head.net, nn.Module) and not mixes_rows(head.net)
        found.append(torch.as_tensor(in_parts(mean, *values) if alone else mean(*values)))
    return found


def _mean(head: Factor, *given: Tensor) -> Tensor | float:
    if head.family is None:
        value: Tensor = head.head(*given)
        return value
    params = head.params(*given, batch=1)
    if isinstance(head.family, CategoricalFamily):
        return torch.as_tensor(params[0]).exp()
    return head.family.mean(params)
