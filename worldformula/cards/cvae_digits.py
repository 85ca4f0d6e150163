"""Measures a conditional VAE on binarised digits given their class: likelihood, and what it draws."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from worldformula.data import load
from worldformula.metrics.base import train_classifier
from worldformula.metrics.frechet import within_class_variance
from worldformula.metrics.likelihood import class_bernoulli
from worldformula.models.cvae import CVAE, SYSTEM, build, tiny
from worldformula.training.fit import fit

DRAWS, SAMPLES, CLASSES = 500, 1000, 10


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 digits, test on 360; the first three are nats per test image.

    Returns:
        ``iwae``: −log p(x|y) bounded with 500 importance samples; ``neg_elbo``: the loss; ``class_bernoulli``: one
        Bernoulli per pixel and class. ``accuracy``: share of 1000 drawn images that a classifier puts into the class
        they were drawn for, ``mean_accuracy`` the same of the decoder's means, ``real`` of the test images,
        ``floor_accuracy`` of draws of the class Bernoullis. ``variance_ratio``: variance within the classes, draws over
        training images. ``bayes``: accuracy of the class whose bound with 50 samples is largest.
    """
    data = load("digits")
    x, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    labels, test_labels = torch.from_numpy(data.train["y"]), torch.from_numpy(data.test["y"])
    torch.manual_seed(seed)
    model = build(tiny())
    fit(model.loss, {"x": x, "y": coded(labels)}, seed=seed, **SYSTEM.fits["tiny"])

    judge = train_classifier(x, labels)
    wanted = torch.arange(SAMPLES) % CLASSES
    drawn = model.generate(SAMPLES, seed=seed, y=coded(wanted))["x"]
    mean = model.generate(SAMPLES, seed=seed, y=coded(wanted), mean=True)["x"]
    tables = torch.stack([x[labels == k].mean(0) for k in range(CLASSES)])
    nats = -class_bernoulli(x, labels, test)
    return {
        "iwae": float(-model.bound(DRAWS, seed=seed, x=test, y=coded(test_labels)).mean()),
        "neg_elbo": float(-model.bound(1, seed=seed, x=test, y=coded(test_labels)).mean()),
        "class_bernoulli": float(nats.gather(1, test_labels[:, None]).mean()),
        "accuracy": judge.accuracy(drawn, wanted),
        "mean_accuracy": judge.accuracy(mean, wanted),
        "real": judge.accuracy(test, test_labels),
        "floor_accuracy": judge.accuracy(tables[wanted].bernoulli(), wanted),
        "variance_ratio": within_class_variance(drawn, wanted) / within_class_variance(x, labels),
        "bayes": float((bayes(model, test, seed) == test_labels).float().mean()),
    }


def bayes(model: CVAE, x: Tensor, seed: int, draws: int = 50) -> Tensor:
    """The class whose bound of log p(x|y) is largest, ``[N]``."""
    classes = torch.eye(CLASSES)
    bounds = [model.bound(draws, seed=seed, x=x, y=y.expand(len(x), CLASSES)) for y in classes]
    return torch.stack(bounds).argmax(0)


def coded(labels: Tensor) -> Tensor:
    """Classes ``[N]`` as one-hot vectors ``[N, 10]``."""
    return one_hot(labels, CLASSES).float()
