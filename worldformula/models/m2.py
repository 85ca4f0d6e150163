"""Semi-supervised generative model M2 (Kingma, Rezende, Mohamed & Welling 2014, arXiv:1406.5298).

    L(x, y) = KL[q(z|x,y) ‖ p(z)] − E_{q(z|x,y)}[log p(x|y,z)] − log p(y)      eq. 6, a labelled row
    U(x')   = Σ_{y'} q(y'|x') (L(x', y') + log q(y'|x'))                      eq. 7, a row without a label
    loss    = w (mean L + mean U) − α mean log q(y|x)                         eqs. 8 and 9

    x, x'  [B, X] pixels in {0, 1}          y  [B, K] one-hot label of x; y' takes every class in turn
    z, z'  [B, Z] latent                    p(y) = 1/K,  p(z) = N(0, I),  p(x|y,z) = Bernoulli

The primed factors are the same networks at the rows without labels. Both batches have the same number of rows; where
labels are few, they are drawn with replacement: ``fit(model, {"x": few, "y": labels, "x_prime": many}, …)``.

Deviations     paper                       here                        why
weight of a    each row weighs alike       mean L and mean U do        batches of both kinds are of one size
row
w              1                           a symbol, 0 → 1 by default  the classifier learns before the bound pulls
scale          exp(½ · log σ²)             softplus                    its gradient stays bounded
optimiser      RMSprop with momentum       left to the caller          the formula does not depend on it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import KL, Bernoulli, E, Expression, Factor, Joint, Normal, OneHot, Symbol, log
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths and coefficients.

    Attributes:
        pixels: width X of an image.
        classes: K.
        latent: width Z.
        hidden: units of each hidden layer of encoder and decoder.
        classifier: those of q(y|x).
        activation: between layers.
        dropout: of the classifier's hidden units.
        alpha: weight of the labels' own log-likelihood; 0.1 in the paper, per row.
        warm_up: steps in which the weight w of the bound grows from 0 to 1; 0 for 1 throughout.
        flips: how often training flips a pixel, where rows are few.
    """

    pixels: int
    classes: int
    latent: int
    hidden: tuple[int, ...]
    classifier: tuple[int, ...]
    activation: Callable[[], nn.Module]
    dropout: float
    alpha: float
    warm_up: int
    flips: float = 0.0


def paper() -> Sizes:
    """MNIST, section 4.1: 50 latents, one hidden layer of 500 softplus units in each network, α = 0.1 per row."""
    return Sizes(784, 10, latent=50, hidden=(500,), classifier=(500,), activation=nn.Softplus, dropout=0.0, alpha=0.1,
                 warm_up=0)  # fmt: skip


def tiny() -> Sizes:
    """8 × 8 digits, half a minute on a laptop."""
    return Sizes(64, 10, latent=16, hidden=(200,), classifier=(200, 200), activation=nn.SiLU, dropout=0.3, alpha=10.0,
                 warm_up=500, flips=0.02)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class M2(Model):
    """The factors and the loss, ``loss(x=[B, X], y=[B, K], x_prime=[B, X], w=…)``, in nats per row.

    ``generate(n)`` draws classes too; ``generate(n, y=…)`` wants none of them. ``bound(K, x=…)`` needs no label.
    """

    prior: Joint
    encode: Joint
    decode: Factor
    classify: Factor
    loss: Expression
    sizes: Sizes

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """The weight w of the bound."""
        return {"w": linear(0.0, 1.0, self.sizes.warm_up) if self.sizes.warm_up else 1.0}

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of a data set that has labels for all: each is read once with its label and once without."""
        return {"x_prime": rows["x"], **{name: rows[name] for name in self.inputs if name in rows}}

    def source(self, rows: dict[str, Tensor], batch: int) -> Callable[[], dict[str, Tensor]]:
        """Draws rows with labels, ``x`` and ``y``, and as many without: ``x_prime``, or where there are none ``x``."""
        x, y, others = rows["x"], rows["y"], rows.get("x_prime", rows["x"])

        def draw() -> dict[str, Tensor]:
            known, unknown = torch.randint(len(x), (batch,)), torch.randint(len(others), (batch,))
            return {"x": self._noisy(x[known]), "y": y[known], "x_prime": self._noisy(others[unknown])}

        return draw

    def _noisy(self, x: Tensor) -> Tensor:
        return (x - torch.empty_like(x).bernoulli_(self.sizes.flips)).abs() if self.sizes.flips else x

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Share of rows ``x [N, X]`` whose most likely class under q(y|x) is ``y [N]``."""
        self.classify.eval()
        with torch.no_grad():
            found = self.classify.sample(x=x, deterministic=True).argmax(-1)
        return float((found == y).float().mean())


def build(sizes: Sizes) -> M2:
    """A model with new weights."""
    X, K, Z, act = sizes.pixels, sizes.classes, sizes.latent, sizes.activation
    label, latent = OneHot("p(y)", shape=K), Normal("p(z)", shape=Z)
    classify = OneHot("q(y|x)", Perceptron(X, K, sizes.classifier, act, sizes.dropout), shape=K)
    encode = Normal("q(z|x,y)", Perceptron(X + K, 2 * Z, sizes.hidden, act), shape=Z)
    decode = Bernoulli("p(x|y,z)", Perceptron(K + Z, X, sizes.hidden, act), shape=X)

    labelled = KL(encode, latent) - E(encode, log(decode)) - log(label)
    # The same factors at rows without a label: every weight is shared, every draw is their own.
    primes = {"x": "x'", "y": "y'", "z": "z'"}
    guess, encode_, decode_ = classify.rename(x="x'", y="y'"), encode.rename(**primes), decode.rename(**primes)
    label_, latent_ = label.rename(y="y'"), latent.rename(z="z'")
    either = KL(encode_, latent_) - E(encode_, log(decode_)) - log(label_)
    unlabelled = E(guess, either + log(guess), gradient="exact")
    loss = Symbol("w") * (labelled.mean() + unlabelled.mean()) - sizes.alpha * log(classify).mean()
    return M2(label * latent, classify * encode, decode, classify, loss, sizes)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="m2",
    kind="models",
    paper="Kingma, Rezende, Mohamed & Welling 2014, arXiv:1406.5298",
    bibtex="""@inproceedings{kingma2014semi,
  title     = {Semi-supervised Learning with Deep Generative Models},
  author    = {Kingma, Diederik P. and Rezende, Danilo J. and Mohamed, Shakir and Welling, Max},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2014},
  eprint    = {1406.5298},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": {"steps": 2500, "batch": 64}},
    build=build,
    summary="A classifier that learns from images without labels, because it is the encoder of a generative model.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels, labels = torch.rand(2, 64, tiny().pixels).bernoulli(), torch.eye(10)[torch.randint(10, (64,))]
    rows = {"x": pixels[0], "y": labels, "x_prime": pixels[1], "w": 1.0}
    model.loss.eval()
    before = model.loss(**rows, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(**rows, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per row")
