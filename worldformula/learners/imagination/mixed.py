r"""Dreamer v2's behaviour learner: REINFORCE, gradients through the dream, or both (Hafner et al. 2021).

    U_t = \bar v(s_t), a slow copy      R_t = r_t + c_t·((1 − λ)·U_{t+1} + λ·R_{t+1})      w_t = Π_{i < t} c_i
    actor    mean_{t ≤ H−2}  −w_t·( ρ·log π(a_t|sg s_t)·sg(R_{t+1} − U_t) + (1 − ρ)·R_{t+1} + η·H[π(·|sg s_t)] )
    critic   mean_{t < H}    −w_t·log N(sg R_t; v(s_t), 1)

ρ is 1 for choices, where the dream needs no gradient, and 0 for numbers. The action at s_t is worth the return of the
state that it leads to; c_0 is γ(1 − terminal) of the data. The last two states have no action that is scored. The
critic is copied now and then; the copy is also the baseline. Paper: arXiv:2010.02193.

| deviation | paper | authors' code | here | why |
|---|---|---|---|---|
| first copy of the critic | after 100 updates | after the first | after 100 updates | one rule |
| 0 < ρ < 1 | log π of a held action | not held | held | the paper's equation 6 |
| c_0 without a continuation head | – | γ | γ(1 − terminal) | dreams from an end are no experience |
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, E, Entropy, Expression, Factor, Mean, Normal, Value, log, sg, together
from worldformula.formula.code.out import Out
from worldformula.formula.factors.joint import Joint
from worldformula.learners.imagination.contract import Features
from worldformula.learners.imagination.policies import (
    Scalar,
    by_name,
    column,
    factors_of,
    read_policy,
    require_axes,
    summed,
)
from worldformula.learners.imagination.returns import Reached, StateReturns

OWN = ("r", "G", "R", "V", "U", "w", "v")
"""What the losses call their own beside the continuation: rewards, and what these give."""


@dataclass(frozen=True)
class MixedSettings:
    """Numbers of the learner; the defaults are those of the authors' code."""

    discount: float = 0.99
    """γ of a step."""
    lam: float = 0.95
    """Mixing λ of the returns: 0 trusts the critic after one step, 1 the dream until its end."""
    rho: float | None = None
    """Share ρ of REINFORCE in the actor's gradient; none takes 1 where an action is a choice, else 0."""
    entropy: float = 2e-3
    """Weight η of the policy's entropy: more of it explores more."""
    slow_every: int = 100
    """Updates between two copies of the critic."""

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1 or not 0 <= self.lam <= 1 or self.entropy < 0 or self.slow_every < 1:
            raise ConfigError(
                "expected discount in (0, 1], lam in [0, 1], entropy ≥ 0 and slow_every ≥ 1, got "
                f"{self.discount}, {self.lam}, {self.entropy} and {self.slow_every}"
            )
        if self.rho is not None and not 0 <= self.rho <= 1:
            raise ConfigError(f"expected rho in [0, 1] or none, got {self.rho}")


class MixedActorCritic(nn.Module):
    """Actor and critic of Dreamer v2.

    Args:
        policy: a factor over the features of a state, or a product of one per action.
        critic: network from the features ``[N, ...]`` to the value ``[N, 1]``.
        settings: numbers.
        masks: what of the conditions of the policy is a mask of what is allowed, such as M of π(a_t|h_t,z_t,M_t).

    Attributes:
        dream: ``together(actor=..., critic=...)``; `dreamed` makes its data.
        rho: the share of REINFORCE that holds.
    """

    dream: Expression
    policy: Factor | Joint
    proceed = "c"
    """What the losses call the continuation."""

    def __init__(
        self, policy: Factor | Joint, critic: nn.Module, settings: MixedSettings | None = None,
        masks: Collection[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings, self.masks = (own := settings or MixedSettings()), tuple(masks)
        going = self.proceed
        self.names, self.actions, t = read_policy(policy, (*OWN, going), self.masks)
        self.__dict__["policy"] = policy  # the agent's, which registers it
        self.rho = float(not _pathwise(policy)) if own.rho is None else own.rho
        given = ",".join(f"{name}_{t}" for name in self.names)
        values = Deterministic(f"V_{t} = critic({given})", Scalar(critic), shape=())
        slow = values.slow(0, every=own.slow_every).rename(V="U")
        returns = Deterministic(
            f"R_{t} = λ_return(r_{{1:T}}, {going}_{{1:T}}, U_{{1:T}})", StateReturns(own.lam), shape=()
        )
        ahead = Deterministic(f"G_{t} = next(R_{{1:T}})", following, shape=())
        weight, acting = (
            Deterministic(f"{name}_{t} = reached({going}_{{1:T}})", Reached(dropped), shape=())
            for name, dropped in (("w", 1), ("v", 2))
        )
        gain = self._gain(policy, Value(f"G_{t}"), Value(f"U_{t}"))
        acted = -Value(f"v_{t}") * (gain + own.entropy * summed(Entropy, policy))
        actor = Mean(t, E(slow * returns * ahead * sg(acting), acted)).mean()
        parts = self._critics(t, values, slow * sg(returns) * sg(weight))
        self.__dict__["dream"] = together(actor=actor, **parts)
        self.critic, self.slow_critic = critic, slow.net
        self.slow_updates = slow.slow_weights  # what `move_slow` finds, and its count of updates

    def _critics(self, t: str, values: Factor, returns: Joint) -> dict[str, Expression]:
        """What the critic learns by: −w_t log N(sg R_t; V_t, 1)."""
        learnt = Normal(f"p(R_{t}|V_{t})", column, scale=1.0, shape=())
        return {"critic": Mean(t, E(values * returns, -Value(f"w_{t}") * log(learnt))).mean()}

    def _gain(self, policy: Factor | Joint, ahead: Expression, baseline: Expression) -> Expression:
        """What the actor climbs, besides its entropy."""
        reinforce = summed(log, policy) * sg(ahead - baseline)
        if self.rho in (0, 1):
            return reinforce if self.rho else ahead
        return self.rho * reinforce + (1 - self.rho) * ahead

    @property
    def terms(self) -> dict[str, Expression]:
        """The losses by name."""
        return {"dream": self.dream}

    @property
    def attached(self) -> tuple[str, ...]:
        """The dream, unless all of the gradient is REINFORCE's."""
        return () if self.rho == 1 else ("dream",)

    @property
    def discount(self) -> float:
        """γ of the settings."""
        return self.settings.discount

    def dreamed(
        self, states: Features, actions: Tensor | Features, reward: Tensor, proceed: Tensor,
        terminal: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The data of ``dream``, with their gradients where the dream has them: S states, the start first.

        Args:
            states: at least the features, and the masks that the policy reads, ``[N, S, ...]`` each.
            actions: ``[N, S, A]`` by name, or the tensor of the only one, column t drawn from π at state t. They are
                scored, held; the last two are not.
            reward: ``[N, S]``, predicted means at the states.
            proceed: ``[N, S]``, predicted continuations, or γ; that of the start is replaced.
            terminal: ``[N]``, which dreams began at a state that ended an episode.
            generator: not needed here.
        """
        taken = by_name(actions, self.actions)
        if terminal is not None:
            first = self.settings.discount * (1 - terminal.to(proceed))
            proceed = torch.cat((first[:, None], proceed[:, 1:]), 1)
        given = {name: states[name] for name in (*self.names, *self.masks)} | {"r": reward, self.proceed: proceed}
        given |= {name: value.detach() for name, value in taken.items()}
        require_axes(given)
        return {name: x for name, x in given.items() if name in self.dream.program.inputs}

    @torch.no_grad()
    def metrics(self, dream: Out) -> dict[str, Tensor]:
        """Numbers of a result of ``dream`` for the log; all but the entropy without the state that only bootstraps."""
        found = {name: dream.samples[name][:, :-1] for name in ("R", "V", "U", "w")}
        entropies = [dream.terms[f"H[{factor}]"].detach() for factor in factors_of(self.policy)]
        return {
            "behaviour/return_mean": found["R"].mean(), "behaviour/value_mean": found["V"].mean(),
            "behaviour/slow_value_mean": found["U"].mean(), "behaviour/weight_mean": found["w"].mean(),
            "behaviour/policy_entropy": sum(entropies[1:], entropies[0]),
        }  # fmt: skip

    def value(self, *features: Tensor) -> Tensor:
        """The value of states ``[N, ...]``: ``[N]``, for planners and logs."""
        found: Tensor = self.critic(*features)[..., 0]
        return found


def following(returns: Tensor) -> Tensor:
    """The return of the next state, ``[N, S]``; of the last one its own, which nothing reads."""
    return torch.cat((returns[:, 1:], returns[:, -1:]), 1)


def _pathwise(policy: Factor | Joint) -> bool:
    """Whether all actions have samples with an exact gradient."""
    families = [factor.family for factor in factors_of(policy)]
    return all(f is not None and f.reparametrised and f.estimator not in f.biased for f in families)
