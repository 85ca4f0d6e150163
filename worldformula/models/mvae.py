"""Multimodal VAE with a product of experts (Wu & Goodman 2018, arXiv:1802.05335).

    Σ_S ELBO(S),   ELBO(S) = β KL[q_S ‖ p(z)] − E_{q_S}[Σ_{m∈S} λ_m log p(x_m|z)],   q_S ∝ p(z) Π_{m∈S} q̃(z|x_m)

    x_m  [B, X_m] one of M modalities        p(x_m|z): see `Modality`, whose weight is λ_m
    z    [B, Z] latent                       p(z) = N(0, I), which is an expert of every product; q̃ Gaussian
    S    all modalities, each one alone, and k sets of other sizes, drawn anew at every step: their weights w are 0 or 1

Precisions add up, so one encoder for each modality infers from every set. Without the sets of one modality nothing
teaches an encoder to work alone. Rows may lack modalities: ``loss(..., present={"b": flags})``.

Deviations        paper                     official code              here                      why
k random sets     drawn by the data loader  the same                   weights of all sets        a printed loss
incomplete rows   sub-sampling as ever      –                          ``elbo="all"``            the data are sampled
β                 annealed                  0 → 1 in 200 epochs        0 → 1 by default          as the official code
scale             exp(½ · log σ²)           the same                   softplus + 0.001          bounded precision
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import nn

from worldformula import KL, E, Expression, Factor, Joint, Normal, PoE, Symbol, subsets
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
        modalities: what there is; see `Modality`.
        latent: width Z.
        hidden: units of each hidden layer of an encoder and of a decoder.
        activation: between layers.
        warm_up: steps in which the weight β of all KLs grows from 0 to 1; 0 for 1 throughout.
        elbo: the sets of the loss: ``"sampled"`` for all, singles and others, ``"all"`` for the set of all alone.
        others: k, how many random sets of 2 to M − 1 modalities a step has besides.

    Raises:
        ConfigError: other sets, or a negative number of them.
    """

    modalities: tuple[Modality, ...]
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    warm_up: int
    elbo: Literal["sampled", "all"]
    others: int

    def __post_init__(self) -> None:
        if self.elbo not in ("sampled", "all") or self.others < 0:
            raise ConfigError(f"expected elbo='sampled' or 'all' and others ≥ 0, got {self.elbo!r} and {self.others}")


def paper() -> Sizes:
    """MNIST images and their labels with λ = 50 on the label; two layers of 512 units, 64 latents."""
    modalities = (Modality("x", 784), Modality("y", 10, weight=50.0))
    return Sizes(modalities, latent=64, hidden=(512, 512), activation=nn.SiLU, warm_up=0, elbo="sampled", others=0)


def tiny() -> Sizes:
    """Tri-modal digits: two binary images and a spectrum, a minute on a laptop."""
    modalities = (Modality("a", 64), Modality("b", 64), Modality("c", 24, "normal", scale=0.1))
    return Sizes(modalities, latent=12, hidden=(192, 192), activation=nn.SiLU, warm_up=600, elbo="sampled", others=1)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MVAE(Multimodal):
    """The factors and the loss, ``loss(**modalities, beta=1.0)``: a sum of bounds, which is no likelihood itself."""

    prior: Factor
    experts: tuple[Factor, ...]
    encode: Factor
    decode: Joint
    loss: Expression
    warm_up: int
    others: int
    rules: ClassVar[tuple[str, ...]] = ("PoE",)

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """The weight β of the KLs, and those of the random sets, 1 for k of them at every step."""
        names = [name for name in self.coefficients if name != "beta"]
        beta = linear(0.0, 1.0, self.warm_up) if self.warm_up else 1.0
        return {"beta": beta} | {name: drawn(place, len(names), self.others) for place, name in enumerate(names)}

    def posterior(self, given: Sequence[str], rule: str | None = None) -> Factor:
        """The product of the prior and the experts of what is given."""
        self.chosen(rule)
        known = self.among(given)
        return PoE([self.prior, *known]) if known else self.prior


def drawn(place: int, count: int, k: int) -> Schedule:
    """How often a set is among ``k`` that are drawn from ``count`` at a step: a function of the step alone."""
    return lambda step: float((np.random.default_rng(step).integers(count, size=k) == place).sum())


def build(sizes: Sizes) -> MVAE:
    """A model with new weights."""
    Z, act, modalities = sizes.latent, sizes.activation, sizes.modalities
    prior = Normal("p(z)", shape=Z)
    encoders = [LocScale(Perceptron(m.width, 2 * Z, sizes.hidden, act)) for m in modalities]
    experts = [Normal(f"q(z|{m.name})", net, shape=Z) for m, net in zip(modalities, encoders, strict=True)]
    decoders = [m.decoder(Perceptron(Z, m.width, sizes.hidden, act)) for m in modalities]

    def elbo(chosen: Sequence[int]) -> Expression:
        q = PoE([prior, *(experts[m] for m in chosen)])
        return Symbol("beta") * KL(q, prior) - E(q, log_likelihood([decoders[m] for m in chosen], modalities))

    everything = range(len(modalities))
    loss = elbo(everything)
    if sizes.elbo == "sampled":
        for chosen in subsets(everything)[:-1]:
            if len(chosen) == 1:
                loss = loss + elbo(chosen)
            elif sizes.others and len(chosen) < len(modalities):
                loss = loss + Symbol("w_" + "".join(modalities[m].name for m in chosen)) * elbo(chosen)
    encode = PoE([prior, *experts])
    return MVAE(prior, tuple(experts), encode, Joint.of(*decoders), loss.mean(), sizes.warm_up, sizes.others)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="mvae",
    kind="models",
    paper="Wu & Goodman 2018, arXiv:1802.05335",
    bibtex="""@inproceedings{wu2018mvae,
  title     = {Multimodal Generative Models for Scalable Weakly-Supervised Learning},
  author    = {Wu, Mike and Goodman, Noah},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018},
  eprint    = {1802.05335},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": {"steps": 2600, "batch": 64, "weight_decay": 1e-3, "clip": 20.0}},
    build=build,
    data="trimodal",
    summary="Several modalities, each with an encoder; their experts are multiplied, and any may be missing.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    rows = {"a": torch.rand(64, 64).round(), "b": torch.rand(64, 64).round(), "c": torch.rand(64, 24)}
    weights = dict.fromkeys(model.coefficients, 1.0)
    before = model.loss(**rows, **weights, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(**rows, **weights, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per row")
