"""Measures a VAE of two groups of latents on binarised digits beside its control, in pairs that share a seed."""

from __future__ import annotations

import torch

from worldformula import Model
from worldformula.data import load
from worldformula.models import hierarchical
from worldformula.training.fit import fit

DRAWS = 500


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; likelihoods are nats per test image, bounded with 500 importance samples.

    Returns:
        ``gain``: nats by which posteriors that are residuals of their prior are better than absolute ones, of a pair
        with one seed. ``residual``, ``absolute``: two groups of 8 latents. ``kl_1`` (top) and ``kl_2``: the rates of
        the two groups of ``residual``, in nats; ``absolute_kl_1`` and ``absolute_kl_2``: those of the control.
    """
    data = load("digits")
    train, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])

    def fitted(model: Model) -> float:
        fit(model.loss, {"x": train}, seed=seed, symbols=model.symbols, **hierarchical.SYSTEM.fits["tiny"])
        return float(-model.bound(DRAWS, seed=seed, chunk=25, x=test).mean())

    found: dict[str, float] = {}
    for sizes, prefix in ((hierarchical.tiny(), ""), (hierarchical.absolute(), "absolute_")):
        torch.manual_seed(seed)
        model = hierarchical.build(sizes)
        found[sizes.posterior] = fitted(model)
        found |= {f"{prefix}kl_{group}": rate for group, rate in enumerate(model.rates(test, seed=seed), 1)}
    return {"gain": found["absolute"] - found["residual"], **found}
