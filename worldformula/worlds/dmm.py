"""Deep Markov model (Krishnan, Shalit & Sontag 2017, AAAI; arXiv:1609.09869).

    Σ_t KL[q(z_t|z_{t-1},h_t) ‖ p(z_t|z_{t-1})] − E_q[log p(x_t|z_t)]        eq. 6

    x_t  [B, X] in {0, 1}      p(x_t|z_t) = Bernoulli; of ``observed="numbers"`` Normal
    z_t  [B, Z]                p(z_t|z_{t-1}) = N(gated mean, scale²)        section 2, "gated transition"
    h_t  [B, H]                what an RNN says about x at and behind t (DKS), before it (a filter), or both

With ``actions`` a_{t-1} enters the transition and q. The value is in nats per sequence. ``bound="iwae"`` and ``"fivo"``
train by K particles, the second by a filter that resamples z_t before every step (Maddison et al. 2017,
arXiv:1705.09279). In a world that filters
(``inference="left"``) h is part of the state and stays as it is while the prior imagines; with the other two,
``filter`` smooths: it needs the whole series at once, and single steps are not the same.

Deviations     paper                      here                 why
scale          softplus                   softplus + 10⁻³      its logarithm stays bounded
RNN            vanilla, or LSTM           GRU                  fewer settings
first prior    learned z_0                learned z_0          the reset flags restart there too
KL annealing   yes                        left to the caller   the bound is a bound at every step
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import KL, Deterministic, E, Factor, Joint, Normal, Sum, log
from worldformula.world import World
from worldformula.world.bounds import Bound, check_bound, weighed
from worldformula.world.emission import Observed, check_observed, emission, outputs

Inference = Literal["left", "right", "both"]

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths; ``inference`` says which x the posterior of z_t reads: up to t, from t on, or all."""

    pixels: int
    """X, of a frame."""
    latent: int
    """Z."""
    recurrent: int
    """H, of each direction."""
    transition: int
    """Hidden units of gate and proposal."""
    emission: int
    """Units of both hidden layers of p(x|z)."""
    inference: Inference = "right"
    """``right`` is the paper's DKS, which has what the true posterior needs; ``left`` is a filter."""
    actions: int = 0
    """Width of a_t; 0 for a model without actions."""
    observed: Observed = "bits"
    """What x is: bits, or numbers, each with a deviation that the network tells at every step."""
    bound: Bound = "elbo"
    """What is maximised: ``elbo``, or by K particles ``iwae`` or ``fivo``."""
    samples: int = 1
    """K, of ``iwae`` and ``fivo``."""

    def __post_init__(self) -> None:
        check_observed(self.observed)
        check_bound(self.bound, self.samples)
        widths = (self.pixels, self.latent, self.recurrent, self.transition, self.emission)
        if min(widths) < 1 or self.actions < 0 or self.inference not in ("left", "right", "both"):
            raise ConfigError(
                f"expected widths ≥ 1, actions ≥ 0 and inference 'left', 'right' or 'both', got {widths}, "
                f"actions={self.actions}, inference={self.inference!r}"
            )


def paper() -> Sizes:
    """Polyphonic music, 88 keys."""
    return Sizes(pixels=88, latent=100, recurrent=600, transition=200, emission=100)


def tiny() -> Sizes:
    """The rows of an 8 × 8 digit as time."""
    return Sizes(pixels=8, latent=16, recurrent=64, transition=64, emission=64)


# ---------------------------------------------------------------------------------------------------------- networks


class Transition(nn.Module):
    """(1 − g) ⊙ (W z + b) + g ⊙ proposal(z): a linear map where the gate is closed; it begins as the identity."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        given, hidden, latent = sizes.latent + sizes.actions, sizes.transition, sizes.latent
        self.gate = nn.Sequential(nn.Linear(given, hidden), nn.ReLU(), nn.Linear(hidden, latent), nn.Sigmoid())
        self.proposal = nn.Sequential(nn.Linear(given, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.linear, self.scale = nn.Linear(given, latent), nn.Linear(latent, latent)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor, *a: Tensor) -> dict[str, Tensor]:
        """[N, Z] (and [N, A]) to loc and scale."""
        given = torch.cat((z, *a), -1)
        gate, proposal = self.gate(given), self.proposal(given)
        loc = (1 - gate) * self.linear(given) + gate * proposal
        return {"loc": loc, "scale": F.softplus(self.scale(proposal.relu())) + 1e-3}


class Combiner(nn.Module):
    """q(z_t|z_{t-1},h_t): loc and scale of the mean of h_t and tanh(W z_{t-1} + b)."""

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.past, self.heads = nn.Linear(sizes.latent + sizes.actions, width), nn.Linear(width, 2 * sizes.latent)

    def forward(self, z: Tensor, h: Tensor, *a: Tensor) -> dict[str, Tensor]:
        """[N, Z], [N, H] (and [N, A]) to loc and scale."""
        loc, scale = self.heads((self.past(torch.cat((z, *a), -1)).tanh() + h) / 2).chunk(2, -1)
        return {"loc": loc, "scale": F.softplus(scale) + 1e-3}


class Left(nn.Module):
    """h_t from h_{t-1} and x_t."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cell = nn.GRUCell(sizes.pixels, sizes.recurrent)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """[N, H], [N, X] to [N, H]."""
        return torch.as_tensor(self.cell(x, h))


class Whole(nn.Module):
    """Summaries h_t of x_{t:T}, or of both sides: the series [B, T, X] to [B, T, H] or [B, T, 2 H]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.both = sizes.inference == "both"
        self.rnn = nn.GRU(sizes.pixels, sizes.recurrent, batch_first=True, bidirectional=self.both)

    def forward(self, x: Tensor) -> Tensor:
        """The backward direction alone is a forward one over the reversed series."""
        found: Tensor = self.rnn(x if self.both else x.flip(1))[0]
        return found if self.both else found.flip(1)


def layers_of(sizes: Sizes) -> nn.Sequential:
    """z [N, Z] to logits [N, X], or to locations and deviations [N, 2 X]."""
    hidden = sizes.emission
    layers = (nn.Linear(sizes.latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(hidden, outputs(sizes.pixels, sizes.observed)))


# ----------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """A deep Markov model; ``world.loss(x=[B, T, X], first=[B, T])`` is −ELBO, or minus the bound that was chosen, and
    reads a=[B, T, A] where it has actions.
    """
    act = ",a_{t-1}" if sizes.actions else ""
    width = sizes.recurrent * (2 if sizes.inference == "both" else 1)
    prior = Normal(f"p(z_t|z_{{t-1}}{act})", Transition(sizes), shape=sizes.latent)
    post = Normal(f"q(z_t|z_{{t-1}},h_t{act})", Combiner(sizes, width), shape=sizes.latent)
    decode = emission("p(x_t|z_t)", layers_of(sizes), sizes.pixels, sizes.observed)
    encode: Factor
    generative: Factor | Joint = prior
    if sizes.inference == "left":
        encode = Deterministic("h_t = rnn(h_{t-1}, x_t)", Left(sizes), shape=width)
        generative = Deterministic("h_t = keep(h_{t-1})", nn.Identity(), shape=width) * prior
    else:
        encode = Deterministic("h_t = rnn(x_{1:T})", Whole(sizes), shape=width)
    start = {"z": nn.Parameter(torch.zeros(sizes.latent))}
    loss = Sum("t", E(encode * post, KL(post, prior) - log(decode)), reset="first", initial=start).mean()
    if sizes.bound != "elbo":
        loss = -weighed(
            sizes.bound, encode * post, decode * prior, post, sizes.samples, reset="first", initial=start
        ).mean()
    return World(prior=generative, posterior=encode * post, heads=[decode], loss=loss)


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 1500, "batch": 64, "lr": 8e-3, "weight_decay": 1e-2, "clip": 10.0, "schedule": "cosine", "ema": 0.995
    }
}  # fmt: skip
SYSTEM = System(
    name="dmm",
    kind="worlds",
    paper="Krishnan, Shalit & Sontag 2017, AAAI; arXiv:1609.09869",
    bibtex="""@inproceedings{krishnan2017dmm,
  title     = {Structured Inference Networks for Nonlinear State Space Models},
  author    = {Krishnan, Rahul G. and Shalit, Uri and Sontag, David},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2017},
  eprint    = {1609.09869},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits=FITS,
    build=build,
    data="rolling",
    summary="A Gaussian state-space model with neural transition, emission and inference.",
)


if __name__ == "__main__":
    world = build(tiny())
    print(world.loss, world.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    rows, first = torch.rand(32, 8, 8).bernoulli(), torch.zeros(32, 8, dtype=torch.bool)
    before = world.loss(x=rows, first=first, seed=0).value
    before.backward()
    optimiser.step()
    after = world.loss(x=rows, first=first, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per sequence")
