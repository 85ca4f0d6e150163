"""Measures four multimodal VAEs on tri-modal digits: do their modalities agree, and how likely are unseen triples?"""

from __future__ import annotations

from itertools import pairwise

import torch

from worldformula.cards.trimodal_scores import coherence, held_out, judges, nats, rows, together, train
from worldformula.data.trimodal import trimodal
from worldformula.metrics.coherence import ceilings
from worldformula.model.multimodal import Multimodal
from worldformula.models import jmvae, mmvae, mopoe, mvae

TIGHTEST_FIRST = ("jmvae", "mvae", "mopoe", "mmvae")


def measure(seed: int) -> dict[str, float]:
    """Train the four on the same rows with networks of the same sizes; test on 360 triples.

    Returns:
        ``margin``: how much the tightest of seven conditions is kept by (see the card); for each model ``_1`` and
        ``_2``: cross coherence with one and two modalities given, ``_joint``: joint coherence, of decoder means, each
        also ``_drawn``: of decoded samples; ``_nats``: −log p of a triple. ``real_mean`` and ``real_joint``: the
        judges on real triples.
    """
    data, (test, y), judge = rows(trimodal()), held_out(), judges()
    torch.manual_seed(seed)
    models: dict[str, Multimodal] = {
        "jmvae": jmvae.build(jmvae.tiny()),
        "mvae": mvae.build(mvae.tiny()),
        "mopoe": mopoe.build(mopoe.tiny()),
        "mmvae": mmvae.build(mmvae.tiny()),
    }
    found: dict[str, float] = {}
    for name, model in models.items():
        train(model, data, seed)
        for end, mean in (("", True), ("_drawn", False)):
            for count in (1, 2):
                found[f"{name}_{count}{end}"] = coherence(model, test, y, judge, count, mean=mean, seed=seed)
            found[f"{name}_joint{end}"] = together(model, judge, mean=mean, seed=seed)
        found[f"{name}_nats"] = nats(model, test, seed)
    real = ceilings(test, y, judge)
    return {"margin": margin(found), **found, "real_mean": real["mean"], "real_joint": real["joint"]}


def margin(found: dict[str, float]) -> float:
    """The smallest distance of a condition from its threshold; negative where one is broken."""
    order = [found[f"{name}_nats"] for name in TIGHTEST_FIRST]
    return min(
        found["mmvae_1"] - found["jmvae_1"] - 0.04,
        found["jmvae_1"] - found["mvae_1"] - 0.3,
        found["mopoe_2"] - found["mopoe_1"] - 0.03,
        0.02 - abs(found["mmvae_2"] - found["mmvae_1"]),
        *(high - low for low, high in pairwise(order)),
    )
