"""Floors and ceilings: the numbers that must stand beside every model, computed anew in about a minute.

    python -m benchmarks.floors [--seed 0] [--json benchmarks/results/floors.json]

Every value depends on data sets that are made or come with scikit-learn, and on classifiers that are trained here; none
on a download. Names of the result: data set / what, with its unit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldformula.cards.run import machine, write_json
from worldformula.data import DataSet, load
from worldformula.data.rooms import mean_image_error, nearest_view_error
from worldformula.data.speech import cepstra, recogniser, synthesise
from worldformula.data.sprites import sprites
from worldformula.metrics import frechet, likelihood, probe
from worldformula.metrics.base import train_classifier
from worldformula.metrics.cluster import adjusted_rand, hungarian_accuracy, normalised_information
from worldformula.metrics.coherence import ceilings
from worldformula.metrics.disentangle import controls, dci, factor_vae_score, mig
from worldformula.metrics.openloop import open_loop_error

RESULT = Path(__file__).parent / "results" / "floors.json"
LEVELS, DRAWS, ROTATIONS, FD_SAMPLES = 17, 5, 10, 720
SPEECH = ((1.6, 0.09), (2.5, 0.14), (3.0, 0.2), (4.0, 0.15))
Floors = dict[str, Any]


def tensors(part: dict[str, np.ndarray], *names: str) -> list[Tensor]:
    """Arrays of a part as tensors."""
    return [torch.from_numpy(part[name]) for name in names]


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "seeds": len(values)}


def digits_binary(data: DataSet, seed: int) -> Floors:
    """Negative test log-likelihood of binary digits, nats per image."""
    train, y = tensors(data.train, "binary", "y")
    test, test_y = tensors(data.test, "binary", "y")
    by_class = likelihood.class_bernoulli(train, y, test)
    prior = torch.bincount(y).float().log() - np.log(len(y))
    found = {
        "class Bernoulli, label given": float(-by_class.gather(-1, test_y[:, None]).mean()),
        "class Bernoulli, label summed out": float(-(by_class + prior).logsumexp(-1).mean()),
        "independent Bernoulli": float(-likelihood.bernoulli_mixture(train, test, 1).mean()),
    }
    for components in (10, 30, 60, 100):
        generator = torch.Generator().manual_seed(seed)
        value = likelihood.bernoulli_mixture(train, test, components, generator=generator)
        found[f"Bernoulli mixture, {components}"] = float(-value.mean())
    return found


def digits_levels(data: DataSet, seed: int) -> Floors:
    """Test bits per dimension of the 17 levels; Gaussians on uniformly dequantised values."""
    train, test = data.train["levels"], data.test["levels"]
    found = {
        "uniform": float(np.log2(LEVELS)),
        "categorical per pixel": likelihood.bits_per_dim(
            float(likelihood.categorical_table(train, test, LEVELS).mean()), train.shape[1]
        ),
    }
    smooth, held = likelihood.dequantise(train, LEVELS, seed), likelihood.dequantise(test, LEVELS, seed + 1)
    for components, covariance in ((1, "diag"), (1, "full"), (10, "full"), (20, "full")):
        value = likelihood.gaussian_mixture(smooth, held, components, covariance=covariance, seed=seed).mean()
        name = f"Gaussian mixture, {components} {covariance}"
        found[name] = likelihood.bits_per_dim(float(value), train.shape[1], LEVELS)
    return found


def labels(data: DataSet, seed: int) -> Floors:
    """Accuracy of simple classifiers and clusterings, on grey and on binary digits (never compare the two)."""
    from sklearn.cluster import KMeans

    found: Floors = {}
    for name, strength in (("grey", 1.0), ("binary", 0.05)):
        split = probe.Split(data.train[name], data.train["y"], data.test[name], data.test["y"])
        found[f"{name}: logistic regression"] = probe.logistic_accuracy(split, strength=strength)
        for count in (2, 5, 10):
            few = [split.few(count, seed + draw) for draw in range(DRAWS)]
            found[f"{name}: logistic regression, {count} labels a class"] = spread(
                [probe.logistic_accuracy(s) for s in few]
            )
            found[f"{name}: nearest neighbour, {count} labels a class"] = spread(
                [probe.nearest_accuracy(s) for s in few]
            )
    images, y = (np.concatenate([data.train[k], data.test[k]]) for k in ("grey", "y"))
    clusters = KMeans(10, n_init=10, random_state=seed).fit_predict(images)
    scores = {"accuracy": hungarian_accuracy, "ARI": adjusted_rand, "NMI": normalised_information}
    return found | {f"k-means, {name}": score(clusters, y) for name, score in scores.items()}


def distances(data: DataSet, seed: int) -> Floors:
    """FD-32 and KID against the 360 test digits, and what else a generator is compared with."""
    grey, y = tensors(data.train, "grey", "y")
    held, held_y = tensors(data.test, "grey", "y")
    net = frechet.digit_features(grey, y, seed)
    generator = torch.Generator().manual_seed(seed)
    real, train = net.features(held), net.features(grey)

    def some(count: int) -> Tensor:
        return torch.randperm(len(grey), generator=generator)[:count]

    smooth = likelihood.dequantise(data.train["levels"], LEVELS, seed)
    drawn = likelihood.fit_gaussian_mixture(smooth, 20, seed=seed).sample(FD_SAMPLES)[0]
    mixture = torch.from_numpy(np.clip(np.floor(drawn * LEVELS), 0, LEVELS - 1) / (LEVELS - 1)).float()
    apart = torch.stack([column[some(FD_SAMPLES)] for column in grey.T], -1)
    found: Floors = {"network": net.digest(), "its test accuracy": net.accuracy(held, held_y)}
    for count in (360, FD_SAMPLES):
        found[f"FD, {count} training images"] = spread([frechet.frechet(train[some(count)], real) for _ in range(10)])
    return found | {
        "FD, all training images": frechet.frechet(train, real),
        f"FD, {FD_SAMPLES} of a Gaussian mixture of 20": frechet.frechet(net.features(mixture), real),
        f"FD, {FD_SAMPLES} of independent pixels": frechet.frechet(net.features(apart), real),
        f"KID, {FD_SAMPLES} training images": frechet.kid(train[some(FD_SAMPLES)], real),
        f"KID, {FD_SAMPLES} of independent pixels": frechet.kid(net.features(apart), real),
        "nearest training image, test, levels": frechet.nearest_train_distance(held * 16, grey * 16),
        "within-class variance, test": frechet.within_class_variance(held, held_y),
        "within-class variance, train": frechet.within_class_variance(grey, y),
    }


def disentanglement(seed: int) -> Floors:
    """Scores of the three control codes on mini-sprites; those of rotations over ten of them."""
    rows = np.random.default_rng(seed).integers(768, size=10_000)
    factors = sprites().factors[rows]
    found: Floors = {}
    for name in ("oracle", "rotated", "random"):
        codes = [controls(factors, seed + i)[name] for i in range(ROTATIONS if name == "rotated" else 2)]
        found[f"MIG, {name}"] = spread([mig(z, factors) for z in codes])
        found[f"FactorVAE score, {name}"] = spread([factor_vae_score(z, factors, seed=seed) for z in codes])
        found[f"DCI disentanglement, {name}"] = dci(codes[0], factors, seed=seed).disentanglement
    return found


def sequences(name: str) -> Floors:
    """Wrong pixels per frame of copying the last frame seen and of a blank one."""
    x = load(name).test["x"]
    errors = open_loop_error(x, np.zeros_like(x), 1)
    pixels = x.shape[-1]
    copied = {f"copy last, +{k}": pixels * errors.persistence[k - 1] for k in (1, 2, 4, 8)}
    return copied | {"blank frame": pixels * float(np.mean(errors.model))}


def rooms() -> Floors:
    """Mean squared error of answering a view without a model."""
    data = load("rooms")
    return {
        "mean image": mean_image_error(data.train["x"], data.test["x"]),
        "nearest of the other five views": nearest_view_error(data.test["x"], data.test["v"]),
    }


def speech(seed: int) -> Floors:
    """Words recognised of all 1797 utterances, at (noise, formant jitter)."""
    data = load("digits")
    y = np.concatenate([data.train["y"], data.test["y"]])
    found = {}
    for noise, jitter in SPEECH:
        x = cepstra(synthesise(y, noise=noise, jitter=jitter, seed=seed))
        right = [recogniser(x, y, seed=seed + i).log_likelihood(x).argmax(1) == y for i in range(DRAWS)]
        found[f"noise {noise}, jitter {jitter}"] = spread([float(r.mean()) for r in right])
    return found


def trimodal(seed: int) -> Floors:
    """Classifiers on real test data: the ceilings of coherence. Chance is .1."""
    data = load("trimodal")
    y, test_y = torch.from_numpy(data.train["y"]), torch.from_numpy(data.test["y"])
    judges = {}
    for name in "abc":
        (x,) = tensors(data.train, name)
        distinct = slice(0, 1437) if name != "c" else slice(None)  # the other pairings repeat the same pictures
        epochs = 60 if name != "c" else 6
        judges[name] = train_classifier(x[distinct], y[distinct], epochs=epochs, seed=seed)
    return dict(ceilings(dict(zip("abc", tensors(data.test, *"abc"), strict=True)), test_y, judges))


def measure(seed: int) -> Floors:
    """All floors, by data set."""
    digits = load("digits")
    return {
        "digits, nats": digits_binary(digits, seed),
        "digits-17, bits/dim": digits_levels(digits, seed),
        "labels, accuracy": labels(digits, seed),
        "FD-32": distances(digits, seed),
        "sprites": disentanglement(seed),
        "rolling, wrong pixels of 96": sequences("rolling"),
        "moving, wrong pixels of 256": sequences("moving"),
        "rooms, MSE": rooms(),
        "speech, word accuracy": speech(seed),
        "trimodal, accuracy": trimodal(seed),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    floors = measure(args.seed)
    for data, rows in floors.items():
        print(data)
        for name, value in rows.items():
            shown = value["mean"] if isinstance(value, dict) else value
            print(f"  {name:<48} {shown if isinstance(shown, str) else format(shown, '.4g')}")
    head = {"benchmark": "floors", "command": "python -m benchmarks.floors", "seed": args.seed, **machine()}
    digests = {
        name: load(name).digest() for name in ("digits", "sprites", "rolling", "moving", "rooms", "speech", "trimodal")
    }
    seconds = round(time.perf_counter() - start, 1)
    write_json(args.json, {**head, "seconds": seconds, "data": digests, "floors": floors})


if __name__ == "__main__":
    main()
