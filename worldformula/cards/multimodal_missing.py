"""Measures what incomplete rows are worth: kept and masked, against a training without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from worldformula.cards.trimodal_scores import MODALITIES, coherence, held_out, judges, nats, rows, train
from worldformula.data.trimodal import trimodal
from worldformula.model.multimodal import Multimodal
from worldformula.models import mmvae, mopoe, mvae

STEPS, HALF, FIFTH = 1000, 0.5, 0.2
MODELS = {"mvae": mvae, "mmvae": mmvae, "mopoe": mopoe}


def measure(seed: int) -> dict[str, float]:
    """1437 triples, each modality of which is absent with probability 0, 0.2 or 0.5, but never all three; 1000 steps.

    MVAE takes the bound of what is present from incomplete rows, without sub-sampling: the data are sampled already.

    Returns:
        ``gain``: the smallest gain in coherence of the three models at 0.5; for each model ``_keep_R`` and
        ``_drop_R``: coherence of decoder means with one modality given, of models that were trained on all rows and
        on complete rows alone, R % absent, ``_full``: nothing absent; with ``_nats`` behind it −log p of a triple.
    """
    data, (test, y), judge = rows(trimodal(pairings=1)), held_out(), judges()
    found: dict[str, float] = {}
    for name, module in MODELS.items():

        def score(label: str, part: Mapping[str, Tensor], name: str = name, module: object = module) -> None:
            sizes = module.tiny()  # type: ignore[attr-defined]
            if isinstance(sizes, mvae.Sizes) and any(key.startswith("present") for key in part):
                sizes = replace(sizes, elbo="all")
            torch.manual_seed(seed)
            model: Multimodal = module.build(sizes)  # type: ignore[attr-defined]
            train(model, part, seed, STEPS)
            found[f"{name}_{label}"] = coherence(model, test, y, judge, 1, mean=True, seed=seed)
            found[f"{name}_{label}_nats"] = nats(model, test, seed)

        score("full", data)
        for ratio in (FIFTH, HALF):
            flags = absences(len(data["a"]), ratio, seed)
            whole = torch.stack([*flags.values()]).all(0)
            score(f"keep_{ratio:.0%}".rstrip("%"), data | {f"present_{m}": f for m, f in flags.items()})
            score(f"drop_{ratio:.0%}".rstrip("%"), {m: x[whole] for m, x in data.items()})
    gains = [found[f"{name}_keep_50"] - found[f"{name}_drop_50"] for name in MODELS]
    return {"gain": min(gains), **found}


def absences(count: int, ratio: float, seed: int) -> dict[str, Tensor]:
    """Flags of present modalities, ``[N]`` each, drawn until every row has one."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(count, len(MODALITIES), generator=generator) >= ratio
    while (empty := ~there.any(1)).any():
        again = torch.rand(count, len(MODALITIES), generator=generator) >= ratio
        there = torch.where(empty[:, None], again, there)
    return {name: there[:, k] for k, name in enumerate(MODALITIES)}
