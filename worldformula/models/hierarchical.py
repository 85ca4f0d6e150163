"""Hierarchical VAE: groups of latents from the top down, as in a small NVAE (Vahdat & Kautz 2020, arXiv:2007.03898).

    h_1, …, h_L = up(x)                                           bottom-up, one feature per group
    d_l = down(d_{l−1}, z_l),   m_l, s_l = prior(d_{l−1})         top-down, shared by generation and inference
    p(z_l|z_{<l}) = N(m_l, s_l²)                                  N(0, I) at the top
    q(z_l|z_{<l}, x) = N(m_l + Δm, (s_l Δs)²)                     residual Normal, section 3.2
    loss = E_{q(z|x)}[β Σ_l KL[q(z_l|z_{<l}, x) ‖ p(z_l|z_{<l})] − log p(x|d_L)]        eq. 1

Its KL is ½ Σ (Δm²/s_l² + Δs² − log Δs² − 1), eq. 2: where Δm = 0 and Δs = 1 the group says nothing, whatever the prior.

    x   [B, X] pixels in {0, 1}      p(x|d_L) = Bernoulli
    z_l [B, Z_l] latents of a group, top first      h_l, d_l [B, H]

``posterior``  "residual" as above; "ladder" multiplies prior and bottom-up Normal, so that precisions add (Sønderby et
al. 2016, arXiv:1602.02282, eqs. 9 to 11); "absolute" has m and s of its own, the control.

Deviations     NVAE                                   here                        why
networks       convolutions, BN, squeeze–excitation   residual perceptrons        vectors; tens of pixels
log s, m       5 tanh(·/5) around both                the same around log s       bounds the KL without spectral norms
balancing      γ_l of each group while warming up     β of all groups alike       two groups stay alive without
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from worldformula import KL, Bernoulli, Deterministic, E, Expression, Factor, Joint, Normal, Symbol, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError, near
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

Posterior = Literal["residual", "ladder", "absolute"]
BOUND = 5.0  # of |log s|

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths, and how a posterior is made from its prior.

    Attributes:
        pixels: X.
        latents: Z_l of every group, from the top.
        hidden: H.
        posterior: see the head of the file.
        activation: between layers.
        warm_up: steps in which β grows from 0 to 1; 0 for 1 throughout.

    Raises:
        ConfigError: fewer than two groups, or no such posterior.
    """

    pixels: int
    latents: tuple[int, ...]
    hidden: int
    posterior: Posterior = "residual"
    activation: Callable[[], nn.Module] = nn.SiLU
    warm_up: int = 0

    def __post_init__(self) -> None:
        known = get_args(Posterior)
        if self.posterior not in known:
            there = ", ".join(known)
            raise ConfigError(f"posterior={self.posterior!r}: there are {there}.{near(self.posterior, known)}")
        if len(self.latents) < 2:
            raise ConfigError(f"expected two groups of latents or more, got latents={self.latents}; one is a plain VAE")


def tiny() -> Sizes:
    """8 × 8 digits: two groups of 8, a minute on a laptop."""
    return Sizes(pixels=64, latents=(8, 8), hidden=192, warm_up=500)


def mnist() -> Sizes:
    """28 × 28 digits: ten groups of 20 latents, half of the groups that NVAE has for MNIST."""
    return Sizes(pixels=784, latents=(20,) * 10, hidden=512, warm_up=5000)


def ladder() -> Sizes:
    """28 × 28 digits: the five groups of the ladder VAE, 4 latents at the top to 64, by added precisions.

    The widths are from memory, not checked against the paper.
    """
    return Sizes(pixels=784, latents=(4, 8, 16, 32, 64), hidden=512, posterior="ladder", warm_up=5000)


def absolute() -> Sizes:
    """As ``tiny``, with posteriors that do not know their prior."""
    return replace(tiny(), posterior="absolute")


# ---------------------------------------------------------------------------------------------------------- networks


def bounded(raw: Tensor) -> Tensor:
    """exp of a number that is kept within ±5 by a hyperbolic tangent: a scale."""
    return (BOUND * torch.tanh(raw / BOUND)).exp()


class BottomUp(nn.Module):
    """x to ``(h_1, …, h_L)``: each feature is the one below plus a perceptron of it; the top one comes first."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        H, act = sizes.hidden, sizes.activation
        self.first = Perceptron(sizes.pixels, H, (H,), act)
        self.blocks = nn.ModuleList(Perceptron(H, H, (H,), act) for _ in sizes.latents[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``[B, X]`` to L tensors ``[B, H]``."""
        features = [self.first(x)]
        for block in self.blocks:
            features.append(features[-1] + block(features[-1]))
        return tuple(reversed(features))


class TopDown(nn.Module):
    """d_{l−1} and z_l to d_l = d_{l−1} + perceptron(d_{l−1}, z_l); at the top, z_1 alone to d_1."""

    def __init__(self, latent: int, sizes: Sizes, *, top: bool) -> None:
        super().__init__()
        H = sizes.hidden
        self.net = Perceptron(latent + (0 if top else H), H, (H,), sizes.activation)

    def forward(self, *inputs: Tensor) -> Tensor:
        """``[B, H]``, ``[B, Z_l]`` to ``[B, H]``."""
        found: Tensor = self.net(*inputs)
        return found if len(inputs) == 1 else inputs[0] + found


class Moments(nn.Module):
    """Features to mean and scale."""

    def __init__(self, inputs: int, latent: int, sizes: Sizes) -> None:
        super().__init__()
        self.net = Perceptron(inputs, 2 * latent, (sizes.hidden,), sizes.activation)
        with torch.no_grad():
            self.net.head.weight.mul_(0.1)  # starts near N(0, 1), a residual near its prior
            self.net.head.bias.zero_()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, inputs]`` to two tensors ``[B, Z_l]``."""
        loc, raw = self.net(*inputs).chunk(2, -1)
        return loc, bounded(raw)


class Given(nn.Module):
    """A Normal whose mean and scale were computed before."""

    def forward(self, m: Tensor, s: Tensor) -> dict[str, Tensor]:
        """The two as parameters."""
        return {"loc": m, "scale": s}


class Top(Moments):
    """q(z_1|x): mean and scale of its own. Residual to N(0, I) it would be the same."""

    def forward(self, h: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """``[B, H]`` to the parameters."""
        loc, scale = super().forward(h)
        return {"loc": loc, "scale": scale}


class Lower(Moments):
    """q(z_l|z_{<l}, x) from prior mean and scale and the features of both directions."""

    def __init__(self, latent: int, sizes: Sizes) -> None:
        super().__init__(2 * sizes.hidden, latent, sizes)
        self.posterior = sizes.posterior

    def forward(self, m: Tensor, s: Tensor, d: Tensor, h: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """``[B, Z_l]`` twice and ``[B, H]`` twice to the parameters."""
        loc, scale = super().forward(d, h)
        if self.posterior == "residual":
            return {"loc": m + loc, "scale": s * scale}
        if self.posterior == "ladder":
            own, other = scale**-2, s**-2
            return {"loc": (loc * own + m * other) / (own + other), "scale": (own + other) ** -0.5}
        return {"loc": loc, "scale": scale}


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class Hierarchical(Model):
    """The factors and the loss; ``loss(x=[B, X], beta=1.0)`` is −ELBO in nats."""

    prior: Joint
    encode: Joint
    decode: Joint
    loss: Expression
    warm_up: int

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """β, from 0 to 1."""
        return {"beta": linear(0.0, 1.0, self.warm_up) if self.warm_up else 1.0}

    @torch.no_grad()
    def rates(self, x: Tensor, *, seed: int | None = None) -> list[float]:
        """KL of every group in nats, from the top, mean over rows: one draw of the groups above it."""
        terms = self.loss(x=x, beta=1.0, seed=seed).terms
        return [float(value) for name, value in terms.items() if name.startswith("KL(")]


def build(sizes: Sizes) -> Hierarchical:
    """A model with new weights."""
    Z, H, L = sizes.latents, sizes.hidden, len(sizes.latents)
    features = ", ".join(f"h_{n}" for n in range(1, L + 1))
    up = Deterministic(f"{features} = up(x)", BottomUp(sizes), shape=[(H,)] * L)
    top, top_q = Normal("p(z_1)", shape=Z[0]), Normal("q(z_1|h_1)", Top(H, Z[0], sizes), shape=Z[0])
    state = Deterministic("d_1 = down_1(z_1)", TopDown(Z[0], sizes, top=True), shape=H)
    prior, encode, rates = top * state, up * top_q * state, KL(top_q, top)
    for n in range(2, L + 1):
        moments, p, q = group(n, sizes)
        state = Deterministic(f"d_{n} = down_{n}(d_{n - 1}, z_{n})", TopDown(Z[n - 1], sizes, top=False), shape=H)
        prior, encode = prior * moments * p, encode * moments * q
        rates = rates + KL(q, p)
        if n < L:
            prior, encode = prior * state, encode * state
    image = Bernoulli(f"p(x|d_{L})", Perceptron(H, sizes.pixels, (H,), sizes.activation), shape=sizes.pixels)
    loss = E(encode * state, Symbol("beta") * rates - log(image)).mean()
    return Hierarchical(prior, encode, state * image, loss, sizes.warm_up)


def group(n: int, sizes: Sizes) -> tuple[Deterministic, Factor, Factor]:
    """Prior moments, prior and posterior of group ``n``, from 2."""
    H, Z = sizes.hidden, sizes.latents[n - 1]
    moments = Deterministic(f"m_{n}, s_{n} = prior_{n}(d_{n - 1})", Moments(H, Z, sizes), shape=[(Z,), (Z,)])
    prior = Normal(f"p(z_{n}|m_{n},s_{n})", Given(), shape=Z)
    posterior = Normal(f"q(z_{n}|m_{n},s_{n},d_{n - 1},h_{n})", Lower(Z, sizes), shape=Z)
    return moments, prior, posterior


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="hierarchical",
    kind="models",
    paper="Vahdat & Kautz 2020, arXiv:2007.03898",
    bibtex="""@inproceedings{vahdat2020nvae,
  title     = {{NVAE}: A Deep Hierarchical Variational Autoencoder},
  author    = {Vahdat, Arash and Kautz, Jan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020},
  eprint    = {2007.03898},
}""",
    presets={"tiny": tiny, "mnist": mnist, "ladder": ladder, "absolute": absolute},
    build=build,
    summary="A VAE whose latents come in groups, each a correction of what the groups above it expect.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    images = torch.rand(128, tiny().pixels).bernoulli()
    before = model.loss(x=images, beta=1.0, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=images, beta=1.0, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
