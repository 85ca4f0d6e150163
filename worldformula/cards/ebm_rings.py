"""Measures an energy-based model on three Gaussians that touch, whose density is known: the KL, on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.data.rings import Density, three
from worldformula.fitting import fit
from worldformula.models.ebm import EBM, SYSTEM, build, tiny

ROWS = 20_000
DEVIATION = 0.7  # the means are 3.4 apart: chains cross from one to the other


def measure(seed: int) -> dict[str, float]:
    """Train on 20 000 points.

    Returns:
        ``kl``: KL(data ‖ model) in nats, Z and the integral over a grid of 401² points on [−6, 6]²; ``gaussian``: of
        one Gaussian with the moments of the data; ``modes``: how many of the three the draws of the chain hit, with
        ``near`` the share within two standard deviations (of the data: .865); ``smallest``: the least share of draws
        that one of the three gets (of the data: a third).
    """
    torch.manual_seed(seed)
    truth = Density(three().means, DEVIATION)
    model = build(tiny())
    points = torch.from_numpy(truth.sample(ROWS, seed))
    history = fit(model, {"x": points}, seed=seed, progress=False, **SYSTEM.fits["tiny"])
    with history.averaged():
        drawn = model.generate(2000, seed=seed)["x"].numpy()
        kl = divergence(model, truth)
    hit, near = truth.modes_hit(drawn, 2 * truth.deviation)
    nearest = torch.cdist(torch.from_numpy(drawn).double(), torch.from_numpy(truth.means)).argmin(-1)
    return {
        "kl": kl,
        "gaussian": gaussian_divergence(points, truth),
        "modes": float(hit),
        "near": near,
        "smallest": float(torch.bincount(nearest, minlength=3).min()) / len(drawn),
    }


def divergence(model: EBM, truth: Density, points: int = 401, limit: float = 6.0) -> float:
    """∫ p (log p − log p_θ) by the rectangle rule."""
    axis = torch.linspace(-limit, limit, points)
    grid = torch.cartesian_prod(axis, axis)
    known = torch.from_numpy(truth.log_prob(grid.numpy()))
    found = model.log_prob(grid, model.log_z(points, limit)).double()
    cell = (2 * limit / (points - 1)) ** 2
    return float((known.exp() * (known - found)).sum() * cell)


def gaussian_divergence(x: Tensor, truth: Density) -> float:
    """KL(data ‖ the Gaussian of their moments): cross-entropy minus entropy, the latter over 20 000 points."""
    entropy = -float(truth.log_prob(x.numpy()).mean())
    return 0.5 * float(torch.cov(x.double().T).logdet()) + 1 + math.log(2 * math.pi) - entropy
