"""Dreamer v1's behaviour learner: the actor climbs the returns of its dreams through the world (arXiv:1912.01603).

    V_t = v(s_t)        R_t = r_t + c_t·((1 − λ)·V_{t+1} + λ·R_{t+1})        w_t = Π_{i < t} c_i      t = 1 … H − 1
    actor    mean_t  −w_t·R_t                       its gradient goes back through rewards, values and dynamics
    critic   mean_t  −w_t·log N(sg R_t; V_t, 1)

The states are those that were imagined, s_1 … s_H, without the one that a dream starts from; the last one bootstraps.
There is no entropy term and no slow critic. The policy reads sg s_t, which its network sees to (`nets.actor`).

| deviation | authors' code | here | why |
|---|---|---|---|
| dreams from an end | no last rows, with a continuation | weight 0 | an end may lie anywhere in a sequence |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, E, Expression, Factor, Mean, Normal, Value, log, sg, together
from worldformula.formula.code.out import Out
from worldformula.formula.factors.joint import Joint
from worldformula.learners.imagination.contract import Features
from worldformula.learners.imagination.policies import Scalar, column, read_policy, require_axes
from worldformula.learners.imagination.returns import StateReturns, reached

OWN = ("r", "c", "b", "R", "V", "w")
"""What the losses call their own: rewards, continuations, whether a dream began at an end, and what these give."""


@dataclass(frozen=True)
class DynamicsSettings:
    """Numbers of the learner; the defaults are the paper's."""

    discount: float = 0.99
    """γ of a step, where the world predicts no continuation."""
    lam: float = 0.95
    """Mixing λ of the returns: 0 trusts the critic after one step, 1 the dream until its end."""

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1 or not 0 <= self.lam <= 1:
            raise ConfigError(f"expected discount in (0, 1] and lam in [0, 1], got {self.discount} and {self.lam}")


class DynamicsActorCritic(nn.Module):
    """Actor and critic that learn in dreams which are differentiated through.

    Args:
        policy: a factor over the features of a state with reparametrised samples, or a product of one per action.
        critic: network from the features ``[N, ...]`` to the value ``[N, 1]``.
        settings: numbers.

    Attributes:
        dream: ``together(actor=..., critic=...)``; `dreamed` makes its data.
    """

    dream: Expression
    policy: Factor | Joint
    attached = ("dream",)
    masks: tuple[str, ...] = ()

    def __init__(self, policy: Factor | Joint, critic: nn.Module, settings: DynamicsSettings | None = None) -> None:
        super().__init__()
        self.settings = own = settings or DynamicsSettings()
        self.names, self.actions, t = read_policy(policy, OWN)
        self.__dict__["policy"] = policy  # the agent's, which registers it
        given = ",".join(f"{name}_{t}" for name in self.names)
        values = Deterministic(f"V_{t} = critic({given})", Scalar(critic), shape=())
        returns = Deterministic(f"R_{t} = λ_return(r_{{1:T}}, c_{{1:T}}, V_{{1:T}})", StateReturns(own.lam), shape=())
        weight = Deterministic(f"w_{t} = reached(c_{{1:T}}, b_{{1:T}})", alive, shape=())
        learnt = Normal(f"v(R_{t}|V_{t})", column, scale=1.0, shape=())
        actor = Mean(t, E(values * returns * sg(weight), -Value(f"w_{t}") * Value(f"R_{t}"))).mean()
        critic_loss = Mean(t, E(values * sg(returns) * sg(weight), -Value(f"w_{t}") * log(learnt))).mean()
        self.__dict__["dream"] = together(actor=actor, critic=critic_loss)
        self.critic = critic

    @property
    def terms(self) -> dict[str, Expression]:
        """The losses by name."""
        return {"dream": self.dream}

    @property
    def discount(self) -> float:
        """γ of the settings."""
        return self.settings.discount

    def dreamed(
        self, states: Features, actions: Tensor | Features, reward: Tensor, proceed: Tensor,
        terminal: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The data of ``dream``, with their gradients: the H imagined ones of S = H + 1 states.

        Args:
            states: at least the features, ``[N, S, ...]`` each, the start first.
            actions: not read; they lead from state to state.
            reward: ``[N, S]``, predicted means at the states.
            proceed: ``[N, S]``, predicted continuations, or γ.
            terminal: ``[N]``, which dreams began at a state that ended an episode.
            generator: not needed here.
        """
        ended = torch.zeros_like(reward[:, 0]) if terminal is None else terminal.to(reward)
        given = {name: states[name] for name in self.names}
        given |= {"r": reward, "c": proceed, "b": ended[:, None].expand_as(reward)}
        require_axes(given)
        return {name: x[:, 1:] for name, x in given.items()}

    @torch.no_grad()
    def metrics(self, dream: Out) -> dict[str, Tensor]:
        """Numbers of a result of ``dream`` for the log, without the state that only bootstraps."""
        found = {name: dream.samples[name][:, :-1] for name in ("R", "V", "w")}
        return {
            "behaviour/return_mean": found["R"].mean(), "behaviour/value_mean": found["V"].mean(),
            "behaviour/weight_mean": found["w"].mean(),
        }  # fmt: skip

    def value(self, *features: Tensor) -> Tensor:
        """The value of states ``[N, ...]``: ``[N]``, for planners and logs."""
        found: Tensor = self.critic(*features)[..., 0]
        return found


def alive(proceed: Tensor, ended: Tensor) -> Tensor:
    """`reached`, and 0 in dreams that began at an end. ``[N, S]``."""
    return reached(proceed) * (1 - ended)
