r"""MMD-VAE: InfoVAE (Zhao, Song & Ermon 2019, arXiv:1706.02262) and WAE-MMD (Tolstikhin et al. 2018, arXiv:1711.01558).

    (1 − α) KL[q(z|x) ‖ p(z)] − E_{q(z|x)}[log p(x|z)] + (α + λ − 1) MMD²[q(z) ‖ p(z)]         InfoVAE, eq. 6
    WAE is α = 1: the KL of every row disappears, and only the aggregate q(z) has to meet the prior.

    x  [B, X] pixels in {0, 1}      p(x|z) = Bernoulli      z  [B, Z], q(z|x) = N(loc, scale²), p(z) = N(0, I)

MMD² compares the draws of a batch, one per row, with as many draws of the prior; it is unbiased, so its mean over
batches is that of the whole data set. It is a value of the batch, in units of its kernel and not in nats.

Deviations     papers                            here                     why
kernel         InfoVAE: Gaussian, exp(−d²/Z²)    exp(−d²/2Z) and the IMQ   the mean squared distance of two draws is 2Z
encoder        WAE: deterministic                 Normal                   one formula for both; its scale may shrink
reconstruction WAE: squared error                 Bernoulli                binary pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import nn

from worldformula import KL, MMD, Bernoulli, Data, E, Expression, Factor, Normal, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError, near
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron

Kernel = Literal["gaussian", "imq"]

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths and coefficients.

    Attributes:
        pixels: X.
        latent: Z.
        hidden: units of each hidden layer.
        alpha: α; 0 keeps the KL of the VAE, 1 drops it.
        strength: λ; α + λ − 1 weighs the MMD.
        kernel: of the MMD.
        scales: of the kernel, averaged.
        activation: between layers.

    Raises:
        ConfigError: no such kernel, α outside [0, 1], or a negative weight of the MMD.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    alpha: float
    strength: float
    kernel: Kernel = "imq"
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    activation: Callable[[], nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        known = get_args(Kernel)
        if self.kernel not in known:
            raise ConfigError(f"kernel={self.kernel!r}: there are {', '.join(known)}.{near(self.kernel, known)}")
        if not 0 <= self.alpha <= 1 or self.weight < 0:
            raise ConfigError(
                f"expected alpha in [0, 1] and alpha + strength of at least 1, got {self.alpha} and {self.strength}"
            )

    @property
    def weight(self) -> float:
        """Of the MMD: α + λ − 1."""
        return self.alpha + self.strength - 1


def tiny() -> Sizes:
    """WAE on 8 × 8 digits, seconds on a laptop."""
    return Sizes(pixels=64, latent=8, hidden=(256, 256), alpha=1.0, strength=200.0)


def info_vae() -> Sizes:
    """As ``tiny`` with half of the KL kept."""
    return replace(tiny(), alpha=0.5)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MMDVAE(Model):
    """The factors, the loss ``loss(x=[B, X])``, and the MMD² of a batch by itself."""

    prior: Factor
    encode: Factor
    decode: Factor
    discrepancy: Expression
    loss: Expression


def build(sizes: Sizes) -> MMDVAE:
    """A model with new weights."""
    prior = Normal("p(z)", shape=sizes.latent)
    encode = Normal("q(z|x)", Perceptron(sizes.pixels, 2 * sizes.latent, sizes.hidden, sizes.activation),
                    shape=sizes.latent)  # fmt: skip
    decode = Bernoulli("p(x|z)", Perceptron(sizes.latent, sizes.pixels, sizes.hidden, sizes.activation),
                       shape=sizes.pixels)  # fmt: skip
    aggregate = (Data("p_data(x)") * encode).marginal("x")
    discrepancy = MMD(aggregate, prior, kernel=sizes.kernel, scale=sizes.scales)
    loss = -E(encode, log(decode))
    if sizes.weight:
        loss = loss + sizes.weight * discrepancy
    if sizes.alpha < 1:
        loss = (1 - sizes.alpha) * KL(encode, prior) + loss
    return MMDVAE(prior, encode, decode, discrepancy, loss.mean())


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="mmd_vae",
    kind="models",
    paper="Zhao, Song & Ermon 2019, arXiv:1706.02262; Tolstikhin et al. 2018, arXiv:1711.01558",
    bibtex="""@inproceedings{zhao2019infovae,
  title     = {{InfoVAE}: Balancing Learning and Inference in Variational Autoencoders},
  author    = {Zhao, Shengjia and Song, Jiaming and Ermon, Stefano},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019},
  eprint    = {1706.02262},
}""",
    presets={"tiny": tiny, "info_vae": info_vae},
    fits={"tiny": {"steps": 2000, "batch": 128, "weight_decay": 3e-3}},
    build=build,
    summary="An auto-encoder whose codes as a whole, not row by row, are drawn to the prior by their samples.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.rand(128, tiny().pixels).bernoulli()
    before = model.loss(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f}")
