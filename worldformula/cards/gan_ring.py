"""Measures a GAN on eight Gaussians in a ring: how many it finds, and how well it hits them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from worldformula.data.rings import ring
from worldformula.models.gan import Sizes, build, minimax, plain, tiny, wgan_gp
from worldformula.training.fit import fit

STEPS, BATCH, DRAWS, WITHIN = 2500, 256, 4000, 0.25
PLAYED: dict[str, Callable[[], Sizes]] = {"r1": tiny, "plain": plain, "minimax": minimax, "wgan_gp": wgan_gp}


def measure(seed: int) -> dict[str, float]:
    """Train every variant on 10 000 points of the ring; draw 4000 from the moving average of the generator.

    Returns:
        ``modes``: Gaussians of the eight with a draw within 0.25 of their mean, of the non-saturating game with R1;
        ``near``: share of draws within 0.25 of the nearest mean. The same of the other variants, ``modes_minimax`` …;
        of real points, ``near_data``; and of a generator that was not trained, ``modes_untrained``.
    """
    density = ring()
    points = torch.from_numpy(density.sample(10_000, seed=seed))
    found: dict[str, float] = {}
    for name, sizes in PLAYED.items():
        torch.manual_seed(seed)
        model = build(sizes())
        if not found:
            modes, _ = density.modes_hit(model.generate(DRAWS, seed=seed)["x"].numpy(), WITHIN)
            found["modes_untrained"] = float(modes)
        history = fit(model.loss, {"x": points}, steps=STEPS, batch=BATCH, lr=5e-4, ema=0.99, seed=seed)
        with history.averaged():
            modes, near = density.modes_hit(model.generate(DRAWS, seed=seed)["x"].numpy(), WITHIN)
        found |= {f"modes_{name}": float(modes), f"near_{name}": near}
    _, real = density.modes_hit(density.sample(DRAWS, seed=seed + 1), WITHIN)
    return {"modes": found.pop("modes_r1"), "near": found.pop("near_r1"), **found, "near_data": real}
