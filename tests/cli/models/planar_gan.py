"""A game of two players on points in the plane: a model without encoder, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import Bernoulli, Deterministic, E, Game, Normal, Player, log
from worldformula.catalogue import System
from worldformula.formula.factors.joint import Factor
from worldformula.model import Model


@dataclass(frozen=True)
class Sizes:
    """latent: width of z. hidden: units."""

    latent: int
    hidden: int


@dataclass(frozen=True, eq=False)
class GAN(Model):
    """Non-saturating (Goodfellow et al. 2014); r is "real", f is "fake"."""

    prior: Factor
    decode: Factor
    loss: Game

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        one = torch.ones(len(rows["x"]), 1, device=rows["x"].device)
        return {"x": rows["x"], "r": one, "f": 0 * one}

    def generate(self, n, *, seed=None, generator=None, mean=False, **given):
        drawn = super().generate(n, seed=seed, generator=generator, mean=mean, **given)
        return {"z": drawn["z"], "x": drawn["y"]}


def build(sizes: Sizes) -> GAN:
    judge = nn.Sequential(nn.Linear(2, sizes.hidden), nn.SiLU(), nn.Linear(sizes.hidden, 1))
    make = nn.Sequential(nn.Linear(sizes.latent, sizes.hidden), nn.SiLU(), nn.Linear(sizes.hidden, 2))
    prior = Normal("p(z)", shape=sizes.latent)
    decode = Deterministic("y = g(z)", make, shape=2)
    real, fake, fooled = (Bernoulli(f"d({header})", judge, shape=1) for header in ("r|x", "f|y", "r|y"))
    d = -(log(real) + E(prior * decode, log(fake))).mean()
    g = -E(prior * decode, log(fooled)).mean()
    return GAN(prior, decode, Game(d=Player(d, [real]), g=Player(g, [decode])))


SYSTEM = System(
    name="planar_gan",
    kind="models",
    paper="Goodfellow et al. 2014, arXiv:1406.2661",
    bibtex="@misc{none}",
    presets={"tiny": lambda: Sizes(2, 64)},
    build=build,
    summary="A generator against a discriminator.",
)
