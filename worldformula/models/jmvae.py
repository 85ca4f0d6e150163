"""Joint multimodal VAE (Suzuki, Nakayama & Matsuo 2016, arXiv:1611.01891), with a surrogate encoder per modality.

    KL[q(z|X) ‖ p(z)] + α Σ_m KL[q(z|X) ‖ q(z|x_m)] − E_{q(z|X)}[Σ_m log p(x_m|z)]        its JMVAE-kl

    x_m  [B, X_m] one of M modalities, X all of them     p(x_m|z): see `Modality`
    z    [B, Z] latent                                   p(z) = N(0, I),  q(z|X) and q(z|x_m) Gaussian

The q(z|x_m) are drawn towards the joint encoder, so that x_b ~ p(x_b|z), z ~ q(z|x_a) needs no iteration. The direction
of the KL makes them cover all that the joint encoder may say. Rows need all modalities: a joint encoder reads them all.

Deviations        paper                       here                          why
M > 2             two modalities              PoE of the q(z|x_m), without  one encoder for each, not for each subset
                                              the prior, for a subset
α                 1 on slides of 2023         0.1 by default                as later libraries
weight β of the   1                           0 → 1 by default              the decoders learn first
KL terms
networks          convolutional for images    multilayer perceptrons        vectors of any kind
scale             exp(½ · log σ²)             softplus + 0.001              bounded gradient and precision
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from worldformula import KL, E, Expression, Factor, Joint, Normal, PoE, Symbol
from worldformula.catalogue import System
from worldformula.model.multimodal import Modality, Multimodal, log_likelihood
from worldformula.nets.loc_scale import LocScale
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Modalities, widths and coefficients.

    Attributes:
        modalities: what there is; see `Modality`.
        latent: width Z.
        hidden: units of each hidden layer of an encoder q(z|x_m) and of a decoder.
        joint: those of q(z|X).
        activation: between layers.
        alpha: weight of the KLs to the encoders of one modality.
        warm_up: steps in which the weight β of all KLs grows from 0 to 1; 0 for 1 throughout.
    """

    modalities: tuple[Modality, ...]
    latent: int
    hidden: tuple[int, ...]
    joint: tuple[int, ...]
    activation: Callable[[], nn.Module]
    alpha: float
    warm_up: int


def paper() -> Sizes:
    """MNIST images and their labels, the label as 10 Bernoullis; two layers of 512 units, 64 latents, α = 0.1."""
    modalities = (Modality("x", 784), Modality("y", 10))
    return Sizes(modalities, latent=64, hidden=(512, 512), joint=(512, 512), activation=nn.ReLU, alpha=0.1, warm_up=0)


def tiny() -> Sizes:
    """Tri-modal digits: two binary images and a spectrum, half a minute on a laptop."""
    modalities = (Modality("a", 64), Modality("b", 64), Modality("c", 24, "normal", scale=0.1))
    return Sizes(modalities, latent=12, hidden=(192, 192), joint=(256, 256), activation=nn.SiLU, alpha=0.1, warm_up=600)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class JMVAE(Multimodal):
    """The factors and the loss; ``loss(**modalities, beta=1.0)``, in nats per row with β = 1 and α = 0.

    ``infer``, ``predict`` and ``bound`` use the joint encoder where all is given, and a product of experts elsewhere;
    ``rule="PoE"`` takes the product for all too.
    """

    prior: Factor
    experts: tuple[Factor, ...]
    encode: Factor
    decode: Joint
    loss: Expression
    warm_up: int
    rules: ClassVar[tuple[str, ...]] = ("joint", "PoE")

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """The weight β of the KLs."""
        return {"beta": linear(0.0, 1.0, self.warm_up) if self.warm_up else 1.0}

    def posterior(self, given: Sequence[str], rule: str | None = None) -> Factor:
        """q(z|X) given all, q(z|x_m) given one, and their product without the prior given others."""
        known = self.among(given)
        if len(known) == len(self.experts) and self.chosen(rule) == "joint":
            return self.encode
        return (known[0] if len(known) == 1 else PoE(known)) if known else self.prior


def build(sizes: Sizes) -> JMVAE:
    """A model with new weights."""
    Z, act = sizes.latent, sizes.activation

    def encoder(inputs: int, hidden: tuple[int, ...]) -> LocScale:
        return LocScale(Perceptron(inputs, 2 * Z, hidden, act))

    prior = Normal("p(z)", shape=Z)
    experts = tuple(Normal(f"q(z|{m.name})", encoder(m.width, sizes.hidden), shape=Z) for m in sizes.modalities)
    everything = ",".join(m.name for m in sizes.modalities)
    encode = Normal(f"q(z|{everything})", encoder(sum(m.width for m in sizes.modalities), sizes.joint), shape=Z)
    decoders = [m.decoder(Perceptron(Z, m.width, sizes.hidden, act)) for m in sizes.modalities]

    near: Expression = KL(encode, experts[0])
    for q in experts[1:]:
        near = near + KL(encode, q)
    latent = Symbol("beta") * (KL(encode, prior) + sizes.alpha * near)
    loss = (latent - E(encode, log_likelihood(decoders, sizes.modalities))).mean()
    return JMVAE(prior, experts, encode, Joint.of(*decoders), loss, sizes.warm_up)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="jmvae",
    kind="models",
    paper="Suzuki, Nakayama & Matsuo 2016, arXiv:1611.01891",
    bibtex="""@article{suzuki2016jmvae,
  title   = {Joint Multimodal Learning with Deep Generative Models},
  author  = {Suzuki, Masahiro and Nakayama, Kotaro and Matsuo, Yutaka},
  journal = {arXiv preprint arXiv:1611.01891},
  year    = {2016},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={
        "tiny": {"steps": 2600, "batch": 64, "weight_decay": 1e-3, "clip": 20.0},
        "paper": {"steps": 46_875, "batch": 128},  # 100 epochs of MNIST
    },
    build=build,
    data="trimodal",
    summary="A joint encoder of several modalities, and one encoder for each that learns to stand in for it.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    rows = {"a": torch.rand(64, 64).round(), "b": torch.rand(64, 64).round(), "c": torch.rand(64, 24)}
    before = model.loss(**rows, beta=1.0, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(**rows, beta=1.0, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per row")
