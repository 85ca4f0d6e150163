"""Measures a PixelCNN on digits with 17 levels: exact bits per dimension beside histograms of each pixel."""

from __future__ import annotations

import torch

from worldformula.data import load
from worldformula.metrics import likelihood
from worldformula.models.pixel_cnn import build, tiny
from worldformula.training.early import Best, held_out
from worldformula.training.fit import fit

STEPS, BATCH, VALIDATED = 600, 64, 0.1


def measure(seed: int) -> dict[str, float]:
    """Train on 1293 digits, stop on 144, test on 360; bits per dimension.

    Returns:
        ``bits``: exact, of the test digits; ``train``: of those learned from; ``table``: independent histograms.
    """
    torch.manual_seed(seed)
    data = load("digits-17")
    rows, test = (torch.from_numpy(part["x"]).view(-1, 8, 8) for part in (data.train, data.test))
    learned, held = (rows[part] for part in held_out(len(rows), VALIDATED, seed))
    model = build(tiny())
    best = Best(model.loss, lambda: float(model.loss(x=held).value), every=50)
    fit(
        model.loss, {"x": learned}, steps=STEPS, batch=BATCH, lr=3e-3, weight_decay=0.01, schedule="cosine", clip=1.0,
        seed=seed, callback=best,
    )  # fmt: skip
    best.restore()
    table = likelihood.categorical_table(data.train["x"], data.test["x"], 17)
    return {
        "bits": likelihood.bits_per_dim(float(model.log_prob(x=test).mean()), 64),
        "train": likelihood.bits_per_dim(float(model.log_prob(x=learned).mean()), 64),
        "table": likelihood.bits_per_dim(float(table.mean()), 64),
    }
