"""Measures what M2 gains from digits without labels, beside its own classifier trained on the labels alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldformula import log
from worldformula.data import load
from worldformula.metrics.probe import Split, logistic_accuracy, nearest_accuracy
from worldformula.models.m2 import build, tiny
from worldformula.training.fit import fit

LABELS, DRAWS = (2, 10), 3
BATCH, STEPS, ALONE, FLIPS, CLASSES = 64, 2500, 800, 0.02, 10


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
    everything = torch.from_numpy(data.train["x"])

    torch.manual_seed(seed)
    alone, model = build(tiny()), build(tiny())

    def batch() -> dict[str, Tensor]:
        rows, others = torch.randint(len(x), (BATCH,)), torch.randint(len(everything), (BATCH,))
        return {"x": noisy(x[rows]), "y": y[rows], "x_prime": noisy(everything[others])}

    fit(-log(alone.classify).mean(), batch, steps=ALONE, batch=BATCH, seed=seed)
    fit(model.loss, batch, steps=STEPS, batch=BATCH, seed=seed, symbols=model.symbols)
    m2, net = model.accuracy(*test), alone.accuracy(*test)
    return {"m2": m2, "net": net, "gain": m2 - net, "lr": logistic_accuracy(split), "nn": nearest_accuracy(split)}


def noisy(x: Tensor) -> Tensor:
    """Every pixel is flipped with a probability of 2 %."""
    return (x - torch.empty_like(x).bernoulli_(FLIPS)).abs()
