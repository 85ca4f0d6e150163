r"""Conditional generative adversarial network (Mirza & Osindero 2014, arXiv:1411.1784).

    d:  E_{p_data(x,y)}[softplus(−d(x', y))] + E_{p(z), p_data(y)}[softplus(d(x̃', y))] + ½ γ E‖∇_{x'} d‖²     eq. 2, R1
    G:  E_{p(z), p_data(y)}[softplus(−d(x̃', y))],   x̃ = G(z, y)

    x  [B, X] grey levels in [0, 1]      y  [B, C] one-hot label      z  [B, Z], p(z) = N(0, I)
    x' = x + noise·ε and x̃' likewise: what the discriminator sees is blurred a little, as real pixels lie on few levels

Deviations     paper                    here                          why
generator's    minimax                  non-saturating                gradients where the discriminator wins
networks       maxout, dropout          perceptrons, R1, blur         R1 replaces what dropout did
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import Data, Deterministic, E, Factor, Game, GradientPenalty, Normal, Player, Value, softplus
from worldformula.catalogue import System
from worldformula.model import Model
from worldformula.nets.critic import Critic
from worldformula.nets.perceptron import Perceptron

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths and penalties.

    Attributes:
        pixels: width X.
        classes: C.
        latent: width Z.
        hidden: units of each hidden layer of both networks.
        penalty: γ of R1.
        noise: deviation of the blur before the discriminator.
        betas: of Adam, for both.
        activation: between layers of the generator.
    """

    pixels: int
    classes: int
    latent: int
    hidden: tuple[int, ...]
    penalty: float = 1.0
    noise: float = 0.02
    betas: tuple[float, float] = (0.0, 0.99)
    activation: Callable[[], nn.Module] = nn.ReLU


def tiny() -> Sizes:
    """8 × 8 digits with their labels; a minute on a laptop."""
    return Sizes(pixels=64, classes=10, latent=32, hidden=(256, 256))


# ---------------------------------------------------------------------------------------------------------- networks


class Painter(nn.Module):
    """A perceptron whose outputs are grey levels in (0, 1)."""

    def __init__(self, net: Perceptron) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """``z [B, Z]`` and ``y [B, C]`` to ``[B, X]``."""
        found: Tensor = self.net(z, y).sigmoid()
        return found


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class CGAN(Model):
    """The factors and the game, ``loss(x=[B, X], y=[B, C])``; ``generate(n, y=[n, C])`` draws of given classes."""

    prior: Factor
    decode: Factor
    judge: Factor
    loss: Game

    @torch.no_grad()
    def draw(self, y: Tensor, *, seed: int | None = None) -> Tensor:
        """One picture ``[N, X]`` for each label ``[N, C]``."""
        return self.generate(len(y), seed=seed, y=y)["x"]


def build(sizes: Sizes) -> CGAN:
    """A conditional GAN with new weights."""
    X, C, Z = sizes.pixels, sizes.classes, sizes.latent
    pictures, labels, prior = Data("p_data(x)"), Data("p_data(y)", shape=C), Normal("p(z)", shape=Z)
    decode = Deterministic("x = G(z, y)", Painter(Perceptron(Z + C, X, sizes.hidden, sizes.activation)), shape=X)
    judge = Deterministic("d = D(x', y)", Critic(X + C, sizes.hidden), shape=())
    blur = Normal("n(x'|x)", nn.Identity(), shape=X, scale=sizes.noise)
    fake = decode.rename(x=r"\tilde x") * blur.rename(x=r"\tilde x", x_prime=r"\tilde x'")
    judged = judge.rename(x_prime=r"\tilde x'", d=r"\tilde d")
    real = pictures * labels * blur
    d, of_fake = Value("d"), Value(r"\tilde d")
    critic = E(real * prior * fake * judge * judged, softplus(-d) + softplus(of_fake))
    critic = critic + 0.5 * sizes.penalty * E(real, GradientPenalty(judge))
    actor = E(labels * prior * fake * judged, softplus(-of_fake))
    game = Game(
        d=Player(critic.mean(), moves=[judge], betas=sizes.betas),
        g=Player(actor.mean(), moves=[decode], betas=sizes.betas),
    )
    return CGAN(prior, decode, judge, game)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="cgan",
    kind="models",
    paper="Mirza & Osindero 2014, arXiv:1411.1784",
    bibtex="""@article{mirza2014conditional,
  title   = {Conditional Generative Adversarial Nets},
  author  = {Mirza, Mehdi and Osindero, Simon},
  journal = {arXiv preprint arXiv:1411.1784},
  year    = {2014},
}""",
    presets={"tiny": tiny},
    fits={"tiny": {"steps": 6000, "batch": 128, "lr": 3e-4, "ema": 0.998}},
    build=build,
    data="digits-grey",
    summary="A generative adversarial network that draws pictures of a given class.",
)


if __name__ == "__main__":
    from worldformula.training.fit import fit

    model = build(tiny())
    for name, player in model.loss.players.items():
        print(name, player.loss, player.loss.code, sep="\n\n", end="\n\n")
    rows = {"x": torch.rand(128, 64), "y": torch.eye(10)[torch.arange(128) % 10]}
    before = model.loss.evaluate({**rows, "seed": 0})["d"].value
    fit(model.loss, rows, steps=1, batch=128)
    after = model.loss.evaluate({**rows, "seed": 0})["d"].value
    print(f"one step: the discriminator's loss {before.item():.3f} -> {after.item():.3f}")
