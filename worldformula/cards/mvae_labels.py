"""Measures what MVAE's guess of a label gains from images without a label and labels without an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldformula.data import load
from worldformula.metrics.base import train_classifier
from worldformula.model.multimodal import Modality
from worldformula.models import mvae
from worldformula.training.fit import fit

PAIRS, STEPS, BATCH, ALONE, DRAWS, CLASSES = 30, 2000, 32, 16, 50, 10
SIZES = replace(
    mvae.paper(), modalities=(Modality("x", 64), Modality("y", CLASSES, weight=50.0)), latent=16, hidden=(128, 128),
    warm_up=500,
)  # fmt: skip
"""λ = 50 on the label and no sets besides all and singles, as the paper has them for MNIST; smaller networks."""


def measure(seed: int) -> dict[str, float]:
    """Of 1437 binary digits 30 keep their label; half of the others lose it, of the other half only the label is left.

    Returns:
        ``gain``: accuracy on 360 test digits (the label from p(y|z), z ~ q(z|x)) of MVAE trained on all of it, less
        that of MVAE trained on the pairs alone; ``over_net``: less that of a classifier trained on the pairs.
        ``mvae``, ``pairs`` and ``net``: these accuracies; ``nats`` and ``pairs_nats``: −log p(x) of a test image.
    """
    data = load("digits")
    x, y = torch.from_numpy(data.train["x"]), torch.from_numpy(data.train["y"])
    test, truth = torch.from_numpy(data.test["x"]), torch.from_numpy(data.test["y"])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    pairs, images, labels = order[:PAIRS], order[PAIRS::2], order[PAIRS + 1 :: 2]
    found: dict[str, float] = {}
    for name, alone in (("mvae", ALONE), ("pairs", 0)):
        torch.manual_seed(seed)
        model = mvae.build(SIZES)
        train(model, x, one_hot(y, CLASSES).float(), (pairs, images, labels), alone, seed)
        guessed = model.predict({"x": test}, "y", mean=True, n=DRAWS, seed=seed)["y"].mean(0).argmax(-1)
        found[name] = float((guessed == truth).float().mean())
        found[f"{name}_nats".removeprefix("mvae_")] = float(-model.bound(200, seed=seed, x=test).mean())
    net = train_classifier(x[pairs], y[pairs], epochs=300, seed=seed)
    found["net"] = net.accuracy(test, truth)
    return {"gain": found["mvae"] - found["pairs"], "over_net": found["mvae"] - found["net"], **found}


def train(model: mvae.MVAE, x: Tensor, y: Tensor, parts: tuple[Tensor, Tensor, Tensor], alone: int, seed: int) -> None:
    """Every step reads 32 pairs and ``alone`` rows of either kind without the other.

    A row of one modality is in the sum twice, as the set of all that it has and as a set of one: 16 weigh like 32.
    """
    pairs, images, labels = parts
    generator = torch.Generator().manual_seed(seed)

    def some(rows: Tensor, count: int) -> Tensor:
        return rows[torch.randint(len(rows), (count,), generator=generator)]

    def batch() -> dict[str, Tensor]:
        rows = torch.cat([some(pairs, BATCH), some(images, alone), some(labels, alone)])
        kind = torch.tensor([0] * BATCH + [1] * alone + [2] * alone)
        return {"x": x[rows], "y": y[rows], "has_x": kind != 2, "has_y": kind != 1}

    def inputs(rows: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"x": rows["x"], "y": rows["y"], "present": {"x": rows["has_x"], "y": rows["has_y"]}}

    how = {**mvae.SYSTEM.fits["tiny"], "steps": STEPS, "batch": BATCH + 2 * alone}
    fit(model.loss, batch, seed=seed, inputs=inputs, symbols=model.symbols, **how)
