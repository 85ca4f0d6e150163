"""Measures a VAE of two groups of latents on binarised digits, beside its control and a flat VAE."""

from __future__ import annotations

import torch

from worldformula import Model
from worldformula.data import load
from worldformula.models import hierarchical, vae
from worldformula.training.fit import fit

STEPS, BATCH, LR, WEIGHT_DECAY, DRAWS = 4000, 64, 2e-3, 0.1, 500


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; likelihoods are nats per test image, bounded with 500 importance samples.

    Returns:
        ``claims``: how many of these two hold: posteriors that are residuals of their prior do no worse than absolute
        ones by more than 0.1 nats; each of their two groups carries more than 0.3 nats. ``residual``, ``absolute``: two
        groups of 8 latents; ``flat``: a VAE of 16. ``kl_1`` (top) and ``kl_2``: the rates of the two groups of
        ``residual``, in nats; ``absolute_kl_1`` and ``absolute_kl_2``: those of the control.
    """
    data = load("digits")
    train, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])

    def fitted(model: Model) -> float:
        fit(
            model.loss, {"x": train}, steps=STEPS, batch=BATCH, lr=LR, weight_decay=WEIGHT_DECAY, schedule="cosine",
            seed=seed, symbols=model.symbols,
        )  # fmt: skip
        return float(-model.bound(DRAWS, seed=seed, chunk=25, x=test).mean())

    found: dict[str, float] = {}
    for sizes, prefix in ((hierarchical.tiny(), ""), (hierarchical.absolute(), "absolute_")):
        torch.manual_seed(seed)
        model = hierarchical.build(sizes)
        found[sizes.posterior] = fitted(model)
        found |= {f"{prefix}kl_{group}": rate for group, rate in enumerate(model.rates(test, seed=seed), 1)}
    torch.manual_seed(seed)
    found["flat"] = fitted(vae.build(vae.tiny()))
    claims = (found["residual"] <= found["absolute"] + 0.1) + (min(found["kl_1"], found["kl_2"]) > 0.3)
    return {"claims": float(claims), **found}
