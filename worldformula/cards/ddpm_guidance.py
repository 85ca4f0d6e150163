"""Measures classifier-free guidance on digits: labels that come back, and what guidance costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldformula.cards.ddpm_digits import distance, grey, train
from worldformula.data import load
from worldformula.metrics.frechet import digit_features, within_class_variance
from worldformula.models.ddpm import build, guidance

SAMPLES, STEPS = 720, 50
WEIGHTS = {"plain": 0.0, "guided": 1.0}


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits with labels, one in ten hidden; 720 samples, 72 of each digit, by DDIM in 50 steps.

    Returns:
        ``guided``: share of samples with guidance 1 that a classifier reads as their label; ``plain``: without; ``fd_``
        of both against the 360 test digits; ``spread_`` of both: within-class variance over that of the test digits.
    """
    torch.manual_seed(seed)
    data = load("digits-17")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    labels, test_labels = torch.from_numpy(data.train["y"]), torch.from_numpy(data.test["y"])
    reader = digit_features(grey(rows), labels)
    model = build(guidance())
    history = train(model, {"x": rows, "y": one_hot(labels)}, seed)
    classes = torch.arange(SAMPLES) % 10
    real = within_class_variance(grey(test), test_labels)
    found: dict[str, float] = {}
    for name, weight in WEIGHTS.items():
        with history.averaged():
            x = model.generate(SAMPLES, seed=seed, steps=STEPS, guidance=weight, y=one_hot(classes))["x"]
        found[name] = reader.accuracy(grey(x), classes)
        found[f"fd_{name}"] = distance(reader, x, test)
        found[f"spread_{name}"] = within_class_variance(grey(x), classes) / real
    return {"guided": found.pop("guided"), **found}


def one_hot(y: Tensor) -> Tensor:
    """Labels as the model reads them."""
    return nn.functional.one_hot(y, 10).float()
