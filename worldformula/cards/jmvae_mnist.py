"""Measures JMVAE on MNIST with its labels, whose files have to lie on this machine already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import one_hot

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.models.jmvae import SYSTEM, build, paper

HOW = SYSTEM.fits["paper"]
DRAWS, TESTED, CHUNK = 1000, 1000, 100
PUBLISHED = -86.86


def measure(seed: int) -> dict[str, float]:
    """Train on 60000 images that are binarised anew at every step, and their labels; test on the first 1000.

    Returns:
        ``gap``: how far the joint log-likelihood is from the published one; ``log_likelihood``: bounded with 1000
        draws, nats per image and label; ``neg_elbo``: of one draw.

    Raises:
        ConfigError: the files of MNIST are not there. Nothing is downloaded; the message says where they belong.
    """
    data = load("mnist")
    x, y = torch.from_numpy(data.train["x"]), one_hot(torch.from_numpy(data.train["y"]), 10).float()
    torch.manual_seed(seed)
    model = build(replace(paper(), warm_up=HOW["steps"] // 10))
    fit(
        model, {"x": x, "y": y}, seed=seed, progress=False, **HOW,
        inputs=lambda rows: {"x": rows["x"].bernoulli(), "y": rows["y"]},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(data.test["x"])[:TESTED].bernoulli(generator=generator)
    labels = one_hot(torch.from_numpy(data.test["y"])[:TESTED], 10).float()
    parts: list[dict[str, Any]] = [
        {"x": images[i : i + CHUNK], "y": labels[i : i + CHUNK]} for i in range(0, TESTED, CHUNK)
    ]
    value = float(torch.cat([model.bound(DRAWS, seed=seed, **part) for part in parts]).mean())
    single = float(torch.cat([model.bound(1, seed=seed, **part) for part in parts]).mean())
    return {"gap": abs(value - PUBLISHED), "log_likelihood": value, "neg_elbo": -single}
