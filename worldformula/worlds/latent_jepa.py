r"""Joint-embedding world with a latent variable for what cannot be foretold (LeCun 2022, sections 4.3 and 4.4).

    s_t = e(x_t)                               s_t [N, D]   the latent state
    \hat s_t = f(s_{t-1}, a_{t-1}, z_t)        z_t says which of the possible futures it was
    E_t = ‖\hat s_t − s_t‖²/D                  the energy of a step

    z         prediction, each step                          z_t of a dream
    none      E_t                                            –
    codes     min_{z_t} E_t − λ log p(z_t|s_{t-1},a_{t-1})      one of k codes, drawn from p; min is soft, by β
    normal    𝔼_q[E_t] + λ KL[q(z_t|s_{t-1},a_{t-1},s_t) ‖ p]   a Normal, drawn from p(z_t|s_{t-1},a_{t-1})

to which variance, covariance, similarity and inverse dynamics are added, as in `jepa`. R(z) = −log p(z_t|…), or the KL,
keeps z from carrying all of s_t, which would make every future equally good: with a tiny λ a wide z does. Without a z
the best prediction is the mean of all futures, which may be none of them.

A soft minimum, −(1/β) log Σ_z exp(−β(…)), lets codes that are equal learn alike until the futures part them, as in
deterministic annealing (Rose 1998); of the least alone, one code may win everything before anything is known, and the
other never comes back. With ``anneals`` β is given with every call, and may grow from small numbers, at which codes
learn alike whatever differences there are before latents mean anything.

Where an episode begins there is no step. V and C are over the rows of all steps: at one step alone all cars of a data
set may stand in one place, and noise would be what tells their latents apart.

Deviations           LeCun 2022                 here                         why
z                    found at inference         by trying k codes, or by q   a few codes need no search
R(z)                 any                        −log of a learnt prior       it is then what dreams draw z from
that prior           –                          1 % of it is uniform         else a code that loses never comes back
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import (
    KL,
    Deterministic,
    E,
    Expression,
    Factor,
    FreeEnergy,
    Joint,
    Mean,
    Min,
    Normal,
    OneHot,
    Symbol,
    Value,
    clamp,
    log,
    norm2,
)
from worldformula.nets.observed import Encoder, Residual
from worldformula.nets.perceptron import Perceptron
from worldformula.world import World
from worldformula.world.joint_embedding import acted, apart
from worldformula.world.observations import Names

Z = Literal["none", "codes", "normal"]


@dataclass(frozen=True)
class LatentJEPAConfig:
    """Widths and loss weights of the world model."""

    z: Z = "codes"
    """What says which future it was."""
    codes: int = 2
    """k, how many codes; or how many numbers a normal z has."""
    price: float = 0.02
    """λ, weight of R(z)."""
    beta: float | None = 20.0
    """β of the soft minimum over codes that is learnt by; None is the least alone."""
    anneals: bool = False
    """β is a number of every call of the loss instead, ``beta=1.0``, which should grow as training goes on."""
    latent: int = 64
    """D, the latent state s."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions, each of which halves the picture."""
    units: int = 128
    """The hidden layers of the networks of numbers."""
    deviation: float = 3.98
    """Weight of V: what keeps each number of s apart from a constant."""
    covariance: float = 6.92 / 63
    """Weight of C: what keeps numbers of s from saying the same."""
    similarity: float = 0.742
    """Weight of the squared step from one latent to the next."""
    inverse: float = 1.07
    """Weight of the squared error of the action."""

    def __post_init__(self) -> None:
        if self.z not in ("none", "codes", "normal"):
            raise ConfigError(f"expected z as 'none', 'codes' or 'normal', got {self.z!r}")
        if min(self.codes, self.latent, self.units, *self.channels, 1) < 1 or not self.channels:
            raise ConfigError(
                f"expected codes, latent, units and channels ≥ 1, got {self.codes}, {self.latent}, {self.units} and "
                f"{self.channels}"
            )
        if min(self.deviation, self.covariance, self.similarity, self.inverse) < 0:
            raise ConfigError(
                "expected deviation, covariance, similarity and inverse ≥ 0, got "
                f"{self.deviation}, {self.covariance}, {self.similarity} and {self.inverse}"
            )
        if self.anneals and (self.z != "codes" or self.beta is None):
            raise ConfigError(f"anneals=True: expected codes and a soft minimum, got z={self.z!r}, beta={self.beta}")
        if self.beta is not None and self.beta <= 0:
            raise ConfigError(f"expected beta > 0, or None, got {self.beta}")
        if self.price <= 0:
            raise ConfigError(
                f"expected price > 0, got {self.price}: R(z) is also what the prior of z learns by, which dreams draw "
                f"from; write price=1e-6 for a z that is as good as free"
            )


def two() -> LatentJEPAConfig:
    """Two codes."""
    return LatentJEPAConfig()


def eight() -> LatentJEPAConfig:
    """Eight codes: more than there are futures."""
    return LatentJEPAConfig(codes=8)


def gaussian() -> LatentJEPAConfig:
    """A normal z of four numbers."""
    return LatentJEPAConfig(z="normal", codes=4)


def deterministic() -> LatentJEPAConfig:
    """Without a z."""
    return LatentJEPAConfig(z="none")


def tiny() -> LatentJEPAConfig:
    """For pictures of 32 pixels on one CPU core in a minute or two."""
    return LatentJEPAConfig(latent=16, channels=(8, 16, 16), units=64, covariance=6.92 / 15)


# ------------------------------------------------------------------------------------------------------------- networks


class Law(nn.Module):
    """The head of a law of z, of all conditions side by side; at the start that of the uniform or standard one."""

    def __init__(self, inputs: int, outputs: int, units: int) -> None:
        super().__init__()
        self.net = Perceptron(inputs, outputs, (units,))
        nn.init.zeros_(self.net.head.weight)
        nn.init.zeros_(self.net.head.bias)

    def forward(self, *conditions: Tensor) -> Tensor:
        """``[N, n]`` each."""
        found: Tensor = self.net(*conditions)
        return found


# -------------------------------------------------------------------------------------------------------------- formula


def build(
    config: LatentJEPAConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int]
) -> World:
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …"""
    names, widths = Names.of(observations), {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    if taken := {"s", "z"} & {*names.all.values(), *widths}:
        raise ConfigError(f"expected observations and actions of other names than {', '.join(sorted(taken))}")
    D, (pictures, numbers) = config.latent, names.sizes(observations)
    seen, total = ", ".join(Names.at(word) for word in names.all.values()), sum(widths.values())
    given = ", ".join(["s_{t-1}", *(Names.at(word, "t-1") for word in widths)])
    embed = Deterministic(f"s_t = e({seen})", Encoder(D, config.channels, config.units, pictures, numbers), shape=D)
    law, wide = _prior(config, given, D + total), 0 if config.z == "none" else config.codes
    predictor = Residual(D, total + wide, config.units)
    read = given if law is None else f"{given}, z_t"
    core = Deterministic(f"s_t = f({read})", predictor, shape=D)
    return World(
        prior=core if law is None else law * core,
        posterior=embed,
        heads=[],
        loss=_loss(config, embed, law, predictor, read, widths),
        observations=names.all,
        embeddings=["s"],
    )


def _prior(config: LatentJEPAConfig, given: str, inputs: int) -> Factor | None:
    """p(z_t|s_{t-1},a_{t-1}), what a dream draws z from."""
    k = config.codes
    if config.z == "codes":
        return OneHot(f"p(z_t|{given})", Law(inputs, k, config.units), shape=k, unimix=0.01)
    return Normal(f"p(z_t|{given})", Law(inputs, 2 * k, config.units), shape=k) if config.z == "normal" else None


def _loss(
    config: LatentJEPAConfig,
    embed: Factor,
    law: Factor | None,
    predictor: nn.Module,
    read: str,
    widths: Mapping[str, int],
) -> Expression:
    """The energy of every step with what z costs, and what keeps latents from collapsing."""
    D, k = config.latent, config.codes
    s = Value("s_t", shape=D)
    later = clamp(Value("t") - 1, 0, 1)  # 0 where an episode begins, and nothing has been predicted
    led = Deterministic(rf"\hat s_t = f({read})", predictor, shape=D)
    energy = E(led, norm2(Value(r"\hat s_t", shape=D) - s) / D)
    if config.z == "codes" and law is not None:
        energy = energy - config.price * log(law)
        beta = Symbol("beta") if config.anneals else config.beta
        energy = Min(law, energy) if beta is None else FreeEnergy(law, energy, beta=beta)
    elif law is not None:
        guess = Law(2 * D + sum(widths.values()), 2 * k, config.units)
        post = Normal(f"q(z_t|{read.removesuffix(', z_t')}, s_t)", guess, shape=k)
        energy = E(post, energy) + config.price * KL(post, law)
    step = later * energy
    step = apart(step, config, "s", D, later, by_step=False)
    inverse, step = acted(step, config, "s", widths, later, lambda size: Perceptron(2 * D, size, (config.units,)))
    return Mean("t", E(Joint.of(embed, *inverse), step), reset="first").mean()


def energy(
    config: LatentJEPAConfig, world: World, *, price: float | None = None, steps: int = 50, step_size: float = 0.5
) -> Expression:
    """F(s, a, y) = min_z ‖f(s, a, z) − y‖²/D + λ R(z) of a world with one action, called with ``s=``, ``a=``, ``y=``.

    It tells how well y fits as what comes after s. ``price`` is another λ than that of the world; a normal z is sought
    in ``steps`` of gradient descent.
    """
    level = world.dynamics
    D, price = config.latent, config.price if price is None else price
    core = next(f for f in level.prior.factors if f.family is None)
    net, distance = core.net, norm2(Value("w", shape=D) - Value("y", shape=D)) / D
    if net is None or config.z == "none":
        return E(Deterministic("w = f(s, a)", _network(core), shape=D), distance)
    fits = E(Deterministic("w = f(s, a, z)", _network(core), shape=D), distance)
    own = _network(next(f for f in level.prior.factors if f.family is not None))
    if config.z == "codes":
        code = OneHot("p(z|s, a)", own, shape=config.codes, unimix=0.01)
        return Min(code, fits - price * log(code) if price else fits)
    latent = Normal("p(z|s, a)", own, shape=config.codes)
    return Min(latent, fits - price * log(latent) if price else fits, steps=steps, step_size=step_size)


def _network(factor: Factor) -> nn.Module:
    assert isinstance(factor.net, nn.Module)
    return factor.net


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random numbers."""
    world = build(tiny(), {"image": (32, 32, 3)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 5
    batch: dict[str, Any] = {"x": torch.rand(B, T, 32, 32, 3), "a": torch.rand(B, T, 2)}
    out = world.loss(**batch, first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="latent_jepa",
    kind="worlds",
    paper="LeCun 2022, openreview.net/forum?id=BZ5a1r-kVsf",
    bibtex="""@article{lecun2022path, title={A path towards autonomous machine intelligence}, author={LeCun, Yann},
  journal={OpenReview}, year={2022}}""",
    presets={"two": two, "eight": eight, "gaussian": gaussian, "deterministic": deterministic, "tiny": tiny},
    build=build,
    summary="A joint-embedding world with a latent variable, codes or a Normal, that says which future it was.",
)

if __name__ == "__main__":
    _demo()
