"""Measures the choices in which the paper and the code of MoPoE differ, each a preset of one file."""

from __future__ import annotations

import torch

from worldformula.cards.trimodal_scores import coherence, held_out, judges, nats, rows, train
from worldformula.data.trimodal import trimodal
from worldformula.models import mopoe

STEPS = 1300
VARIANTS = ("tiny", "full", "bound", "code")


def measure(seed: int) -> dict[str, float]:
    """Four trainings of 1300 steps; coherence of decoder means, and −log p of a triple with the mixture as proposal.

    Returns:
        ``gain``: with two modalities given, inference by PoE(S) minus that by the mixture over the subsets of S, the
        smallest of four variants; for each variant ``_1``: one given; ``_2``: two given, PoE(S); ``_2_mixture``: two
        given, mixture; ``_nats``. ``tiny``: p(z) in every product, KL by Monte Carlo; ``full``: p(z) in the full
        product alone; ``bound``: the mean of the components' KLs; ``code``: both.
    """
    data, (test, y), judge = rows(trimodal()), held_out(), judges()
    found: dict[str, float] = {}
    for name in VARIANTS:
        torch.manual_seed(seed)
        model = mopoe.build(mopoe.SYSTEM.sizes(name))
        train(model, data, seed, STEPS)
        found[f"{name}_1"] = coherence(model, test, y, judge, 1, mean=True, seed=seed)
        found[f"{name}_2"] = coherence(model, test, y, judge, 2, mean=True, seed=seed, rule="PoE")
        found[f"{name}_2_mixture"] = coherence(model, test, y, judge, 2, mean=True, seed=seed, rule="mixture")
        found[f"{name}_nats"] = nats(model, test, seed, rule="mixture")
    return {"gain": min(found[f"{n}_2"] - found[f"{n}_2_mixture"] for n in VARIANTS), **found}
