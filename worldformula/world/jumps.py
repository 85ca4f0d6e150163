r"""Jumps: a level of a world whose step goes from one change of its context to the next, after THICK.

    τ(t) = min{τ > t : a gate is open at τ},  x_t = (z_t, c_t), both held

    A_t ~ p(A | x_t)              which of n ways from here             q(A | x_t, c_τ, z_{τ-1}), its posterior
    F   = body(x_t, A)
    z_{τ-1} ~ p(Y | F)            the state just before the change
    a_{τ-1} ~ p(B | F)            what is done there
    Δ_t = τ - 1 - t               Normal(relu μ, elu(s) + 1.1)          the steps until then
    R_t = Σ_{t ≤ k < τ} γ^{k-t} r_k                                     the reward on the way, that of t included

    jumps = mean over rows with a τ [ (1 - α) KL(q ‖ sg p) + α KL(sg q ‖ p) + w_A KL(q ‖ 1/n)
                                      + KL(q(z_{τ-1}) ‖ p(Y | F)) - w_a log p(a_{τ-1} | F)
                                      - w_n log p(Δ_t | F) - log p(R_t | F) ]

Gumbsch, Sajid, Martius & Butz 2024, ICLR. A step of ``world.levels["jump"]`` draws A, Y and B, takes one coarse step
from there, and has taken n_t = min(Δ, 50) + 1 steps of time; A may be chosen instead of drawn. Its reward is
(R_t − r_t)/γ + γ^Δ r_τ: of those behind t, from the next one on, so that jumps in a row, discounted by γ^n, count each
once and as a plan of single steps does; b_t is r_t by the coarse head. The rest of the world learns nothing by
``jumps``. With ``said``, dreams of the fine level also draw y_t ~ p_c(y_t|z_{t-1},g_t), what the coarse prior says of
the same step: a critic of jumps is told that.

Deviations                  authors' code                 here                        why
mean of the jumps' losses   over all rows                 over those with a τ         else rare changes weigh little
loss of a choice            softmax of probabilities      of logits                   as it was meant
reward of a jump            R_t + γ^Δ r_τ                 (R_t − r_t)/γ + γ^Δ r_τ     else rows of jumps count r_τ twice
episodes                    segments cross their borders  end there                   the next is another episode
codes alike, w_A            –                             ``even``, 0 unless said     else p follows q to one code
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Mean,
    Normal,
    OneHot,
    Symbol,
    TruncatedNormal,
    Value,
    log,
    sg,
)
from worldformula.formula.syntax.nodes import factors as factors_of
from worldformula.nets.actor import TruncatedActor
from worldformula.nets.jumps import Arrived, Body, Collected, Elapsed, Here, Span, nothing
from worldformula.nets.plain import Plain
from worldformula.world.contract import Kind
from worldformula.world.dynamics import PriorDynamics
from worldformula.world.model import World
from worldformula.world.observations import Names, Observed
from worldformula.world.segments import Segments

TAKEN = ("A", "B", "F", "G", "Y", "n", "l", "m", "C", "b")
"""What the formulas of jumps name: observations called so are o_1, o_2, …"""

LAWS: dict[str, Callable[..., Factor]] = {"numbers": TruncatedNormal, "choice": OneHot, "flags": Bernoulli}
"""The laws of an action before a change, by its kind: numbers in [−1, 1], a one-hot, flags."""


@dataclass(frozen=True)
class JumpSettings:
    """Widths and weights of jumps; the defaults are the paper's for MiniHack."""

    codes: int = 3
    """n, the ways A from a state."""
    units: int = 1024
    """Hidden layers of the networks of jumps."""
    act: float = 1.0
    """w_a, weight of the action before a change."""
    time: float = 1.0
    """w_n, weight of the steps until then."""
    even: float | None = 0.0
    """w_A, weight of KL(q(A|…) ‖ uniform), without which one code soon takes all rows, and jumps tell no ways apart;
    None leaves it to the call, ``even=``, so that it may fall, and codes are in the end as likely as they are."""
    longest: float = 50.0
    """The most steps that a jump is said to take before its last."""
    discount: float = 0.99
    """γ of the reward on the way."""
    ends: bool = True
    """Whether rows that end an episode for good are changes too."""
    said: bool = True
    """Whether dreams of the fine level say what the coarse prior does, for a critic of jumps."""

    def __post_init__(self) -> None:
        if min(self.codes, self.units) < 1 or self.longest <= 0 or min(self.act, self.time, self.even or 0.0) < 0:
            raise ConfigError(
                f"expected codes and units ≥ 1, longest > 0, act, time and even ≥ 0, got {self.codes}, {self.units}, "
                f"{self.longest}, {self.act}, {self.time} and {self.even}"
            )
        if not 0 < self.discount <= 1:
            raise ConfigError(f"expected discount in (0, 1], got {self.discount}")


@dataclass(frozen=True)
class TwoLevels:
    """The factors of a world with a fine and a coarse prior of one posterior.

    seen: what is observed. slow: p(ε_t), u_t and c_t; context: the width of c_t. ahead: g_t, what the coarse prior
    reads. step: the loss of a step. balance: α of its divergences.
    """

    names: Names
    widths: dict[str, int]
    seen: Observed
    slow: Joint
    core: Factor
    ahead: Factor
    post: Factor
    fine: Factor
    coarse: Factor
    heads: dict[str, Factor]
    heads_coarse: dict[str, Factor]
    step: Expression
    roles: dict[str, str]
    context: int
    balance: float

    @property
    def draws(self) -> Joint:
        """What is computed and drawn of data."""
        return Joint.of(*self.seen.before, self.seen.embed, *self.slow.factors, self.core, self.ahead, self.post)

    @property
    def levels(self) -> dict[str, PriorDynamics]:
        """What can be imagined."""
        roles = {role: f"{name}_coarse" for role, name in self.roles.items()}
        return {
            "fine": PriorDynamics(self.slow * self.core * self.fine, self.heads, roles=self.roles),
            "coarse": PriorDynamics(self.slow * self.ahead * self.coarse, self.heads_coarse, roles=roles),
        }


class Jumping(World):
    """A world of two levels with a third, "jump"; ``jumps`` is what that learns by, and `beside` gives its data.

    Attributes:
        low, high: the factors of either level, for who moves their weights.
    """

    config: JumpSettings
    own: TwoLevels
    low: list[Factor]
    high: list[Factor]

    def __init__(self, config: JumpSettings, own: TwoLevels, kinds: Mapping[str, Kind]) -> None:
        level = _Jump(config, own, kinds)
        begun = Deterministic("G_t, b_t, n_t = begun(c_t)", nothing, shape=[(), (), ()])
        draws, levels = own.draws * begun, own.levels
        if config.said:
            said = OneHot("p_c(y_t|z_{t-1},g_t)", _net(own.coarse), shape=own.coarse.shape)  # as the coarse prior draws
            reward = Normal("p_c(r_t|y_t,c_t)", _net(own.heads_coarse["r_coarse"]), shape=(), scale=1.0)
            draws, fine = draws * said, levels["fine"].prior * own.ahead * said
            levels["fine"] = PriorDynamics(fine, own.heads | {"r_said": reward}, roles=own.roles)
        super().__init__(
            posterior=draws,
            loss=Mean("t", E(draws, own.step), reset="first").mean(),
            levels={**levels, "jump": level.dynamics()},
            main="fine",
            observations=own.names.all,
            further={"jumps": level.loss()},
        )
        self.__dict__["config"], self.__dict__["own"] = config, own
        self.__dict__["low"] = list(dict.fromkeys(factors_of(self.loss.node)))
        self.__dict__["high"] = level.factors

    @property
    def jumps(self) -> Expression:
        """What the level "jump" learns by."""
        return self.further["jumps"]

    @property
    def foretold(self) -> Joint:
        """What a jump from z, c says, without time: A, F, the state Y and actions B before the change, n and G."""
        return Joint.of(*self.high[1:])

    def before(self, z: Tensor, c: Tensor, code: Tensor) -> Tensor:
        """p(Y|F), what a jump from z ``[N, G, K]`` and c ``[N, C]`` by a code ``[N, n]`` says of the state just before
        the change: the probability of every class, ``[N, G, K]``.
        """
        said = {f.variable.key: f for f in self.high}
        logits: Tensor = said["Y"].params(_net(said["F"])(z, c, code))[0]
        return logits.softmax(-1)

    @torch.no_grad()
    def beside(
        self, name: str, samples: Mapping[str, Tensor], batch: Mapping[str, Tensor], terminal: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The data of ``jumps``: rows ``[B·T, ...]`` of what a result of ``loss`` has drawn; see `World.beside`."""
        if name not in self.further:
            return super().beside(name, samples, batch, terminal)
        first = batch[str(self.reset_name)].bool()
        z, c = samples["z"].detach(), samples["c"].detach()
        found = Segments.of((samples["Theta"] > 0).any(-1), first, terminal if self.config.ends else None)
        read = [samples[v.key].detach().flatten(0, 1) for v in self.own.post.conditions]
        logits = _net(self.own.post)(*read).unflatten(0, first.shape)
        way = found.collected(batch["r"], self.config.discount)
        given = {
            "z": z, "c": c, "C": found.at(c), "Y": found.at(z, 1), "l": found.at(logits, 1),
            "n": found.elapsed.to(c), "m": found.weight(c.dtype), "G": way,
        }  # fmt: skip
        for word in self.own.widths:
            act = found.at(batch[word], 1)
            nothing_done = torch.zeros_like(act)
            nothing_done[..., 0] = 1.0  # a row that does not count still needs a choice, which the last one has not
            given[_before(word)] = torch.where(found.known[..., None], act, nothing_done)
        return {name: x.flatten(0, 1) for name, x in given.items()}


class _Jump:
    """The factors of a jump, once without time, as they learn, and once with, as they dream; of the same networks."""

    def __init__(self, config: JumpSettings, own: TwoLevels, kinds: Mapping[str, Kind]) -> None:
        n, U, latent = config.codes, config.units, own.post.shape or ()
        self.config, self.own = config, own
        if unknown := [word for word in kinds if word not in own.widths]:
            raise ConfigError(f"kinds: expected actions of {', '.join(own.widths)}, got {unknown[0]!r}")
        S, C = math.prod(latent), own.context
        self.inferred = OneHot("q(A|z,c,C,Y)", Plain(2 * (S + C), n, U, 1), shape=n)
        self.code = OneHot("p(A|z,c)", Plain(S + C, n, U, 1), shape=n)
        self.body = Deterministic("F = body(z, c, A)", Body(S + C + n, U), shape=U)
        self.before = OneHot("p(Y|F)", Plain(U, S, U, 1), shape=latent)
        self.kinds: dict[str, Kind] = {word: kinds.get(word, "numbers") for word in own.widths}
        self.acts = [self._act(word, width, self.kinds[word]) for word, width in own.widths.items()]
        self.span = Normal("p(n|F)", Span(U, U), shape=())
        self.way = Normal("p(G|F)", Plain(U, 1, U, 2), shape=(), scale=1.0)

    def _act(self, word: str, width: int, kind: Kind) -> Factor:
        U = self.config.units
        net = TruncatedActor(U, width, U, 2, stopped=False) if kind == "numbers" else Plain(U, width, U, 2)
        return LAWS[kind](f"p({_before(word)}|F)", net, shape=width)

    @property
    def factors(self) -> list[Factor]:
        """All that ``jumps`` moves."""
        return [self.inferred, self.code, self.body, self.before, *self.acts, self.span, self.way]

    def loss(self) -> Expression:
        """What they learn by, over rows."""
        own, latent = self.config, self.before.shape
        target, a = OneHot("q(Y|l)", nn.Identity(), shape=latent), self.own.balance
        codes = a * KL(sg(self.inferred), self.code) + round(1 - a, 12) * KL(self.inferred, sg(self.code))
        step = codes.named("kl_codes") + KL(target, self.before).named("kl_before")
        if own.even != 0:
            alike = KL(self.inferred, OneHot("p_0(A)", shape=own.codes)).named("kl_even")
            step = step + (Symbol("even") if own.even is None else own.even) * alike
        acts = log(self.acts[0])
        for factor in self.acts[1:]:
            acts = acts + log(factor)
        step = step - own.act * acts - own.time * log(self.span) - log(self.way)
        return E(self.inferred * self.body, Value("m") * step).mean()

    def dynamics(self) -> PriorDynamics:
        """A jump as a step: the code, the state and action before the change, and a coarse step from there."""
        own, config = self.own, self.config
        noise, read, context = own.slow.factors
        acts = [
            LAWS[self.kinds[word]](f"p({Names.at(f.variable.key)}|F_t)", _net(f), shape=f.shape)
            for word, f in zip(own.widths, self.acts, strict=True)
        ]
        at = ", ".join(["Y_t", *(str(f.variable) for f in acts)])
        reward = own.heads_coarse["r_coarse"]
        prior = Joint.of(
            OneHot("p(A_t|z_{t-1},c_{t-1})", _net(self.code), shape=self.code.shape),
            Deterministic("F_t = body(z_{t-1}, c_{t-1}, A_t)", _net(self.body), shape=self.body.shape),
            OneHot("p(Y_t|F_t)", _net(self.before), shape=self.before.shape),
            *acts,
            Deterministic("n_t = elapsed(F_t)", Elapsed(_net(self.span), config.longest), shape=()),
            Deterministic("G_t = collected(F_t)", Collected(_net(self.way)), shape=()),
            Deterministic("b_t = here(z_{t-1}, c_{t-1})", Here(_net(reward)), shape=()),
            noise,
            Deterministic(f"u_t = f({at})", _net(read), shape=read.shape),
            context,
            Deterministic(f"g_t = g({at}, c_t)", _net(own.ahead), shape=own.ahead.shape),
            OneHot("p_c(z_t|Y_t,g_t)", _net(own.coarse), shape=own.coarse.shape),
        )
        heads = dict(own.heads_coarse)
        heads["r_jump"] = Normal(
            "p_j(r_t|z_t,c_t,G_t,b_t,n_t)", Arrived(_net(reward), config.discount), shape=(), scale=1.0
        )
        roles = {role: "r_jump" if role == "reward" else f"{name}_coarse" for role, name in own.roles.items()}
        return PriorDynamics(prior, heads, roles=roles, duration="n")


def _net(factor: Factor) -> nn.Module:
    """The network of a factor."""
    assert isinstance(factor.net, nn.Module)
    return factor.net


def _before(word: str) -> str:
    """The variable of an action before a change: B, or B_1, B_2, …"""
    _, _, number = word.partition("_")
    return f"B_{number}" if number else "B"
