"""Measures a VQ-VAE on grey digits at 20 bits an image, beside classical codes of as many bits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.data import load
from worldformula.fitting import fit
from worldformula.models.vq_vae import SYSTEM, build, tiny

Floats = NDArray[np.floating]


def measure(seed: int) -> dict[str, float]:
    """Train on 1437 grey digits in [0, 1], test on 360; errors are squared, summed over pixels, mean over images.

    Returns:
        ``ratio``: the error of the VQ-VAE over that of the best floor. ``vq_vae``; ``product``: k-means with 32 centres
        on each quarter of the image; ``pca``: principal components, each with a k-means code of its own, the 20 bits
        given one after the other to the component that gains most; ``nearest``: the nearest of the 1437 training
        images, 10.5 bits; ``mean``: the mean image, 0 bits. ``used``: share of the codes that training images choose;
        ``bits``: 20 if they chose all codes equally often, otherwise the entropy of the choices, position by position.
    """
    data = load("digits-grey")
    x, test = data.train["x"], data.test["x"]
    sizes = tiny()
    torch.manual_seed(seed)
    model = build(sizes)
    fit(model, {"x": torch.from_numpy(x)}, seed=seed, progress=False, **SYSTEM.fits["tiny"])
    model.loss.eval()
    made = model.decoded(model.codes(torch.from_numpy(test))).numpy()
    floors = {
        "product": error(test, product(x, test, sizes.positions, sizes.codes, seed)),
        "pca": error(test, components(x, test, bits(sizes.positions, sizes.codes), seed)),
        "nearest": error(test, nearest(x, test)),
    }
    ours = error(test, made)
    used, entropy = usage(model.codes(torch.from_numpy(x)), sizes.codes)
    mean = error(test, np.broadcast_to(x.mean(0), test.shape))
    return {"ratio": ours / min(floors.values()), "vq_vae": ours, **floors, "mean": mean, "used": used, "bits": entropy}


def bits(positions: int, codes: int) -> int:
    """Of an image."""
    return positions * (codes - 1).bit_length()


def error(x: Floats, made: Floats) -> float:
    """Squared error, summed over pixels, mean over images."""
    return float(np.square(x - made).sum(1).mean())


def kmeans(x: Floats, centres: int, seed: int) -> Floats:
    """Centres ``[K, D]`` of k-means, the best of three starts."""
    from sklearn.cluster import KMeans

    found: Floats = KMeans(centres, n_init=3, random_state=seed).fit(x).cluster_centers_
    return found


def nearest(centres: Floats, x: Floats) -> Floats:
    """The nearest of the centres to every row."""
    distance = np.square(centres).sum(1) - 2 * x @ centres.T
    found: Floats = centres[distance.argmin(1)]
    return found


def product(x: Floats, test: Floats, positions: int, codes: int, seed: int) -> Floats:
    """Test images with each quarter replaced by the nearest of its ``codes`` centres (Jégou et al. 2011)."""
    side = round(positions**0.5)
    block = np.arange(64).reshape(side, 8 // side, side, 8 // side).transpose(0, 2, 1, 3).reshape(positions, -1)
    made = np.empty_like(test)
    for pixels in block:
        made[:, pixels] = nearest(kmeans(x[:, pixels], codes, seed), test[:, pixels])
    return made


def components(x: Floats, test: Floats, budget: int, seed: int) -> Floats:
    """Test images of ``budget`` bits in all: 2^b levels by k-means for each principal component, b chosen greedily."""
    mean = x.mean(0)
    _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
    train, codes = (x - mean) @ axes.T, (test - mean) @ axes.T
    levels: list[Floats] = [np.zeros((1, 1))] * budget  # no more components than bits can have one
    loss = [float(np.square(train[:, j]).mean()) for j in range(budget)]
    offers = [offer(train[:, j : j + 1], 1, seed) for j in range(budget)]
    depth = [0] * budget
    for _ in range(budget):
        j = int(np.argmax([loss[j] - offers[j][1] for j in range(budget)]))
        (levels[j], loss[j]), depth[j] = offers[j], depth[j] + 1
        offers[j] = offer(train[:, j : j + 1], depth[j] + 1, seed)
    made = np.concatenate([nearest(levels[j], codes[:, j : j + 1]) for j in range(budget)], 1)
    return np.asarray(made @ axes[:budget] + mean)


def offer(x: Floats, depth: int, seed: int) -> tuple[Floats, float]:
    """2^depth levels of one component and their mean squared error."""
    levels = kmeans(x, 2**depth, seed)
    return levels, float(np.square(x - nearest(levels, x)).mean())


def usage(k: Tensor, codes: int) -> tuple[float, float]:
    """Share of the (position, code) pairs that occur in ``k [N, M]``, and the entropies of the positions in bits."""
    counts = torch.stack([torch.bincount(column, minlength=codes) for column in k.T]).double()
    share = counts / counts.sum(1, keepdim=True)
    return float((counts > 0).double().mean()), float(-torch.special.xlogy(share, share).sum() / np.log(2.0))
