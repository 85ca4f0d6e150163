"""Measures masked diffusion on binarised digits: the bound over all orders, and draws in few calls."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics import likelihood
from worldformula.models.masked_diffusion import SYSTEM, MaskedDiffusion, build, tiny
from worldformula.training.early import held_out

HOW, ORDERS, DRAWS = SYSTEM.fits["tiny"], 10, 2000
CALLS = (1, 2, 4, 8, 16, 64)


def measure(seed: int) -> dict[str, float]:
    """Train on 1293 digits, stop on 144, test on 360; nats per image.

    Returns:
        ``bound``: of −log p(x) of test digits, the mean of ten random orders; ``error``: its standard error over
        digits; ``train``: of the rows learned from; ``mixture``: 100 Bernoulli components by EM on all 1437;
        ``calls_1`` …: −log of 2000 draws in so many calls under a mixture of 60 components, ``data``: of test digits
        under it.
    """
    torch.manual_seed(seed)
    data = load("digits")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    learned, _ = held_out(len(rows), HOW["held"], seed)
    model = build(tiny())
    fit(model, {"x": rows}, seed=seed, progress=False, **HOW)
    found = model.bound(ORDERS, seed=seed, x=test)
    return {
        "bound": -float(found.mean()),
        "error": float(found.std() / len(found) ** 0.5),
        "train": -float(model.bound(2, seed=seed, x=rows[learned]).mean()),
        "mixture": -float(likelihood.bernoulli_mixture(rows, test, 100).mean()),
        **{f"calls_{n}": judged(model, rows, seed, n) for n in CALLS},
        "data": -float(likelihood.bernoulli_mixture(rows, test, 60).mean()),
    }


def judged(model: MaskedDiffusion, rows: Tensor, seed: int, calls: int) -> float:
    """−log of draws under a mixture of 60 Bernoulli components."""
    drawn = model.generate(DRAWS, seed=seed, steps=calls)["x"].float()
    return -float(likelihood.bernoulli_mixture(rows, drawn, 60).mean())
