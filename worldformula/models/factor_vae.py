r"""FactorVAE (Kim & Mnih 2018, arXiv:1802.05983): a VAE whose latents are pushed to be independent of each other.

    KL[q(z|x) ‖ p(z)] − E_{q(z|x)}[log p(x|z)] + γ D_KL[q(z) ‖ ∏_j q(z_j)]                     eq. 2
    the last term, the total correlation, by a density ratio:  E_{q(z)}[d(z)]                  eq. 3

    x, x'  [B, X] two batches of data        p(x|z) = Bernoulli; on grey values a cross-entropy, not a likelihood
    z      [B, Z] latent                     q(z|x) = N(loc, scale²), p(z) = N(0, I)

A sample of ∏_j q(z_j) is a row of z' ~ q(z'|x') after *each* coordinate was permuted by itself over the second batch;
the order of the noise u says how. The discriminator's loss sees stopped samples: it never reaches the encoder.

Deviations     paper                       here                why
D's output     two logits                  their difference    the same function
scale          exp(½ · log σ²)             softplus            its gradient stays bounded
γ              from the first step         may grow from 0     the discriminator has to learn first
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from worldformula import (
    KL,
    Bernoulli,
    Data,
    DensityRatio,
    Deterministic,
    E,
    Expression,
    Factor,
    Game,
    Normal,
    Player,
    Symbol,
    log,
)
from worldformula.catalogue import System
from worldformula.errors import ShapeError
from worldformula.model import Model
from worldformula.nets.critic import Critic, PermuteEach
from worldformula.nets.perceptron import Perceptron
from worldformula.training.schedules import Schedule, linear

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths and coefficients.

    Attributes:
        pixels: X.
        latent: Z.
        hidden: units of each hidden layer of encoder and decoder.
        critic: those of the discriminator.
        gamma: γ.
        warm_up: steps in which γ grows from 0; 0 for γ throughout.
        critic_lr: step size of the discriminator.
        critic_betas: of its Adam.
        activation: between layers of encoder and decoder.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    critic: tuple[int, ...]
    gamma: float
    warm_up: int = 0
    critic_lr: float = 1e-4
    critic_betas: tuple[float, float] = (0.5, 0.9)
    activation: Callable[[], nn.Module] = nn.ReLU


def paper() -> Sizes:
    """dSprites, γ = 35: 10 latents, the discriminator with 6 layers of 1000; perceptrons in place of convolutions."""
    return Sizes(4096, 10, hidden=(1200, 1200), critic=(1000,) * 6, gamma=35.0)


def tiny() -> Sizes:
    """Mini-sprites of 16 × 16 pixels; half a minute on a laptop."""
    return Sizes(256, 6, hidden=(256, 256), critic=(256, 256), gamma=10.0, warm_up=1500, critic_lr=5e-4)


def turned() -> Sizes:
    """Turned sprites of 32 × 32 pixels; half a minute on a laptop. Two batches a step, so 128 rows are 64 of either."""
    return Sizes(1024, 10, hidden=(128, 128), critic=(256, 256), gamma=10.0, warm_up=800)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class FactorVAE(Model):
    """The factors and the game, ``loss(x=[B, X], x_prime=[B, X], gamma=…)``, in nats per row."""

    prior: Factor
    encode: Factor
    decode: Factor
    judge: Factor
    correlation: Expression
    loss: Game
    gamma: float
    warm_up: int

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """γ, from 0."""
        return {"gamma": linear(0.0, self.gamma, self.warm_up) if self.warm_up else self.gamma}

    def given(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Two batches: the first and the second half of the rows; of an odd number, all but the last."""
        x = rows["x"]
        half = len(x) // 2
        if not half:
            raise ShapeError(f"FactorVAE reads two batches: expected two rows or more, got {len(x)}")
        return {"x": x[:half], "x_prime": x[half : 2 * half]}

    def codes(self, x: Tensor) -> Tensor:
        """The means of q(z|x), ``[N, Z]``: what measures of disentanglement read."""
        return self.latents(x=x)["z"]


def build(sizes: Sizes) -> FactorVAE:
    """A FactorVAE with new weights."""
    X, Z = sizes.pixels, sizes.latent
    prior = Normal("p(z)", shape=Z)
    encode = Normal("q(z|x)", Perceptron(X, 2 * Z, sizes.hidden, sizes.activation), shape=Z)
    decode = Bernoulli("p(x|z)", Perceptron(Z, X, sizes.hidden, sizes.activation), shape=X)
    judge = Deterministic("d = D(z)", Critic(Z, sizes.critic), shape=())
    data, order = Data("p_data(x)"), Normal("p(u)", shape=Z)
    aggregate = (data * encode).marginal("x")
    other = (data * encode).rename(x="x'", z="z'")
    independent = other * order * Deterministic("z = permute(z', u)", PermuteEach(), shape=Z)
    ratio = DensityRatio(aggregate, independent, judge)
    correlation = ratio.kl()
    bound = KL(encode, prior) - E(encode, log(decode)) + Symbol("gamma") * correlation
    game = Game(
        vae=Player(bound.mean(), moves=[encode, decode]),
        d=Player(ratio.loss(), moves=[judge], lr=sizes.critic_lr, betas=sizes.critic_betas),
    )
    return FactorVAE(prior, encode, decode, judge, correlation, game, sizes.gamma, sizes.warm_up)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="factor_vae",
    kind="models",
    paper="Kim & Mnih 2018, arXiv:1802.05983",
    bibtex="""@inproceedings{kim2018disentangling,
  title     = {Disentangling by Factorising},
  author    = {Kim, Hyunjik and Mnih, Andriy},
  booktitle = {International Conference on Machine Learning},
  year      = {2018},
  eprint    = {1802.05983},
}""",
    presets={"paper": paper, "tiny": tiny, "turned": turned},
    fits={"turned": {"steps": 2500, "batch": 128}},
    build=build,
    data="sprites",
    summary="A variational auto-encoder whose latents a discriminator keeps from depending on each other.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    for name, player in model.loss.players.items():
        print(name, player.loss, player.loss.code, sep="\n\n", end="\n\n")
    data = {**model.given({"x": torch.rand(128, tiny().pixels)}), "gamma": 10.0, "seed": 0}
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    before = model.loss.evaluate(data)["vae"].value
    before.backward()
    optimiser.step()
    after = model.loss.evaluate(data)["vae"].value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
