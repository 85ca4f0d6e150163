"""Variational auto-encoder (Kingma & Welling 2013, arXiv:1312.6114).

    KL[q(z|x) ‖ p(z)] − E_{q(z|x)}[log p(x|z)]        eq. 3; the KL in closed form, appendix B

    V of World Models (Ha & Schmidhuber 2018, arXiv:1803.10122), preset `world_models`:
    mean_B[ max(KL, ½ Z) − log N(x; decoder(z), ½) ]; the last is Σ (x − decoder(z))² and a constant

    x  [B, X] pixels in {0, 1} (or [0, 1])      p(x|z) = Bernoulli(logits = decoder(z))
       or any numbers, with a `deviation`       p(x|z) = N(decoder(z), deviation²)
    z  [B, Z] latent                            p(z) = N(0, I),  q(z|x) = N(loc, scale²) of encoder(x)

The value is in nats per image: summed over pixels and latents, mean over the batch.

Deviations     paper                        here                       why
scale          exp(½ · log σ²)              softplus                   its gradient stays bounded
optimiser      Adagrad, batch 100           left to the caller         the formula does not depend on it
weights        N(0, 0.01²), weight decay    PyTorch's own              as in later code
V's scale      exp(½ · log σ²)              softplus                   as above
V's pictures   in [0, 1]                    the encoder reads x − ½    its weights begin around zero
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from worldformula import KL, Bernoulli, E, Expression, Factor, Normal, log, maximum
from worldformula.catalogue import System
from worldformula.errors import ConfigError, ShapeError
from worldformula.model import Model
from worldformula.nets.pictures import PictureDecoder, PictureEncoder
from worldformula.nets.strided import StridedDecoder, StridedEncoder, stages

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """pixels: width X of an image. latent: width Z. hidden: units of each hidden layer. activation: between layers.

    deviation: of numbers around what the decoder makes of z; None for bits. picture: height, width and channels of the
    pixels, for convolutions, of which ``hidden`` are then the channels; None for a perceptron. strided: convolutions as
    World Models has them, 4 × 4 without padding, up to a 2 × 2 place, and 5 or 6 wide back; their channels double.
    free: nats of each latent that cost nothing, together, in each image.
    """

    pixels: int
    latent: int
    hidden: tuple[int, ...]
    activation: Callable[[], nn.Module]
    deviation: float | None = None
    picture: tuple[int, int, int] | None = None
    strided: bool = False
    free: float = 0.0


def paper() -> Sizes:
    """MNIST: one hidden layer of 500 units, tanh; the largest but one of its latent widths 3, 5, 10, 20, 200."""
    return Sizes(pixels=784, latent=20, hidden=(500,), activation=nn.Tanh)


def tiny() -> Sizes:
    """8 × 8 digits, seconds on a laptop."""
    return Sizes(pixels=64, latent=16, hidden=(256, 256), activation=nn.SiLU)


def pictures() -> Sizes:
    """Pictures in [0, 1] of any size, by convolutions; of 32 × 32 pixels in colour, minutes on a laptop."""
    return Sizes(3072, 32, hidden=(32, 64, 128), activation=nn.SiLU, deviation=0.1, picture=(32, 32, 3))


def world_models() -> Sizes:
    """V of World Models: pictures of 64 × 64 in colour, 4,348,547 weights."""
    return Sizes(
        12288, 32, hidden=(32, 64, 128, 256), activation=nn.ReLU, deviation=math.sqrt(0.5), picture=(64, 64, 3),
        strided=True, free=0.5,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- networks


class Picture(nn.Module):
    """Rows ``[..., H · W · C]``, channels last, as pictures ``[N, H, W, C]`` to networks ``[N, outputs]``."""

    def __init__(self, picture: tuple[int, int, int], net: nn.Module) -> None:
        super().__init__()
        self.picture, self.net = picture, net

    def forward(self, x: Tensor) -> Tensor:
        """Any number of leading axes."""
        if x.shape[-1] != math.prod(self.picture):
            size = " × ".join(map(str, self.picture))
            raise ShapeError(f"pictures of {size} are rows of {math.prod(self.picture)} numbers, got {list(x.shape)}")
        found: Tensor = self.net(x.reshape(-1, *self.picture))
        return found.reshape(*x.shape[:-1], -1)


class Row(nn.Module):
    """Codes ``[..., Z]`` to networks of pictures, whose sigmoid are rows ``[..., H · W · C]`` in (0, 1)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        """Any number of leading axes."""
        found: Tensor = self.net(z.reshape(-1, z.shape[-1]))
        return found.sigmoid().reshape(*z.shape[:-1], -1)


def encoder(sizes: Sizes) -> nn.Module:
    """``[..., X]`` to ``[..., 2 Z]``."""
    if sizes.picture is None:
        return mlp(sizes.pixels, 2 * sizes.latent, sizes)
    if sizes.strided:
        size, channels = strided(sizes)
        net = StridedEncoder(size, channels, sizes.hidden[0], sizes.activation)
        return Picture(sizes.picture, nn.Sequential(net, nn.Linear(net.width, 2 * sizes.latent)))
    if math.prod(sizes.picture) != sizes.pixels:
        raise ConfigError(f"a picture of {sizes.picture} has {math.prod(sizes.picture)} pixels, got {sizes.pixels=}")
    return PictureEncoder(sizes.picture, 2 * sizes.latent, sizes.hidden, sizes.activation)


def decoder(sizes: Sizes) -> nn.Module:
    """``[..., Z]`` to ``[..., X]``."""
    if sizes.picture is None:
        return mlp(sizes.latent, sizes.pixels, sizes)
    if sizes.strided:
        return Row(StridedDecoder(sizes.latent, *strided(sizes), sizes.hidden[0], sizes.activation))
    return PictureDecoder(sizes.latent, sizes.picture, sizes.hidden, sizes.activation)


def strided(sizes: Sizes) -> tuple[int, int]:
    """Edge and channels of the pictures of strided convolutions.

    Raises:
        ConfigError: pictures that are not square, or of another number of pixels, or channels that do not double.
    """
    height, width, channels = sizes.picture or (0, 0, 0)
    wanted = tuple(sizes.hidden[0] * 2**i for i in range(stages(height)))
    if height != width or math.prod((height, width, channels)) != sizes.pixels or sizes.hidden != wanted:
        raise ConfigError(
            f"strided convolutions expect square pictures, here {height} × {height} × {channels} of "
            f"{height * height * channels} pixels, and hidden={wanted}, got {sizes.picture}, {sizes.pixels=} and "
            f"hidden={sizes.hidden}"
        )
    return height, channels


def mlp(inputs: int, outputs: int, sizes: Sizes) -> nn.Sequential:
    """Hidden layers with their activation, then a linear layer: ``[..., inputs]`` to ``[..., outputs]``."""
    layers: list[nn.Module] = []
    for width in sizes.hidden:
        layers += [nn.Linear(inputs, width), sizes.activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class VAE(Model):
    """The factors and the loss; ``loss`` is the module that holds all weights. ``loss(x=[B, X])`` is −ELBO in nats."""

    prior: Factor
    encode: Factor
    decode: Factor
    loss: Expression


def build(sizes: Sizes) -> VAE:
    """A VAE with new weights."""
    prior = Normal("p(z)", shape=sizes.latent)
    encode = Normal("q(z|x)", encoder(sizes), shape=sizes.latent)
    if sizes.deviation is None:
        decode: Factor = Bernoulli("p(x|z)", decoder(sizes), shape=sizes.pixels)
    else:
        decode = Normal("p(x|z)", decoder(sizes), shape=sizes.pixels, scale=sizes.deviation)
    nats = maximum(KL(encode, prior), sizes.free * sizes.latent) if sizes.free else KL(encode, prior)
    loss = (nats - E(encode, log(decode))).mean()
    return VAE(prior, encode, decode, loss)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="vae",
    kind="models",
    paper="Kingma & Welling 2013, arXiv:1312.6114",
    bibtex="""@inproceedings{kingma2014vae,
  title     = {Auto-Encoding Variational {B}ayes},
  author    = {Kingma, Diederik P. and Welling, Max},
  booktitle = {International Conference on Learning Representations},
  year      = {2014},
  eprint    = {1312.6114},
}""",
    presets={"paper": paper, "tiny": tiny, "pictures": pictures, "world_models": world_models},
    fits={"tiny": {"steps": 2300, "batch": 64, "weight_decay": 3e-3}},
    build=build,
    summary="A latent-variable model of images, trained by the evidence lower bound.",
)


if __name__ == "__main__":
    import torch

    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.rand(128, tiny().pixels).bernoulli()
    before = model.loss(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
