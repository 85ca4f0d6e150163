"""The card of a hidden door: what is seen and when, and that a right belief arrives where a wrong one does not."""

import numpy as np
import pytest
import torch

from worldformula.cards import hidden_door as card
from worldformula.envs.two_rooms import free, middles
from worldformula.testing import check_world


def test_doors_are_seen_in_the_first_rows_alone():
    layouts, positions, batch = card.walks(3, 5)
    np.testing.assert_allclose(batch["x"][..., :2] * card.EDGE, positions, atol=1e-4)
    doors = torch.from_numpy(np.stack([middles(own)[0] for own in layouts]) / card.EDGE).float()
    torch.testing.assert_close(batch["x"][:, : card.SEEN, 2:4], doors[:, None].expand(-1, card.SEEN, -1))
    assert (batch["x"][:, card.SEEN :, 2:] == 0).all()
    assert (batch["x"][:, : card.SEEN, 4] == 1).all()
    torch.testing.assert_close(batch["y"], doors[:, None].expand(-1, card.STEPS, -1))


def test_the_last_rows_stand_side_by_side():
    rows, kept, x = card.Rows(), torch.zeros(2, 6), torch.arange(1.0, 9).view(4, 1, 2).expand(-1, 2, -1)
    for row in x:
        kept = rows(kept, row)
    assert kept[0].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("kind", card.UPDATES)
def test_every_world_keeps_the_laws(kind):
    torch.manual_seed(0)
    _, _, batch = card.walks(4, 2)
    check_world(card.built(kind), {name: value[:, :5] for name, value in batch.items()})


def test_the_true_door_leads_to_the_goal_and_a_wrong_one_does_not():
    layouts, positions, batch = card.walks(5, 30)
    assert all(free(own.walls, way).all() for own, way in zip(layouts, positions, strict=True))
    true = batch["y"][:, -1].double().numpy() * card.EDGE
    assert card.arrived(layouts, positions[:, -1], true, 0) == 30
    assert card.arrived(layouts, positions[:, -1], true + np.array([0.0, 8.0]), 0) <= 3


@pytest.mark.slow
def test_it_measures_what_it_says(monkeypatch):
    """In miniature: what the numbers come to is nobody's claim."""
    for name, value in {"TRAIN": 32, "TEST": 10, "UPDATES": {"memory": 2, "lstm": 2, "rows": 2}}.items():
        monkeypatch.setattr(card, name, value)
    found = card.measure(100)
    share = found["memory"] / min(found["lstm"], found["rows"])
    assert found["holds"] == pytest.approx(max(found["memory"] / 2, share / 0.5))
    assert found["true_success"] == 1
    assert found["memory_low"] <= found["memory_success"] <= found["memory_high"]
