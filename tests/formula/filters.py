"""Witnesses of particles through time: a linear Gaussian model, its Kalman filter, and particle filters by hand."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from worldformula import E, Normal, Resample, Sum, exp, log, ratio

DECAY, MOVE, SEE = 0.9, 0.7, 0.5  # z_t = DECAY z_{t-1} + MOVE ε,  x_t = z_t + SEE ε'


class Line(nn.Module):
    """N(Σ_i w_i c_i, scale²) of conditions [N, 1]."""

    def __init__(self, *weights: float, scale: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, *given):
        loc = sum(w * c for w, c in zip(self.weights, given, strict=True))
        return {"loc": loc, "scale": self.scale.expand_as(loc)}


def factors(propose: nn.Module | None = None):
    """p(z_t|z_{t-1}), p(x_t|z_t), q(z_t|z_{t-1},x_t)."""
    move = Normal("p(z_t|z_{t-1})", Line(DECAY, scale=MOVE), shape=1)
    see = Normal("p(x_t|z_t)", Line(1.0, scale=SEE), shape=1)
    guide = Normal("q(z_t|z_{t-1},x_t)", propose or Line(0.4, 0.5, scale=0.6), shape=1)
    return move, see, guide


def iwae(move, see, guide, K, **clock):
    """log (1/K) Σ_k Π_t w_t^k."""
    return log(E(guide, exp(Sum("t", log(see * move) - log(guide), **clock)), samples=K))


def fivo(move, see, guide, K, resample="systematic", **clock):
    """Σ_t log of the mean weight of a filter."""
    return Sum("t", log(E(guide, ratio(see * move, guide), samples=K, resample=resample)), **clock)


def series(T: int, seed: int = 0) -> np.ndarray:
    """One series of the model [T]."""
    rng, z, found = np.random.default_rng(seed), 0.0, []
    for _ in range(T):
        z = DECAY * z + MOVE * rng.standard_normal()
        found.append(z + SEE * rng.standard_normal())
    return np.array(found)


def kalman(x: np.ndarray, first: float = 0.0) -> float:
    """log p(x_{1:T}) exactly, of z_0 ~ N(0, first)."""
    mean, var, total = 0.0, first, 0.0
    for seen in x:
        mean, var = DECAY * mean, DECAY**2 * var + MOVE**2
        total += gauss(seen, mean, math.sqrt(var + SEE**2))
        gain = var / (var + SEE**2)
        mean, var = mean + gain * (seen - mean), (1 - gain) * var
    return float(total)


def gauss(x, loc, scale):
    """log N(x; loc, scale²), of numbers or arrays."""
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def rows(x: np.ndarray, count: int) -> torch.Tensor:
    """A series as so many equal rows [B, T, 1]."""
    return torch.from_numpy(x)[None, :, None].repeat(count, 1, 1)


# ------------------------------------------------------------------------------------------------------ in plain NumPy


def draw_ancestors(weights: np.ndarray, points: np.ndarray, how: str) -> np.ndarray:
    """Of one row: the particle [K] whose share of the sum of weights [K] holds each point."""
    K = len(weights)
    if how == "systematic":
        points = (np.arange(K) + points[0]) / K
    edges = np.cumsum(weights / weights.sum())
    return np.array([next(k for k in range(K) if p < edges[k] or k == K - 1) for p in points])


def filtered(x, noise, points, *, how="systematic", ess=None, counts=None, propose=(0.4, 0.5, 0.6)):
    """Σ_t log Σ_k W_{t-1}^k w_t^k of one row, row by row and step by step; resampling behind each step but the last.

    x [T], noise [K, T]; points [K, T] (of systematic resampling the first row counts), those of step t for what is
    resampled before it; counts [T] of the steps that count.
    """
    K, T = noise.shape
    z, share, total = np.zeros(K), np.full(K, 1 / K), 0.0
    for t in range(T):
        number = 1 / np.sum(share**2)
        if t and (number < ess * K if ess is not None else np.ptp(share) > 0):
            z, share = z[draw_ancestors(share, points[:, t], how)], np.full(K, 1 / K)
        loc = propose[0] * z + propose[1] * x[t]
        new = loc + propose[2] * noise[:, t]
        weight = np.exp(gauss(x[t], new, SEE) + gauss(new, DECAY * z, MOVE) - gauss(new, loc, propose[2]))
        if counts is not None and not counts[t]:
            weight = np.ones(K)
        mean = float(np.sum(share * weight))
        z, share, total = new, share * weight / mean, total + math.log(mean)
    return total


# ------------------------------------------------------------------------------------------------- in plain PyTorch


def bound_by_hand(move, see, guide, x, noise, points=None, *, how="systematic", ess=None):
    """The bounds with gradients, by hand: without points that of whole trajectories. x [B, T, 1], noise [K, B, T, 1],
    points [B, T] or [K, B, T].
    """
    K, B, T, _ = noise.shape
    z, log_w, total = noise.new_zeros(K, B, 1), noise.new_zeros(K, B), noise.new_zeros(B)
    own = torch.arange(K)[:, None].expand(K, B)
    for t in range(T):
        if points is not None and t:
            share = log_w.detach().softmax(0)
            u = points[..., t].expand(K, B)
            u = (own + u) / K if how == "systematic" else u
            chosen = (u[:, None] >= share.cumsum(0)[None]).sum(1).clamp(max=K - 1)
            again = torch.ones(B, dtype=torch.bool) if ess is None else 1 / share.square().sum(0) < ess * K
            z = torch.where(again[:, None], z.gather(0, chosen[..., None]), z)
            log_w = torch.where(again, torch.zeros_like(log_w), log_w - total_step)  # noqa: F821
        q, prior = guide(z, x[None, :, t].expand(K, B, 1)), move(z)
        new = q["loc"] + q["scale"] * noise[:, :, t]
        dist = torch.distributions.Normal
        seen = see(new)
        weight = (
            dist(seen["loc"], seen["scale"]).log_prob(x[:, t]) + dist(prior["loc"], prior["scale"]).log_prob(new)
            - dist(q["loc"], q["scale"]).log_prob(new)
        )[..., 0]  # fmt: skip
        log_w, z = log_w + weight, new
        if points is not None:
            total_step = log_w.logsumexp(0) - math.log(K)
            total = total + total_step
    return total if points is not None else log_w.logsumexp(0) - math.log(K)


FILTERS = {
    "systematic": "systematic",
    "multinomial": "multinomial",
    "systematic, ESS": Resample("systematic", ess=0.5),
    "multinomial, ESS": Resample("multinomial", ess=0.7),
}


def settings(resample) -> dict:
    """What the witnesses are told of it."""
    known = Resample(resample) if isinstance(resample, str) else resample
    return {"how": known.how, "ess": known.ess}
