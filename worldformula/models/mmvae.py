"""Mixture-of-experts multimodal VAE (Shi, Siddharth, Paige & Torr 2019, arXiv:1911.03393).

    q(z|X) = 1/M Σ_m q(z|x_m)
    − 1/M Σ_m log E_{q(z|x_m)}^K [p(X, z) / q(z|X)]       "looser", the published training: the mean outside the log
    − log 1/M Σ_m E_{q(z|x_m)}^K [p(X, z) / q(z|X)]       "iwae", the tighter bound, eq. 3
    − E_{q(z|X)}[Σ_m λ_m log p(x_m|z) + β (log p(z) − log q(z|X))]       "elbo"

    x_m  [B, X_m] one of M modalities        p(x_m|z): see `Modality`, whose weight is λ_m
    z    [B, Z] latent                       p(z), q(z|x_m): Normal or Laplace
    K    draws from each expert              the density of every draw is that of the whole mixture

An expert has to explain all modalities from its own, so they agree, and a second modality adds nothing. Rows may lack
modalities: the mixture and the mean are over those that a row has.

Deviations        paper                     official code              here                      why
family            Laplace                   Laplace                    Normal in ``tiny``        comparison with others
prior's scale     learned                   learned, sums to Z         an option                 as the code
posterior scale   –                         softmax, sums to Z         an option (``softmax``)   as the code
gradient          DReG                      DReG                       an option (``dreg``)      as the code
λ                 1                         by the sizes of the data   `Modality.weight`         printed in the loss
networks          convolutional             the same                   multilayer perceptrons    vectors of any kind
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import nn

from worldformula import E, Expression, Factor, Joint, Laplace, MoE, Normal, Symbol, each, exp, log, ratio, sg
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.model.multimodal import Modality, Multimodal, log_likelihood
from worldformula.nets.loc_scale import Learned, LocScale, Rule
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

Objective = Literal["elbo", "iwae", "looser"]

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Modalities, widths, and which of the bounds.

    Attributes:
        modalities: what there is; see `Modality`.
        latent: width Z.
        hidden: units of each hidden layer of an encoder and of a decoder.
        activation: between layers.
        objective: the loss, see above.
        samples: K, draws from each expert; 1 for ``elbo``.
        dreg: the doubly reparametrised gradient (Tucker et al. 2019), for ``looser``.
        family: of prior and experts.
        scale: of the experts: ``softplus``, or ``softmax`` for scales that sum to Z.
        learned_prior: whether p(z) has a learned scale that sums to Z.
        warm_up: steps in which the weight β grows from 0 to 1, for ``elbo``; 0 for 1 throughout.

    Raises:
        ConfigError: a combination that has no meaning.
    """

    modalities: tuple[Modality, ...]
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    objective: Objective
    samples: int
    dreg: bool
    family: Literal["normal", "laplace"]
    scale: Rule
    learned_prior: bool
    warm_up: int

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective) or self.family not in ("normal", "laplace"):
            raise ConfigError(
                f"expected objective= among {', '.join(get_args(Objective))} and family= 'normal' or 'laplace', "
                f"got {self.objective!r} and {self.family!r}"
            )
        if self.samples < 1 or (self.objective == "elbo" and self.samples != 1):
            raise ConfigError(f"expected samples ≥ 1, and 1 for the ELBO; got {self.samples} for {self.objective}")
        if self.dreg and self.objective != "looser":
            raise ConfigError(f"dreg=True belongs to objective='looser', got {self.objective!r}")
        if self.warm_up and self.objective != "elbo":
            raise ConfigError(f"warm_up= weighs a KL, which objective={self.objective!r} does not have; set it to 0")


def paper() -> Sizes:
    """MNIST and SVHN, flat: 20 latents, K = 30, DReG "looser", Laplace, 400 hidden units; λ = 3072/784 for MNIST."""
    modalities = (Modality("x", 784, "laplace", 0.75, weight=3072 / 784), Modality("y", 3072, "laplace", 0.75))
    return Sizes(modalities, 20, (400,), nn.ReLU, "looser", 30, True, "laplace", "softmax", True, 0)


def tiny() -> Sizes:
    """Tri-modal digits: two binary images and a spectrum, a minute on a laptop; the ELBO with Normals."""
    modalities = (Modality("a", 64), Modality("b", 64), Modality("c", 24, "normal", scale=0.1))
    return Sizes(modalities, 12, (192, 192), nn.SiLU, "elbo", 1, False, "normal", "softplus", False, 600)


def looser() -> Sizes:
    """As ``tiny``, with the published training: Laplace, learned prior, K = 5, DReG "looser"."""
    modalities = tiny().modalities
    return Sizes(modalities, 12, (192, 192), nn.SiLU, "looser", 5, True, "laplace", "softmax", True, 0)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class MMVAE(Multimodal):
    """The factors and the loss, ``loss(**modalities)``; with ``beta=1.0`` where the objective is the ELBO."""

    prior: Factor
    experts: tuple[Factor, ...]
    encode: Factor
    decode: Joint
    loss: Expression
    warm_up: int
    rules: ClassVar[tuple[str, ...]] = ("mixture",)

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """The weight β of log p(z) − log q(z|X), where the objective has it."""
        beta: Schedule | float = linear(0.0, 1.0, self.warm_up) if self.warm_up else 1.0
        return {"beta": beta} if "beta" in self.coefficients else {}

    def posterior(self, given: Sequence[str], rule: str | None = None) -> Factor:
        """The mixture of the experts of what is given."""
        self.chosen(rule)
        known = self.among(given)
        return (known[0] if len(known) == 1 else MoE(known)) if known else self.prior


def build(sizes: Sizes) -> MMVAE:
    """A model with new weights."""
    Z, act, modalities = sizes.latent, sizes.activation, sizes.modalities
    family = Normal if sizes.family == "normal" else Laplace
    prior = family("p(z)", Learned(Z) if sizes.learned_prior else None, shape=Z)
    encoders = [LocScale(Perceptron(m.width, 2 * Z, sizes.hidden, act), sizes.scale) for m in modalities]
    experts = [family(f"q(z|{m.name})", net, shape=Z) for m, net in zip(modalities, encoders, strict=True)]
    decoders = [m.decoder(Perceptron(Z, m.width, sizes.hidden, act)) for m in modalities]
    q, likelihood = MoE(experts), log_likelihood(decoders, modalities)
    weighted = any(m.weight != 1 for m in modalities)

    def weight(density: object) -> Expression:
        """p(X, z) / q(z|X), where λ ≠ 1 with p(x_m|z)^λ."""
        if weighted:
            return exp(likelihood + log(prior) - log(density))  # type: ignore[arg-type]
        return ratio(prior * Joint.of(*decoders), density)  # type: ignore[arg-type]

    if sizes.objective == "elbo":
        loss = -E(q, likelihood + Symbol("beta") * (log(prior) - log(q)), gradient="stratified")
    elif sizes.objective == "iwae":
        loss = -log(E(q, weight(q), gradient="stratified", samples=sizes.samples))
    elif sizes.dreg:
        loss = -each(q, lambda e: log(E(e, weight(sg(q)), gradient="dreg", samples=sizes.samples)))
    else:
        loss = -each(q, lambda e: log(E(e, weight(q), samples=sizes.samples)))
    return MMVAE(prior, tuple(experts), q, Joint.of(*decoders), loss.mean(), sizes.warm_up)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="mmvae",
    kind="models",
    paper="Shi, Siddharth, Paige & Torr 2019, arXiv:1911.03393",
    bibtex="""@inproceedings{shi2019mmvae,
  title     = {Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models},
  author    = {Shi, Yuge and Siddharth, N. and Paige, Brooks and Torr, Philip H. S.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  eprint    = {1911.03393},
}""",
    presets={"paper": paper, "tiny": tiny, "looser": looser},
    fits={"tiny": {"steps": 2600, "batch": 64, "weight_decay": 1e-3, "clip": 20.0}},
    build=build,
    data="trimodal",
    summary="Several modalities whose encoders are mixed: each alone has to explain all, so that they agree.",
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
