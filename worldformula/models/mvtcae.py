"""Multi-view total correlation auto-encoder (Hwang, Kim, Hong & Kim 2021, NeurIPS 34).

    − (M − α)/M E_q[Σ_m log p(x_m|z)] + β (α 1/M Σ_m KL[q ‖ q(z|x_m)] + (1 − α) KL[q ‖ p(z)])

    q ∝ Π_m q(z|x_m)                         without p(z) among the experts
    x_m  [B, X_m] one of M modalities        p(x_m|z): see `Modality`
    z    [B, Z] latent                       p(z) = N(0, I), q(z|x_m) Gaussian

Each encoder is drawn towards what all of them say together. Rows may lack modalities, not all of them: the product and
the mean of the KLs are over those that a row has.

Deviations        paper, later code         here                       why
incomplete rows   missing terms are 0, the  the mean is over present   its weight α stays; 1/M is printed as the mean
                  weight stays α/M          modalities
β from the start  2.5                       0 → 2.5 by default         as the other models here
networks          convolutional             multilayer perceptrons     vectors of any kind
scale             exp(½ · log σ²)           softplus + 0.001           bounded precision
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from worldformula import KL, E, Expression, Factor, Joint, Normal, PoE, Symbol, each
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.model.multimodal import Modality, Multimodal, log_likelihood
from worldformula.nets.loc_scale import LocScale
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Modalities, widths and coefficients.

    Attributes:
        modalities: two or more; see `Modality`.
        latent: width Z.
        hidden: units of each hidden layer of an encoder and of a decoder.
        activation: between layers.
        alpha: α, from 0 (a VAE with a product of experts) to 1 (no KL to the prior).
        beta: β at the end of the warm-up.
        warm_up: steps in which β grows from 0; 0 for none.

    Raises:
        ConfigError: a number that cannot be.
    """

    modalities: tuple[Modality, ...]
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    alpha: float
    beta: float
    warm_up: int

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not self.beta > 0 or len(self.modalities) < 2:
            raise ConfigError(f"expected two modalities, 0 ≤ alpha ≤ 1 and beta > 0, got {self}")


def official() -> Sizes:
    """PolyMNIST, five flat images: 512 latents, Laplace of scale 0.75; α = 5/6 and β = 2.5 as in the authors' code."""
    modalities = tuple(Modality(f"m{k}", 3 * 28 * 28, "laplace", scale=0.75) for k in range(5))
    return Sizes(modalities, 512, (512,), nn.ReLU, alpha=5 / 6, beta=2.5, warm_up=0)


def tiny() -> Sizes:
    """Tri-modal digits: two binary images and a spectrum, half a minute on a laptop.

    With the α = 0.1 of later reproductions one modality says as little of the others as in MVAE.
    """
    modalities = (Modality("a", 64), Modality("b", 64), Modality("c", 24, "normal", scale=0.1))
    return Sizes(modalities, 12, (192, 192), nn.SiLU, alpha=5 / 6, beta=2.5, warm_up=600)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MVTCAE(Multimodal):
    """The factors and the loss, ``loss(**modalities, beta=1.0)``: no bound of a likelihood unless α = 0 and β = 1."""

    prior: Factor
    experts: tuple[Factor, ...]
    encode: Factor
    decode: Joint
    loss: Expression
    sizes: Sizes
    rules: ClassVar[tuple[str, ...]] = ("PoE",)

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """β."""
        return {"beta": linear(0.0, self.sizes.beta, self.sizes.warm_up) if self.sizes.warm_up else self.sizes.beta}

    def posterior(self, given: Sequence[str], rule: str | None = None) -> Factor:
        """The product of the experts of what is given."""
        self.chosen(rule)
        known = self.among(given)
        return (known[0] if len(known) == 1 else PoE(known)) if known else self.prior


def build(sizes: Sizes) -> MVTCAE:
    """A model with new weights."""
    Z, act, modalities, alpha = sizes.latent, sizes.activation, sizes.modalities, sizes.alpha
    prior = Normal("p(z)", shape=Z)
    encoders = [LocScale(Perceptron(m.width, 2 * Z, sizes.hidden, act)) for m in modalities]
    experts = [Normal(f"q(z|{m.name})", net, shape=Z) for m, net in zip(modalities, encoders, strict=True)]
    decoders = [m.decoder(Perceptron(Z, m.width, sizes.hidden, act)) for m in modalities]
    q, count = PoE(experts), len(modalities)

    latent = alpha * each(experts, lambda expert: KL(q, expert)) + (1 - alpha) * KL(q, prior)
    rebuilt = (count - alpha) / count * E(q, log_likelihood(decoders, modalities))
    loss = (Symbol("beta") * latent - rebuilt).mean()
    return MVTCAE(prior, tuple(experts), q, Joint.of(*decoders), loss, sizes)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="mvtcae",
    kind="models",
    paper="Hwang, Kim, Hong & Kim 2021, NeurIPS 34",
    bibtex="""@inproceedings{hwang2021mvtcae,
  title     = {Multi-View Representation Learning via Total Correlation Objective},
  author    = {Hwang, HyeongJoo and Kim, Geon-Hyeong and Hong, Seunghoon and Kim, Kee-Eung},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {34},
  year      = {2021},
}""",
    presets={"official": official, "tiny": tiny},
    fits={"tiny": {"steps": 1300, "batch": 64, "weight_decay": 1e-3, "clip": 20.0}},
    build=build,
    data="trimodal",
    summary="Several modalities; each encoder is drawn towards what all of them say together.",
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
