"""Measures an RBM on binarised digits: the exact likelihood, and annealed importance sampling."""

from __future__ import annotations

import math

import torch

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics import likelihood
from worldformula.models.rbm import SYSTEM, build, tiny

ANNEALED = 0.1


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits by PCD-5, test on 360.

    Returns:
        ``exact``: −log p of the test digits in nats, Z summed over 2¹⁴ states, infinite where AIS is off by .1;
        ``log_z``: of the sum; ``ais``: log Z of 512 chains over 1000 temperatures; ``train``: as ``exact``;
        ``independent`` and ``mixture``: one Bernoulli per pixel, and 10 components by EM.
    """
    torch.manual_seed(seed)
    data = load("digits")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    model = build(tiny())
    fit(model, {"x": rows}, seed=seed, progress=False, **SYSTEM.fits["tiny"])
    exact = model.log_z("exact")
    annealed = model.log_z("ais", torch.Generator().manual_seed(seed))
    nll = -float(model.log_prob(test, "exact").mean())
    return {
        "exact": nll if abs(exact - annealed) < ANNEALED else math.inf,
        "log_z": exact,
        "ais": annealed,
        "train": -float(model.log_prob(rows, "exact").mean()),
        "independent": -float(likelihood.bernoulli_mixture(rows, test, 1).mean()),
        "mixture": -float(likelihood.bernoulli_mixture(rows, test, 10).mean()),
    }
