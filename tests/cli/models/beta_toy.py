"""A VAE of points in the plane whose KL has a named coefficient without a value, for the tests of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from worldformula import KL, E, Expression, Model, Normal, Symbol, log
from worldformula.catalogue import System
from worldformula.formula.factors.joint import Factor


@dataclass(frozen=True)
class Sizes:
    """latent: width of z."""

    latent: int


@dataclass(frozen=True, eq=False)
class BetaToy(Model):
    """Higgins et al. 2017."""

    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression


def build(sizes: Sizes) -> BetaToy:
    prior = Normal("p(z)", shape=sizes.latent)
    encode = Normal("q(z|x)", nn.Linear(2, 2 * sizes.latent), shape=sizes.latent)
    decode = Normal("p(x|z)", nn.Linear(sizes.latent, 4), shape=2)
    return BetaToy(prior, encode, decode, (Symbol("beta") * KL(encode, prior) - E(encode, log(decode))).mean())


SYSTEM = System(
    name="beta_toy",
    kind="models",
    paper="Higgins et al. 2017",
    bibtex="@misc{none}",
    presets={"tiny": lambda: Sizes(1)},
    build=build,
    summary="A coefficient without a value.",
)
