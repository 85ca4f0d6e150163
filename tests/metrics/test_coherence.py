"""Coherence: counted by hand, with ceilings on real data and a model that ignores what it is given."""

from __future__ import annotations

import pytest
import torch

from worldformula.data import load
from worldformula.errors import ConfigError
from worldformula.metrics.base import train_classifier
from worldformula.metrics.coherence import ceilings, cross_coherence, joint_coherence

JUDGES = {name: lambda x: x.argmax(-1) for name in "ab"}
EYE = torch.eye(4)


def test_counted_by_hand():
    labels = torch.tensor([0, 1, 2, 3])
    made = {"a": EYE[[0, 1, 2, 0]], "b": EYE[[0, 1, 3, 0]]}
    assert cross_coherence(made, labels, JUDGES) == {"a": 0.75, "b": 0.5}
    assert joint_coherence(made, JUDGES) == 0.75
    assert ceilings(made, labels, JUDGES) == {"a": 0.75, "b": 0.5, "mean": 0.625, "joint": 0.75}


def test_three_modalities_agree_only_all_together():
    made = {"a": EYE[[0, 1, 1]], "b": EYE[[0, 1, 2]], "c": EYE[[0, 2, 1]]}
    assert joint_coherence(made, JUDGES | {"c": JUDGES["a"]}) == pytest.approx(1 / 3)


def test_a_modality_needs_a_judge_and_agreement_needs_two():
    with pytest.raises(ConfigError, match="no judge for the modality 'c'; there are judges for a, b"):
        cross_coherence({"c": EYE}, torch.arange(4), JUDGES)
    with pytest.raises(ConfigError, match=r"two modalities or more, got \['a'\]"):
        joint_coherence({"a": EYE}, JUDGES)


def test_ceilings_of_trimodal_digits_and_shuffled_pairs():
    data = load("trimodal")
    y, test_y = (torch.from_numpy(part["y"]) for part in (data.train, data.test))
    judges, real = {}, {}
    for name in "abc":
        x, real[name] = (torch.from_numpy(part[name]) for part in (data.train, data.test))
        judges[name] = train_classifier(x[:2874], y[:2874], epochs=12)
    found = ceilings(real, test_y, judges)
    assert found["a"] == pytest.approx(0.93, abs=0.03)
    assert found["b"] == pytest.approx(0.92, abs=0.03)
    assert found["c"] > 0.97
    assert found["joint"] == pytest.approx(0.858, abs=0.05)
    broken = {name: x[torch.randperm(360)] for name, x in real.items()}
    assert joint_coherence(broken, judges) < 0.05  # each modality real, none of them together
    assert max(cross_coherence(broken, test_y, judges).values()) < 0.2
