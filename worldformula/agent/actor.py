"""Actor, Mode-1: the policy π(a_t|h_t,z_t), a factor of the language, or a product of one factor for each action."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from worldformula.agent.acts import Act, timed
from worldformula.errors import MissingInputError
from worldformula.formula import Bernoulli, Factor, Normal, OneHot, TanhNormal, TruncatedNormal
from worldformula.formula.factors.joint import Joint
from worldformula.nets.actor import (
    Allowing,
    ContinuousActor,
    DiscreteActor,
    LatentActor,
    MaskedActor,
    SquashedActor,
    TruncatedActor,
)
from worldformula.nets.mlp import MLP
from worldformula.nets.plain import Plain
from worldformula.nets.sizes import Sizes
from worldformula.world import State, Values
from worldformula.world.aside import NAME
from worldformula.world.policies import acting


def policy(
    acts: Iterable[Act],
    sizes: Sizes,
    *,
    layers: int = 3,
    unimix: float = 0.01,
    masks: bool = False,
    one_trunk: bool = False,
    beside: int = 0,
) -> Factor | Joint:
    """DreamerV3's policy over these actions given h_t and z_t: over one-hot choices (with ``unimix`` of the uniform
    distribution), over real vectors, over flags. Each action has a factor and a network of its own; several are a
    product, whose log-density and entropy are sums. With ``masks``, a choice that has a mask reads it:
    π(a_t|h_t,z_t,M_t) gives what M_t forbids no probability. With ``one_trunk`` the networks of several actions share
    their hidden layers, which are weights of the first factor. ``beside`` is the width of n_t, what the policy alone is
    told, which it reads too: π(a_t|h_t,z_t,n_t).
    """
    features = sizes.feature + beside

    def factor(act: Act, header: str) -> Factor:
        if masks and act.masked:
            inside = MaskedActor(features, act.size, sizes.units, layers, unimix=unimix)
            return OneHot(within(header, act), inside, shape=act.size)
        if act.kind == "numbers":
            return Normal(header, ContinuousActor(features, act.size, sizes.units, layers), shape=act.size)
        net = DiscreteActor(features, act.size, sizes.units, layers)
        if act.kind == "flags":
            return Bernoulli(header, net, shape=act.size)
        return OneHot(header, net, shape=act.size, unimix=unimix)

    found = product(acts, factor, f"h_t,z_t,{NAME}_t" if beside else "h_t,z_t")
    first, *others = found.factors if isinstance(found, Joint) else (found,)
    for other in others if one_trunk else ():
        _mlp(other).share(_mlp(first))
    return found


def _mlp(factor: Factor) -> MLP:
    return cast("DiscreteActor | ContinuousActor", factor.net).mlp


def squashed_policy(acts: Iterable[Act], features: int, units: int, *, first: float = 5.0) -> Factor | Joint:
    """Dreamer v1's policy over numbers: tanh of a Normal; ``features`` is the width of h_t and z_t."""

    def factor(act: Act, header: str) -> Factor:
        return TanhNormal(header, SquashedActor(features, act.size, units, first=first), shape=act.size)

    return product(acts, factor)


def truncated_policy(
    acts: Iterable[Act], features: int, units: int, *, masks: bool = False, given: str = "h_t,z_t"
) -> Factor | Joint:
    """Dreamer v2's policy: truncated Normals of numbers, one-hot choices, flags; ``features`` as for v1, ``masks`` as
    of `policy`; ``given`` is what it reads of a state.
    """

    def factor(act: Act, header: str) -> Factor:
        if act.kind == "numbers":
            return TruncatedNormal(header, TruncatedActor(features, act.size, units), shape=act.size)
        net = Plain(features, act.size, units, 4, stopped=True)
        if masks and act.masked:
            return OneHot(within(header, act), Allowing(net), shape=act.size)
        return (OneHot if act.kind == "choice" else Bernoulli)(header, net, shape=act.size)

    return product(acts, factor, given)


def latent_policy(acts: Iterable[Act], latent: int, units: int) -> Factor | Joint:
    """TD-MPC2's policy over numbers: tanh of a Normal, given z_t alone, whose width is ``latent``."""

    def factor(act: Act, header: str) -> Factor:
        return TanhNormal(header, LatentActor(latent, act.size, units), shape=act.size)

    return product(acts, factor, "z_t")


def within(header: str, act: Act) -> str:
    """The header of a choice that reads what is allowed: π(a_t|h_t,z_t,M_t)."""
    return f"{header[:-1]},{timed(act.mask)})"


def product(acts: Iterable[Act], factor: Callable[[Act, str], Factor], given: str = "h_t,z_t") -> Factor | Joint:
    """``factor(act, "π(a_t|h_t,z_t)")`` of every action; of several the product."""
    factors = [factor(act, f"π({act.at}|{given})") for act in acts]
    return factors[0] if len(factors) == 1 else Joint.of(*factors)


class Actor:
    """Acts by sampling its policy, or by the policy's mode; of masked choices among those that are allowed.

    masks: the variables of masks that the policy reads, by action. noise: the deviation of what is added to numbers
    where it explores, within [−1, 1].
    """

    def __init__(
        self,
        policy: Factor | Joint,
        actions: tuple[str, ...],
        masks: Mapping[str, str] | None = None,
        noise: float = 0.0,
    ) -> None:
        self.policy, self.actions, self.masks, self.noise = policy, actions, dict(masks or {}), noise

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
            if explore and self.noise and not isinstance(factor, OneHot | Bernoulli):
                drawn = (drawn + self.noise * torch.randn_like(drawn)).clamp(-1, 1)
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
