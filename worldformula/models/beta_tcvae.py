"""β-TCVAE (Chen, Li, Grosse & Duvenaud 2018, arXiv:1802.04942) and the β-VAE (Higgins et al. 2017) that it dissects.

    E_{q(z|x)}[α I + β TC + Σ_j KL_j − log p(x|z)]                            eq. 4, where E_x of
    I  = log q(z|x) − log q(z)              is the mutual information of z and x,
    TC = log q(z) − Σ_j log q(z_j)          the total correlation,
    Σ_j KL_j = Σ_j log q(z_j) − log p(z)    the distance of each coordinate from the prior, DWKL below
    β-VAE: β KL[q(z|x) ‖ p(z)] − E_{q(z|x)}[log p(x|z)], which is all three by one β

    x  [B, X] in [0, 1]          p(x|z) = Bernoulli; on grey values a cross-entropy, not a likelihood
    z  [B, Z] latent             q(z|x) = N(m, s²), p(z) = N(0, I)

q(z) = (1/N) Σ_n q(z|x_n) is a mixture over the N training rows, estimated on the batch of B (appendix C):

    stratified   (1/N) q(z|own row) + (1 − 1/N) · mean over the other rows of q(z|row)      unbiased for q(z)
    weighted     1/(N B) Σ over the batch of q(z|row)                                       a lower bound of log q(z)

In the formula a = log q(z) and b = Σ_j log q(z_j). With α = β = 1 their estimates cancel: the ELBO. All rows of a batch
are read together: the loss is not a mean of values per row.

Deviations     paper                                 here                        why
stratified     one random row has its own weight     all other rows share it     the mean over that choice: less noise
scale          exp(½ · log σ²)                       softplus                    its gradient stays bounded
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from worldformula import KL, Bernoulli, Deterministic, E, Expression, Factor, Joint, Normal, Symbol, Value, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError, ShapeError, near
from worldformula.families import normal
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

Objective = Literal["stratified", "weighted", "beta_vae"]

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths and coefficients.

    Attributes:
        pixels: X.
        latent: Z.
        hidden: units of each hidden layer of the encoder.
        decoder: those of the decoder.
        rows: N, the training rows that q(z) is a mixture of.
        beta: the weight of the total correlation; of the whole KL in ``beta_vae``.
        alpha: of the mutual information.
        warm_up: steps in which β grows from 1; 0 for β throughout.
        objective: the estimate of q(z), or ``beta_vae``, which needs none.
        activation: between layers.

    Raises:
        ConfigError: no such objective, or fewer than two rows.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    decoder: tuple[int, ...]
    rows: int
    beta: float
    alpha: float = 1.0
    warm_up: int = 0
    objective: Objective = "stratified"
    activation: Callable[[], nn.Module] = nn.ReLU

    def __post_init__(self) -> None:
        known = get_args(Objective)
        if self.objective not in known:
            there = ", ".join(known)
            raise ConfigError(f"objective={self.objective!r}: there are {there}.{near(self.objective, known)}")
        if self.rows < 2:
            raise ConfigError(f"expected rows= of the training set, at least 2, got {self.rows}")


def paper() -> Sizes:
    """dSprites: 4096 pixels, 737 280 rows, β = 6, weighted; two encoder and three decoder layers of 1200 units.

    The widths are from memory, not checked against the paper.
    """
    return Sizes(4096, 10, hidden=(1200, 1200), decoder=(1200, 1200, 1200), rows=737_280, beta=6.0,
                 objective="weighted")  # fmt: skip


def tiny() -> Sizes:
    """Mini-sprites of 16 × 16 pixels, all 768 of them; half a minute on a laptop."""
    return Sizes(256, 6, hidden=(256, 256), decoder=(256, 256), rows=768, beta=6.0, warm_up=1500)


def beta_vae() -> Sizes:
    """As ``tiny``, β = 4 on the whole KL."""
    return replace(tiny(), objective="beta_vae", beta=4.0)


def turned() -> Sizes:
    """Turned sprites of 32 × 32 pixels, all 10 368 of them, β = 6 as on dSprites; half a minute on a laptop."""
    return Sizes(1024, 10, hidden=(128, 128), decoder=(128, 128), rows=10_368, beta=6.0, warm_up=800)


# ---------------------------------------------------------------------------------------------------------- networks


class Split(nn.Module):
    """A perceptron's output as mean and scale."""

    def __init__(self, net: Perceptron) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, X]`` to two tensors ``[B, Z]``."""
        loc, raw = self.net(x).chunk(2, -1)
        return loc, nn.functional.softplus(raw)


class Given(nn.Module):
    """A Normal whose mean and scale were computed before."""

    def forward(self, m: Tensor, s: Tensor) -> dict[str, Tensor]:
        """The two as parameters."""
        return {"loc": m, "scale": s}


class Aggregate(nn.Module):
    """log q(z) and Σ_j log q(z_j) of a batch, the aggregate posterior of ``rows`` training rows.

    Args:
        rows: N.
        weighted: the weighted estimate; otherwise the stratified one.
    """

    def __init__(self, rows: int, *, weighted: bool) -> None:
        super().__init__()
        self.rows, self.weighted = rows, weighted

    def forward(self, z: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """z, m, s ``[B, Z]`` to two tensors ``[B]``."""
        if z.ndim != 2 or len(z) < 2:
            raise ShapeError(f"q(z) is estimated on a batch [B, Z] of two rows or more, got {list(z.shape)}")
        draws, posteriors = z[:, None].expand(-1, len(z), -1), tuple(v.expand(len(z), -1, -1) for v in (m, s))
        log_q = normal.log_prob(posteriors, draws, 0)  # [B, B, Z]: draw of row i under the posterior of row j
        weights = self.log_weights(len(z), z)
        joint = (log_q.sum(-1) + weights).logsumexp(1)
        return joint, (log_q + weights[..., None]).logsumexp(1).sum(-1)

    def log_weights(self, batch: int, like: Tensor) -> Tensor:
        """Log of the weight of the posterior of row j for the draw of row i, ``[B, B]``."""
        if self.weighted:
            return like.new_full((batch, batch), -math.log(self.rows * batch))
        weights = like.new_full((batch, batch), (1 - 1 / self.rows) / (batch - 1)).fill_diagonal_(1 / self.rows)
        return weights.log()


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class BetaTCVAE(Model):
    """The factors and the loss, ``loss(x=[B, X], beta=…)``, in nats per row."""

    prior: Factor
    encode: Joint
    decode: Factor
    loss: Expression
    beta: float
    warm_up: int

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """β, from 1."""
        return {"beta": linear(1.0, self.beta, self.warm_up) if self.warm_up else self.beta}

    def codes(self, x: Tensor) -> Tensor:
        """The means of q(z|x), ``[N, Z]``: what measures of disentanglement read."""
        return self.latents(x=x)["z"]


def build(sizes: Sizes) -> BetaTCVAE:
    """A model with new weights."""
    X, Z = sizes.pixels, sizes.latent
    prior = Normal("p(z)", shape=Z)
    encoder = Split(Perceptron(X, 2 * Z, sizes.hidden, sizes.activation))
    moments = Deterministic("m, s = enc(x)", encoder, shape=[(Z,), (Z,)])
    posterior = Normal("q(z|m,s)", Given(), shape=Z)
    decode = Bernoulli("p(x|z)", Perceptron(Z, X, sizes.decoder, sizes.activation), shape=X)
    encode, beta = moments * posterior, Symbol("beta")
    if sizes.objective == "beta_vae":
        loss = E(encode, beta * KL(posterior, prior) - log(decode))
    else:
        estimate = Aggregate(sizes.rows, weighted=sizes.objective == "weighted")
        aggregate = Deterministic("a, b = logq(z, m, s)", estimate, shape=[(), ()])
        information = (log(posterior) - Value("a")).named("MI")
        correlation = (Value("a") - Value("b")).named("TC")
        coordinates = (Value("b") - log(prior)).named("DWKL")
        parts = information if sizes.alpha == 1.0 else sizes.alpha * information
        parts = parts + beta * correlation + coordinates
        loss = E(encode * aggregate, parts - log(decode))
    return BetaTCVAE(prior, encode, decode, loss.mean(), sizes.beta, sizes.warm_up)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="beta_tcvae",
    kind="models",
    paper="Chen, Li, Grosse & Duvenaud 2018, arXiv:1802.04942",
    bibtex="""@inproceedings{chen2018betatcvae,
  title     = {Isolating Sources of Disentanglement in Variational Autoencoders},
  author    = {Chen, Ricky T. Q. and Li, Xuechen and Grosse, Roger and Duvenaud, David},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018},
  eprint    = {1802.04942},
}""",
    presets={"paper": paper, "tiny": tiny, "beta_vae": beta_vae, "turned": turned},
    fits={"turned": {"steps": 2500, "batch": 64}},
    build=build,
    data="sprites",
    summary="A VAE that pays extra for the dependence between its latents, so that each takes one factor.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    images = torch.rand(64, tiny().pixels)
    before = model.loss(x=images, beta=6.0, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=images, beta=6.0, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
