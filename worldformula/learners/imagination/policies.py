"""What the losses of actor and critic read of a policy, and of the data of a dream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor, nn

from worldformula.errors import FormulaError, ShapeError, table
from worldformula.formula import Expression, Factor
from worldformula.formula.factors.joint import Joint


def factors_of(policy: Factor | Joint) -> tuple[Factor, ...]:
    """One factor for each action."""
    return policy.factors if isinstance(policy, Joint) else (policy,)


def summed(what: Callable[[Factor], Expression], policy: Factor | Joint) -> Expression:
    """log π or ℍ[π] of a policy: of several factors the sum, where each reads what was chosen before it."""
    first, *rest = (what(factor) for factor in factors_of(policy))
    for more in rest:
        first = first + more
    return first


def read_policy(
    policy: Factor | Joint, own: Collection[str], masks: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The features of a policy, its actions, and the index of time; ``own`` are names that the losses have taken,
    ``masks`` those of what it reads that says which choices are allowed.

    Raises:
        FormulaError: a policy that reads another step, or no such mask, or a name that is taken.
    """
    factors = factors_of(policy)
    actions, index = tuple(f.variable.key for f in factors), factors[0].variable.index
    conditions = [c for f in factors for c in f.conditions]
    names = tuple(dict.fromkeys(c.key for c in conditions if c.key not in (*actions, *masks)))
    indices = {v.index for v in (*conditions, *(f.variable for f in factors))}
    if index is None or indices != {index} or any(c.offset for c in conditions):
        raise FormulaError(
            f"expected a policy over time that reads the state of its own step, such as π(a_t|h_t,z_t), got {policy}"
        )
    if unread := [name for name in masks if name not in {c.key for c in conditions}]:
        raise FormulaError(f"masks: {policy} does not read {unread[0]}")
    if taken := [name for name in (*names, *actions, *masks) if name in own]:
        raise FormulaError(
            f"{policy}: the losses of actor and critic call something of their own {taken[0]!r} (they use "
            f"{', '.join(own)}); rename the variable of the world"
        )
    return names, actions, str(index)


def by_name(actions: Tensor | Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The actions of a policy by name; the tensor of the only one may be given without."""
    return {names[0]: actions} if isinstance(actions, Tensor) else {name: actions[name] for name in names}


def require_axes(tensors: Mapping[str, Tensor]) -> None:
    """ShapeError unless all tensors have the same two leading axes, of which the second is at least 2."""
    rows = [tuple(x.shape[:2]) for x in tensors.values()]
    if len(rows[0]) == 2 and rows[0][1] >= 2 and all(r == rows[0] for r in rows):
        return
    raise ShapeError(
        "the behaviour learner expected sequences with the same two leading axes [N, S ≥ 2].\n"
        + table(("variable", "shape"), [(name, list(x.shape)) for name, x in tensors.items()])
        + "\nGive one action, reward and continuation per state, the start included."
    )


def column(value: Tensor) -> Tensor:
    """Numbers ``[N]`` as the head ``[N, 1]`` of a factor of one number."""
    return value.unsqueeze(-1)


class Scalar(nn.Module):
    """The one number of a network ``[N, 1]`` as ``[N]``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Tensor) -> Tensor:
        """What the network reads."""
        found: Tensor = self.net(*given)[..., 0]
        return found
