"""Measures a GAN on eight Gaussians in a ring: how many it finds, and how well it hits them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from worldformula.data.rings import Density, ring
from worldformula.fitting import fit
from worldformula.models.gan import SYSTEM, build

DRAWS, WITHIN, LEAST = 4000, 0.25, 50  # a tenth of a mode's share of the draws
PLAYED = {"r1": "tiny", "minimax": "minimax", "wgan_gp": "wgan_gp"}


def measure(seed: int) -> dict[str, float]:
    """Train every variant on 10 000 points of the ring; draw 4000 from the moving average of the generator.

    Returns:
        ``modes``: Gaussians of the eight with 50 draws or more within 0.25 of their mean, of the non-saturating game
        with R1; ``near``: share of draws within 0.25 of the nearest mean. The same of the other variants,
        ``modes_minimax`` …; of a generator that was not trained, ``modes_untrained``; of real points, ``near_data``.
    """
    density = ring()
    points = torch.from_numpy(density.sample(10_000, seed=seed))
    found: dict[str, float] = {}
    for name, preset in PLAYED.items():
        torch.manual_seed(seed)
        model = build(SYSTEM.sizes(preset))
        if not found:
            found["modes_untrained"] = hits(density, model.generate(DRAWS, seed=seed)["x"].numpy())[0]
        history = fit(model, {"x": points}, seed=seed, progress=False, **SYSTEM.fits[preset])
        with history.averaged():
            modes, near = hits(density, model.generate(DRAWS, seed=seed)["x"].numpy())
        found |= {f"modes_{name}": modes, f"near_{name}": near}
    _, real = hits(density, density.sample(DRAWS, seed=seed + 1))
    return {"modes": found.pop("modes_r1"), "near": found.pop("near_r1"), **found, "near_data": real}


def hits(density: Density, points: ArrayLike) -> tuple[float, float]:
    """How many components have `LEAST` points of ``[N, 2]`` near them, and the share of points that are near one."""
    distance = np.linalg.norm(np.asarray(points)[:, None] - density.means, axis=-1)
    near = distance.min(-1) <= WITHIN
    counts = np.bincount(distance.argmin(-1)[near], minlength=len(density.means))
    return float((counts >= LEAST).sum()), float(near.mean())
