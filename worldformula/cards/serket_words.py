"""Measures Neuro-SERKET on pairs of a handwritten and a spoken digit: modules alone, in part, and all together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldformula.data import load
from worldformula.data.speech import recogniser
from worldformula.metrics.cluster import hungarian_accuracy
from worldformula.models.neuro_serket import Found, build, tiny

PARTS = {
    "alone": {"mixture": False, "cause": False, "words": False},
    "vision": {"mixture": True, "cause": False, "words": False},
    "speech": {"mixture": False, "cause": False, "words": True},
    "all": {"mixture": True, "cause": True, "words": True},
}


def measure(seed: int) -> dict[str, float]:
    """All 1797 pairs without labels; the recogniser alone has seen six labelled utterances per word.

    Returns:
        ``gain``: the smallest gain of mixture, topics and words, all connected, over each alone. For ``alone``,
        ``vision`` (VAE and mixture), ``speech`` (topics and recogniser) and ``all``: accuracy of the clusters under the
        best naming (``_mixture``), of the topics under the best naming (``_topics``), and of the words (``_words``).
    """
    data = load("speech")
    sounds, images, y = (np.concatenate([data.train[k], data.test[k]]) for k in ("x", "image", "y"))
    heard = torch.from_numpy(recogniser(sounds, y, seed=seed).log_likelihood(sounds)).float()
    x = torch.from_numpy(images)
    found: dict[str, float] = {}
    for name, links in PARTS.items():
        torch.manual_seed(seed)
        scores = accuracies(build(tiny()).learn(x, heard, seed=seed, **links), torch.from_numpy(y))
        found |= {f"{name}_{kind}": value for kind, value in scores.items()}
    gains = [found[f"all_{kind}"] - found[f"alone_{kind}"] for kind in ("mixture", "topics", "words")]
    return {"gain": min(gains), **found}


def accuracies(found: Found, y: Tensor) -> dict[str, float]:
    """Clusters and topics under their best naming; words as they are."""
    return {
        "mixture": hungarian_accuracy(found.clusters.argmax(-1), y),
        "topics": hungarian_accuracy(found.topics.argmax(-1), y),
        "words": float((found.words.argmax(-1) == y).float().mean()),
    }
