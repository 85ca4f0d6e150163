"""Hierarchical VAE: groups of latents from the top down, as in a small NVAE (Vahdat & Kautz 2020, arXiv:2007.03898).

    h_1, …, h_L = up(x)                                           bottom-up, one feature per group
    d_l = down(d_{l−1}, z_l),   m_l, s_l = prior(d_{l−1})         top-down, shared by generation and inference
    p(z_l|z_{<l}) = N(m_l, s_l²)                                  N(0, I) at the top
    q(z_l|z_{<l}, x) = N(m_l + Δm, (s_l Δs)²)                     residual Normal, section 3.2
    loss = E_{q(z|x)}[Σ_l β_l KL[q(z_l|z_{<l}, x) ‖ p(z_l|z_{<l})] − log p(x|d_L)]      eq. 1

Its KL is ½ Σ (Δm²/s_l² + Δs² − log Δs² − 1), eq. 2: where Δm = 0 and Δs = 1 the group says nothing, whatever the prior.
The reconstruction may then shrink s_l at no cost, and the smaller s_l the dearer Δm: a lower group that starts silent
stays so. Balancing, appendix A, gives it a cheap start: β_l = β γ_l, where β grows from 0 to 1 and γ_l ∝ E[KL_l] / Z_l,
L in sum, as long as β does. (The appendix has it proportional to the size; its author and code divide by it.)

    x   [B, X] pixels in {0, 1}      p(x|d_L) = Bernoulli
    z_l [B, Z_l] latents of a group, top first      h_l, d_l [B, H]

``posterior``  "residual" as above; "ladder" multiplies prior and bottom-up Normal, so that precisions add (Sønderby et
al. 2016, arXiv:1602.02282, eqs. 9 to 11); "absolute" has m and s of its own, the control.

Deviations     NVAE                                   here                        why
networks       convolutions, BN, squeeze–excitation   residual perceptrons        vectors; tens of pixels
log s, m       5 tanh(·/5) around both                the same around log s       bounds the KL without spectral norms
γ_l            of the KL of the batch                 of the batch before         a coefficient is given, not computed
first weights  weight norm, BN                        He et al. 2015, eq. 10      with PyTorch's own, signals fade
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from worldformula import KL, Bernoulli, Deterministic, E, Expression, Factor, Joint, Normal, Symbol, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError, near
from worldformula.formula.code.out import Out
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

Posterior = Literal["residual", "ladder", "absolute"]
BOUND = 5.0  # of |log s|
FAINT = 0.01  # nats, as a silent group counts in the balance

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
        warm_up: steps in which β grows from 0 to 1 and γ balances the groups; 0 for β_l = 1 throughout.
        balanced: whether γ does; otherwise it is 1.

    Raises:
        ConfigError: fewer than two groups, or no such posterior.
    """

    pixels: int
    latents: tuple[int, ...]
    hidden: int
    posterior: Posterior = "residual"
    activation: Callable[[], nn.Module] = nn.SiLU
    warm_up: int = 0
    balanced: bool = True

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


def perceptron(inputs: int, outputs: int, sizes: Sizes, scale: float = 1.0) -> Perceptron:
    """One hidden layer; the weights keep the size of a signal that passes, times ``scale`` at the end."""
    net = Perceptron(inputs, outputs, (sizes.hidden,), sizes.activation)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    with torch.no_grad():
        net.head.weight.mul_(scale)
    return net


def correction(inputs: int, sizes: Sizes) -> Perceptron:
    """A perceptron whose output is added to a feature L − 1 times: each time by less the more there are."""
    return perceptron(inputs, sizes.hidden, sizes, (len(sizes.latents) - 1) ** -0.5)


class BottomUp(nn.Module):
    """x to ``(h_1, …, h_L)``: each feature is the one below plus a perceptron of it; the top one comes first."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.first = perceptron(sizes.pixels, sizes.hidden, sizes)
        self.blocks = nn.ModuleList(correction(sizes.hidden, sizes) for _ in sizes.latents[1:])

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
        self.net = perceptron(latent, H, sizes) if top else correction(latent + H, sizes)

    def forward(self, *inputs: Tensor) -> Tensor:
        """``[B, H]``, ``[B, Z_l]`` to ``[B, H]``."""
        found: Tensor = self.net(*inputs)
        return found if len(inputs) == 1 else inputs[0] + found


class Moments(nn.Module):
    """Features to mean and scale."""

    def __init__(self, inputs: int, latent: int, sizes: Sizes) -> None:
        super().__init__()
        self.net = perceptron(inputs, 2 * latent, sizes, 0.04)  # starts near N(0, 1), a residual near its prior
        nn.init.zeros_(self.net.head.bias)

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


class Balance:
    """β_l of one group: β γ_l while warming up, then 1.

    Args:
        group: 0 for the top.
        latents: Z_l of every group.
        warm_up: steps until it is 1.
    """

    def __init__(self, group: int, latents: Sequence[int], warm_up: int) -> None:
        self.group, self.latents, self.warm_up = group, tuple(latents), warm_up
        self._beta, self._gamma = linear(0.0, 1.0, warm_up), torch.tensor(1.0)

    def __call__(self, step: int) -> float | Tensor:
        """β_l of this step."""
        return self._beta(step) * self._gamma if step < self.warm_up else 1.0

    @torch.no_grad()
    def observe(self, out: Out) -> None:
        """Takes the share of this group in the KL per latent; none falls to 0, where it would cost nothing."""
        density = torch.stack(rates(out)).detach() + FAINT
        density = density / torch.tensor(self.latents).to(density)
        self._gamma = len(self.latents) * density[self.group] / density.sum()

    def state_dict(self) -> dict[str, Any]:
        """γ."""
        return {"gamma": self._gamma}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts `state_dict` back."""
        self._gamma = state["gamma"]


def rates(out: Out) -> list[Tensor]:
    """KL of every group, from the top, of a result of the loss."""
    return [value for name, value in out.terms.items() if name.startswith("KL(")]


@dataclass(frozen=True, eq=False)
class Hierarchical(Model):
    """The factors and the loss; ``loss(x=[B, X], beta_1=1.0, …, beta_L=1.0)`` is −ELBO in nats."""

    prior: Joint
    encode: Joint
    decode: Joint
    loss: Expression
    sizes: Sizes

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """β_l of every group, from 0 to 1."""
        latents, steps = self.sizes.latents, self.sizes.warm_up
        if not steps:
            return dict.fromkeys(self.coefficients, 1.0)
        if not self.sizes.balanced:
            return dict.fromkeys(self.coefficients, linear(0.0, 1.0, steps))
        return {f"beta_{n + 1}": Balance(n, latents, steps) for n in range(len(latents))}

    @torch.no_grad()
    def rates(self, x: Tensor, *, seed: int | None = None) -> list[float]:
        """KL of every group in nats, from the top, mean over rows: one draw of the groups above it."""
        return [float(rate) for rate in rates(self.loss(x=x, seed=seed, **dict.fromkeys(self.coefficients, 1.0)))]


def build(sizes: Sizes) -> Hierarchical:
    """A model with new weights."""
    Z, H, L = sizes.latents, sizes.hidden, len(sizes.latents)
    features = ", ".join(f"h_{n}" for n in range(1, L + 1))
    up = Deterministic(f"{features} = up(x)", BottomUp(sizes), shape=[(H,)] * L)
    top, top_q = Normal("p(z_1)", shape=Z[0]), Normal("q(z_1|h_1)", Top(H, Z[0], sizes), shape=Z[0])
    state = Deterministic("d_1 = down_1(z_1)", TopDown(Z[0], sizes, top=True), shape=H)
    prior, encode, cost = top * state, up * top_q * state, Symbol("beta_1") * KL(top_q, top)
    for n in range(2, L + 1):
        moments, p, q = group(n, sizes)
        state = Deterministic(f"d_{n} = down_{n}(d_{n - 1}, z_{n})", TopDown(Z[n - 1], sizes, top=False), shape=H)
        prior, encode = prior * moments * p, encode * moments * q
        cost = cost + Symbol(f"beta_{n}") * KL(q, p)
        if n < L:
            prior, encode = prior * state, encode * state
    image = Bernoulli(f"p(x|d_{L})", perceptron(H, sizes.pixels, sizes), shape=sizes.pixels)
    loss = E(encode * state, cost - log(image)).mean()
    return Hierarchical(prior, encode, state * image, loss, sizes)


def group(n: int, sizes: Sizes) -> tuple[Deterministic, Factor, Factor]:
    """Prior moments, prior and posterior of group ``n``, from 2."""
    H, Z = sizes.hidden, sizes.latents[n - 1]
    moments = Deterministic(f"m_{n}, s_{n} = prior_{n}(d_{n - 1})", Moments(H, Z, sizes), shape=[(Z,), (Z,)])
    prior = Normal(f"p(z_{n}|m_{n},s_{n})", Given(), shape=Z)
    posterior = Normal(f"q(z_{n}|m_{n},s_{n},d_{n - 1},h_{n})", Lower(Z, sizes), shape=Z)
    return moments, prior, posterior


# ------------------------------------------------------------------------------------------------------------ system

FIT = {"steps": 4000, "batch": 64, "lr": 2e-3, "weight_decay": 0.1, "schedule": "cosine"}
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
    fits=dict.fromkeys(("tiny", "absolute"), FIT),
    build=build,
    summary="A VAE whose latents come in groups, each a correction of what the groups above it expect.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    images = torch.rand(128, tiny().pixels).bernoulli()
    ones = dict.fromkeys(model.coefficients, 1.0)
    before = model.loss(x=images, seed=0, **ones).value
    before.backward()
    optimiser.step()
    after = model.loss(x=images, seed=0, **ones).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
