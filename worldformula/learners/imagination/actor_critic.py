"""DreamerV3's behaviour learner: an actor and a critic trained on imagined rollouts (Hafner et al. 2025, Nature).

    V_t = E[v(·|s_t)]        R_t = r_{t+1} + c_{t+1}·((1 − λ)·V_{t+1} + λ·R_{t+1})        w_t = Π_{k ≤ t} c_k
    A_t = (R_t − V_t) / max(1, S)                                          S: running range of the returns
    actor    mean_t  w_t·( −sg(A_t)·log π(a_t|s_t) − η·H[π(·|s_t)] )         of several actions: sums
    critic   mean_t  w_t·( −log v(sg R_t|s_t) − log v(V̄_t|s_t) )           V̄: mean of the slow critic
    replay   the critic's loss at replayed states, whose returns are bootstrapped with those of the dreams

Both losses are expressions over the states of a dream, as the world's loss is one over data: they print, and their code
can be read. What actor and critic both need is computed once.

| deviation | paper | authors' code | here |
|---|---|---|---|
| values in the return | slow critic or critic | critic (slowtar off) | critic; ``slow_target`` |
| values | as they are | the same (valnorm off) | the same; ``value_rate`` |
| advantages | scaled by S alone | the same (advnorm off) | the same; ``advantage_rate`` |
| γ of dreams | in the continuation | the same (contdisc on) | the same; ``discount_learnt`` |
| gradient of replayed values | reaches the world | the same (repval_grad on) | the same; ``replay_gradient`` |
| unimix of a discrete policy | 1 % | ignored by the head | the policy's family decides; OneHot(unimix=0.01) |
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.families.two_hot import two_hot
from worldformula.formula import Deterministic, E, Entropy, Expression, Factor, Mean, TwoHot, Value, log, sg, together
from worldformula.formula.code.out import Out
from worldformula.formula.factors.joint import Joint
from worldformula.learners.imagination.contract import Features
from worldformula.learners.imagination.normalise import MeanNorm, Normed, PercentileNorm
from worldformula.learners.imagination.policies import by_name, factors_of, read_policy, require_axes, summed
from worldformula.learners.imagination.returns import Reach, lambda_return, reach, replay_return, until_last
from worldformula.learners.imagination.spoken import WORDS, Spoken

OWN = ("r", "c", "d", "e", "b", "l", "m", "A", "R", "V", "U", "w")
"""What the losses call their own: rewards, continuations, ends, last steps, bootstraps, and what these give."""
NORMED = ("y", "u")
"""What they call returns and slow values in the unit of the critic, where that is another."""


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
    slow_target: bool = False
    """Returns and advantages of dreams by the values of the slow critic, not of the critic."""
    advantage_rate: float = 0.0
    """Step of the running mean and deviation that advantages are normalised by; 0 leaves them as they are."""
    value_rate: float = 0.0
    """Step of the running mean and deviation of returns, in which the critic predicts them; 0 as they are."""
    discount_learnt: bool = True
    """The continuation that the world learns holds the discount; else it is 1 − terminal, and dreams multiply by γ."""
    replay_gradient: bool = True
    """Whether the critic's loss on replayed steps shapes the world too."""

    def __post_init__(self) -> None:
        if self.horizon <= 1 or not 0 <= self.lam <= 1 or min(self.entropy, self.slow_weight) < 0:
            raise ConfigError(
                "expected horizon > 1, lam in [0, 1], entropy ≥ 0 and slow_weight ≥ 0, "
                f"got {self.horizon}, {self.lam}, {self.entropy} and {self.slow_weight}"
            )
        if not (0 <= self.advantage_rate <= 1 and 0 <= self.value_rate <= 1):
            raise ConfigError(
                f"expected advantage_rate and value_rate in [0, 1], got {self.advantage_rate} and {self.value_rate}"
            )
        if not (0 < self.slow_rate <= 1 and 0 < self.return_rate <= 1):
            raise ConfigError(
                f"expected slow_rate and return_rate in (0, 1], got {self.slow_rate} and {self.return_rate}"
            )

    @property
    def discount(self) -> float:
        """γ of replayed steps."""
        return 1 - 1 / self.horizon


class ImaginationActorCritic(nn.Module):
    """The losses that train actor and critic, with the critic, its slow copy and the scale of the returns.

    Args:
        policy: the factor π(a_t|s_t), e.g. ``Normal("π(a_t|h_t,z_t)", net, shape=2)``, or a product of one for each
            action, whose log-density and entropy are sums; its conditions, but for other actions and masks, are the
            features, which the critic takes in the same order.
        critic: network from the features ``[N, ...]`` to the logits of the value; DreamerV3: ``MLP(..., outputs=255,
            layers=3, outscale=0)``.
        settings: numbers.
        masks: what of the conditions of the policy is a mask of what is allowed, such as M of π(a_t|h_t,z_t,M_t).
        spoken: of an action that says words, what the world expects to be said: see `Spoken`.

    Attributes:
        dream: ``together(actor=..., critic=...)`` over imagined states, `dreamed` makes its data.
        replay: the critic's loss over replayed states, `replayed` makes its data.
        return_norm: moves before it is used, in training mode only.

    The slow critic starts as a copy and has no gradient; `worldformula.training.slow.move_slow` moves it.
    """

    dream: Expression
    replay: Expression
    policy: Factor | Joint
    spoken: Spoken | None

    def __init__(
        self,
        policy: Factor | Joint,
        critic: nn.Module,
        settings: BehaviourSettings | None = None,
        masks: Collection[str] = (),
        spoken: Spoken | None = None,
    ) -> None:
        super().__init__()
        self.settings = own = settings or BehaviourSettings()
        self.__dict__["spoken"] = spoken  # it reads the world, whose networks are the agent's
        self.return_norm = PercentileNorm(own.return_rate)
        self.advantage_norm = MeanNorm(own.advantage_rate) if own.advantage_rate else None
        self.value_norm = norm = MeanNorm(own.value_rate) if own.value_rate else None
        self.masks = tuple(masks)
        taken = (*OWN, *(() if norm is None else NORMED), *(() if spoken is None else (WORDS,)))
        self.names, self.actions, t = read_policy(policy, taken, self.masks)
        self.__dict__["policy"] = policy  # the agent's, which registers it
        given = ",".join(f"{name}_{t}" for name in self.names)

        # What both losses say of a state: the logits l of its value, their mean V, and the slow copies m and U.
        logits = Deterministic(f"l_{t} = critic({given})", critic)
        slow = logits.slow(1 - own.slow_rate).rename(l="m")
        read = _mean if norm is None else Unnormed(norm)
        mean = Deterministic(f"V_{t} = mean(l_{t})", read, shape=())
        slow_mean = Deterministic(f"U_{t} = mean(m_{t})", read, shape=())
        value = TwoHot(f"v(R_{t}|l_{t})", _same, shape=())
        states, told = logits * slow * slow_mean, []
        if norm is not None:  # the critic says numbers of another unit: so do what it learns and its slow copy
            states = states * Deterministic(f"u_{t} = mean(m_{t})", _mean, shape=())
            told = [sg(Deterministic(f"y_{t} = normed(R_{{1:T}})", Target(norm), shape=()))]
        unit = {"R": "R", "U": "U"} if norm is None else {"R": "y", "U": "u"}
        target, pull = (log(value if to == "R" else value.rename(R=to)) for to in (unit["R"], unit["U"]))
        learnt = -Value(f"w_{t}") * (target + (pull if own.slow_weight == 1 else own.slow_weight * pull))

        of = "U" if own.slow_target else "V"
        further = self.further
        back = Returns(own.lam, further)
        returns = Deterministic(f"R_{t} = λ_return(r_{{1:T}}, c_{{1:T}}, {of}_{{1:T}})", back, shape=())
        weight = Deterministic(f"w_{t} = reach(c_{{1:T}})", reach if further == 1 else Reach(further), shape=())
        scaled = self.return_norm if self.advantage_norm is None else Normed(self.return_norm, self.advantage_norm)
        advantage = Deterministic(f"A_{t} = scaled(R_{{1:T}}, {of}_{{1:T}})", scaled, shape=())
        dream = math.prod(told, start=states * mean * sg(returns)) * weight
        likely, entropy = summed(log, policy), summed(Entropy if spoken is None else spoken.spread, policy)
        acted = -Value(f"w_{t}") * (Value(f"A_{t}") * likely + own.entropy * entropy)
        actor = Mean(t, E(dream * sg(advantage), acted)).mean()
        self.__dict__["dream"] = together(actor=actor, critic=Mean(t, E(dream, learnt)).mean())

        replayed = ReplayReturns(own.discount, own.lam)
        seen = Deterministic(f"R_{t} = λ_return(r_{{1:T}}, d_{{1:T}}, e_{{1:T}}, b_{{1:T}})", replayed, shape=())
        going = Deterministic(f"w_{t} = going(e_{{1:T}})", until_last, shape=())
        self.__dict__["replay"] = Mean(t, E(math.prod(told, start=states * seen) * going, learnt)).mean()
        self.critic, self.slow_critic = critic, slow.net
        self.slow_updates = slow.slow_weights  # what `move_slow` finds, and its count of updates

    @property
    def attached(self) -> tuple[str, ...]:
        """Replayed states, unless the critic learns there alone."""
        return ("replay",) if self.settings.replay_gradient else ()

    @property
    def terms(self) -> dict[str, Expression]:
        """Both losses by name."""
        return {"dream": self.dream, "replay": self.replay}

    @property
    def discount(self) -> float:
        """γ of the settings where what a dream says of going on shall hold it; else 1, and the losses multiply."""
        return self.settings.discount if self.settings.discount_learnt else 1.0

    @property
    def further(self) -> float:
        """What the losses multiply continuations by: γ where these hold no discount."""
        return 1.0 if self.settings.discount_learnt else self.settings.discount

    def dreamed(
        self, states: Features, actions: Tensor | Features, reward: Tensor, proceed: Tensor,
        terminal: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The data of ``dream``: S states of a rollout, the start and S − 1 imagined ones.

        Args:
            states: at least the features, and the masks that the policy reads, ``[N, S, ...]`` each.
            actions: ``[N, S, A]`` by name, or the tensor of the only one, column t drawn from π at state t; the last
                one is not scored.
            reward: ``[N, S]``, predicted means at the states; the first one is not read.
            proceed: ``[N, S]``, predicted probabilities of going on, discount included.
            terminal: ``[N]``, not read: what is predicted at a start says as much.
            generator: not needed here.

        Everything is detached: gradients reach the weights of the policy (through log π and the entropy alone) and of
        the critic. The last state only bootstraps.
        """
        taken = by_name(actions, self.actions)
        given = {name: states[name] for name in (*self.names, *self.masks)} | taken | {"r": reward, "c": proceed}
        require_axes(given)
        words = {} if self.spoken is None else self.spoken.expected(states)
        return {name: x.detach() for name, x in given.items()} | words

    def replayed(
        self, states: Features, reward: Tensor, is_last: Tensor, is_terminal: Tensor, boot: Tensor
    ) -> dict[str, Tensor]:
        """The data of ``replay``: posterior states, *not* detached, so that the critic shapes the world where the
        settings let it.

        Args:
            states: at least the features, ``[B, T, ...]`` each.
            reward: ``[B, T]`` of the data.
            is_last: ``[B, T]`` of the data.
            is_terminal: ``[B, T]`` of the data.
            boot: ``[B, T]``, the imagined return R_0 from each of these states. With imagination from the last K steps
                alone, give the last K columns of everything.

        Steps that end an episode have weight zero.
        """
        flags = {"d": is_terminal.to(boot.dtype), "e": is_last.to(boot.dtype)}
        data = {"r": reward, **flags, "b": boot.detach()}
        given = {name: states[name] for name in self.names} | data
        require_axes(given)
        return given

    @torch.no_grad()
    def metrics(self, dream: Out) -> dict[str, Tensor]:
        """Numbers of a result of ``dream`` for the log; all but the entropies without the state that only bootstraps.

        Of several actions the entropy of each, and their sum.
        """
        found = {name: dream.samples[name][:, :-1] for name in ("R", "V", "A", "w")}
        of = {f.variable.key: f"H[{f}]" for f in factors_of(self.policy)}
        entropies = {key: dream.terms[title].detach() for key, title in of.items() if title in dream.terms}
        each = {f"behaviour/entropy/{key}": value for key, value in entropies.items()} if len(entropies) > 1 else {}
        return {
            "behaviour/return_mean": found["R"].mean(), "behaviour/return_scale": self.return_norm.scale,
            "behaviour/value_mean": found["V"].mean(), "behaviour/advantage_std": found["A"].std(unbiased=False),
            "behaviour/weight_mean": found["w"].mean(),
            "behaviour/policy_entropy": torch.stack([*entropies.values()]).sum(), **each,
        }  # fmt: skip

    def value(self, *features: Tensor) -> Tensor:
        """The critic's mean at states ``[N, ...]``: ``[N]``, for planners and logs."""
        mean = two_hot.mean((self.critic(*features),))
        assert isinstance(mean, Tensor)
        return mean if self.value_norm is None else self.value_norm.back(mean)


class Returns(nn.Module):
    """λ-returns of a dream ``[N, S]``; at its last state the value there. Continuations times ``discount``."""

    def __init__(self, lam: float, discount: float = 1.0) -> None:
        super().__init__()
        self.lam, self.discount = lam, discount

    def forward(self, reward: Tensor, proceed: Tensor, value: Tensor) -> Tensor:
        """``[N, S]`` each."""
        proceed = proceed if self.discount == 1 else self.discount * proceed
        return torch.cat((lambda_return(reward, proceed, value, self.lam), value[:, -1:]), 1)


class ReplayReturns(nn.Module):
    """Returns along replayed experience ``[B, T]``; at the last row the bootstrap there."""

    def __init__(self, discount: float, lam: float) -> None:
        super().__init__()
        self.discount, self.lam = discount, lam

    def forward(self, reward: Tensor, terminal: Tensor, last: Tensor, boot: Tensor) -> Tensor:
        """``[B, T]`` each."""
        found = replay_return(reward, terminal, last, boot, self.discount, self.lam)
        return torch.cat((found, boot[:, -1:]), 1)


class Unnormed(nn.Module):
    """The mean of logits of a critic that predicts normalised returns, as returns."""

    def __init__(self, norm: MeanNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, logits: Tensor) -> Tensor:
        """``[N, bins]`` to ``[N]``."""
        return self.norm.back(_mean(logits))


class Target(nn.Module):
    """Returns ``[N, S]`` as the critic learns them; in training mode the running averages learn from them first."""

    def __init__(self, norm: MeanNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, returns: Tensor) -> Tensor:
        """The last one, which only bootstraps, counts for no average."""
        if self.training:
            self.norm.update(returns[:, :-1])
        normed: Tensor = self.norm(returns)
        return normed


def _same(logits: Tensor) -> Tensor:
    return logits


@torch.no_grad()
def _mean(logits: Tensor) -> Tensor:
    """Without gradient: returns, advantages and targets are stopped, and nothing else reads it."""
    found = two_hot.mean((logits,))
    assert isinstance(found, Tensor)
    return found
