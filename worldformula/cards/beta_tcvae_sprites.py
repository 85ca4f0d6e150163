"""Measures how far the latents of a β-TCVAE are the factors of mini-sprites, beside β-VAEs and a rotated oracle."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from worldformula.data.sprites import sprites
from worldformula.metrics.disentangle import controls, factor_vae_score, mig
from worldformula.models.beta_tcvae import BetaTCVAE, build, tiny
from worldformula.training.fit import fit

STEPS, BATCH, BETA, ROTATIONS = 4000, 128, 10.0, 10


def measure(seed: int) -> dict[str, float]:
    """Train on all 768 images; the codes are the means of q(z|x).

    Returns:
        ``claims``: how many of these three hold: the MIG of the β-TCVAE is above that of the VAE (β = 1) by more than
        0.1; it is above 0.215, which a rotated oracle reached when this was planned; its reconstruction costs less than
        that of the β-VAE of β = 4. By model (``tc``, ``beta_1``, ``beta_4``): ``mig_``, ``cost_`` (nats per image above
        the entropy of the grey levels) and ``score_`` (FactorVAE). ``mig_rotated`` and ``score_rotated``: the factors
        themselves, rotated, mean of 10.
    """
    data = sprites()
    images = torch.from_numpy(data.images)
    models = {
        "tc": replace(tiny(), beta=BETA),
        "beta_1": replace(tiny(), objective="beta_vae", beta=1.0),
        "beta_4": replace(tiny(), objective="beta_vae", beta=4.0),
    }
    found: dict[str, float] = {}
    for name, sizes in models.items():
        torch.manual_seed(seed)
        model = build(sizes)
        fit(model.loss, {"x": images}, steps=STEPS, batch=BATCH, seed=seed, symbols=model.symbols)
        codes = model.codes(images).numpy()
        found[f"mig_{name}"], found[f"cost_{name}"] = mig(codes, data.factors), cost(model, images, seed)
        found[f"score_{name}"] = factor_vae_score(codes, data.factors, seed=seed)
    rotated = [controls(data.factors, 100 + r)["rotated"] for r in range(ROTATIONS)]
    found["mig_rotated"] = sum(mig(code, data.factors) for code in rotated) / ROTATIONS
    found["score_rotated"] = sum(factor_vae_score(code, data.factors) for code in rotated) / ROTATIONS
    return {"claims": float(claims(found)), **found}


def claims(found: dict[str, float]) -> int:
    """How many of the three statements hold."""
    above = found["mig_tc"] > found["mig_beta_1"] + 0.1
    return above + (found["mig_tc"] > 0.215) + (found["cost_tc"] < found["cost_beta_4"])


@torch.no_grad()
def cost(model: BetaTCVAE, x: Tensor, seed: int) -> float:
    """Cross-entropy of the images and the decoder at a draw of their latents, less the entropy of their grey levels."""
    z = model.latents(x=x, deterministic=False, seed=seed)["z"]
    logits = model.decode.head(z)
    excess = binary_cross_entropy_with_logits(logits, x, reduction="none") - binary_cross_entropy(
        x, x, reduction="none"
    )
    return float(excess.sum(-1).mean())
