r"""Variational recurrent neural network (Chung et al. 2015, NeurIPS; arXiv:1506.02216).

    Σ_t KL[q(z_t|x_t,h_{t-1}) ‖ p(z_t|h_{t-1})] − E_q[log p(x_t|z_t,h_{t-1})]        eq. 10
    h_t = f(x_t, z_t, h_{t-1})                                                       eq. 3

    x_t  [B, X] in {0, 1}    p(x_t|z_t,h_{t-1}) = Bernoulli, logits; of ``observed="numbers"`` Normal, scale = softplus
    z_t  [B, Z]              p and q Normal, scale = softplus
    h_t  [B, H]              GRU of the features \tilde x_t = φ_x(x_t), \tilde z_t = φ_z(z_t), [B, F] each

φ_x serves q and the recurrence, φ_z the decoder and the recurrence; each runs once per step. A state is h_t, what the
next step reads, with g_t = h_{t-1} and \tilde z_t, what the picture of this step is made of. The value is in nats per
sequence. ``bound="iwae"`` and ``"fivo"`` train by K particles: log (1/K) Σ_k Π_t w_t^k of whole sequences, and
Σ_t log (1/K) Σ_k w_t^k of a filter that resamples z_t, h_t before every step (Maddison et al. 2017, arXiv:1705.09279).

Deviations     paper                       here     why
recurrence     LSTM                        GRU      one tensor of state; the later public versions agree
x_t            Gaussian mixtures, speech   binary   the data of the card; ``numbers`` are one Gaussian each
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldformula.catalogue import System
from worldformula.formula import KL, Deterministic, E, Normal, Sum, log
from worldformula.world import World
from worldformula.world.bounds import Bound, check_bound, weighed
from worldformula.world.emission import Observed, check_observed, emission, outputs

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths: pixels X of a frame, latent Z, recurrent H, features F of x and z and of the heads' hidden layers."""

    pixels: int
    latent: int
    recurrent: int
    features: int
    observed: Observed = "bits"
    """What x is: bits, or numbers, each with a deviation that the network tells at every step."""
    bound: Bound = "elbo"
    """What is maximised: ``elbo``, or by K particles ``iwae`` or ``fivo``."""
    samples: int = 1
    """K, of ``iwae`` and ``fivo``."""

    def __post_init__(self) -> None:
        check_observed(self.observed)
        check_bound(self.bound, self.samples)


def paper() -> Sizes:
    """Speech: 200 samples a step, 2000 recurrent units, latents of 200."""
    return Sizes(pixels=200, latent=200, recurrent=2000, features=600)


def rows() -> Sizes:
    """The rows of an MNIST digit as time, as in public implementations."""
    return Sizes(pixels=28, latent=64, recurrent=100, features=100)


def tiny() -> Sizes:
    """The rows of an 8 × 8 digit as time."""
    return Sizes(pixels=8, latent=8, recurrent=64, features=64)


# ---------------------------------------------------------------------------------------------------------- networks


class Gaussian(nn.Module):
    """Inputs, concatenated, through one hidden layer to loc and scale [N, Z]."""

    def __init__(self, inputs: int, sizes: Sizes) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, sizes.features), nn.ReLU(), nn.Linear(sizes.features, 2 * sizes.latent)
        )

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        """Tensors [N, ...] in the order of the factor."""
        loc, scale = self.net(torch.cat(given, -1)).chunk(2, -1)
        return {"loc": loc, "scale": F.softplus(scale) + 1e-3}


class Pixels(nn.Module):
    """φ_z(z_t) [N, F] and h_{t-1} [N, H] to logits [N, X], or to locations and deviations [N, 2 X]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.features
        self.net = nn.Sequential(
            nn.Linear(width + sizes.recurrent, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, outputs(sizes.pixels, sizes.observed)),
        )  # fmt: skip

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """Features, then the state before this step."""
        return torch.as_tensor(self.net(torch.cat((z, h), -1)))


class Recurrence(nn.Module):
    """h_t from the features of x_t and z_t [N, F] each, and h_{t-1} [N, H]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2 * sizes.features, sizes.recurrent)

    def forward(self, x: Tensor, z: Tensor, h: Tensor) -> Tensor:
        """In the order of eq. 3."""
        return torch.as_tensor(self.cell(torch.cat((x, z), -1), h))


def features(inputs: int, sizes: Sizes) -> nn.Sequential:
    """φ: [N, inputs] to [N, F]."""
    width = sizes.features
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


# ----------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """A VRNN; ``world.loss(x=[B, T, X], first=[B, T])`` is −ELBO, or minus the bound that was chosen."""
    hidden, width = sizes.recurrent, sizes.features
    phi_x = Deterministic(r"\tilde x_t = phi_x(x_t)", features(sizes.pixels, sizes), shape=width)
    phi_z = Deterministic(r"\tilde z_t = phi_z(z_t)", features(sizes.latent, sizes), shape=width)
    prior = Normal("p(z_t|h_{t-1})", Gaussian(hidden, sizes), shape=sizes.latent)
    post = Normal(r"q(z_t|\tilde x_t,h_{t-1})", Gaussian(width + hidden, sizes), shape=sizes.latent)
    decode = emission(r"p(x_t|\tilde z_t,h_{t-1})", Pixels(sizes), sizes.pixels, sizes.observed)
    core = Deterministic(r"h_t = f(\tilde x_t, \tilde z_t, h_{t-1})", Recurrence(sizes), shape=hidden)
    steps = phi_x * post * phi_z * core
    loss = Sum("t", E(steps, KL(post, prior) - log(decode)), reset="first").mean()
    if sizes.bound != "elbo":
        loss = -weighed(sizes.bound, steps, decode * prior, post, sizes.samples, reset="first").mean()
    past = Deterministic("g_t = past(h_{t-1})", nn.Identity(), shape=hidden)
    return World(
        prior=prior * phi_z * decode * phi_x * core * past,
        posterior=steps * past,
        heads=[decode.rename(h_prev="g_t")],
        loss=loss,
    )


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "tiny": {
        "steps": 1500, "batch": 64, "lr": 2e-3, "weight_decay": 1e-2, "clip": 10.0, "schedule": "cosine", "ema": 0.995
    }
}  # fmt: skip
SYSTEM = System(
    name="vrnn",
    kind="worlds",
    paper="Chung, Kastner, Dinh, Goel, Courville & Bengio 2015, NeurIPS; arXiv:1506.02216",
    bibtex="""@inproceedings{chung2015vrnn,
  title     = {A Recurrent Latent Variable Model for Sequential Data},
  author    = {Chung, Junyoung and Kastner, Kyle and Dinh, Laurent and Goel, Kratarth and Courville, Aaron
               and Bengio, Yoshua},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2015},
  eprint    = {1506.02216},
}""",
    presets={"paper": paper, "rows": rows, "tiny": tiny},
    fits=FITS,
    build=build,
    data="rolling",
    summary="A recurrent network with a latent variable per step, whose prior reads the recurrent state.",
)


if __name__ == "__main__":
    world = build(tiny())
    print(world.loss, world.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    frames, first = torch.rand(32, 8, 8).bernoulli(), torch.zeros(32, 8, dtype=torch.bool)
    before = world.loss(x=frames, first=first, seed=0).value
    before.backward()
    optimiser.step()
    after = world.loss(x=frames, first=first, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per sequence")
