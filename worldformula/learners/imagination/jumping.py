r"""THICK Dreamer's behaviour learner: Dreamer v2's, whose critics also learn of where a jump leads.

Gumbsch, Sajid, Martius & Butz 2024, ICLR.

    U_t = \bar v(s_t), a slow copy            R_t = λ_return(r, d, U), as in Dreamer v2
    X_t = \bar v_c(z'_t, c'_t), a slow copy   of the coarse critic, where one jump from s_t arrives
    M_t = ψ R_t + (1 − ψ) (J_t + K_t X_t)     J_t: the reward on the way, that of s_t included; K_t = γ^n, n steps later
                                              where s_t ended the episode, as d_t says, J_t = r_t and K_t = 0

    actor           as Dreamer v2's, by R_t and U_t alone
    critic          mean_{t < H}  −w_t log N(sg M_t; v(s_t), 1)
    coarse          mean_{t < H}  −w_t log N(sg M_t; v_c(y_t, c_t), 1),   y_t what the coarse prior says of the step

At ψ = 1 nothing jumps, and actor and critic are Dreamer v2's to the bit.

Deviations       authors' code          here       why
behind a jump    d_τ^Δ (r_τ + d_τ X)    γ^n X      X counts r_τ already; ``behind="official"`` is theirs
from an end      jumps as elsewhere     r_t        no jump was ever seen from there; ``"official"`` as theirs
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, E, Expression, Factor, Mean, Normal, Value, log, sg
from worldformula.formula.factors.joint import Joint
from worldformula.learners.imagination.contract import Features
from worldformula.learners.imagination.mixed import MixedActorCritic, MixedSettings
from worldformula.learners.imagination.policies import Scalar, column
from worldformula.world import Dynamics, State


@dataclass(frozen=True)
class JumpingSettings(MixedSettings):
    """Numbers of the learner; the defaults are the paper's."""

    psi: float = 0.9
    """ψ, the share of the λ-return in what the critics learn."""
    behind: Literal["exact", "official"] = "exact"
    """What counts behind a jump; see the module."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.psi <= 1 or self.behind not in ("exact", "official"):
            raise ConfigError(
                f"expected psi in [0, 1] and behind as 'exact' or 'official', got {self.psi} and {self.behind!r}"
            )


class Mixed(nn.Module):
    """``M_t = ψ R_t + (1 − ψ) (J_t + K_t X_t)``."""

    def __init__(self, psi: float) -> None:
        super().__init__()
        self.psi = psi

    def forward(self, returns: Tensor, way: Tensor, share: Tensor, behind: Tensor) -> Tensor:
        """``[N]`` each."""
        return returns if self.psi == 1 else self.psi * returns + (1 - self.psi) * (way + share * behind)


class JumpingActorCritic(MixedActorCritic):
    """Actor and critics of THICK Dreamer.

    Args:
        policy, critic, settings: as of `MixedActorCritic`.
        coarse: network from y_t and c_t to the value ``[N, 1]``.
        jump: where a state leads at once, with a duration; its states hold z, c and G.
        reward, proceed: the names of its heads of r_τ and d_τ, for ``behind="official"``.
    """

    proceed = "d"
    settings: JumpingSettings
    jump: Dynamics
    heads: tuple[str, str | None]

    def __init__(
        self, policy: Factor | Joint, critic: nn.Module, coarse: nn.Module, jump: Dynamics,
        settings: JumpingSettings | None = None, heads: tuple[str, str | None] = ("r_coarse", None),
    ) -> None:  # fmt: skip
        # The networks of jumps are the world's, and `_critics`, which the base calls, reads the coarse critic.
        self.__dict__.update(jump=jump, heads=heads, _coarse=coarse)
        super().__init__(policy, critic, settings or JumpingSettings())

    def _critics(self, t: str, values: Factor, returns: Joint) -> dict[str, Expression]:
        """Both critics learn M_t."""
        own = self.settings
        guess = Deterministic(f"W_{t} = coarse(y_{t}, c_{t})", Scalar(self.__dict__["_coarse"]), shape=())
        slow = guess.slow(0, every=own.slow_every)
        self.coarse, self.slow_coarse, self.slow_coarse_updates = guess.net, slow.net, slow.slow_weights
        behind = slow.rename(W="X", y="Z", c="C")
        mixed = Deterministic(f"M_{t} = mix(R_{t}, J_{t}, K_{t}, X_{t})", Mixed(own.psi), shape=())
        found = {}
        for name, value, factor in (("critic", "V", values), ("coarse", "W", guess)):
            learnt = Normal(f"p(M_{t}|{value}_{t})", column, scale=1.0, shape=())
            step = -Value(f"w_{t}") * log(learnt)
            found[name] = Mean(t, E(factor * returns * sg(behind) * sg(mixed), step)).mean()
        return found

    def dreamed(
        self, states: Features, actions: Tensor | Features, reward: Tensor, proceed: Tensor,
        terminal: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """As of `MixedActorCritic`, with what a jump from each state says.

        Args:
            states: features, y, and what jumps begin at, z and c, ``[N, S, ...]`` each.
            actions: as there.
            reward: as there.
            proceed: as there.
            terminal: as there.
            generator: what the jumps draw by.
        """
        found = super().dreamed(states, actions, reward, proceed, terminal)
        z, c = states["z"].detach(), states["c"].detach()
        if self.settings.psi == 1:
            return found | {"y": states["y"], "J": reward.detach(), "K": reward.detach(), "Z": z, "C": c}
        jumped = self._jumped(z, c, generator)
        if self.settings.behind == "exact":
            going = (found[self.proceed].detach() / self.settings.discount).clamp(0, 1)
            jumped["J"] = torch.lerp(reward.detach(), jumped["J"], going)
            jumped["K"] = going * jumped["K"]
        return found | {"y": states["y"], **jumped}

    @torch.no_grad()
    def _jumped(self, z: Tensor, c: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Z and C, where jumps from states ``[N, S, ...]`` arrive, J, what counts until there, K, how much they do."""
        none = torch.zeros_like(c[..., 0])
        begin = State({"z": z, "c": c, "G": none, "b": none, "n": none}, 2).flat()
        dream = self.jump.imagine(begin, horizon=1, generator=generator).at(1)
        way, share = dream["G"], self.settings.discount ** dream["n"]
        if self.settings.behind == "official":
            reward, going = self.heads
            told = self.jump.decode(dream, [name for name in (reward, going) if name is not None])
            d = told[going] if going is not None else torch.full_like(way, self.settings.discount)
            way, share = way + d ** (dream["n"] - 1) * told[reward], d ** dream["n"]
        lead = z.shape[:2]
        return {
            name: x.unflatten(0, lead) for name, x in
            {"Z": dream["z"], "C": dream["c"], "J": way, "K": share}.items()
        }  # fmt: skip
