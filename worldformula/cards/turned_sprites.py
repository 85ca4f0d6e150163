"""Measures how far the latents of four VAEs are the factors of turned sprites; three cards judge what it finds."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from worldformula.data.sprites import TURNED_FACTORS, turned_sprites
from worldformula.metrics.disentangle import controls, mig, sap
from worldformula.models import beta_tcvae, factor_vae
from worldformula.training.fit import fit

ROTATIONS = 10
CATEGORICAL = (list(TURNED_FACTORS).index("shape"),)


def measure(seed: int) -> dict[str, float]:
    """Train on all 10 368 images, all four models from one seed, with equal networks, steps and batches.

    ``vae`` (β = 1), ``beta`` (β-VAE, β = 6), ``tc`` (β-TCVAE, the same β on the total correlation alone) and ``factor``
    (FactorVAE, γ = 10); the codes are the means of q(z|x).

    Returns:
        Of each model ``_mig`` and ``_sap`` of its codes and ``_cost``, the cross-entropy of its reconstruction in nats
        per image above the entropy of the grey levels, which no model can avoid. Of all but the VAE: ``_gain`` and
        ``_sap_gain``, above the VAE. Of ``tc`` and ``factor``: ``_saved``, nats below the cost of the β-VAE; ``_over``,
        MIG above its.
        ``rotated_mig`` and ``rotated_sap``: of the true factors under a random rotation, mean of 10.
    """
    data = turned_sprites()
    x, factors = torch.from_numpy(data.images), data.factors
    found: dict[str, float] = {}
    for name in ("vae", "beta", "tc", "factor"):
        torch.manual_seed(seed)
        model = fitted(name, x, seed)
        codes = model.codes(x).numpy()
        found[f"{name}_mig"], found[f"{name}_sap"] = mig(codes, factors), sap(codes, factors, categorical=CATEGORICAL)
        found[f"{name}_cost"] = excess(x, model.reconstruct(x=x)["x"])
    for name in ("beta", "tc", "factor"):
        found[f"{name}_gain"] = found[f"{name}_mig"] - found["vae_mig"]
        found[f"{name}_sap_gain"] = found[f"{name}_sap"] - found["vae_sap"]
    for name in ("tc", "factor"):
        found[f"{name}_saved"] = found["beta_cost"] - found[f"{name}_cost"]
        found[f"{name}_over"] = found[f"{name}_mig"] - found["beta_mig"]
    turned = [controls(factors, r)["rotated"] for r in range(ROTATIONS)]
    found["rotated_mig"] = sum(mig(code, factors) for code in turned) / ROTATIONS
    found["rotated_sap"] = sum(sap(code, factors, categorical=CATEGORICAL) for code in turned) / ROTATIONS
    return found


def fitted(name: str, x: Tensor, seed: int) -> beta_tcvae.BetaTCVAE | factor_vae.FactorVAE:
    """One of the four by its preset ``turned``: what ``worldformula fit NAME --preset turned`` trains."""
    if name == "factor":
        game = factor_vae.build(factor_vae.turned())
        how = factor_vae.SYSTEM.fits["turned"]
        fit(game.loss, {"x": x}, seed=seed, inputs=game.given, symbols=game.symbols, **how)
        return game
    sizes = beta_tcvae.turned()
    if name != "tc":
        sizes = replace(sizes, objective="beta_vae", beta=1.0 if name == "vae" else sizes.beta)
    model = beta_tcvae.build(sizes)
    fit(model.loss, {"x": x}, seed=seed, symbols=model.symbols, **beta_tcvae.SYSTEM.fits["turned"])
    return model


def excess(x: Tensor, pictures: Tensor) -> float:
    """Cross-entropy of the pixels under a reconstruction less their own entropy, nats per picture."""
    terms = binary_cross_entropy(pictures, x, reduction="none") - binary_cross_entropy(x, x, reduction="none")
    return float(terms.sum(-1).mean())
