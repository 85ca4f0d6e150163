"""Measures a VAE of two groups of latents on binarised digits, beside its control and a flat VAE."""

from __future__ import annotations

from dataclasses import replace

import torch

from worldformula import Model
from worldformula.data import load
from worldformula.models import hierarchical, vae
from worldformula.training.fit import fit

STEPS, BATCH, DRAWS = 2250, 64, 500


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; likelihoods are nats per test image, bounded with 500 importance samples.

    Returns:
        ``claims``: how many of these two hold: posteriors that are residuals of their prior do no worse than absolute
        ones by more than 0.1 nats; each of their two groups carries more than 0.3 nats. ``residual``, ``ladder``,
        ``absolute``: two groups of 8 latents; ``flat``: a VAE of 16. ``kl_1`` (top) and ``kl_2``: the rates of the two
        groups of ``residual``, in nats.
    """
    data = load("digits")
    train, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])

    def fitted(model: Model) -> float:
        fit(model.loss, {"x": train}, steps=STEPS, batch=BATCH, weight_decay=3e-3, seed=seed, symbols=model.symbols)
        return float(-model.bound(DRAWS, seed=seed, chunk=25, x=test).mean())

    found: dict[str, float] = {}
    groups = {}
    for posterior in ("residual", "ladder", "absolute"):
        torch.manual_seed(seed)
        groups[posterior] = hierarchical.build(replace(hierarchical.tiny(), posterior=posterior))
        found[posterior] = fitted(groups[posterior])
    torch.manual_seed(seed)
    found["flat"] = fitted(vae.build(vae.tiny()))
    rates = groups["residual"].rates(test, seed=seed)
    found |= {f"kl_{group}": rate for group, rate in enumerate(rates, 1)}
    claims = (found["residual"] <= found["absolute"] + 0.1) + (min(rates) > 0.3)
    return {"claims": float(claims), **found}
