"""Measures masked diffusion on binarised digits: the bound over all orders, and draws in few calls."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.metrics import likelihood
from worldformula.models.masked_diffusion import MaskedDiffusion, build, tiny
from worldformula.training.early import Best, held_out
from worldformula.training.fit import fit

STEPS, BATCH, VALIDATED, ORDERS, DRAWS = 6000, 128, 0.1, 10, 2000
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
    learned, held = (rows[part] for part in held_out(len(rows), VALIDATED, seed))
    model = build(tiny())
    best = Best(model.loss, lambda: -float(model.bound(1, seed=seed, x=held).mean()), every=200, patience=8)
    how = {"lr": 2e-3, "weight_decay": 0.02, "schedule": "cosine", "seed": seed}
    fit(model.loss, model.given({"x": learned}), steps=STEPS, batch=BATCH, callback=best, **how)  # type: ignore[arg-type]
    best.restore()
    found = model.bound(ORDERS, seed=seed, x=test)
    return {
        "bound": -float(found.mean()),
        "error": float(found.std() / len(found) ** 0.5),
        "train": -float(model.bound(2, seed=seed, x=learned).mean()),
        "mixture": -float(likelihood.bernoulli_mixture(rows, test, 100).mean()),
        **{f"calls_{n}": judged(model, rows, seed, n) for n in CALLS},
        "data": -float(likelihood.bernoulli_mixture(rows, test, 60).mean()),
    }


def judged(model: MaskedDiffusion, rows: Tensor, seed: int, calls: int) -> float:
    """−log of draws under a mixture of 60 Bernoulli components."""
    drawn = model.generate(DRAWS, seed=seed, steps=calls)["x"].float()
    return -float(likelihood.bernoulli_mixture(rows, drawn, 60).mean())
