r"""Parts of diffusion models: the noise schedule, its Gaussians, samplers, and a denoising network for vectors.

    q(x_t|x_0)       = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                                             Ho et al. 2020, eq. 4
    q(x_t−1|x_t,x_0) = N(μ̃_t(x_t, x_0), β̃_t I)                                              eq. 6 and 7
    p(x_t−1|x_t)     = N(μ̃_t(x_t, x̂_0), σ_t² I),  x̂_0 = (x_t − √(1−ᾱ_t) ε_θ(x_t, t)) / √ᾱ_t   eq. 11

(arXiv:2006.11239.) Steps are counted as in the paper: t = 1 … T, int64, and ᾱ_0 = 1. Events have one axis or more; t
has the batch axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> ε
Gaussian = dict[str, Tensor]
MAX_BETA = 0.999


def linear(T: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """β_1 … β_T evenly spaced, float64 (Ho et al. 2020, section 4: T = 1000)."""
    return torch.linspace(first, last, T, dtype=torch.float64)


def cosine(T: int, offset: float = 0.008) -> Tensor:
    """β_t = 1 − ᾱ_t/ᾱ_t−1 with ᾱ_t ∝ cos²(½π (t/T + s)/(1 + s)), at most .999 (Nichol & Dhariwal 2021, eq. 17)."""
    t = torch.arange(T + 1, dtype=torch.float64) / T
    kept = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=MAX_BETA)


class Schedule(nn.Module):
    """The numbers of a chain for β_1 … β_T, and its Gaussians. Without weights."""

    alpha_bar: Tensor
    beta: Tensor
    beta_tilde: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ConfigError("Schedule: expected betas [T] between 0 and 1, with T of at least 2")
        beta = torch.cat((betas.new_zeros(1), betas)).double()
        alpha_bar = (1 - beta).cumprod(0)
        tilde = torch.zeros_like(beta)
        tilde[1:] = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
        for name, value in (("alpha_bar", alpha_bar), ("beta", beta), ("beta_tilde", tilde)):
            self.register_buffer(name, value.float())

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.beta) - 1

    @staticmethod
    def at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """``values[t]`` with axes of size 1 behind it, to go with events like ``like``."""
        found = values[t]
        return found.reshape(*found.shape, *[1] * (like.ndim - found.ndim)).to(like.dtype)

    def diffuse(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε."""
        kept = self.at(self.alpha_bar, t, x_0)
        return kept.sqrt() * x_0 + (1 - kept).sqrt() * noise

    def noised(self, x_0: Tensor, t: Tensor) -> Gaussian:
        """q(x_t|x_0)."""
        kept = self.at(self.alpha_bar, t, x_0)
        return {"loc": kept.sqrt() * x_0, "scale": (1 - kept).sqrt().expand_as(x_0)}

    def mean(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """μ̃_t, eq. 7."""
        now, before = self.at(self.alpha_bar, t, x_t), self.at(self.alpha_bar, t - 1, x_t)
        beta = self.at(self.beta, t, x_t)
        return (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - now)

    def clean(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_0 of x_t and its noise."""
        kept = self.at(self.alpha_bar, t, x_t)
        return (x_t - (1 - kept).sqrt() * noise) / kept.sqrt()


# -------------------------------------------------------------------------------------------- networks of the factors


class Noised(nn.Module):
    """Network of q(x_t|x_0,t); with a fixed step, of q(x_T|x_0)."""

    def __init__(self, schedule: Schedule, step: int | None = None) -> None:
        super().__init__()
        self.schedule, self.step = schedule, step

    def forward(self, x_0: Tensor, t: Tensor | None = None) -> Gaussian:
        """x_0 ``[N, ...]``, t ``[N]``."""
        if self.step is not None:
            t = torch.full((len(x_0),), self.step, device=x_0.device)
        assert t is not None
        return self.schedule.noised(x_0, t)


class Posterior(nn.Module):
    """Network of q(x_t−1|x_t,x_0,t), for t ≥ 2."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Gaussian:
        """x_t and x_0 ``[N, ...]``, t ``[N]``."""
        scale = self.schedule.at(self.schedule.beta_tilde, t, x_t).sqrt()
        return {"loc": self.schedule.mean(x_t, x_0, t), "scale": scale.expand_as(x_t)}


class Reverse(nn.Module):
    """Network of p(x_t−1|x_t,t), from a network ε_θ(x_t, t, ...); further inputs, such as a label, go to it.

    variance: σ_t² = β̃_t (``posterior``, best for data that are one point) or β_t (``beta``, best for N(0, I)); at
    t = 1, where β̃ is 0, always β_1. clip: x̂_0 is kept within ± this. step: fixed, for p(x_0|x_1).
    """

    def __init__(
        self, schedule: Schedule, net: nn.Module, variance: Literal["posterior", "beta"] = "posterior",
        clip: float | None = None, step: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if variance not in ("posterior", "beta"):
            raise ConfigError(f"Reverse: expected variance='posterior' or 'beta', got {variance!r}")
        self.schedule, self.net, self.clip, self.step = schedule, net, clip, step
        values = (schedule.beta if variance == "beta" else schedule.beta_tilde).clone()
        values[1] = schedule.beta[1]
        self.register_buffer("variance", values)

    def forward(self, x_t: Tensor, *more: Tensor) -> Gaussian:
        """x_t ``[N, ...]``, t ``[N]`` unless the step is fixed, then what else the network reads."""
        t = torch.full((len(x_t),), self.step, device=x_t.device) if self.step is not None else more[0]
        rest = more if self.step is not None else more[1:]
        x_0 = self.schedule.clean(x_t, self.net(x_t, t, *rest), t)
        if self.clip is not None:
            x_0 = x_0.clamp(-self.clip, self.clip)
        scale = self.schedule.at(self.get_buffer("variance"), t, x_t).sqrt()
        return {"loc": self.schedule.mean(x_t, x_0, t), "scale": scale.expand_as(x_t)}


class Discretised(nn.Module):
    """p(x|x_1) of levels 0 … L−1 that lie evenly from −1 to 1: a Gaussian's mass in each bin, eq. 13, as logits.

    The outermost bins reach to ∓∞.
    """

    def __init__(self, gaussian: nn.Module, levels: int) -> None:
        super().__init__()
        self.gaussian = gaussian
        edges = (2 * torch.arange(1, levels) - 1) / (levels - 1) - 1
        self.register_buffer("edges", edges.float())

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the Gaussian reads, to logits ``[N, ..., L]``."""
        found = self.gaussian(*inputs)
        edges = self.get_buffer("edges").to(found["loc"].dtype)
        z = (edges - found["loc"][..., None]) / found["scale"][..., None]
        low, high = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)  # below an edge, above it
        right = z[..., 1:] + z[..., :-1] > 0  # of the centre: there the upper tails are the small numbers
        more = torch.where(right, high[..., :-1], low[..., 1:])
        less = torch.where(right, high[..., 1:], low[..., :-1])
        middle = more + torch.log1p(-(less - more).exp().clamp(max=1 - 1e-6))
        return torch.cat((low[..., :1], middle, high[..., -1:]), -1)


class Denoiser(nn.Module):
    """ε_θ(x_t, t, y) for vectors: residual blocks, each told the step and the label; the last layer starts at zero.

    features: D. units, blocks, dropout: of the residual MLP. T: steps, for their sinusoids, of which the fastest turns
    ``fastest`` radians from the first step to the last. classes: width of y.
    """

    def __init__(
        self, features: int, T: int, units: int = 256, blocks: int = 3, dropout: float = 0.0, classes: int = 0,
        fastest: float = 1000.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.T, self.fastest = T, fastest
        self.enter = nn.Linear(features, units)
        self.time = nn.Sequential(nn.Linear(64, units), nn.SiLU(), nn.Linear(units, units))
        self.label = nn.Linear(classes, units, bias=False) if classes else None
        self.blocks = nn.ModuleList(_Block(units, dropout) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(units), nn.SiLU(), nn.Linear(units, features))
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x_t ``[N, D]``, t ``[N]``, y ``[N, classes]``, all zeros for no label; to ``[N, D]``."""
        told = self.time(sinusoids(t / self.T, 64, self.fastest).to(x_t.dtype))
        if self.label is not None and y is not None:
            told = told + self.label(y)
        h = self.enter(x_t)
        for block in self.blocks:
            h = block(h, told)
        found: Tensor = self.leave(h)
        return found


class _Block(nn.Module):
    def __init__(self, units: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.told = nn.LayerNorm(units), nn.Linear(units, 2 * units)
        self.net = nn.Sequential(nn.Linear(units, units), nn.SiLU(), nn.Dropout(dropout), nn.Linear(units, units))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told).chunk(2, -1)
        out: Tensor = h + self.net(self.norm(h) * (1 + scale) + shift)
        return out


def sinusoids(x: Tensor, width: int, fastest: float = 1000.0) -> Tensor:
    """Sines and cosines of x ``[...]`` at ``width``/2 frequencies from 1 to ``fastest``: ``[..., width]``."""
    rates = torch.logspace(0, math.log10(fastest), width // 2, device=x.device)
    angles = x.float()[..., None] * rates
    return torch.cat((angles.sin(), angles.cos()), -1)


# ---------------------------------------------------------------------------------------------------------- samplers


def guided(net: Callable[..., Tensor], y: Tensor | None, weight: float = 0.0) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6): (1 + w) ε(x, t, y) − w ε(x, t, ∅).

    y is one-hot, ∅ all zeros; without y the network is called without a label.
    """
    if y is None:
        return net
    label: Tensor = y

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        told = net(x_t, t, label)
        return told if weight == 0.0 else (1 + weight) * told - weight * net(x_t, t, torch.zeros_like(label))

    return denoise


def ancestral(
    schedule: Schedule, denoise: Denoise, x: Tensor, variance: Tensor, *, clip: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 2 of Ho et al. 2020 from x_T down to x_1: ``[N, ...]``. ``variance [T + 1]`` is σ_t²."""
    for step in range(schedule.T, 1, -1):
        t = torch.full((len(x),), step, device=x.device)
        mean = schedule.mean(x, _clean(schedule, denoise, x, t, clip), t)
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        x = mean + variance[step].sqrt().to(x.dtype) * noise
    return x


def ddim(schedule: Schedule, denoise: Denoise, x: Tensor, steps: int, *, clip: float | None = None) -> Tensor:
    """DDIM with η = 0 (Song et al. 2021, arXiv:2010.02502, eq. 12): deterministic, from x_T to x_1 in ``steps``.

    Raises:
        ConfigError: fewer than 1 step or more than T − 1.
    """
    if not 1 <= steps < schedule.T:
        raise ConfigError(f"ddim: expected 1 to {schedule.T - 1} steps, got {steps}")
    places = torch.linspace(schedule.T, 1, steps + 1).round().long().tolist()
    for now, after in pairwise(places):
        t = torch.full((len(x),), now, device=x.device)
        x_0 = _clean(schedule, denoise, x, t, clip)
        kept, left = schedule.alpha_bar[now].to(x.dtype), torch.full_like(t, after)
        noise = (x - kept.sqrt() * x_0) / (1 - kept).sqrt()
        x = schedule.diffuse(x_0, left, noise)
    return x


def _clean(schedule: Schedule, denoise: Denoise, x: Tensor, t: Tensor, clip: float | None) -> Tensor:
    x_0 = schedule.clean(x, denoise(x, t), t)
    return x_0 if clip is None else x_0.clamp(-clip, clip)
