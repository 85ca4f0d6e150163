r"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661), and what became of their loss.

Discriminator d (logits, so that its optimum is log p_data(x) − log p(x)) and generator G, with s = softplus:

    non-saturating   d: E_{p_data}[s(−d)] + E_{p(z)}[s(d(G(z)))]     G: E_{p(z)}[s(−d(G(z)))]         section 3
    minimax          d: the same                                    G: −E_{p(z)}[s(d(G(z)))]         eq. 1
    wasserstein      d: E_{p(z)}[d(G(z))] − E_{p_data}[d]           G: −E_{p(z)}[d(G(z))]            arXiv:1701.07875
    penalty on d     R1: ½ γ E_{p_data}‖∇_x d‖², for the first two                                   arXiv:1801.04406
                     γ E(‖∇_x̂ d‖ − 1)², x̂ between x and x̃, for the third                            arXiv:1704.00028

    x  [B, X]      x̃ = G(z)      z  [B, Z], p(z) = N(0, I)

Each player moves its own network only, so nothing is detached by hand; both see the same fakes. The values say nothing
about the quality of the samples.

Deviations     papers                        here            why
networks       maxout, DCGAN                 perceptrons     points and 8 × 8 pictures need no more
optimiser      momentum, RMSprop, Adam       Adam by `fit`   β = (0, 0.99) as usual with R1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor, nn

from worldformula import (
    Data,
    Deterministic,
    E,
    Expression,
    Factor,
    Game,
    GradientPenalty,
    Normal,
    Player,
    Uniform,
    Value,
    softplus,
)
from worldformula.catalogue import System
from worldformula.errors import ConfigError, near
from worldformula.model import Model
from worldformula.nets.critic import Critic
from worldformula.nets.perceptron import Perceptron

Objective = Literal["non-saturating", "minimax", "wasserstein"]

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths, and what is played for.

    Attributes:
        pixels: width X of the data.
        latent: width Z.
        hidden: units of each hidden layer of both networks.
        objective: see the head of the file.
        penalty: γ.
        every: the generator moves at every so many steps of the discriminator.
        betas: of Adam, for both.
        activation: between layers.

    Raises:
        ConfigError: no such objective, or a negative penalty.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    objective: Objective = "non-saturating"
    penalty: float = 0.0
    every: int = 1
    betas: tuple[float, float] = (0.0, 0.99)
    activation: Callable[[], nn.Module] = nn.ReLU

    def __post_init__(self) -> None:
        known = get_args(Objective)
        if self.objective not in known:
            raise ConfigError(
                f"objective={self.objective!r}: there are {', '.join(known)}.{near(self.objective, known)}"
            )
        if self.penalty < 0:
            raise ConfigError(f"penalty= expects a number of at least 0, got {self.penalty}")


def tiny() -> Sizes:
    """Points in the plane: non-saturating with R1; seconds on a laptop."""
    return Sizes(pixels=2, latent=4, hidden=(128, 128), penalty=0.2)


def minimax() -> Sizes:
    """As ``tiny``, the game of the paper's equation 1."""
    return replace(tiny(), objective="minimax")


def plain() -> Sizes:
    """As ``tiny``, without the penalty."""
    return replace(tiny(), penalty=0.0)


def wgan_gp() -> Sizes:
    """As ``tiny``, the Wasserstein game with gradient penalty 0.1 around 1, two moves of the critic to one."""
    return replace(tiny(), objective="wasserstein", penalty=0.1, every=2, betas=(0.0, 0.9))


# ---------------------------------------------------------------------------------------------------------- networks


def between(x: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """x̂ = u x + (1 − u) x̃: ``[B, X]``, ``[B, X]`` and ``[B]`` to ``[B, X]``."""
    return u.unsqueeze(-1) * x + (1 - u.unsqueeze(-1)) * fake


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class GAN(Model):
    """The factors and the game; ``decode`` is the generator, whose x is a function of z. ``loss(x=[B, X])``."""

    prior: Factor
    decode: Factor
    judge: Factor
    loss: Game


def build(sizes: Sizes) -> GAN:
    """A GAN with new weights."""
    X, Z = sizes.pixels, sizes.latent
    data, prior = Data("p_data(x)"), Normal("p(z)", shape=Z)
    decode = Deterministic("x = G(z)", Perceptron(Z, X, sizes.hidden, sizes.activation), shape=X)
    judge = Deterministic("d = D(x)", Critic(X, sizes.hidden), shape=())
    fake, judged = decode.rename(x=r"\tilde x"), judge.rename(x=r"\tilde x", d=r"\tilde d")
    d, of_fake = Value("d"), Value(r"\tilde d")
    both, made = data * prior * fake * judge * judged, data * prior * fake * judged
    if sizes.objective == "wasserstein":
        mixed = Deterministic(r"\hat x = mix(x, \tilde x, u)", between, shape=X)
        line = data * prior * fake * Uniform("p(u)", shape=()) * mixed
        slope = E(line, GradientPenalty(judge.rename(x=r"\hat x"), centre=1.0))
        critic, actor, weight = E(both, of_fake - d), -E(made, of_fake), sizes.penalty
    else:
        slope = E(data, GradientPenalty(judge))
        critic, weight = E(both, softplus(-d) + softplus(of_fake)), 0.5 * sizes.penalty
        saturating = sizes.objective == "minimax"
        actor = -E(made, softplus(of_fake)) if saturating else E(made, softplus(-of_fake))
    penalised = critic + weight * slope if weight else critic
    return GAN(prior, decode, judge, _game(sizes, penalised.mean(), actor.mean(), judge, decode))


def _game(sizes: Sizes, critic: Expression, actor: Expression, judge: Factor, decode: Factor) -> Game:
    return Game(
        d=Player(critic, moves=[judge], betas=sizes.betas),
        g=Player(actor, moves=[decode], betas=sizes.betas, every=sizes.every),
    )


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="gan",
    kind="models",
    paper="Goodfellow et al. 2014, arXiv:1406.2661",
    bibtex="""@inproceedings{goodfellow2014generative,
  title     = {Generative Adversarial Nets},
  author    = {Goodfellow, Ian and Pouget-Abadie, Jean and Mirza, Mehdi and Xu, Bing and Warde-Farley, David and
               Ozair, Sherjil and Courville, Aaron and Bengio, Yoshua},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2014},
  eprint    = {1406.2661},
}""",
    presets={"tiny": tiny, "plain": plain, "minimax": minimax, "wgan_gp": wgan_gp},
    fits={
        "tiny": {"steps": 2500, "batch": 256, "lr": 5e-4, "ema": 0.99},
        "minimax": {"steps": 2500, "batch": 256, "lr": 5e-4, "ema": 0.99},
        "wgan_gp": {"steps": 2500, "batch": 256, "ema": 0.99},
    },
    build=build,
    data="ring",
    summary="A generator and a discriminator play against each other: non-saturating, minimax or Wasserstein.",
)


if __name__ == "__main__":
    import torch

    from worldformula.training.fit import fit

    model = build(tiny())
    for name, player in model.loss.players.items():
        print(name, player.loss, player.loss.code, sep="\n\n", end="\n\n")
    points = torch.randn(256, 2)
    before = model.loss.evaluate({"x": points, "seed": 0})["d"].value
    fit(model.loss, {"x": points}, steps=1, batch=256)
    after = model.loss.evaluate({"x": points, "seed": 0})["d"].value
    print(f"one step: the discriminator's cross-entropy {before.item():.3f} -> {after.item():.3f}")
