"""Tri-modal digits: three views of a class that share nothing but the class.

``a`` is a binary digit, ``b`` *another* digit of the same class, transposed and inverted, ``c`` a spectrum of 24 bins
with two peaks: ``g (exp(−½((k − F₁ − j)/s)²) + .8 exp(−½((k − F₂ + j)/s)²)) + .06 N(0, 1)``, where the peaks of a class
are F₁ = 1.2·π₁ + 3 and F₂ = 1.2·π₂ + 11 for two permutations π of 0 to 9, j ~ N(0, .45²), s ~ U(.8, 1.3),
g ~ U(.7, 1.2). Training digits are paired ten times at random, test digits once.

Digest of ``load("trimodal")``: ``a63cb7a24e34567f`` with NumPy 2.4 on x86-64; elsewhere last bits may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader, digit_levels, digit_split

BINS, PAIRINGS = 24, 10
_ORDER = np.random.default_rng(3)  # no two classes are neighbours in both peaks
PEAKS = np.stack([1.2 * _ORDER.permutation(10) + first for first in (3, 11)], -1)  # [10, 2], bins


@dataclass(frozen=True, repr=False)
class TriModal(Arrays):
    """Triples of one part: ``a``, ``b`` ``[N, 64]`` of 0 or 1 and ``c`` ``[N, 24]``, float32; ``y`` ``[N]`` int64."""

    a: Floats
    b: Floats
    c: Floats
    y: Integers


def trimodal(*, test: bool = False, pairings: int = PAIRINGS, seed: int = 0) -> TriModal:
    """All digits of the part as ``a``, ``pairings`` times over; the test part always once.

    Args:
        test: the test part.
        pairings: how often the training digits are paired anew.
        seed: of the pairs and the spectra.

    Raises:
        ConfigError: scikit-learn, which carries the digits, is not installed.
    """
    levels, labels = digit_levels()
    rows = digit_split()[int(test)]
    rng = np.random.default_rng([seed, int(test)])
    image, y = (levels[rows] >= 8).astype(np.float32), labels[rows]
    turned = 1.0 - image.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    partner = np.concatenate([_partners(y, rng) for _ in range(1 if test else pairings)])
    times = len(partner) // len(y)
    classes = np.tile(y, times)
    return TriModal(np.tile(image, (times, 1)), turned[partner], spectrum(classes, rng), classes)


def _partners(y: Integers, rng: np.random.Generator) -> Integers:
    """For every row another row of its class: a random cycle through the class, so each is a partner once."""
    partner = np.empty_like(y)
    for k in np.unique(y):
        cycle = rng.permutation(np.flatnonzero(y == k))
        partner[cycle] = np.roll(cycle, 1)
    return partner


def spectrum(y: Integers, rng: np.random.Generator) -> Floats:
    """One spectrum per label ``[N]``: ``[N, 24]`` float32."""
    column = (len(y), 1)
    jitter, width, gain = (
        0.45 * rng.standard_normal(column),
        rng.uniform(0.8, 1.3, column),
        rng.uniform(0.7, 1.2, column),
    )
    first, second = PEAKS[y, 0, None], PEAKS[y, 1, None]
    k = np.arange(BINS)
    low = np.exp(-0.5 * ((k - first - jitter) / width) ** 2)
    high = 0.8 * np.exp(-0.5 * ((k - second + jitter) / width) ** 2)
    return (gain * (low + high) + 0.06 * rng.standard_normal((len(y), BINS))).astype(np.float32)


def _part(*, test: bool) -> dict[str, Array]:
    part = trimodal(test=test)
    return {"x": part.a, "a": part.a, "b": part.b, "c": part.c, "y": part.y}


def _load() -> DataSet:
    note = "A digit, another digit of its class transposed and inverted, and a spectrum with two peaks."
    return DataSet("trimodal", _part(test=False), _part(test=True), (8, 8), note)


DATA: Mapping[str, Loader] = {"trimodal": _load}
