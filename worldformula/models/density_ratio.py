r"""Density ratio estimation by a classifier (Sugiyama, Suzuki & Kanamori 2012; Gutmann & Hyvärinen 2010).

    BCE_d[p_data ‖ p] = E_{p_data}[softplus(−d(x))] + E_{p}[softplus(d(x))],   d* = log p_data(x) − log p(x)
    D_KL^adv(p_data ‖ p) = E_{p_data}[d(x)]

    x  [B, X]      p(x) = N(0, I), the reference; any factor that can be drawn would do

With a reference whose density is known, log p(x) + d(x) is an unnormalised log-density of the data. Where the two
hardly overlap (beyond 8 nats or so) a classifier is right too easily, and the estimate is too low.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldformula import Data, DensityRatio, Deterministic, Expression, Factor, Normal
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.nets.critic import Critic

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """pixels: width X of the data. hidden: units of each hidden layer of the classifier."""

    pixels: int
    hidden: tuple[int, ...]


def tiny() -> Sizes:
    """Points in the plane, seconds on a laptop."""
    return Sizes(pixels=2, hidden=(64, 64))


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class RatioModel(Model):
    """The reference, the classifier and its loss, ``loss(x=[B, X])`` in nats."""

    reference: Factor
    judge: Factor
    divergence: Expression
    loss: Expression

    @torch.no_grad()
    def log_ratio(self, x: Tensor) -> Tensor:
        """log p_data(x) − log p(x) of rows ``[N, X]``, as far as it was learnt: ``[N]``."""
        return self.judge.sample(x=x)

    @torch.no_grad()
    def kl(self, x: Tensor) -> Tensor:
        """D_KL(p_data ‖ p) from rows of the data ``[N, X]``: one number."""
        return torch.as_tensor(self.divergence(x=x).value)

    @torch.no_grad()
    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) + d(x), which is log p_data(x) where the classifier is perfect: ``[N]``."""
        return self.reference.log_prob(x=x) + self.log_ratio(x)


def build(sizes: Sizes) -> RatioModel:
    """An estimator with new weights."""
    reference = Normal("p(x)", shape=sizes.pixels)
    judge = Deterministic("d = D(x)", Critic(sizes.pixels, sizes.hidden), shape=())
    ratio = DensityRatio(Data("p_data(x)"), reference, judge)
    return RatioModel(reference, judge, ratio.kl(), ratio.loss())


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="density_ratio",
    kind="models",
    paper="Sugiyama, Suzuki & Kanamori 2012, Density Ratio Estimation in Machine Learning",
    bibtex="""@book{sugiyama2012density,
  title     = {Density Ratio Estimation in Machine Learning},
  author    = {Sugiyama, Masashi and Suzuki, Taiji and Kanamori, Takafumi},
  publisher = {Cambridge University Press},
  year      = {2012},
}""",
    presets={"tiny": tiny},
    fits={"tiny": {"steps": 1200, "batch": 256, "lr": 2e-3}},
    build=build,
    data="ring",
    summary="The ratio of the data's density and a reference's, learnt by telling their samples apart.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, model.divergence, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=2e-3, fused=True)
    points = 1 + torch.randn(256, 2)
    before = model.loss(x=points, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=points, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats")
