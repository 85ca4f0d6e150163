"""DreamerV3's behaviour learner: an actor and a critic trained on imagined rollouts (Hafner et al. 2025, Nature).

    R_t  = r_{t+1} + c_{t+1}·((1 − λ)·V_{t+1} + λ·R_{t+1})         w_t = Π_{k ≤ t} c_k
    L_π  = mean w_t·( −sg((R_t − V_t) / max(1, S))·log π(a_t|s_t) − η·H[π(·|s_t)] )
    L_v  = mean w_t·( −log v(sg R_t|s_t) − log v(sg v̄_t|s_t) )      v̄: mean of the slow critic

The world model, the actor and the optimiser live elsewhere; here are the critic, its slow copy and the return scale.

| deviation | paper | authors' code | here |
|---|---|---|---|
| values in the return | slow critic or critic | critic (slowtar off) | critic |
| unimix of a discrete policy | 1 % | ignored by the head | the policy's family decides; OneHot(unimix=0.01) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, ShapeError, table
from worldformula.families.base import Family, Parameter, Params
from worldformula.families.two_hot import two_hot
from worldformula.formula import Factor
from worldformula.formula.syntax.pace import follow, frozen
from worldformula.learners.imagination.normalise import PercentileNorm
from worldformula.learners.imagination.returns import lambda_return, replay_return

Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class BehaviourSettings:
    """Numbers of the learner; the defaults are the paper's for all domains."""

    horizon: float = 333.0
    """1 / (1 − discount), in actions; on imagined steps the continue head has learned it already."""
    lam: float = 0.95
    """Mixing λ of the returns: 0 trusts the critic after one step, 1 the dream until its end."""
    entropy: float = 3e-4
    """Weight η of the policy's entropy: more of it explores more."""
    slow_rate: float = 0.02
    """Step of the slow critic towards the critic after every update."""
    slow_weight: float = 1.0
    """Weight of the critic's pull to its slow copy."""
    return_rate: float = 0.01
    """Step of the running percentiles that scale the returns."""

    def __post_init__(self) -> None:
        if self.horizon <= 1 or not 0 <= self.lam <= 1 or min(self.entropy, self.slow_weight) < 0:
            raise ConfigError(
                "expected horizon > 1, lam in [0, 1], entropy ≥ 0 and slow_weight ≥ 0, "
                f"got {self.horizon}, {self.lam}, {self.entropy} and {self.slow_weight}"
            )
        if not (0 < self.slow_rate <= 1 and 0 < self.return_rate <= 1):
            raise ConfigError(
                f"expected slow_rate and return_rate in (0, 1], got {self.slow_rate} and {self.return_rate}"
            )

    @property
    def discount(self) -> float:
        """γ of replayed steps."""
        return 1 - 1 / self.horizon


@dataclass(frozen=True)
class BehaviourLosses:
    """policy, value: losses without axes. returns: λ-returns ``[N, S − 1]``, detached; column 0 bootstraps the replay
    critic. metrics: detached numbers for the log.
    """

    policy: Tensor
    value: Tensor
    returns: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class ImaginationActorCritic(nn.Module):
    """Critic, slow critic and return scale, and the losses that train critic and actor.

    critic: network from the features (in their order, ``[N, ...]`` each) to the head of ``family``, whose mean is the
    value; DreamerV3: ``MLP(..., outputs=255, layers=3, outscale=0)`` with two_hot. The slow critic starts as its copy,
    has no gradient, and moves by `update_slow`, to be called after every step of the optimiser.
    """

    def __init__(self, critic: nn.Module, family: Family = two_hot, settings: BehaviourSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or BehaviourSettings()
        self.family = family
        self.critic = critic
        (self.slow_critic,) = frozen([critic])
        self.return_norm = PercentileNorm(self.settings.return_rate)

    def losses(
        self, features: Features, actions: Tensor, policy: Factor, reward: Tensor, cont: Tensor,
        update: bool | None = None,
    ) -> BehaviourLosses:  # fmt: skip
        """Losses of actor and critic on imagined rollouts of S states (the start and S − 1 imagined ones).

        features: ``[N, S, ...]`` each, such as ``{"h": [N, S, D], "z": [N, S, G, K]}``, in the order in which the
        networks take them. actions: ``[N, S, A]``, column t drawn from π at state t. reward, cont: ``[N, S]``,
        predicted means at the states. update: whether the return scale learns from these returns, by default while
        training; it does so before it is used.

        policy: the factor π(a_t|features), whose conditions are the features in their order.

        Everything given is detached: gradients reach the parameters of the policy (through log π and the entropy
        alone) and of the critic. The last state only bootstraps.
        """
        require_axes({**features, "actions": actions, "reward": reward, "cont": cont})
        features = {name: x.detach() for name, x in features.items()}
        head = self.value_params(self.critic, features)
        with torch.no_grad():
            value = as_tensor(self.family.mean(head))
            returns = lambda_return(reward.detach(), cont.detach(), value, self.settings.lam)
            weight = cont.detach().cumprod(1)[:, :-1]
            if self.training if update is None else update:
                self.return_norm.update(returns)
            scale = self.return_norm.scale
            advantage = (returns - value[:, :-1]) / scale

        assert policy.family is not None
        params, rank = policy.params(*(x.flatten(0, 1) for x in features.values())), policy.rank
        log_prob = policy.family.log_prob(params, actions.detach().flatten(0, 1), rank).view_as(cont)[:, :-1]
        entropy = as_tensor(policy.family.entropy(params, rank)).view_as(cont)[:, :-1]
        policy_loss = -(weight * (advantage * log_prob + self.settings.entropy * entropy)).mean()
        value_loss = (weight * self.cross_entropy(head, features, returns)).mean()
        metrics = {
            "return_mean": returns.mean(), "return_scale": scale, "value_mean": value.mean(),
            "advantage_std": advantage.std(unbiased=False), "weight_mean": weight.mean(),
            "policy_entropy": entropy.detach().mean(), "reward_mean": reward.detach()[:, 1:].mean(),
        }  # fmt: skip
        return BehaviourLosses(policy_loss, value_loss, returns, metrics)

    def replay_loss(
        self, features: Features, reward: Tensor, is_last: Tensor, is_terminal: Tensor, boot: Tensor
    ) -> Tensor:
        """Loss of the critic on replayed steps; unlike `losses`, its gradient reaches the features.

        features: posterior states ``[B, T, ...]`` each, *not* detached, so that the critic shapes the world model.
        reward, is_last, is_terminal: ``[B, T]`` of the data. boot: ``[B, T]``, the imagined return R_0 from each of
        these states (``losses(...).returns[:, 0].view(B, T)``). With imagination from the last K steps alone, give the
        last K columns of everything. Returns a tensor without axes; steps that end an episode have weight zero.
        """
        require_axes({**features, "reward": reward, "is_last": is_last, "is_terminal": is_terminal, "boot": boot})
        settings = self.settings
        with torch.no_grad():
            returns = replay_return(reward, is_terminal, is_last, boot, settings.discount, settings.lam)
            weight = 1 - is_last[:, :-1].to(returns.dtype)
        head = self.value_params(self.critic, features)
        return (weight * self.cross_entropy(head, features, returns)).mean()

    def value_params(self, critic: nn.Module, features: Features) -> Params:
        """Parameters of the value at states ``[N, S, ...]``: ``[N, S, bins]``."""
        rows = next(iter(features.values())).shape[:2]
        return self.family.params(critic(*(x.flatten(0, 1) for x in features.values())).unflatten(0, rows), ())

    def cross_entropy(self, head: Params, features: Features, returns: Tensor) -> Tensor:
        """``−log v(R) − slow_weight·log v(slow value)`` at all states but the last: ``[N, S − 1]``.

        head: parameters of the critic at all states. (Whole sequences flatten without a copy, so the networks see the
        last state too.)
        """
        with torch.no_grad():
            slow = as_tensor(self.family.mean(self.value_params(self.slow_critic, features)))[:, :-1]
        head = tuple(p[:, :-1] if isinstance(p, Tensor) else p for p in head)
        pull = self.family.log_prob(head, slow, 0)
        return -self.family.log_prob(head, returns.detach(), 0) - self.settings.slow_weight * pull

    def value(self, *features: Tensor) -> Tensor:
        """The critic's mean at states ``[N, ...]``: ``[N]``, for planners and logs."""
        return as_tensor(self.family.mean(self.family.params(self.critic(*features), ())))

    def update_slow(self) -> None:
        """Move the slow critic towards the critic by ``slow_rate``. Call after every step of the optimiser."""
        follow([self.slow_critic], [self.critic], self.settings.slow_rate)


def as_tensor(x: Parameter) -> Tensor:
    """The statistic of a distribution whose parameters come from a network, which is never a plain number."""
    assert isinstance(x, Tensor)
    return x


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
