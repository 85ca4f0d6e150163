"""Vector-quantised VAE (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937).

    −log p(x|z) + ‖sg[e] − c‖² + β ‖e − sg[c]‖²                              eq. 3
    c = the code nearest to e, at each of M positions;  z = e + sg[c − e]    straight-through

    x  [B, X], or [B, C, H, W]       e, c, z  [B, M, D] encoder, codes, decoder's input       k  [B, M] 0 … K−1
    p(x|z) = N(decoder(z), scale²)

An image costs M log₂ K bits. While it is trained the prior of the codes is uniform, so that its KL is the constant
M log K and is left out. With ``update="ema"`` the second term is left out too: codes are moving averages of what they
were chosen for (appendix A.1), in training mode alone.

Deviations     paper                        here                              why
averages       a code can starve            one chosen less than ``restart``  Dhariwal et al. 2020, arXiv:2005.00341:
                                              times a batch starts again at     a starved code never comes back
                                              a random e of the batch
prior          a PixelCNN of the codes      none: `VQVAE.codes` are its data  any model of integers can be one
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from worldformula import Deterministic, E, Expression, Joint, Normal, Value, log, norm2, sg
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.model import Model
from worldformula.nets.perceptron import Perceptron

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths, codes, and how the codes learn.

    Attributes:
        shape: of x: X, or (C, H, W) with H and W divisible by 4 for convolutions.
        positions: M; for convolutions H/4 · W/4.
        codes: K.
        width: D.
        hidden: units of each hidden layer; one number, the channels, for convolutions.
        scale: of p(x|z); its square weighs the reconstruction against the codes.
        commitment: β.
        update: "ema" (moving averages) or "loss" (the second term of eq. 3).
        decay: of the moving averages.
        restart: a code whose average count per batch falls below starts again; 0 for never.
        activation: between layers.
        noise: deviation of the Gaussian noise that training adds to x, where rows are few; 0 for none.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    shape: tuple[int, ...]
    positions: int
    codes: int
    width: int
    hidden: tuple[int, ...]
    scale: float
    commitment: float = 0.25
    update: Literal["ema", "loss"] = "ema"
    decay: float = 0.99
    restart: float = 0.0
    activation: Callable[[], nn.Module] = nn.ReLU
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.update not in ("ema", "loss"):
            raise ConfigError(f"update={self.update!r}: expected 'ema' or 'loss'")
        if len(self.shape) not in (1, 3):
            raise ConfigError(f"expected shape=(X,) or (C, H, W), got {self.shape}")
        if len(self.shape) == 3 and (
            any(side % 4 for side in self.shape[1:]) or self.positions * 16 != self.shape[1] * self.shape[2]
        ):
            raise ConfigError(
                f"convolutions halve each side twice: expected sides divisible by 4 and positions = H/4 · W/4, got "
                f"shape={self.shape}, positions={self.positions}"
            )


def paper() -> Sizes:
    """CIFAR-10, section 4: 32 × 32 × 3 pixels, 8 × 8 positions, 512 codes, 256 channels.

    The numbers of codes and channels are from memory, not checked against the paper.
    """
    return Sizes((3, 32, 32), positions=64, codes=512, width=64, hidden=(256,), scale=0.2)


def tiny() -> Sizes:
    """8 × 8 digits at 4 · log₂ 32 = 20 bits, half a minute on a laptop."""
    return Sizes((64,), positions=4, codes=32, width=2, hidden=(256, 256), scale=0.25, restart=0.5, noise=0.15)


def by_loss() -> Sizes:
    """As ``tiny``, with the codes moved by the loss."""
    return replace(tiny(), update="loss", restart=0.0)


# ---------------------------------------------------------------------------------------------------------- networks


class Codebook(nn.Module):
    """K codes of width D, and the nearest of them.

    ``weight [K, D]`` learns by the loss, or is the moving average of the vectors that chose it; then ``count [K]`` is
    the moving average of how many there were in a batch.
    """

    weight: Tensor
    count: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        start = torch.empty(sizes.codes, sizes.width).uniform_(-1.0, 1.0) / sizes.codes
        self.averaged, self.decay, self.restart = sizes.update == "ema", sizes.decay, sizes.restart
        if self.averaged:
            self.register_buffer("weight", start)
            self.register_buffer("count", torch.ones(sizes.codes))
        else:
            self.weight = nn.Parameter(start)

    def nearest(self, e: Tensor) -> Tensor:
        """``[..., D]`` to the index of the nearest code, ``[...]``."""
        distance: Tensor = self.weight.square().sum(-1) - 2 * e @ self.weight.T  # ‖e‖² is the same for all codes
        return distance.argmin(-1)

    def forward(self, e: Tensor) -> Tensor:
        """``[B, M, D]`` to the nearest codes ``[B, M, D]``; in training mode the averages then move."""
        k = self.nearest(e.detach())
        chosen = self.weight[k]
        if self.averaged and self.training:
            self.move(e.detach().flatten(0, -2), k.flatten())
        return chosen

    @torch.no_grad()
    def move(self, e: Tensor, k: Tensor) -> None:
        """One step of the averages towards the vectors ``e [N, D]`` that chose the codes ``k [N]``."""
        share = nn.functional.one_hot(k, len(self.weight)).to(e)
        total = self.weight * self.count[:, None] * self.decay + (1 - self.decay) * share.T @ e
        self.count.mul_(self.decay).add_(share.sum(0), alpha=1 - self.decay)
        self.weight.copy_(total / self.count.clamp(min=1e-6)[:, None])
        starved = self.count < self.restart
        anew = e[torch.randint(len(e), (len(starved),), device=e.device)]
        self.weight.copy_(torch.where(starved[:, None], anew, self.weight))
        self.count.masked_fill_(starved, max(self.restart, 1.0))


class Positions(nn.Module):
    """Between a flat vector ``[B, M·D]`` and ``[B, M, D]``, or a feature map and its positions."""

    def __init__(self, *shape: int, channels_last: bool = False, channels_first: bool = False) -> None:
        super().__init__()
        self.shape, self.to_last, self.to_first = shape, channels_last, channels_first

    def forward(self, x: Tensor) -> Tensor:
        """Reshaped; channels of a map become the last axis, or the first again."""
        if self.to_last:
            return x.flatten(2).mT
        return (x.mT if self.to_first else x).reshape(len(x), *self.shape)


class Residual(nn.Module):
    """x + conv 1 × 1 of conv 3 × 3, with ReLU before each: the residual block of section 4.1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        found: Tensor = x + self.net(x)
        return found


def networks(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """Encoder to ``[B, M, D]`` and decoder from it: perceptrons, or the convolutions of the paper."""
    M, D = sizes.positions, sizes.width
    if len(sizes.shape) == 1:
        (X,) = sizes.shape
        encoder = nn.Sequential(Perceptron(X, M * D, sizes.hidden, sizes.activation), Positions(M, D))
        return encoder, nn.Sequential(Positions(M * D), Perceptron(M * D, X, sizes.hidden, sizes.activation))
    (C, H, W), (F, *_) = sizes.shape, sizes.hidden
    encoder = nn.Sequential(
        nn.Conv2d(C, F, 4, 2, 1), nn.ReLU(), nn.Conv2d(F, F, 4, 2, 1), Residual(F), Residual(F), nn.Conv2d(F, D, 1),
        Positions(channels_last=True),
    )  # fmt: skip
    decoder = nn.Sequential(
        Positions(D, H // 4, W // 4, channels_first=True), nn.Conv2d(D, F, 3, padding=1), Residual(F), Residual(F),
        nn.ReLU(), nn.ConvTranspose2d(F, F, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(F, C, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


def straight_through(e: Tensor, c: Tensor) -> Tensor:
    """The value of c with the gradient of e."""
    return e + (c - e).detach()


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class VQVAE(Model):
    """The factors and the loss; ``loss(x=…)`` in nats per image. It generates nothing without a model of its codes."""

    encode: Joint
    decode: Normal
    loss: Expression
    codebook: Codebook
    noise: float

    def varied(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With Gaussian noise."""
        return {**rows, "x": rows["x"] + self.noise * torch.randn_like(rows["x"])} if self.noise else dict(rows)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The codes ``[N, M]`` of images, whole numbers from 0 to K − 1."""
        return self.codebook.nearest(self.encode.factors[0].head(x))

    @torch.no_grad()
    def decoded(self, k: Tensor) -> Tensor:
        """Images of codes ``[N, M]``: the mean of p(x|z)."""
        return self.render(z=self.codebook.weight[k])["x"]


def build(sizes: Sizes) -> VQVAE:
    """A model with new weights."""
    encoder, decoder = networks(sizes)
    codebook, event = Codebook(sizes), (sizes.positions, sizes.width)
    found = Deterministic("e = enc(x)", encoder, shape=event)
    chosen = Deterministic("c = nearest(e)", codebook, shape=event)
    passed = Deterministic("z = through(e, c)", straight_through, shape=event)
    decode = Normal("p(x|z)", decoder, shape=sizes.shape, scale=sizes.scale)
    e, c = Value("e"), Value("c")
    loss = sizes.commitment * norm2(e - sg(c)) - log(decode)
    if sizes.update == "loss":
        loss = norm2(sg(e) - c) + loss
    encode = found * chosen * passed
    return VQVAE(encode, decode, E(encode, loss).mean(), codebook, sizes.noise)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="vq_vae",
    kind="models",
    paper="van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937",
    bibtex="""@inproceedings{oord2017vqvae,
  title     = {Neural Discrete Representation Learning},
  author    = {van den Oord, Aaron and Vinyals, Oriol and Kavukcuoglu, Koray},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2017},
  eprint    = {1711.00937},
}""",
    presets={"paper": paper, "tiny": tiny, "by_loss": by_loss},
    fits={"tiny": {"steps": 2500, "batch": 128, "weight_decay": 0.3, "schedule": "cosine"}},
    build=build,
    data="digits-grey",
    summary="An autoencoder whose latents are entries of a learnt codebook: images as a few whole numbers.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    images = torch.rand(128, *tiny().shape)
    model.loss.eval()
    before = model.loss(x=images).value
    before.backward()
    optimiser.step()
    after = model.loss(x=images).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
