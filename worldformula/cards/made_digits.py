"""Measures a MADE on binarised digits: its exact likelihood beside a mixture that is fitted in the same run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics import likelihood
from worldformula.models.made import MADE, SYSTEM, build, tiny
from worldformula.training.early import held_out

HOW = SYSTEM.fits["tiny"]


def measure(seed: int) -> dict[str, float]:
    """Train on 1293 digits, stop on 144, test on 360; nats per test image.

    Returns:
        ``exact``: −log p(x), infinite where the network leaks; ``leak``: the largest derivative of a logit by its own
        or a later pixel; ``mixture``: 100 Bernoulli components by EM on all 1437; ``train``: of the rows learned from.
    """
    torch.manual_seed(seed)
    data = load("digits")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    learned, _ = held_out(len(rows), HOW["held"], seed)
    model = build(tiny())
    fit(model, {"x": rows}, seed=seed, progress=False, **HOW)
    leaks = leak(model, test[:4])
    return {
        "exact": -float(model.log_prob(x=test).mean()) if leaks == 0 else math.inf,
        "leak": leaks,
        "train": -float(model.log_prob(x=rows[learned]).mean()),
        "mixture": -float(likelihood.bernoulli_mixture(rows, test, 100).mean()),
    }


def leak(model: MADE, x: Tensor) -> float:
    """max |∂ logit_d / ∂ x_e| over e ≥ d and the rows of x."""
    net = model.density.net.causal.eval()  # type: ignore[union-attr]
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: net(row[None])[0]))(x)
    return float(jacobian.detach().triu().abs().max())
