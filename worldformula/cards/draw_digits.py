"""Measures DRAW on binarised digits: what its iterations are worth, beside one iteration and a mixture."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from worldformula.data.digits import digits
from worldformula.metrics.likelihood import bernoulli_mixture
from worldformula.models.draw import SYSTEM, Sizes, build, tiny
from worldformula.training.fit import fit

DRAWS = 200


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; all numbers are nats per test image.

    Returns:
        ``gain``: the least of ``mixture``, ``one`` and ``wide`` less ``iwae``; ``iwae``: −log p(x) of DRAW with several
        iterations, bounded with 200 importance samples; ``neg_elbo``: with one; ``one``: as ``iwae``, of one iteration
        with as many weights; ``wide``: of one iteration with as many latents; ``mixture``: 60 Bernoulli components.
    """
    data = digits(binarise=True, stratified=True)
    train, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)
    sizes = tiny()
    found = trained(sizes, train, test, seed)
    found["one"] = trained(replace(sizes, steps=1), train, test, seed)["iwae"]
    found["wide"] = trained(replace(sizes, steps=1, latent=sizes.steps * sizes.latent), train, test, seed)["iwae"]
    found["mixture"] = float(-bernoulli_mixture(train, test, 60).mean())
    return {"gain": min(found["mixture"], found["one"], found["wide"]) - found["iwae"], **found}


def trained(sizes: Sizes, train: Tensor, test: Tensor, seed: int) -> dict[str, float]:
    """``iwae`` and ``neg_elbo`` of a new model with averaged weights."""
    torch.manual_seed(seed)
    model = build(sizes)
    history = fit(model.loss, {"x": train}, seed=seed, **SYSTEM.fits["tiny"])
    with history.averaged():
        draws = {"iwae": DRAWS, "neg_elbo": 1}
        return {name: float(-model.bound(k, seed=seed, x=test).mean()) for name, k in draws.items()}
