"""Measures how far the latents of a β-VAE are the factors of mini-sprites, for two weights of the KL."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import torch

from worldformula.data.sprites import sprites
from worldformula.metrics.disentangle import controls, mig
from worldformula.models.beta_tcvae import build, tiny
from worldformula.training.fit import fit

STEPS, BATCH, PAIRS, LOW, HIGH = 4000, 64, 16, 1.0, 8.0


def measure(seed: int) -> dict[str, float]:
    """Train sixteen pairs of VAEs on all 768 sprites, each pair from the same weights; the codes are means of q(z|x).

    Returns:
        ``gain``: mean difference of the mutual information gap (MIG) of the two of a pair, β = 8 and β = 1;
        ``gain_error``: its standard error; ``mig_8``, ``mig_1``: the means; ``rotated``: MIG of the true factors under
        a random rotation, mean of 10; ``random``: of codes that are noise.
    """
    data = sprites()
    images = torch.from_numpy(data.images)

    def gap(beta: float, own: int) -> float:
        torch.manual_seed(own)
        model = build(replace(tiny(), objective="beta_vae", beta=beta))
        fit(model.loss, {"x": images}, steps=STEPS, batch=BATCH, seed=own, symbols=model.symbols)
        return mig(model.codes(images).numpy(), data.factors)

    pairs = [(gap(HIGH, PAIRS * seed + i), gap(LOW, PAIRS * seed + i)) for i in range(PAIRS)]
    gains = [high - low for high, low in pairs]
    known = [controls(data.factors, i) for i in range(10)]
    return {
        "gain": statistics.mean(gains),
        "gain_error": statistics.stdev(gains) / math.sqrt(PAIRS),
        "mig_8": statistics.mean(high for high, _ in pairs),
        "mig_1": statistics.mean(low for _, low in pairs),
        "rotated": statistics.mean(mig(codes["rotated"], data.factors) for codes in known),
        "random": statistics.mean(mig(codes["random"], data.factors) for codes in known),
    }
