"""Deep variational information bottleneck (Alemi, Fischer, Dillon & Murphy 2016, arXiv:1612.00410).

    −E_{p(z|x)}[log q(y|z)] + β KL[p(z|x) ‖ r(z)]        eq. 17; the first term bounds −I(z, y), the second I(z, x)

    x  [B, X] what is seen          p(z|x) = N(loc, scale²) of the encoder; it is the distribution of the code itself,
    y  [B, C] its one-hot label       not an approximation of a posterior, hence the letter
    z  [B, Z] the code              q(y|z) = OneHot(logits = decoder(z)),  r(z) = N(0, I)

At test time the class probabilities are averaged over draws of z: `VIB.predict`. At β = 0 the code is as good as
deterministic, and the second term is no longer a measure of information.

Deviations     paper                              here                       why
β              a constant                         a symbol, ``loss(beta=…)`` a sweep needs no second model
optimiser      Adam 1e-4, × 0.97 every 2 epochs   left to the caller         the formula does not depend on it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import KL, E, Expression, Factor, Normal, OneHot, Symbol, log
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths, and how the code is made.

    Attributes:
        inputs: X.
        classes: C.
        latent: Z.
        hidden: units of each hidden layer of the encoder.
        decoder: those of the decoder; () for logistic regression on the code.
        activation: between layers.
        offset: added to the encoder's output before the softplus that makes the scale.
        beta: the weight of the rate, where a run does not say otherwise.
    """

    inputs: int
    classes: int
    latent: int
    hidden: tuple[int, ...]
    decoder: tuple[int, ...]
    activation: Callable[[], nn.Module]
    offset: float
    beta: float


def paper() -> Sizes:
    """MNIST, section 4.1: 784-1024-1024-2·256, ReLU, softplus(· − 5), a linear decoder, β = 1e-3."""
    return Sizes(784, 10, latent=256, hidden=(1024, 1024), decoder=(), activation=nn.ReLU, offset=-5.0, beta=1e-3)


def tiny() -> Sizes:
    """8 × 8 digits, seconds on a laptop."""
    return Sizes(64, 10, latent=16, hidden=(128, 128), decoder=(), activation=nn.ReLU, offset=-5.0, beta=1e-2)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class VIB(Model):
    """The factors and the loss, ``loss(x=[B, X], y=[B, C], beta=…)``, in nats per row. It generates nothing."""

    marginal: Factor
    encode: Factor
    classify: Factor
    loss: Expression
    beta: float

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """β of the preset."""
        return {"beta": self.beta}

    def predict(self, x: Tensor, draws: int = 12, *, seed: int | None = None) -> Tensor:
        """Class probabilities ``[N, C]``, the mean over ``draws`` of the code (12 in the paper); with a gradient."""
        z = self.encode.sample(x=x, sample_shape=(draws,), seed=seed)
        (logits,) = self.classify.params(z)
        return logits.softmax(-1).mean(0)

    @torch.no_grad()
    def rate(self, x: Tensor) -> Tensor:
        """KL[p(z|x) ‖ r(z)] in nats, ``[N]``: its mean is an upper bound of I(z, x)."""
        found: Tensor = KL(self.encode, self.marginal)(x=x).value
        return found


def build(sizes: Sizes) -> VIB:
    """A model with new weights."""
    X, C, Z = sizes.inputs, sizes.classes, sizes.latent
    encoder = Perceptron(X, 2 * Z, sizes.hidden, sizes.activation)
    with torch.no_grad():
        encoder.head.bias[Z:] += sizes.offset  # softplus(· − 5) of the paper is this start of the bias
    marginal = Normal("r(z)", shape=Z)
    encode = Normal("p(z|x)", encoder, shape=Z)
    classify = OneHot("q(y|z)", Perceptron(Z, C, sizes.decoder, sizes.activation), shape=C)
    loss = (Symbol("beta") * KL(encode, marginal) - E(encode, log(classify))).mean()
    return VIB(marginal, encode, classify, loss, sizes.beta)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="vib",
    kind="models",
    paper="Alemi, Fischer, Dillon & Murphy 2016, arXiv:1612.00410",
    bibtex="""@inproceedings{alemi2017vib,
  title     = {Deep Variational Information Bottleneck},
  author    = {Alemi, Alexander A. and Fischer, Ian and Dillon, Joshua V. and Murphy, Kevin},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  eprint    = {1612.00410},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": {"steps": 1500, "batch": 64}},
    build=build,
    summary="A classifier whose code keeps of the input only what the label needs.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    rows = {"x": torch.rand(128, tiny().inputs), "y": torch.eye(10)[torch.randint(10, (128,))], "beta": 1e-2}
    before = model.loss(**rows, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(**rows, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per row")
