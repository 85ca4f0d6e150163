r"""TD-MPC2's behaviour learner: Q-functions and a policy that climbs them, along rollouts that follow replayed actions.

    value     mean_{t ≤ H} −w_t ρ^{t−1} (1/K) Σ_k log Q_k(s_t|l_t)      l_t = Q(z_t, a_t, m_t),  s_t = symlog(y_t)
              y_t = r_t + γ (1 − d_t) min over a drawn pair of \bar Q(z'_t, a'_t),   a'_t ~ π(·|z'_t)
    policy    mean_{t ≤ H+1} −ρ^{t−1} ( mean of a drawn pair of Q(z_t, a_t)/S + β A ℍ[ν] ),   a_t ~ π(·|sg z_t)

z_t are the latents of a rollout that began with an encoded row, z'_t the encoded latents that it should have led to;
r_t and d_t come with these. K = 5 Q-functions are two-hot on a linear grid of symlog values, with dropout m_t in their
first layer, which the targets' slow copies \bar Q do without. S is a running range of the first step's values, at least
1; ν the Normal whose tanh π is, A the width of the actions. Hansen, Su & Wang 2024 (arXiv:2310.16828).

| deviation | paper | authors' code | here | why |
|---|---|---|---|---|
| entropy | of π | of ν, times A | of ν, times A; ``squashed`` of π, by its draw | both, by name |
| pairs | drawn | one for a whole batch | one for each row and step | a factor of the formula, less noise |
| ends within a sequence | – | none | w_t is 0 where the next row begins an episode | as the replay is |
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import (
    Bernoulli,
    Deterministic,
    E,
    Entropy,
    Expression,
    Factor,
    Joint,
    Mean,
    Normal,
    OneHot,
    TwoHot,
    Value,
    log,
    sg,
)
from worldformula.formula.code.out import Out
from worldformula.learners.imagination.contract import Features
from worldformula.learners.imagination.normalise import RangeNorm
from worldformula.learners.imagination.policies import factors_of, read_policy, summed
from worldformula.nets.normed import Ensemble, Regressed, symlog

OWN = ("r", "d", "w", "k", "l", "m", "n", "s", "u", "v", "y", "U", "V")
"""What the losses call their own: rewards, ends, weights, pairs, logits, masks, and what these give."""


@dataclass(frozen=True)
class LatentSettings:
    """Numbers of the learner; the defaults are those of the authors' code for 5M parameters."""

    discount: float = 0.99
    """γ of a step."""
    rho: float = 0.5
    """ρ, what a step later weighs."""
    members: int = 5
    """K, how many Q-functions there are."""
    units: int = 512
    """Their two hidden layers."""
    dropout: float = 0.01
    """Share of the first hidden layer that a training step leaves out."""
    bins: int = 101
    """Bins of a value."""
    reach: float = 10.0
    """They stand between −reach and reach, of the symlog."""
    entropy: float = 1e-4
    """Weight β of the policy's entropy: more of it explores more."""
    squashed: bool = False
    """The entropy of π itself, by its draw, in place of A times that of the Normal before tanh."""
    slow_rate: float = 0.01
    """Step of the slow Q-functions towards the others after every update."""
    range_rate: float = 0.01
    """Step of the running range S."""

    def __post_init__(self) -> None:
        if self.units < 1 or min(self.members, self.bins) < 2 or self.reach <= 0:
            raise ConfigError(
                "expected units ≥ 1, members and bins ≥ 2 and reach > 0, got "
                f"{self.units}, {self.members}, {self.bins} and {self.reach}"
            )
        if not (0 < self.discount <= 1 and 0 < self.rho <= 1 and 0 < self.slow_rate <= 1 and 0 < self.range_rate <= 1):
            raise ConfigError(
                "expected discount, rho, slow_rate and range_rate in (0, 1], got "
                f"{self.discount}, {self.rho}, {self.slow_rate} and {self.range_rate}"
            )
        if not 0 <= self.dropout < 1 or self.entropy < 0:
            raise ConfigError(f"expected dropout in [0, 1) and entropy ≥ 0, got {self.dropout} and {self.entropy}")


class LatentActorCritic(nn.Module):
    """Q-functions and policy of TD-MPC2.

    Args:
        policy: tanh of Normals over the latent of a step, such as ``TanhNormal("π(a_t|z_t)", net, shape=2)``, or a
            product of one per action.
        latent: width of the latent.
        settings: numbers.

    Attributes:
        value_loss: the Q-functions' loss over H transitions; `followed` makes its data.
        policy_loss: the policy's over the H + 1 latents of the same rollouts.
        range: S, which moves before it is used, in training mode only.

    The slow Q-functions start as a copy; `worldformula.training.slow.move_slow` moves them.
    """

    value_loss: Expression
    policy_loss: Expression
    policy: Factor | Joint
    attached = ("value",)
    masks: tuple[str, ...] = ()

    def __init__(self, policy: Factor | Joint, latent: int, settings: LatentSettings | None = None) -> None:
        super().__init__()
        self.settings = own = settings or LatentSettings()
        self.names, self.actions, t = read_policy(policy, OWN)
        self.__dict__["policy"] = policy  # the agent's, which registers it
        self.range = RangeNorm(own.range_rate)
        self.regressed = Regressed(own.bins, own.reach)
        width = sum(int((f.shape or (1,))[-1]) for f in factors_of(policy))
        self.critic = Ensemble(latent + width, own.bins, own.units, own.members, 1 - own.dropout)

        state = ", ".join(str(c) for c in factors_of(policy)[0].conditions)
        acted = ", ".join(str(f.variable) for f in factors_of(policy))
        shape = (own.members, own.bins)
        slow = Deterministic(f"l_{t} = Q({state}, {acted})", self.critic, shape=shape).slow(1 - own.slow_rate)
        logits, draws = self._logits(f"{state}, {acted}", t)
        pairs = [*itertools.combinations(range(own.members), 2)]
        pair = OneHot(f"p(k_{t})", shape=len(pairs))
        self.__dict__["value_loss"] = self._value(t, slow, logits, draws, pair, pairs)
        self.__dict__["policy_loss"] = self._climb(t, logits, draws, pair, pairs, width)
        self.slow_critic, self.slow_updates = slow.net, slow.slow_weights  # what `move_slow` finds, with its count

    def _logits(self, given: str, t: str) -> tuple[Factor, Joint]:
        """l_t of the Q-functions that learn, and what of it is drawn."""
        own, shape = self.settings, (self.settings.members, self.settings.bins)
        if not own.dropout:
            return Deterministic(f"l_{t} = Q({given})", self.critic, shape=shape), Joint()
        drop = Bernoulli(f"p(m_{t})", shape=(own.members, own.units), probs=1 - own.dropout)
        return Deterministic(f"l_{t} = Q({given}, m_{t})", self.critic, shape=shape), Joint.of(drop)

    def _value(
        self, t: str, slow: Factor, logits: Factor, draws: Joint, pair: Factor, pairs: list[tuple[int, int]]
    ) -> Expression:
        """The loss of the Q-functions."""
        own, primed = self.settings, {name: next_of(name) for name in (*self.names, *self.actions)}
        ahead = []
        for factor in factors_of(self.policy):
            read = {v.key for v in (factor.variable, *factor.conditions)}
            ahead.append(factor.rename(**{name: new for name, new in primed.items() if name in read}))
        target = slow.rename(**primed, l="n")
        low = Deterministic(f"U_{t} = low(n_{t}, k_{t})", Paired(self.regressed, pairs, lowest=True), shape=())
        backup = Deterministic(f"y_{t} = backup(r_{t}, d_{t}, U_{t})", Backup(own.discount), shape=())
        squashed = Deterministic(f"s_{t} = symlog(y_{t})", Repeated(own.members), shape=own.members)
        learnt = TwoHot(
            f"Q(s_{t}|l_{t})", nn.Identity(), shape=own.members, bins=own.bins, low=-own.reach, high=own.reach,
            spacing="linear",
        )  # fmt: skip
        weight = Value(f"w_{t}") * own.rho ** (Value(t) - 1)
        drawn = Joint.of(*ahead, pair, target, low, backup) * sg(squashed) * draws * logits
        step = E(drawn, -weight * log(learnt) / own.members)
        return Mean(t, step, reset="first").mean()

    def _climb(
        self, t: str, logits: Factor, draws: Joint, pair: Factor, pairs: list[tuple[int, int]], width: int
    ) -> Expression:
        """The loss of the policy."""
        own, policy = self.settings, self.policy
        middle = Deterministic(f"V_{t} = middle(l_{t}, k_{t})", Paired(self.regressed, pairs, lowest=False), shape=())
        scaled = Deterministic(f"v_{t} = scaled(V_{{1:T}})", self.range, shape=())
        if own.squashed:
            entropy = own.entropy * -summed(log, policy)
        else:
            before = [
                Normal(
                    f"ν({str(f.variable).replace('a', 'u')}|{','.join(map(str, f.conditions))})", f.net, shape=f.shape
                )
                for f in factors_of(policy)
            ]
            entropy = own.entropy * width * summed(Entropy, before[0] if len(before) == 1 else Joint.of(*before))
        drawn = Joint.of(*factors_of(policy), pair) * draws * logits * middle * scaled
        step = E(drawn, -(own.rho ** (Value(t) - 1)) * (Value(f"v_{t}") + entropy))
        return Mean(t, step, reset="first").mean()

    @property
    def terms(self) -> dict[str, Expression]:
        """The losses by name."""
        return {"policy": self.policy_loss, "value": self.value_loss}

    @property
    def discount(self) -> float:
        """γ of the settings."""
        return self.settings.discount

    def followed(
        self, name: str, states: Features, seen: Mapping[str, Tensor], terminal: Tensor, first: Tensor
    ) -> dict[str, Tensor]:
        """The data of a term, with the gradients of "value": T rows of rollouts and of what was seen.

        Args:
            name: "value" or "policy".
            states: the latents as they were encoded, ``[B, T, L]`` by name, and as the world's dynamics led to them
                along the actions, ``hat_<name>``.
            seen: the actions ``[B, T, A]`` by name, and ``r`` ``[B, T]``, the rewards that came with the rows.
            terminal: which rows ended their episode for good, ``[B, T]``.
            first: which rows began one, ``[B, T]``.
        """
        rolled = {key: states[f"hat_{key}"] for key in self.names}
        if name == "policy":
            return {key: value.detach() for key, value in rolled.items()} | {"first": first}
        like = seen["r"]
        found = {key: value[:, :-1] for key, value in rolled.items()}
        found |= {f"{key}_prime": states[key][:, 1:].detach() for key in self.names}
        found |= {key: seen[key][:, :-1] for key in self.actions} | {"first": first[:, :-1]}
        return found | {"r": like[:, 1:], "d": terminal[:, 1:].to(like), "w": 1 - first[:, 1:].to(like)}

    @torch.no_grad()
    def metrics(self, climbed: Out) -> dict[str, Tensor]:
        """Numbers of a result of "policy" for the log."""
        terms = [value for text, value in climbed.terms.items() if text.startswith(("H[", "log"))]
        entropy = sum(terms[1:], terms[0]) * (-1 if self.settings.squashed else 1)
        return {
            "behaviour/value_mean": climbed.samples["V"].mean(), "behaviour/value_range": self.range.scale,
            "behaviour/policy_entropy": entropy,
        }  # fmt: skip

    def value(self, *features: Tensor) -> Tensor:
        """The mean of all Q-functions at states ``[N, ...]`` and the middle of the policy there: ``[N]``."""
        known = dict(zip(self.names, features, strict=True))
        actions = []
        for factor in factors_of(self.policy):
            loc, _ = factor.params(*(known[c.key] for c in factor.conditions))
            actions.append(torch.tanh(loc))
            known[factor.variable.key] = actions[-1]
        found: Tensor = self.regressed(self.critic(*features, *actions)).mean(-1)
        return found


def next_of(name: str) -> str:
    """The name of a variable at the next step: z' of z, a'_1 of a_1."""
    base, line, number = name.partition("_")
    return f"{base}'{line}{number}"


class Paired(nn.Module):
    """The lower one of the two values that a one-hot k points at, or their mean."""

    members: Tensor

    def __init__(self, regressed: Regressed, pairs: list[tuple[int, int]], *, lowest: bool) -> None:
        super().__init__()
        self.regressed, self.lowest = regressed, lowest
        self.register_buffer("members", torch.tensor(pairs), persistent=False)

    def forward(self, logits: Tensor, pair: Tensor) -> Tensor:
        """Logits ``[N, K, bins]`` and one-hots of pairs ``[N, P]`` to ``[N]``."""
        both = self.regressed(logits).gather(1, self.members[pair.argmax(-1)])
        return both.min(1).values if self.lowest else both.mean(1)


class Backup(nn.Module):
    """y_t = r_t + γ (1 − d_t) U_t, ``[N]`` each."""

    def __init__(self, discount: float) -> None:
        super().__init__()
        self.discount = discount

    def forward(self, reward: Tensor, ended: Tensor, value: Tensor) -> Tensor:
        """``[N]`` each."""
        return reward + self.discount * (1 - ended) * value


class Repeated(nn.Module):
    """symlog of a number ``[N]``, once for each of K: ``[N, K]``."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        """``[N]``."""
        return symlog(x).unsqueeze(-1).expand(-1, self.members)
