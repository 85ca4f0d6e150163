"""Measures a DDPM on digits with 17 levels: sample quality and likelihood together, beside a Gaussian mixture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldformula.data import load
from worldformula.metrics import likelihood
from worldformula.metrics.base import Classifier
from worldformula.metrics.frechet import digit_features, frechet, nearest_train_distance
from worldformula.models.ddpm import DDPM, SYSTEM, build, tiny
from worldformula.training.fit import History, fit

LEVELS, SAMPLES = 17, 720


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits; 720 samples against the 360 test digits.

    Returns:
        ``fd``: FD-32 of ancestral samples; ``fd_ddim``: of DDIM in 20 steps; ``vlb``: the bound in bits per dimension;
        ``nearest``: mean distance of a sample to its nearest training digit, in levels; ``fd_mixture``: FD-32 of a
        mixture of 20 Gaussians; ``fd_train``: of 720 training digits.
    """
    torch.manual_seed(seed)
    data = load("digits-17")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    features = digit_features(grey(rows), torch.from_numpy(data.train["y"]))
    model = build(tiny())
    history = train(model, {"x": rows}, seed)
    with history.averaged():
        drawn = {key: model.generate(SAMPLES, seed=seed, steps=k)["x"] for key, k in (("fd", None), ("fd_ddim", 20))}
        bound = float(model.bound(seed=seed, x=test).double().mean())
    scores = {key: distance(features, x, test) for key, x in drawn.items()}
    some = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:SAMPLES]]
    return {
        **scores,
        "vlb": likelihood.bits_per_dim(bound, rows.shape[1]),
        "nearest": nearest_train_distance(drawn["fd"].float(), rows.float()),
        "fd_mixture": distance(features, mixture_draws(rows, seed), test),
        "fd_train": distance(features, some, test),
    }


def train(model: DDPM, rows: dict[str, Tensor], seed: int) -> History:
    """AdamW, 1e-3 along a cosine, moving average .995."""
    return fit(model.loss, rows, seed=seed, **SYSTEM.fits["tiny"])


def grey(levels: Tensor) -> Tensor:
    """Levels 0 … 16 as numbers in [0, 1]."""
    return levels.float() / (LEVELS - 1)


def distance(features: Classifier, a: Tensor, b: Tensor) -> float:
    """FD-32 of two sets of levels."""
    return frechet(features.features(grey(a)), features.features(grey(b)))


def mixture_draws(rows: Tensor, seed: int) -> Tensor:
    """720 draws of a mixture of 20 Gaussians with full covariances, rounded to levels."""
    found = likelihood.fit_gaussian_mixture(likelihood.dequantise(rows.numpy(), LEVELS, seed), 20, seed=seed)
    drawn = np.floor(found.sample(SAMPLES)[0] * LEVELS)
    return torch.from_numpy(drawn).clamp(0, LEVELS - 1)
