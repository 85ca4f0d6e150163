"""Mixture of products of experts (Sutter, Daunhawer & Vogt 2021, "Generalized Multimodal ELBO", openreview 5Y21V0RDBV).

    q(z|X) = 1/(2^M − 1) Σ_S q_S,   q_S ∝ Π_{m∈S} q(z|x_m), with or without p(z) among the experts
    β 1/(2^M − 1) Σ_S KL[q_S ‖ p(z)] − E_{q(z|X)}[Σ_m λ_m log p(x_m|z)]               ``kl="bound"``, the official code
    − E_{q(z|X)}[Σ_m λ_m log p(x_m|z) + β (log p(z) − log q(z|X))]                    ``kl="monte-carlo"``

    x_m  [B, X_m] one of M modalities        p(x_m|z): see `Modality`, whose weight is λ_m
    z    [B, Z] latent                       p(z) = N(0, I), q(z|x_m) Gaussian
    S    every non-empty set of modalities   the mean of the components' KLs is at least the KL of their mixture

Products gain from a second modality, mixtures keep each alone coherent. Rows may lack modalities: the mixture is over
the sets that a row has.

Deviations        paper            official code                    here                         why
p(z) as expert    –                in the product of all M alone    ``prior_in``: all, full,     a printed choice
                                                                    none
KL                of the mixture   mean of the components' KLs      ``kl``: either               a printed choice
component of a    random           by its position in the batch     one draw of each component   no order of rows
row                                                                 (stratified)
infer from S      mixture over     PoE(S)                           ``rule``: PoE or mixture     PoE(S) makes coherence
                  the subsets                                                                    grow with S
networks          convolutional    the same                         multilayer perceptrons       vectors of any kind
scale             exp(½ · log σ²)  the same                         softplus + 0.001             bounded precision
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from worldformula import KL, E, Expression, Factor, Joint, MoPoE, Normal, PoE, Symbol, each, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.model.multimodal import Modality, Multimodal, log_likelihood
from worldformula.nets.loc_scale import LocScale
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Modalities, widths, and the choices that papers and codes make differently.

    Attributes:
        modalities: what there is; see `Modality`.
        latent: width Z.
        hidden: units of each hidden layer of an encoder and of a decoder.
        activation: between layers.
        prior_in: which products have p(z) among their experts: ``all``, ``full`` (that of all M alone), ``none``.
        kl: ``bound`` or ``monte-carlo``, see above.
        rule: how to infer from a set of modalities: ``PoE`` or ``mixture``.
        beta: weight of the KL at the end of the warm-up.
        warm_up: steps in which that weight grows from 0; 0 for none.

    Raises:
        ConfigError: another choice.
    """

    modalities: tuple[Modality, ...]
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    prior_in: Literal["all", "full", "none"]
    kl: Literal["bound", "monte-carlo"]
    rule: Literal["PoE", "mixture"]
    beta: float
    warm_up: int

    def __post_init__(self) -> None:
        known = {"prior_in": ("all", "full", "none"), "kl": ("bound", "monte-carlo"), "rule": ("PoE", "mixture")}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"expected {name}= among {', '.join(choices)}, got {getattr(self, name)!r}")
        if not self.beta > 0 or self.warm_up < 0:
            raise ConfigError(f"expected beta > 0 and warm_up ≥ 0, got {self.beta} and {self.warm_up}")


def official() -> Sizes:
    """PolyMNIST, five flat images: 512 latents, β = 2.5, Laplace of scale 0.75, p(z) in the full product, KL bound."""
    modalities = tuple(Modality(f"m{k}", 3 * 28 * 28, "laplace", scale=0.75) for k in range(5))
    return Sizes(modalities, 512, (512,), nn.ReLU, "full", "bound", "PoE", beta=2.5, warm_up=0)


def tiny() -> Sizes:
    """Tri-modal digits: two binary images and a spectrum, a minute on a laptop; p(z) in every product."""
    modalities = (Modality("a", 64), Modality("b", 64), Modality("c", 24, "normal", scale=0.1))
    return Sizes(modalities, 12, (192, 192), nn.SiLU, "all", "monte-carlo", "PoE", beta=1.0, warm_up=600)


def full() -> Sizes:
    """As ``tiny``, with p(z) in the product of all alone."""
    return replace(tiny(), prior_in="full")


def bound() -> Sizes:
    """As ``tiny``, with the mean of the components' KLs."""
    return replace(tiny(), kl="bound")


def code() -> Sizes:
    """As ``tiny``, with both choices of the official code: p(z) in the full product, the mean of the KLs."""
    return replace(tiny(), prior_in="full", kl="bound")


def mixture() -> Sizes:
    """As ``tiny``, but inference from S by the mixture over its subsets."""
    return replace(tiny(), rule="mixture")


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MoPoEVAE(Multimodal):
    """The factors and the loss, ``loss(**modalities, beta=1.0)``, in nats per row with β = 1."""

    prior: Factor
    experts: tuple[Factor, ...]
    encode: Factor
    decode: Joint
    loss: Expression
    sizes: Sizes
    rules: ClassVar[tuple[str, ...]] = ("PoE", "mixture")

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """The weight β of the KL."""
        return {"beta": linear(0.0, self.sizes.beta, self.sizes.warm_up) if self.sizes.warm_up else self.sizes.beta}

    def posterior(self, given: Sequence[str], rule: str | None = None) -> Factor:
        """PoE(S) of what is given, or the mixture over its subsets; p(z) is an expert where training has it so."""
        known = self.among(given)
        if not known:
            return self.prior
        everything = len(known) == len(self.experts)
        with_prior = self.sizes.prior_in == "all" or (self.sizes.prior_in == "full" and everything)
        if self.chosen(rule or self.sizes.rule) == "mixture" and len(known) > 1:
            if self.sizes.prior_in == "full" and not everything:
                return MoPoE(known)
            return mixed(known, self.prior, self.sizes.prior_in)
        experts = [self.prior, *known] if with_prior else known
        return PoE(experts) if len(experts) > 1 else experts[0]


def mixed(experts: Sequence[Factor], prior: Factor, prior_in: str) -> Factor:
    """The mixture of the products of all subsets."""
    return MoPoE(experts) if prior_in == "none" else MoPoE(experts, prior, prior_in=prior_in)


def build(sizes: Sizes) -> MoPoEVAE:
    """A model with new weights."""
    Z, act, modalities = sizes.latent, sizes.activation, sizes.modalities
    prior = Normal("p(z)", shape=Z)
    encoders = [LocScale(Perceptron(m.width, 2 * Z, sizes.hidden, act)) for m in modalities]
    experts = [Normal(f"q(z|{m.name})", net, shape=Z) for m, net in zip(modalities, encoders, strict=True)]
    decoders = [m.decoder(Perceptron(Z, m.width, sizes.hidden, act)) for m in modalities]
    q, likelihood, beta = mixed(experts, prior, sizes.prior_in), log_likelihood(decoders, modalities), Symbol("beta")
    if sizes.kl == "bound":
        loss = beta * each(q, lambda component: KL(component, prior)) - E(q, likelihood, gradient="stratified")  # type: ignore[arg-type]
    else:
        loss = -E(q, likelihood + beta * (log(prior) - log(q)), gradient="stratified")
    return MoPoEVAE(prior, tuple(experts), q, Joint.of(*decoders), loss.mean(), sizes)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="mopoe",
    kind="models",
    paper="Sutter, Daunhawer & Vogt 2021, openreview 5Y21V0RDBV",
    bibtex="""@inproceedings{sutter2021mopoe,
  title     = {Generalized Multimodal {ELBO}},
  author    = {Sutter, Thomas M. and Daunhawer, Imant and Vogt, Julia E.},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  url       = {https://openreview.net/forum?id=5Y21V0RDBV},
}""",
    presets={"official": official, "tiny": tiny, "full": full, "bound": bound, "code": code, "mixture": mixture},
    fits={"tiny": {"steps": 2600, "batch": 64, "weight_decay": 1e-3, "clip": 20.0}},
    build=build,
    data="trimodal",
    summary="Several modalities; the experts of every subset are multiplied, and the products are mixed.",
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
