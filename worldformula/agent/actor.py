"""Actor, Mode-1: the policy π(a_t|h_t,z_t), a factor of the language, or a product of one factor for each action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from worldformula.agent.acts import Act, timed
from worldformula.errors import MissingInputError
from worldformula.formula import Bernoulli, Factor, Normal, OneHot
from worldformula.formula.factors.joint import Joint
from worldformula.nets.actor import ContinuousActor, DiscreteActor, MaskedActor
from worldformula.nets.mlp import MLP
from worldformula.nets.sizes import Sizes
from worldformula.world import State, Values
from worldformula.world.policies import acting


def policy(
    acts: Iterable[Act],
    sizes: Sizes,
    *,
    layers: int = 3,
    unimix: float = 0.01,
    masks: bool = False,
    one_trunk: bool = False,
) -> Factor | Joint:
    """The policy over these actions given h_t and z_t: over one-hot choices (with ``unimix`` of the uniform
    distribution), over real vectors, over flags. Each action has a factor and a network of its own; several are a
    product, whose log-density and entropy are sums. With ``masks``, a choice that has a mask reads it:
    π(a_t|h_t,z_t,M_t) gives what M_t forbids no probability. With ``one_trunk`` the networks of several actions share
    their hidden layers, which are weights of the first factor.
    """
    factors = [_factor(act, sizes, layers, unimix, masks and act.masked) for act in acts]
    for factor in factors[1:] if one_trunk else ():
        _mlp(factor).share(_mlp(factors[0]))
    return factors[0] if len(factors) == 1 else Joint.of(*factors)


def _mlp(factor: Factor) -> MLP:
    return cast("DiscreteActor | ContinuousActor", factor.net).mlp


def _factor(act: Act, sizes: Sizes, layers: int, unimix: float, reads_mask: bool) -> Factor:
    header = f"π({act.at}|h_t,z_t)"
    if reads_mask:
        inside = MaskedActor(sizes.feature, act.size, sizes.units, layers, unimix=unimix)
        return OneHot(f"π({act.at}|h_t,z_t,{timed(act.mask)})", inside, shape=act.size)
    if act.kind == "numbers":
        return Normal(header, ContinuousActor(sizes.feature, act.size, sizes.units, layers), shape=act.size)
    net = DiscreteActor(sizes.feature, act.size, sizes.units, layers)
    if act.kind == "flags":
        return Bernoulli(header, net, shape=act.size)
    return OneHot(header, net, shape=act.size, unimix=unimix)


class Actor:
    """Acts by sampling its policy, or by the policy's mode; of masked choices among those that are allowed.

    masks: the variables of masks that the policy reads, by action.
    """

    def __init__(
        self, policy: Factor | Joint, actions: tuple[str, ...], masks: Mapping[str, str] | None = None
    ) -> None:
        self.policy, self.actions, self.masks = policy, actions, dict(masks or {})

    def act(self, state: Values, *, explore: bool, masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The actions at a state ``[N, ...]``, by variable: ``[N, A]``; ``masks`` are booleans ``[N, A]``.

        Raises:
            MissingInputError: the policy reads a mask that is not given.
        """
        state, masks = State(state), dict(masks or {})
        if missing := [action for action in self.masks if action not in masks]:
            raise MissingInputError(
                f"{self.policy} reads which choices of {missing[0]} are allowed, and rows say it of "
                f"{', '.join(masks) or 'no action'}"
            )
        state |= {variable: masks[action] for action, variable in self.masks.items()}
        for factor in acting(self.policy, self.actions, state):
            key = factor.variable.key
            conditions: dict[str, Any] = {c.key: state[c.key] for c in factor.conditions}
            if key not in masks or key in self.masks:
                drawn = factor.sample(deterministic=not explore, **conditions)
            else:
                drawn = _among(factor, tuple(conditions.values()), masks[key], explore=explore)
            state |= {key: drawn}
        return dict(state.only(self.actions))


def _among(factor: Factor, conditions: tuple[Tensor, ...], allowed: Tensor, *, explore: bool) -> Tensor:
    """A choice among those that are allowed, in proportion to their probabilities, or the most probable of them."""
    (logits,) = factor.params(*conditions)
    family = factor.family
    assert family is not None
    inside = (logits.masked_fill(~allowed, -torch.inf).log_softmax(-1),)
    noise = family.noise(tuple(logits.shape), dtype=logits.dtype, device=logits.device) if explore else None
    found = family.mode(inside) if noise is None else family.sample(inside, noise)
    assert isinstance(found, Tensor)
    return found
