"""The card of MVAE's labels: which rows lack what, and what is compared with what."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldformula.cards import mvae_labels as card


@pytest.fixture
def fits(monkeypatch):
    """What would be fitted, in order; nothing is."""
    found = []
    monkeypatch.setattr(card, "fit", lambda loss, data, **how: found.append((data, how)))
    return found


def numbered(count):
    """Rows whose pixels are their number in binary, and a class of their own."""
    n = np.arange(count)
    return {"x": ((n[:, None] >> np.arange(64)) & 1).astype(np.float32), "y": n % 10}


def test_rows_lack_what_they_should_and_the_pairs_are_the_same(fits, monkeypatch):
    monkeypatch.setattr(card, "load", lambda name: SimpleNamespace(train=numbered(1437), test=numbered(40)))
    measured = card.measure(3)
    assert {"gain", "over_net", "mvae", "pairs", "net", "nats", "pairs_nats"} == set(measured)
    assert measured["gain"] == measured["mvae"] - measured["pairs"] == 0.0  # equal first weights, and no training
    (whole, how), (alone, other) = fits
    assert (how["seed"], how["steps"], how["batch"]) == (3, 2000, 64)
    assert (other["seed"], other["steps"], other["batch"]) == (3, 2000, 32)
    seen = {"pair": set(), "image": set(), "label": set()}
    for _ in range(600):
        rows = whole()
        number = (rows["x"].long() * (1 << torch.arange(64))).sum(-1).tolist()
        for n, image, label in zip(number, rows["has_x"].tolist(), rows["has_y"].tolist(), strict=True):
            seen["pair" if image and label else "image" if image else "label"].add(n)
        assert torch.equal(rows["y"].argmax(-1), torch.tensor(number) % 10)
    assert {kind: len(rows) for kind, rows in seen.items()} == {"pair": 30, "image": 704, "label": 703}
    assert len(seen["pair"] | seen["image"] | seen["label"]) == 1437
    rows = alone()
    assert rows["has_x"].all()
    assert rows["has_y"].all()


def test_absent_values_do_not_reach_the_loss(fits):
    torch.manual_seed(0)
    model = card.mvae.build(card.SIZES)
    card.train(
        model,
        torch.rand(9, 64).round(),
        torch.eye(10)[:9],
        (torch.arange(3), torch.arange(3, 6), torch.arange(6, 9)),
        2,
        0,
    )
    batch, how = fits[0]
    rows = batch()
    coefficients = {"beta": 1.0}
    value = model.loss(**how["inputs"](rows), **coefficients, seed=0).value
    other = {**rows, "y": torch.where(rows["has_y"][:, None], rows["y"], 1 - rows["y"])}
    assert model.loss(**how["inputs"](other), **coefficients, seed=0).value == value
    changed = {**rows, "y": 1 - rows["y"]}
    assert model.loss(**how["inputs"](changed), **coefficients, seed=0).value != value
