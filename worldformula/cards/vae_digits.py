"""Measures a VAE on binarised digits: held-out likelihood beside two floors that are fitted in the same run."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.data.digits import digits
from worldformula.metrics import likelihood
from worldformula.models.vae import SYSTEM, build, tiny
from worldformula.training.fit import fit

DRAWS = 1000


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; all numbers are nats per test image.

    Returns:
        ``iwae``: −log p(x) bounded with 1000 importance samples (Burda et al. 2015, arXiv:1509.00519);
        ``neg_elbo``: the loss; ``mixture``: 100 Bernoulli components by EM; ``independent``: one Bernoulli per pixel.
    """
    torch.manual_seed(seed)
    data = digits(binarise=True)
    train, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)
    model = build(tiny())
    fit(model.loss, {"x": train}, seed=seed, **SYSTEM.fits["tiny"])
    with torch.no_grad():
        return {
            "iwae": float(-model.bound(DRAWS, seed=seed, x=test).mean()),
            "neg_elbo": sum(float(model.loss(x=test).value) for _ in range(20)) / 20,
            "mixture": mixture_floor(train, test),
            "independent": mixture_floor(train, test, components=1),
        }


def mixture_floor(train: Tensor, test: Tensor, components: int = 100, steps: int = 100) -> float:
    """Negative test likelihood of a mixture of Bernoullis, by EM with a Beta(1.1, 1.1) prior on each pixel."""
    return float(-likelihood.bernoulli_mixture(train, test, components, steps=steps).mean())
