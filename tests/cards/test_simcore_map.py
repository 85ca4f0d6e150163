"""What the card of SimCore's map computes, on answers and beliefs that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldformula.cards import simcore_map as card
from worldformula.data.gridworld import gridworld
from worldformula.world import State

WALKS = gridworld(60, seed=5)


def test_score_counts_cells_and_those_that_only_memory_knows():
    assert card.score("truth", WALKS.maps, WALKS) == {"truth": 1.0, "remembered_truth": 1.0}
    seen = np.zeros((60, 8, 8), bool)
    now = np.zeros((60, 8, 8), bool)
    for n, path in enumerate(WALKS.position):
        for t, (row, column) in enumerate(path):
            square = (slice(max(0, row - 2), row + 3), slice(max(0, column - 2), column + 3))
            seen[n][square] = True
            now[n][square] |= t == 49
    answer = np.where(now, WALKS.maps, 1 - WALKS.maps)  # right on what is in view alone
    found = card.score("view", answer, WALKS)
    assert found["view"] == pytest.approx(now.mean())
    assert found["remembered_view"] == 0.0
    answer = np.where(seen, WALKS.maps, 1 - WALKS.maps)
    assert card.score("past", answer, WALKS)["remembered_past"] == 1.0
    tiles = card.tiles_seen(WALKS)
    assert (tiles >= seen).all()
    assert (tiles.reshape(-1, 4, 2, 4, 2) == tiles[:, ::2, ::2].reshape(-1, 4, 1, 4, 1)).all()
    assert ((tiles & ~seen).reshape(-1, 4, 2, 4, 2).sum((2, 4)) < 4).all(), "a tile of which nothing was seen"


def test_the_floor_is_the_majority_of_the_training_maps_and_memory_is_the_ceiling():
    held = gridworld(40, seed=6)
    found = card.floors(WALKS, held)
    often = np.zeros((8, 8))
    for n in range(60):
        often += WALKS.maps[n]
    assert found["majority"] == pytest.approx(((often > 30) == held.maps).mean())
    assert found["remembered_memory"] == 1.0
    assert 0.9 < found["memory"] <= 1.0


def test_maps_of_the_test_are_new():
    mixed = WALKS.rows(np.arange(10))
    assert len(card.unseen(mixed, WALKS).maps) == 0
    other = gridworld(200, seed=7)
    known = {m.tobytes() for m in WALKS.maps}
    assert len(card.unseen(other, WALKS).maps) == sum(m.tobytes() not in known for m in other.maps)


class Answers:
    """A world whose belief at the last step is the map of the walk, turned; `filter` looks it up by its light."""

    def __init__(self, known, noise):
        generator = torch.Generator().manual_seed(0)
        self.turn = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
        self.noise, self.generator = noise, generator
        pairs = [pair for part in known for pair in zip(card.series(part)["x"].numpy(), part.maps, strict=True)]
        self.maps = {x.tobytes(): m for x, m in pairs}

    def filter(self, batch, seed):
        assert batch["x"].shape[1] == batch["a"].shape[1] == batch["first"].shape[1] == 50
        assert not batch["first"].any()
        maps = [self.maps[x.numpy().astype(np.uint8).tobytes()] for x in batch["x"]]
        b = torch.tensor(np.array(maps)).float().flatten(1) @ self.turn
        last = b + self.noise * torch.randn(b.shape, generator=self.generator)
        return State({"b": torch.stack((torch.zeros_like(b), last), 1)}, 2)


def test_the_probe_reads_what_is_linear_in_the_last_belief_and_nothing_else(monkeypatch):
    monkeypatch.setattr(card, "PROBED", 400)
    walks, held = gridworld(400, seed=8), gridworld(200, seed=9)
    known = card.read("b", Answers((walks, held), 0.0), walks, held)
    assert known["b"] > 0.99
    noise = card.read("b", Answers((walks, held), 100.0), walks, held)
    assert abs(noise["b"] - 0.5) < 0.03


def test_a_short_run_has_every_number(monkeypatch):
    for name, value in {"EPISODES": 80, "TEST": 40, "PROBED": 60}.items():
        monkeypatch.setattr(card, name, value)
    monkeypatch.setitem(card.SYSTEM.fits, "tiny", {**card.SYSTEM.fits["tiny"], "steps": 3})
    found = card.measure(100)
    names = ("overshoot", "one_step", "random", "majority", "memory")
    assert set(found) == {"margin"} | {p + n for n in names for p in ("", "remembered_")}
    assert found["margin"] == pytest.approx(found["overshoot"] - max(found["one_step"], found["random"]))
    assert found["memory"] > found["random"] > found["majority"] - 0.1
