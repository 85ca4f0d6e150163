"""Masked autoencoder for distribution estimation, MADE (Germain et al. 2015, arXiv:1502.03509).

    −log p(x) = −Σ_d log p(x_d|x_<d)        eq. 3 and 5, exact: one pass gives all D conditionals

    x  [B, D] pixels in {0, 1}      p(x_d|x_<d) = Bernoulli, logits of a masked network that reads x itself

The factor p(x) is the chain of all conditionals: masks on the weights leave no way from x_d, or a later element, to
the logit of x_d, so the product of the D Bernoullis is a density. A draw takes D passes. The value is in nats per
image.

Deviations     paper                                here             why
masks          up to 32 sets, changed while it      one set          a mask that changes is another model at every
               learns; the average predicts                          step; one has an exact likelihood of its own
order          one, or several shuffled             natural          as above
hidden         ReLU (chosen among several)          ReLU, dropout    the digits are 1437 images
optimiser      Adagrad or Adadelta, batch 100       the caller's     the formula does not depend on it
"""

from __future__ import annotations

from dataclasses import dataclass

from worldformula import Autoregressive, Bernoulli, Data, E, Expression, Factor, log
from worldformula.catalogue import System
from worldformula.model import Density
from worldformula.nets.masked import MaskedMLP

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """pixels: D. hidden: units of each masked layer. dropout: behind each. classes: of a label y, 0 for p(x) alone."""

    pixels: int
    hidden: tuple[int, ...]
    dropout: float = 0.0
    classes: int = 0


def paper() -> Sizes:
    """Binarised MNIST, the network of its best result: two layers of 8000 units."""
    return Sizes(pixels=784, hidden=(8000, 8000))


def tiny() -> Sizes:
    """8 × 8 digits, half a minute on a laptop."""
    return Sizes(pixels=64, hidden=(512, 512), dropout=0.3)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MADE(Density):
    """``density`` is p(x), or p(x|y) of labels ``y [B, classes]``; ``loss(x=[B, D])`` is its exact negative log."""

    density: Factor
    loss: Expression


def build(sizes: Sizes) -> MADE:
    """A MADE with new weights."""
    net = MaskedMLP(sizes.pixels, 1, sizes.hidden, context=sizes.classes, dropout=sizes.dropout)
    data: Factor = Data("p_data(x)", shape=sizes.pixels)
    if not sizes.classes:
        density: Factor = Autoregressive("p(x)", net, family=Bernoulli, shape=sizes.pixels)
        return MADE(density, E(data, -log(density)).mean())
    density = Autoregressive("p(x|y)", net, family=Bernoulli, shape=sizes.pixels)
    return MADE(density, E(data * Data("p_data(y)", shape=sizes.classes), -log(density)).mean())


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 2424, "batch": 64, "lr": 2e-3, "weight_decay": 0.02, "held": 0.1, "judge_every": 20, "patience": 40
    }
}  # fmt: skip
SYSTEM = System(
    name="made",
    kind="models",
    paper="Germain et al. 2015, arXiv:1502.03509",
    bibtex="""@inproceedings{germain2015made,
  title     = {{MADE}: Masked Autoencoder for Distribution Estimation},
  author    = {Germain, Mathieu and Gregor, Karol and Murray, Iain and Larochelle, Hugo},
  booktitle = {International Conference on Machine Learning},
  year      = {2015},
  eprint    = {1502.03509},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits=FITS,
    build=build,
    summary="A masked network whose outputs are all conditionals of an autoregressive density at once.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.rand(128, tiny().pixels).bernoulli()
    before = model.loss.eval()(x=pixels).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
