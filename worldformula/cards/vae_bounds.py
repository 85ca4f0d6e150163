"""Measures bounds of a likelihood against the likelihood itself, which two latent dimensions allow to integrate."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from worldformula.data import load
from worldformula.metrics.likelihood import bernoulli_mixture, quadrature
from worldformula.models import iwae, vae
from worldformula.training.fit import fit

Latent = vae.VAE | iwae.IWAE
LATENT = 2


def measure(seed: int) -> dict[str, float]:
    """A VAE and an IWAE of K = 10, two latents each, trained on 1437 digits; all but ``disorder`` are nats per image.

    Returns:
        ``disorder``: the worst violation of exact ≤ IWAE-2000 ≤ IWAE-64 ≤ −ELBO in standard errors over test images,
        for the VAE and the IWAE; negative where every step of the ladder goes up. For both, ``vae_`` and ``iwae_``:
        ``exact`` (quadrature), ``2000`` and ``64`` (importance samples) and ``neg_elbo``; ``mixture``: 60 Bernoulli
        components.
    """
    data = load("digits")
    train, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    torch.manual_seed(seed)
    models: dict[str, Latent] = {
        "vae": vae.build(replace(vae.tiny(), latent=LATENT)),
        "iwae": iwae.build(replace(iwae.tiny(), latent=LATENT)),
    }
    found: dict[str, float] = {}
    worst = []
    for name, model in models.items():
        fit(model.loss, {"x": train}, seed=seed, **iwae.SYSTEM.fits["tiny"])
        steps = ladder(model, test, seed)
        worst.append(disorder(list(steps.values())))
        found |= {f"{name}_{step}": float(values.mean()) for step, values in steps.items()}
    found["mixture"] = float(-bernoulli_mixture(train, test, 60).mean())
    return {"disorder": max(worst), **found}


def ladder(model: Latent, x: Tensor, seed: int) -> dict[str, Tensor]:
    """The exact value and its bounds from the tightest, by image, ``[N]``; all draws are independent."""

    def bound(draws: int) -> Tensor:
        return -model.bound(draws, seed=seed + draws, chunk=64, x=x)

    return {"exact": exact(model, x), "2000": bound(2000), "64": bound(64), "neg_elbo": bound(1)}


@torch.no_grad()
def exact(model: Latent, x: Tensor) -> Tensor:
    """−log p(x) of a model with two latents, by image, by the trapezoidal rule on [−6, 6]²."""

    def density(z: Tensor) -> Tensor:
        latent = z.float()
        logits: Tensor = model.decode.head(latent)
        black = -torch.nn.functional.softplus(logits).sum(-1)  # log p(x|z) of an image without a 1
        return logits @ x.T + (black + model.prior.log_prob(z=latent))[:, None]

    return -quadrature(density)


def disorder(steps: list[Tensor]) -> float:
    """The largest mean (lower − upper) / standard error of neighbouring steps, each ``[N]``."""
    gaps = [low - high for low, high in pairwise(steps)]
    return max(float(gap.mean() / (gap.std() / len(gap) ** 0.5)) for gap in gaps)
