r"""DRAW: a deep recurrent attentive writer (Gregor, Danihelka, Graves, Rezende & Wierstra 2015; arXiv:1502.04623).

    Σ_{l=1}^{L} KL[q(z_l|e_l) ‖ p(z_l)] − E_q[log p(x|c_L)]                eqs. 9–11

    r_l = (x, x − σ(c_{l-1})), read where d_{l-1} looks                    eqs. 3, 27
    e_l = lstm^enc(e_{l-1}, r_l, d_{l-1}),  d_l = lstm^dec(d_{l-1}, z_l)   eqs. 5, 7
    c_l = c_{l-1} + write(d_l)                                             eqs. 8, 28

    x    [B, X] square pictures in {0, 1}, X = side²      c_l  [B, X] the canvas, logits of p(x|c_L) = Bernoulli
    z_l  [B, Z] one latent per iteration                  p(z_l) = N(0, I),  q(z_l|e_l) Normal, scale = exp

L iterations are not time: they draw one picture. With ``attention`` N, reading and writing go through an N × N grid of
Gaussian filters whose centre, stride, variance and intensity are read off d (eqs. 19–26). Nats per picture.

Deviations     paper                     here                   why
first state    learned                   zeros                  one less parameter
grids          read 2 × 2, write 5 × 5   one N for both         one setting
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula import KL, Bernoulli, Deterministic, E, Expression, Factor, Normal, Sum, log
from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.metrics.likelihood import importance_bound
from worldformula.model import Model

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """side: of a picture, in pixels. latent: Z. hidden: of both LSTMs. steps: L. attention: N, or None to see all."""

    side: int
    latent: int
    hidden: int
    steps: int
    attention: int | None = None

    def __post_init__(self) -> None:
        if min(self.side, self.latent, self.hidden, self.steps) < 1 or (self.attention or 1) < 1 or self.side < 2:
            raise ConfigError(f"expected side ≥ 2 and latent, hidden, steps, attention ≥ 1, got {self}")


def paper() -> Sizes:
    """Binarised MNIST, with attention: 64 glimpses."""
    return Sizes(side=28, latent=100, hidden=256, steps=64, attention=5)


def tiny() -> Sizes:
    """8 × 8 digits in six iterations without attention."""
    return Sizes(side=8, latent=8, hidden=96, steps=6)


# ---------------------------------------------------------------------------------------------------------- networks


class Grid(nn.Module):
    """N Gaussian filters along each axis of a picture, placed by five numbers that a linear layer reads off d."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.side, self.n = sizes.side, sizes.attention or sizes.side
        self.place = nn.Linear(sizes.hidden, 5)
        self.register_buffer("pixels", torch.arange(sizes.side, dtype=torch.float32), persistent=False)

    def forward(self, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d [B, H] to filters of rows and of columns [B, N, side], each row of which sums to 1, and intensity [B]."""
        g_x, g_y, log_variance, log_stride, log_intensity = self.place(d).unbind(-1)
        scale = (self.side - 1) / 2
        stride = scale * 2 / max(self.n - 1, 1) * log_stride.exp()
        offsets = torch.arange(self.n, device=d.device, dtype=d.dtype) - (self.n - 1) / 2
        banks = []
        for centre in (g_y, g_x):
            mean = ((centre + 1) * scale).unsqueeze(-1) + offsets * stride.unsqueeze(-1)  # [B, N]
            distance = (self.pixels.to(d) - mean.unsqueeze(-1)).square()
            banks.append((-0.5 * distance / log_variance.exp()[:, None, None]).softmax(-1))
        return banks[0], banks[1], log_intensity.exp()


class Read(nn.Module):
    """What is seen of the picture and of what it still lacks: all of both, or a patch of N × N each."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.side = sizes.side
        self.grid = Grid(sizes) if sizes.attention else None
        self.width = 2 * (sizes.attention or sizes.side) ** 2

    def forward(self, x: Tensor, c: Tensor, d: Tensor) -> Tensor:
        """x, c_{l-1} [B, X] and d_{l-1} [B, H] to [B, width]."""
        seen = torch.stack((x, x - c.sigmoid()), 1)
        if self.grid is None:
            return seen.flatten(1)
        rows, columns, intensity = self.grid(d)
        pictures = seen.unflatten(-1, (self.side, self.side))  # [B, 2, side, side]
        patch = rows.unsqueeze(1) @ pictures @ columns.unsqueeze(1).transpose(-1, -2)
        return (intensity[:, None, None, None] * patch).flatten(1)


class Write(nn.Module):
    """c_l from c_{l-1} [B, X] and d_l [B, H]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.n = sizes.attention
        self.grid = Grid(sizes) if sizes.attention else None
        self.patch = nn.Linear(sizes.hidden, (sizes.attention or sizes.side) ** 2)

    def forward(self, c: Tensor, d: Tensor) -> Tensor:
        """The canvas, and what is added to it."""
        if self.grid is None or self.n is None:
            return c + self.patch(d)
        rows, columns, intensity = self.grid(d)
        patch = self.patch(d).unflatten(-1, (self.n, self.n))
        return c + ((rows.transpose(-1, -2) @ patch @ columns) / intensity[:, None, None]).flatten(1)


class Memory(nn.Module):
    """An LSTM cell: output and memory [B, H] from those before and what comes in."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(inputs, hidden)

    def forward(self, h: Tensor, m: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Tensors [B, ...] in the order of the factor."""
        found: tuple[Tensor, Tensor] = self.cell(torch.cat(inputs, -1), (h, m))
        return found


class Moments(nn.Module):
    """e_l to location and scale = exp [B, Z]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.net = nn.Linear(sizes.hidden, 2 * sizes.latent)

    def forward(self, e: Tensor) -> dict[str, Tensor]:
        """eqs. 1 and 2."""
        loc, log_scale = self.net(e).chunk(2, -1)
        return {"loc": loc, "scale": log_scale.clamp(-7.0, 7.0).exp()}


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class Draw(Model):
    """``loss(x=[B, X])`` is −ELBO, ``weight(x=[B, X])`` one sample of log p(x, z) − log q(z|x), [B]."""

    sizes: Sizes
    core: Factor
    canvas: Factor
    weight: Expression
    loss: Expression

    @torch.no_grad()
    def generate(
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        **given: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` pictures ``x`` and the canvases ``c`` [n, L, X] on which they were drawn, as logits."""
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        d = m = torch.zeros(n, self.sizes.hidden, device=self.device)
        c, canvases = torch.zeros(n, self.sizes.side**2, device=self.device), []
        for _ in range(self.sizes.steps):
            z = torch.randn(n, self.sizes.latent, generator=generator, device=self.device)
            d, m = self.core.head(d, m, z)
            c = self.canvas.head(c, d)
            canvases.append(c)
        x = c.sigmoid()
        return {"x": x if mean else torch.bernoulli(x, generator=generator), "c": torch.stack(canvases, 1)}

    @torch.no_grad()
    def reconstruct(self, **data: Tensor) -> dict[str, Tensor]:
        """The mean of x from the modes of its latents."""
        samples = self.loss(**data, deterministic=True).samples
        return {"x": samples[f"c_{self.sizes.steps}"].sigmoid()}

    @torch.no_grad()
    def bound(self, draws: int, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """log (1/K) Σ_k p(x, z_k) / q(z_k|x) [N], in nats."""
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        weights = []
        for first in range(0, draws, chunk):
            k = min(chunk, draws - first)
            rows = data["x"].repeat(k, 1)
            weights.append(self.weight(x=rows, generator=generator).value.view(k, -1))
        return importance_bound(torch.cat(weights))


def build(sizes: Sizes) -> Draw:
    """A DRAW with new weights."""
    H, X = sizes.hidden, sizes.side**2
    read = Read(sizes)
    look = Deterministic("r_l = read(x, c_{l-1}, d_{l-1})", read, shape=read.width)
    encoder = Memory(read.width + H, H)
    encode = Deterministic("e_l, m_l = enc(e_{l-1}, m_{l-1}, r_l, d_{l-1})", encoder, shape=[H, H])
    core = Deterministic("d_l, n_l = dec(d_{l-1}, n_{l-1}, z_l)", Memory(sizes.latent, H), shape=[H, H])
    canvas = Deterministic("c_l = write(c_{l-1}, d_l)", Write(sizes), shape=X)
    q, prior = Normal("q(z_l|e_l)", Moments(sizes), shape=sizes.latent), Normal("p(z_l)", shape=sizes.latent)
    decode = Bernoulli("p(x|c_L)", nn.Identity(), shape=X)
    draws = look * encode * q * core * canvas
    loss = (Sum("l", E(draws, KL(q, prior)), steps=sizes.steps) - log(decode)).mean()
    weight = Sum("l", E(draws, log(prior) - log(q)), steps=sizes.steps) + log(decode)
    return Draw(sizes, core, canvas, weight, loss)


# ------------------------------------------------------------------------------------------------------------ system

FIT = {"steps": 1500, "batch": 64, "lr": 4e-3, "weight_decay": 1e-2, "clip": 10.0, "schedule": "cosine", "ema": 0.99}
SYSTEM = System(
    name="draw",
    kind="models",
    paper="Gregor, Danihelka, Graves, Rezende & Wierstra 2015, ICML; arXiv:1502.04623",
    bibtex="""@inproceedings{gregor2015draw,
  title     = {{DRAW}: A Recurrent Neural Network For Image Generation},
  author    = {Gregor, Karol and Danihelka, Ivo and Graves, Alex and Rezende, Danilo and Wierstra, Daan},
  booktitle = {International Conference on Machine Learning},
  year      = {2015},
  eprint    = {1502.04623},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": FIT},
    build=build,
    summary="A VAE that draws its picture on a canvas in several iterations, with or without attention.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3)
    pixels = torch.rand(64, 64).bernoulli()
    before = model.loss(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per image")
