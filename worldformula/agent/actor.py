"""Actor, Mode-1: the policy π(a_t|h_t,z_t), a factor of the language like any other."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from worldformula.formula import Factor, Normal, OneHot
from worldformula.nets.actor import ContinuousActor, DiscreteActor
from worldformula.nets.sizes import Sizes
from worldformula.world import Values


def policy(
    kind: Literal["discrete", "continuous"], actions: int, sizes: Sizes, *, layers: int = 3, unimix: float = 0.01
) -> Factor:
    """The policy over one-hot actions (with ``unimix`` of the uniform distribution) or over real vectors."""
    if kind == "discrete":
        net = DiscreteActor(sizes.feature, actions, sizes.units, layers)
        return OneHot("π(a_t|h_t,z_t)", net, shape=actions, unimix=unimix)
    return Normal("π(a_t|h_t,z_t)", ContinuousActor(sizes.feature, actions, sizes.units, layers), shape=actions)


class Actor:
    """Acts by sampling its policy, or by the policy's mode."""

    def __init__(self, factor: Factor) -> None:
        self.factor = factor

    def act(self, state: Values, *, explore: bool) -> Tensor:
        """The action at a state ``[N, ...]``: ``[N, A]``."""
        conditions: dict[str, Any] = {c.key: state[c.key] for c in self.factor.conditions}
        return self.factor.sample(deterministic=not explore, **conditions)
