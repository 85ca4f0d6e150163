"""Measures a score network on three Gaussians, whose score and density are known at every noise level."""

from __future__ import annotations

import math

import numpy as np
import torch

from worldformula.data.rings import Density, three
from worldformula.models.score_sde import SYSTEM, ScoreModel, build, tiny
from worldformula.training.fit import fit

ROWS, DRAWS = 50_000, 2000
SIGMAS = (0.1, 0.5, 2.0)
NLL = 0.2


def measure(seed: int) -> dict[str, float]:
    """Train on 50 000 points; score error on 20 000 fresh ones, density on 2000.

    Returns:
        ``error``: the largest relative error √(E‖s_θ − s‖² / E‖s‖²) of three noise levels, infinite where the density
        is off by .2 nats; ``error_0.1`` …: each of them; ``nll``: −log p of the ODE at σ_min = .01; ``exact``: of the
        blurred mixture itself; ``drawn``: exact −log p of 2000 draws of the ODE, which for a perfect sampler is
        ``entropy``, that of the mixture.
    """
    torch.manual_seed(seed)
    truth = three()
    model = build(tiny())
    points = torch.from_numpy(truth.sample(ROWS, seed))
    history = fit(model.loss, {"x": points}, seed=seed, **SYSTEM.fits["tiny"])
    with history.averaged():
        errors = {f"error_{sigma}": relative_error(model, truth, sigma, seed) for sigma in SIGMAS}
        test = truth.sample(DRAWS, seed + 1000)
        nll = -float(model.log_prob(torch.from_numpy(test)).mean())
        exact = -float(truth.log_prob(test, noise=tiny().smallest).mean())
        drawn = model.generate(DRAWS, seed=seed)["x"].numpy()
    return {
        "error": max(errors.values()) if abs(nll - exact) < NLL else math.inf,
        **errors,
        "nll": nll,
        "exact": exact,
        "drawn": -float(truth.log_prob(drawn).mean()),
        "entropy": -float(truth.log_prob(truth.sample(20_000, seed + 2000)).mean()),
    }


@torch.no_grad()
def relative_error(model: ScoreModel, truth: Density, sigma: float, seed: int) -> float:
    """√(E‖s_θ − s‖² / E‖s‖²) over x̃ ~ p_σ."""
    rng = np.random.default_rng(seed + 3000)
    x = truth.sample(20_000, seed + 3000)
    noised = x + sigma * rng.standard_normal(x.shape).astype(np.float32)
    known = torch.from_numpy(truth.score(noised, noise=sigma)).float()
    found = model.scored(torch.from_numpy(noised), sigma)
    return float(((found - known).square().sum() / known.square().sum()).sqrt())
