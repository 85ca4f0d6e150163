"""Importance-weighted auto-encoder (Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519) and its relatives.

    iwae    −log E_{q(z|x)}^K [p(x,z) / q(z|x)]                           eq. 8; E^K is the mean of K draws
    stl     the same with q's own parameters held in log q(z|x)           Roeder et al. 2017, arXiv:1703.09194
    dreg    the same value; each weight of the gradient squared           Tucker et al. 2018, arXiv:1810.04152, eq. 6
    renyi   −1/(1−α) log E_{q(z|x)}^K [(p(x,z) / q(z|x))^{1−α}]           Li & Turner 2016, arXiv:1602.02311, eq. 13
    ciwae   β (ELBO of the K draws) + (1 − β) iwae                        Rainforth et al. 2018, arXiv:1802.04537
    vimco   iwae of a code of bits, by the score function; the signal     Mnih & Rezende 2016, arXiv:1602.06725,
            of a draw is the bound less what it were without the draw     eqs. 10 to 12

    x  [B, X] pixels in {0, 1}          p(x|z) = Bernoulli(logits = decoder(z))
    z  [K, B, Z] latent                 p(z) = N(0, I),  q(z|x) = N(loc, scale²) of encoder(x)
       of vimco in {0, 1}               p(z) = Bernoulli(½),  q(z|x) = Bernoulli(logits = encoder(x))

All but ``renyi`` with α ≠ 0 and ``ciwae`` have the value of ``iwae``; they differ in the gradient of the encoder. One
draw makes ``iwae`` the negative ELBO, α = 1 would too, α = 0 is ``iwae``. A bound is named with its K: values of
different K are not compared. ``bound(K, x=…)`` gives the bound of any K after training.

Deviations     paper                        here                       why
scale          exp(½ · log σ²)              softplus                   its gradient stays bounded
optimiser      Adam, ε = 1e-4, 3280 epochs  left to the caller         the formula does not depend on it
layers, vimco  three of 200 bits            one, and a network behind  one formula for all objectives
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import nn

from worldformula import Bernoulli, E, Expression, Factor, Normal, exp, log, ratio, sg
from worldformula.catalogue import System
from worldformula.errors import ConfigError, near
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron

Objective = Literal["iwae", "stl", "dreg", "renyi", "ciwae", "vimco"]

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths, and what is minimised.

    Attributes:
        pixels: width X of an image.
        latent: width Z, of ``vimco`` in bits.
        hidden: units of each hidden layer.
        activation: between layers.
        samples: K.
        objective: see the head of the file.
        alpha: of ``renyi``; below 1 here.
        beta: share of the ELBO in ``ciwae``.

    Raises:
        ConfigError: no such objective, no sample (less than two of ``vimco``), α = 1, or β outside [0, 1].
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    samples: int
    objective: Objective = "iwae"
    alpha: float = 0.5
    beta: float = 0.5

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            known = get_args(Objective)
            raise ConfigError(
                f"objective={self.objective!r}: there are {', '.join(known)}.{near(self.objective, known)}"
            )
        if self.objective == "vimco" and self.samples < 2:
            raise ConfigError(f"vimco compares draws: expected samples of at least 2, got {self.samples}")
        if self.samples < 1 or self.alpha == 1.0 or not 0.0 <= self.beta <= 1.0:
            raise ConfigError(
                f"expected samples ≥ 1, alpha other than 1 (where the bound is the ELBO: samples=1) and beta from 0 to "
                f"1, got samples={self.samples}, alpha={self.alpha}, beta={self.beta}"
            )


def paper() -> Sizes:
    """MNIST with one stochastic layer, section 5: two layers of 200 tanh units, 50 latents, K = 50."""
    return Sizes(pixels=784, latent=50, hidden=(200, 200), activation=nn.Tanh, samples=50)


def stl() -> Sizes:
    """Those of the paper, by sticking the landing."""
    return replace(paper(), objective="stl")


def dreg() -> Sizes:
    """Those of the paper, by doubly reparametrised gradients."""
    return replace(paper(), objective="dreg")


def renyi() -> Sizes:
    """Those of the paper, by the variational Rényi bound of α = 0.5."""
    return replace(paper(), objective="renyi")


def ciwae() -> Sizes:
    """Those of the paper, half of it ELBO."""
    return replace(paper(), objective="ciwae")


def vimco() -> Sizes:
    """Those of the paper, with a code of 200 bits."""
    return replace(paper(), latent=200, objective="vimco")


def tiny() -> Sizes:
    """8 × 8 digits, a minute on a laptop."""
    return Sizes(pixels=64, latent=16, hidden=(256, 256), activation=nn.SiLU, samples=10)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class IWAE(Model):
    """The factors and the loss; ``loss(x=[B, X])`` is an upper bound of −log p(x), in nats."""

    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression


def build(sizes: Sizes) -> IWAE:
    """A model with new weights."""
    bits = sizes.objective == "vimco"
    family, numbers = (Bernoulli, sizes.latent) if bits else (Normal, 2 * sizes.latent)
    prior = family("p(z)", shape=sizes.latent)
    encode = family("q(z|x)", Perceptron(sizes.pixels, numbers, sizes.hidden, sizes.activation), shape=sizes.latent)
    decode = Bernoulli("p(x|z)", Perceptron(sizes.latent, sizes.pixels, sizes.hidden, sizes.activation),
                       shape=sizes.pixels)  # fmt: skip
    return IWAE(prior, encode, decode, objective(prior, encode, decode, sizes).mean())


def objective(prior: Factor, encode: Factor, decode: Factor, sizes: Sizes) -> Expression:
    """What is minimised, one value per row."""
    joint, K = decode * prior, sizes.samples
    match sizes.objective:
        case "iwae":
            return -log(E(encode, ratio(joint, encode), samples=K))
        case "stl":
            return -log(E(encode, ratio(joint, sg(encode)), samples=K))
        case "dreg":
            return -log(E(encode, ratio(joint, encode), samples=K, gradient="dreg"))
        case "renyi":
            rest = 1.0 - sizes.alpha
            return -log(E(encode, exp(rest * (log(joint) - log(encode))), samples=K)) / rest
        case "ciwae":
            elbo = E(encode, log(joint) - log(encode), samples=K)
            weighted = log(E(encode, ratio(joint, encode), samples=K))
            return -(sizes.beta * elbo + (1.0 - sizes.beta) * weighted)
        case "vimco":
            return -log(E(encode, ratio(joint, encode), gradient="score", samples=K, baseline="leave-one-out"))


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="iwae",
    kind="models",
    paper="Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519",
    bibtex="""@inproceedings{burda2016iwae,
  title     = {Importance Weighted Autoencoders},
  author    = {Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan},
  booktitle = {International Conference on Learning Representations},
  year      = {2016},
  eprint    = {1509.00519},
}""",
    presets={"paper": paper, "stl": stl, "dreg": dreg, "renyi": renyi, "ciwae": ciwae, "vimco": vimco, "tiny": tiny},
    fits={"tiny": {"steps": 2700, "batch": 64, "weight_decay": 3e-3}},
    build=build,
    summary="A VAE trained by a tighter bound of K weighted draws; with the estimators that came after it.",
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
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
