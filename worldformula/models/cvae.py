"""Conditional variational auto-encoder (Sohn, Lee & Yan 2015, Advances in Neural Information Processing Systems 28).

    KL[q(z|x,y) ‖ p(z|y)] − E_{q(z|x,y)}[log p(x|y,z)]        eq. 4; the KL in closed form

    x  [B, X] pixels in {0, 1}       p(x|y,z) = Bernoulli(logits = decoder(y, z))
    y  [B, Y] the condition          q(z|x,y) = N(loc, scale²) of encoder(x, y)
    z  [B, Z] latent                 p(z|y) = N(loc, scale²) of a network, or N(0, I) with ``prior=()``

In the paper y is the output and x the condition; here, as in most later work, x is what is generated. Its class label
as a one-hot vector, or any other vector, conditions it. ``generate(n, y=…)`` draws images, ``bound(K, x=…, y=…)`` is a
lower bound of log p(x|y), so that the class of largest bound classifies x.

Deviations     paper                          here                      why
objective      mixed with a prior-only term   the bound alone           the hybrid of section 4.2 is no bound
networks       convolutional, recurrent       multilayer perceptrons    8 × 8 and 28 × 28 pixels
scale          exp(½ · log σ²)                softplus                  its gradient stays bounded
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from worldformula import KL, Bernoulli, E, Expression, Factor, Normal, log
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths.

    Attributes:
        pixels: X.
        condition: Y, the number of classes of a label.
        latent: Z.
        hidden: units of each hidden layer of encoder and decoder.
        prior: those of p(z|y); None for p(z) = N(0, I), which knows nothing of y.
        activation: between layers.
    """

    pixels: int
    condition: int
    latent: int
    hidden: tuple[int, ...]
    prior: tuple[int, ...] | None
    activation: Callable[[], nn.Module]


def paper() -> Sizes:
    """Its MNIST experiment: x are three quarters of a digit (588 pixels), y is the quarter that is given.

    Two layers of 1000 units and 50 latents are from memory, not checked against the paper.
    """
    return Sizes(pixels=588, condition=196, latent=50, hidden=(1000, 1000), prior=(1000, 1000), activation=nn.ReLU)


def tiny() -> Sizes:
    """8 × 8 digits given their class, seconds on a laptop."""
    return Sizes(pixels=64, condition=10, latent=16, hidden=(256, 256), prior=None, activation=nn.SiLU)


def learned() -> Sizes:
    """As ``tiny``, with a prior network."""
    return replace(tiny(), prior=(64,))


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class CVAE(Model):
    """The factors and the loss; ``loss(x=[B, X], y=[B, Y])`` is the negative bound of log p(x|y), in nats."""

    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression
    condition: int

    @property
    def events(self) -> dict[str, tuple[int, ...] | None]:
        """As in every model; y, which only conditions, has Y numbers."""
        return {**super().events, "y": (self.condition,)}


def build(sizes: Sizes) -> CVAE:
    """A model with new weights."""
    X, Y, Z, act = sizes.pixels, sizes.condition, sizes.latent, sizes.activation
    if sizes.prior is None:
        prior = Normal("p(z)", shape=Z)
    else:
        prior = Normal("p(z|y)", Perceptron(Y, 2 * Z, sizes.prior, act), shape=Z)
    encode = Normal("q(z|x,y)", Perceptron(X + Y, 2 * Z, sizes.hidden, act), shape=Z)
    decode = Bernoulli("p(x|y,z)", Perceptron(Y + Z, X, sizes.hidden, act), shape=X)
    return CVAE(prior, encode, decode, (KL(encode, prior) - E(encode, log(decode))).mean(), Y)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="cvae",
    kind="models",
    paper="Sohn, Lee & Yan 2015, NeurIPS 28",
    bibtex="""@inproceedings{sohn2015cvae,
  title     = {Learning Structured Output Representation using Deep Conditional Generative Models},
  author    = {Sohn, Kihyuk and Lee, Honglak and Yan, Xinchen},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {28},
  year      = {2015},
}""",
    presets={"paper": paper, "tiny": tiny, "learned": learned},
    fits={"tiny": {"steps": 2700, "batch": 64, "weight_decay": 3e-3}},
    build=build,
    summary="A VAE of images given their label, or given anything else.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels, labels = torch.rand(128, tiny().pixels).bernoulli(), torch.eye(10)[torch.randint(10, (128,))]
    before = model.loss(x=pixels, y=labels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, y=labels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
