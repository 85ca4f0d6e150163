"""Measures a causal transformer on digits with 17 levels: exact bits per dimension beside histograms of each pixel."""

from __future__ import annotations

import torch

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics import likelihood
from worldformula.models.transformer_ar import SYSTEM, build, tiny
from worldformula.training.early import held_out

HOW = SYSTEM.fits["tiny"]


def measure(seed: int) -> dict[str, float]:
    """Train on 1293 digits, stop on 144, test on 360; bits per dimension.

    Returns:
        ``bits``: exact, of the test digits; ``train``: of those learned from; ``table``: independent histograms.
    """
    torch.manual_seed(seed)
    data = load("digits-17")
    rows, test = (torch.from_numpy(part["x"]) for part in (data.train, data.test))
    learned, _ = held_out(len(rows), HOW["held"], seed)
    model = build(tiny())
    fit(model, {"x": rows}, seed=seed, progress=False, **HOW)
    table = likelihood.categorical_table(data.train["x"], data.test["x"], 17)
    return {
        "bits": likelihood.bits_per_dim(float(model.log_prob(x=test).mean()), 64),
        "train": likelihood.bits_per_dim(float(model.log_prob(x=rows[learned]).mean()), 64),
        "table": likelihood.bits_per_dim(float(table.mean()), 64),
    }
