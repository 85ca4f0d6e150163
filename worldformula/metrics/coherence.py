"""Coherence of multimodal models: do the modalities that a model makes agree with each other and with what was given?

Judges are classifiers, one per modality. Print their scores on real data beside a model's (`ceilings`), and decode both
sampled values and means: means are cleaner than data and beat the ceiling. Coherence without a measure of diversity is
gamed by mean images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from worldformula.errors import ConfigError

Judge = Callable[[Tensor], Tensor]


def cross_coherence(made: Mapping[str, Tensor], labels: Tensor, judges: Mapping[str, Judge]) -> dict[str, float]:
    """Share of rows whose made modality is judged to be of the class that was given, by modality.

    Args:
        made: modality -> what the model made of it from *other* modalities, ``[N, …]``.
        labels: class of the given modalities, ``[N]``.
        judges: modality -> classifier, ``[N, …]`` -> ``[N]``; more of them than modalities made is fine.

    Raises:
        ConfigError: a modality has no judge.
    """
    return {name: float((_judge(judges, name)(x) == labels).double().mean()) for name, x in made.items()}


def joint_coherence(made: Mapping[str, Tensor], judges: Mapping[str, Judge]) -> float:
    """Share of rows on which the judges of all modalities agree, whatever the class.

    Args:
        made: modality -> samples from one latent draw per row, ``[N, …]``; two modalities or more.
        judges: modality -> classifier.

    Raises:
        ConfigError: fewer than two modalities, or one without a judge.
    """
    if len(made) < 2:
        raise ConfigError(f"agreement needs two modalities or more, got {list(made)}")
    verdicts = torch.stack([_judge(judges, name)(x) for name, x in made.items()])
    return float((verdicts == verdicts[0]).all(0).double().mean())


def ceilings(real: Mapping[str, Tensor], labels: Tensor, judges: Mapping[str, Judge]) -> dict[str, float]:
    """What real test data would score: accuracy per modality, their ``mean``, and ``joint`` agreement."""
    accuracy = cross_coherence(real, labels, judges)
    mean = sum(accuracy.values()) / len(accuracy)
    return {**accuracy, "mean": mean, "joint": joint_coherence(real, judges)}


def _judge(judges: Mapping[str, Judge], name: str) -> Judge:
    if name not in judges:
        raise ConfigError(f"no judge for the modality {name!r}; there are judges for {', '.join(judges) or 'none'}")
    return judges[name]
