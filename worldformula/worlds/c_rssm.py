r"""C-RSSM, the world model of THICK: an RSSM with a context that seldom changes (Gumbsch et al. 2024, ICLR).

    u_t = f(z_{t-1}, a_{t-1})                 u_t [N, D]      read by both memories; the paper's x_t
    c_t, Θ_t = memory(u_t, c_{t-1}, ε_t)      c_t [N, 16]     context, GateL0RD: the same to the bit while Θ_t = 0
    h_t = gru(u_t, c_t, h_{t-1})              h_t [N, D]      recurrent state; c_t never reads it, nor what is observed
    z_t ~ q(z_t | c_t, h_t, e_t)              z_t [N, G, K]   one-hot groups, the one posterior of
    p(z_t | h_t, c_t)                         fine            the prior that reads h_t, and
    p_c(z_t | z_{t-1}, g_t)                   coarse          the one that does not, g_t = g(z_{t-1}, a_{t-1}, c_t)
    p(o_t | z_t, h_t, c_t), p_c(o_t | z_t, c_t)               heads of both, over observations, reward and continuation

    loss = mean_{B,T} [ KL_p + KL_{p_c} − log p(o_t, r_t, d_t) − log p_c(o_t, r_t, d_t) + β mean Θ_t ]
    KL_p = (1 − α) KL(q ‖ sg p) + α KL(sg q ‖ p),   α = 0.8

A gate at t has seen z_{t-1} and a_{t-1}: it can open at the step at which what a_{t-1} did arrives, and what only o_t
shows reaches c a step later. ``world.levels["fine"]`` dreams with h, ``world.levels["coarse"]`` with c and z alone;
with ``jumps`` a third level goes from one change of the context to the next: see `worldformula.world.jumps`.

Deviations          paper              authors' code           here                   why
weight of the gate  β                  β + 1, two terms        β; `official` β + 1    one term, which prints
noise of the gates  –                  in evaluations, too     where it samples     a factor, p(ε_t)
choices             –                  –                       a categorical each     symbols are no numbers
vectors             none               none                    σ = ``spread``         the same world on sensors
`tiny`              –                  –                       smaller                two CPU cores

Facts of the authors' code (github.com/CognitiveModeling/THICK) are from its configuration and its networks' layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Expression,
    Factor,
    Mean,
    Normal,
    OneHot,
    Symbol,
    Value,
    log,
    sg,
    total,
)
from worldformula.nets.gate_l0rd import GateL0RDCore
from worldformula.nets.layers import join
from worldformula.nets.plain import NormCell, Plain
from worldformula.world import World
from worldformula.world.contract import Kind
from worldformula.world.jumps import TAKEN, Jumping, JumpSettings, TwoLevels
from worldformula.world.observations import Names, Observed, decoders


@dataclass(frozen=True)
class CRSSMConfig:
    """Widths and loss weights of the world model; the defaults are the paper's for MiniHack."""

    deter: int = 256
    """The recurrent state h."""
    context: int = 16
    """The context c."""
    hidden: int = 256
    """Hidden layers of core, priors and posterior."""
    groups: int = 32
    """Variables of the latent state z."""
    classes: int = 32
    """Classes of each."""
    depth: int = 48
    """Channels of the first stage of the images' networks."""
    units: int = 400
    """Hidden layers of the heads of numbers."""
    layers: int = 4
    """How many of them there are."""
    gate_layers: int = 1
    """Layers of the networks of the context."""
    noise: float = 0.1
    """σ of what is added before a gate opens."""
    balance: float = 0.8
    """α, the share of a divergence that the prior learns by."""
    gates: float | None = 10.0
    """β, the weight of the share of open gates; None leaves it to the call, ``beta=``, so that it may grow."""
    proceed: float = 1.0
    """Weight of −log p(d_t), the continuation; 0 predicts none."""
    spread: float = 1.0
    """Deviation of the laws of vectors: numbers within [0, 1] need a smaller one, or nothing about them is worth its
    divergence."""
    jumps: JumpSettings | None = None
    """The level of jumps on top, THICK's; none has none."""

    def __post_init__(self) -> None:
        widths = (self.deter, self.context, self.hidden, self.groups, self.classes, self.depth, self.units)
        if min(*widths, self.layers, self.gate_layers) < 1:
            raise ConfigError(
                f"expected widths, groups, classes and layers ≥ 1, got {', '.join(map(str, widths))}, {self.layers} "
                f"and {self.gate_layers}"
            )
        if not 0 <= self.balance <= 1 or self.noise <= 0 or self.proceed < 0:
            raise ConfigError(
                f"expected balance in [0, 1], noise > 0 and proceed ≥ 0, got {self.balance}, {self.noise} and "
                f"{self.proceed}"
            )
        if self.spread <= 0:
            raise ConfigError(f"expected spread > 0, got {self.spread}")
        if self.gates is not None and self.gates < 0:
            raise ConfigError(f"expected gates (β) ≥ 0, or None for beta= of the call, got {self.gates}")

    @property
    def stoch(self) -> int:
        """Width of the flattened latent state z."""
        return self.groups * self.classes

    @property
    def seen_layers(self) -> int:
        """Hidden layers of networks of observed numbers."""
        return self.layers


def paper() -> CRSSMConfig:
    """The paper's for MiniHack, β = 10."""
    return CRSSMConfig()


def official() -> CRSSMConfig:
    """The authors' code for MiniHack, whose loss counts the gates once more than the paper's."""
    return CRSSMConfig(gates=11.0)


def corridor() -> CRSSMConfig:
    """The paper's for KeyCorridor and PinPad, β = 1, without a continuation."""
    return CRSSMConfig(gates=1.0, proceed=0.0)


def thick() -> CRSSMConfig:
    """The paper's for MiniHack, with jumps."""
    return CRSSMConfig(jumps=JumpSettings())


def thick_corridor() -> CRSSMConfig:
    """The paper's for KeyCorridor and PinPad, with jumps: five codes, smaller weights of action and time."""
    return replace(corridor(), jumps=JumpSettings(codes=5, act=0.1, time=0.1))


def thick_tiny() -> CRSSMConfig:
    """`tiny` with jumps."""
    return replace(tiny(), jumps=JumpSettings(units=128))


def tiny() -> CRSSMConfig:
    """For small pictures or symbols on two CPU cores."""
    return CRSSMConfig(
        deter=96, hidden=96, groups=8, classes=8, depth=8, units=128, layers=2, gates=1.0, proceed=0.0
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- networks


class Read(nn.Module):
    """``u_t = f(z_{t-1}, a_{t-1})``: a dense layer and ELU."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.net = Plain(inputs, width, width, 0)

    def forward(self, *given: Tensor) -> Tensor:
        """z ``[N, G, K]`` and actions ``[N, A]``, to ``[N, width]``."""
        return nn.functional.elu(self.net(*given))


class Core(nn.Module):
    """``h_t = gru(u_t, c_t, h_{t-1})``: the cell of Dreamer v2 without its norm."""

    def __init__(self, inputs: int, deter: int) -> None:
        super().__init__()
        self.inputs, self.cell = inputs, NormCell(inputs, deter, norm=False)

    def forward(self, x: Tensor, c: Tensor, h: Tensor) -> Tensor:
        """x ``[N, X]``, c ``[N, C]``, h ``[N, D]``; h' ``[N, D]``."""
        found: Tensor = self.cell(join((x, c), self.inputs, "Core"), h)
        return found


# -------------------------------------------------------------------------------------------------------------- formula


def build(
    config: CRSSMConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int],
    classes: Mapping[str, Sequence[int]] | None = None, kinds: Mapping[str, Kind] | None = None,
) -> World:  # fmt: skip
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …

    ``classes``: of the observations that are one-hots, how many classes each of their choices has. ``kinds``: which
    actions are choices or flags, and not numbers in [−1, 1], which jumps have to know.
    """
    own = parts(config, observations, actions, classes)
    if config.jumps is not None:
        return Jumping(config.jumps, own, kinds or {})
    loss = Mean("t", E(own.draws, own.step), reset="first").mean()
    return World(posterior=own.draws, loss=loss, levels=own.levels, main="fine", observations=own.names.all)


def parts(
    config: CRSSMConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int],
    classes: Mapping[str, Sequence[int]] | None = None,
) -> TwoLevels:  # fmt: skip
    """The factors, of what `build` is given."""
    taken = ("Theta", "epsilon", "beta", *(TAKEN if config.jumps is not None else ()))
    names, widths = Names.of(observations, taken), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    D, C, S, H = config.deter, config.context, config.stoch, config.hidden
    before, latent = ", ".join(["z_{t-1}", *(Names.at(w, "t-1") for w in widths)]), (config.groups, config.classes)
    moved = S + sum(widths.values())

    seen = Observed.of(
        config, observations, names, given="h_t,z_t,c_t", inputs=D + S + C, images=nn.ELU, vectors=nn.ELU,
        classes=classes, spread=config.spread,
    )  # fmt: skip
    noise = Normal("p(ε_t)", shape=C, loc=0.0, scale=config.noise)
    read = Deterministic(f"u_t = f({before})", Read(moved, H), shape=H)
    memory = GateL0RDCore(H, C, config.gate_layers)
    context = Deterministic("c_t, Θ_t = memory(u_t, c_{t-1}, ε_t)", memory, shape=[(C,), (C,)])
    core = Deterministic("h_t = gru(u_t, c_t, h_{t-1})", Core(H + C, D), shape=D)
    post = OneHot("q(z_t|c_t,h_t,e_t)", Plain(C + D + seen.width, S, H, 1), shape=latent)
    fine = OneHot("p(z_t|h_t,c_t)", Plain(D + C, S, H, 1), shape=latent)
    ahead = Deterministic(f"g_t = g({before}, c_t)", Plain(moved + C, H, H, 3), shape=H)
    coarse = OneHot("p_c(z_t|z_{t-1},g_t)", Plain(S + H, S, H, 1), shape=latent)

    heads = [*seen.heads, *_numbers(config, "p", "h_t,z_t,c_t", D + S + C)]
    of_coarse = decoders(
        config, observations, names, given="z_t,c_t", inputs=S + C, images=nn.ELU, vectors=nn.ELU,
        classes=classes, law="p_c", spread=config.spread,
    )  # fmt: skip
    heads_c = [*of_coarse, *_numbers(config, "p_c", "z_t,c_t", S + C)]
    step = _balanced(config, post, fine).named("kl") + _balanced(config, post, coarse).named("kl_coarse")
    for factor in (*heads, *heads_c):
        weight = config.proceed if factor.variable.key == "d" else 1.0
        step = step - (log(factor) if weight == 1 else weight * log(factor))
    opened = (total(Value("Θ_t")) / C).named("gates")
    if config.gates != 0:
        step = step + (Symbol("beta") if config.gates is None else config.gates) * opened
    return TwoLevels(
        names, widths, seen, noise * read * context, core, ahead, post, fine, coarse,
        {f.variable.key: f for f in heads}, {f"{f.variable.key}_coarse": f for f in heads_c}, step,
        {"reward": "r"} | ({"continue": "d"} if config.proceed else {}), C, config.balance,
    )  # fmt: skip


def _balanced(config: CRSSMConfig, post: Factor, prior: Factor) -> Expression:
    """α KL(sg q ‖ p) + (1 − α) KL(q ‖ sg p)."""
    return config.balance * KL(sg(post), prior) + round(1 - config.balance, 12) * KL(post, sg(prior))


def _numbers(config: CRSSMConfig, law: str, given: str, inputs: int) -> list[Factor]:
    """The heads of reward and continuation."""
    found: list[Factor] = [
        Normal(f"{law}(r_t|{given})", Plain(inputs, 1, config.units, config.layers), shape=(), scale=1.0)
    ]
    if config.proceed:
        found.append(Bernoulli(f"{law}(d_t|{given})", Plain(inputs, 1, config.units, config.layers), shape=()))
    return found


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random images."""
    world = build(tiny(), {"image": (32, 32, 3)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 8
    batch: dict[str, Any] = {"x": torch.rand(B, T, 32, 32, 3), "a": torch.rand(B, T, 2), "r": torch.rand(B, T)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="c_rssm",
    kind="worlds",
    paper="Gumbsch, Sajid, Martius & Butz 2024, ICLR; openreview.net/forum?id=TjCDNssXKU",
    bibtex="""@inproceedings{gumbsch2024thick, title={Learning hierarchical world models with adaptive temporal
  abstractions from discrete latent dynamics}, author={Gumbsch, Christian and Sajid, Noor and Martius, Georg and
  Butz, Martin V.}, booktitle={ICLR}, year={2024}}""",
    presets={
        "paper": paper,
        "official": official,
        "corridor": corridor,
        "tiny": tiny,
        "thick": thick,
        "thick_corridor": thick_corridor,
        "thick_tiny": thick_tiny,
    },
    build=build,
    summary="Recurrent state-space model with a sparsely changing context, a fine and a coarse prior: THICK's world.",
)

if __name__ == "__main__":
    _demo()
