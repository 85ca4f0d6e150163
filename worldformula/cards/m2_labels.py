"""Measures what M2 gains from digits without labels, beside its own classifier trained on the labels alone."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from worldformula import log
from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics.probe import Split, logistic_accuracy, nearest_accuracy
from worldformula.models.m2 import SYSTEM, build, tiny

LABELS, DRAWS, ALONE, CLASSES = (2, 10), 3, 800, 10


def measure(seed: int) -> dict[str, float]:
    """Three draws of 2, and three of 10, labelled digits per class; all 1437 training digits are read without a label.

    Returns:
        Mean accuracies on the 360 test digits by number of labels per class: ``m2_2``, ``net_2`` (the classifier of M2
        on the same labels, nothing else), ``lr_2`` (logistic regression), ``nn_2`` (nearest neighbour); ``gain_2`` and
        ``gain_10``: M2 above its own classifier, ``least_2`` and ``least_10`` the smallest of the three; ``gain``: the
        smaller of ``gain_2`` and ``gain_10``.
    """
    found: dict[str, float] = {}
    for count in LABELS:
        draws = [compare(count, DRAWS * seed + draw) for draw in range(DRAWS)]
        found |= {f"{name}_{count}": sum(draw[name] for draw in draws) / DRAWS for name in draws[0]}
        found[f"least_{count}"] = min(draw["gain"] for draw in draws)
    return {"gain": min(found[f"gain_{count}"] for count in LABELS), **found}


def compare(count: int, seed: int) -> dict[str, float]:
    """Accuracies with ``count`` labels per class, all on one draw of labels."""
    data = load("digits")
    split = Split(data.train["x"], data.train["y"], data.test["x"], data.test["y"]).few(count, seed)
    x, y = torch.from_numpy(split.train_x), one_hot(torch.from_numpy(split.train_y), CLASSES).float()
    test = torch.from_numpy(split.test_x), torch.from_numpy(split.test_y)
    rows, how = {"x": x, "y": y, "x_prime": torch.from_numpy(data.train["x"])}, SYSTEM.fits["tiny"]

    torch.manual_seed(seed)
    alone, model = build(tiny()), build(tiny())
    labelled = alone.source(rows, how["batch"])
    fit(-log(alone.classify).mean(), labelled, seed=seed, progress=False, **{**how, "steps": ALONE})
    fit(model, rows, seed=seed, progress=False, **how)
    m2, net = model.accuracy(*test), alone.accuracy(*test)
    return {"m2": m2, "net": net, "gain": m2 - net, "lr": logistic_accuracy(split), "nn": nearest_accuracy(split)}
