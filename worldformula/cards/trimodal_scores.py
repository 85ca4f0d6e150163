"""What the cards of multimodal models share: tri-modal digits as tensors, their judges, training, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from worldformula import catalogue
from worldformula.data.trimodal import TriModal, trimodal
from worldformula.metrics.base import Classifier, train_classifier
from worldformula.metrics.coherence import joint_coherence
from worldformula.model.multimodal import Multimodal
from worldformula.training.fit import fit

MODALITIES = ("a", "b", "c")
DRAWS, DECODED, JOINT = 600, 4, 2000


def rows(part: TriModal) -> dict[str, Tensor]:
    """The modalities of one part, ``[N, ...]`` each."""
    return {name: torch.from_numpy(getattr(part, name)) for name in MODALITIES}


def held_out() -> tuple[dict[str, Tensor], Tensor]:
    """The 360 test triples and their labels."""
    part = trimodal(test=True)
    return rows(part), torch.from_numpy(part.y)


def judges() -> dict[str, Classifier]:
    """One classifier per modality, from one pairing of the training digits."""
    part = trimodal(pairings=1)
    return {name: train_classifier(x, torch.from_numpy(part.y)) for name, x in rows(part).items()}


def train(model: Multimodal, data: Mapping[str, Tensor], seed: int, steps: int | None = None) -> None:
    """As `worldformula fit` does by the preset `tiny`, but for the steps; rows may have ``present_<name>`` flags."""
    how = dict(catalogue.find(type(model).__module__.rpartition(".")[2]).fits["tiny"])
    how |= {} if steps is None else {"steps": steps}
    flags = [name for name in MODALITIES if f"present_{name}" in data]

    def inputs(batch: Mapping[str, Tensor]) -> dict[str, Any]:
        given: dict[str, Any] = {name: batch[name] for name in MODALITIES}
        return given | ({"present": {name: batch[f"present_{name}"] for name in flags}} if flags else {})

    fit(model.loss, data, seed=seed, inputs=inputs, symbols=model.symbols, **how)


def coherence(
    model: Multimodal, test: Mapping[str, Tensor], y: Tensor, judge: Mapping[str, Classifier], count: int, *,
    mean: bool, seed: int, rule: str | None = None,
) -> float:  # fmt: skip
    """Share of rows whose made modality is judged to be of the given class, mean over all sets of ``count`` modalities
    that are given and all that are not; four draws of z for each row.
    """
    shares = []
    for given in combinations(MODALITIES, count):
        made = model.predict({m: test[m] for m in given}, mean=mean, n=DECODED, rule=rule, seed=seed)
        shares += [float((judge[m](x.flatten(0, 1)) == y.repeat(DECODED)).float().mean()) for m, x in made.items()]
    return sum(shares) / len(shares)


def together(model: Multimodal, judge: Mapping[str, Classifier], *, mean: bool, seed: int) -> float:
    """Share of 2000 draws from the prior on which all judges agree."""
    made = model.generate(JOINT, mean=mean, seed=seed)
    return joint_coherence({name: made[name] for name in MODALITIES}, judge)


def nats(model: Multimodal, test: Mapping[str, Any], seed: int, rule: str | None = None) -> float:
    """−log p(a, b, c), bounded with 600 draws, as many from each component of the proposal."""
    return float(-model.bound(DRAWS, seed=seed, rule=rule, **test).mean())
