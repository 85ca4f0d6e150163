"""The card of a distilled search: where plans are made from, and what its numbers are of."""

import numpy as np
import pytest
import torch

from worldformula import cards
from worldformula.cards import distilled as card
from worldformula.envs.two_rooms import NEAR, three_by_three

LAYOUT = three_by_three(np.random.default_rng(100))


def test_what_is_asked_for_is_that_of_the_card():
    own = cards.load("distilled")
    assert own.threshold == 1.0
    assert not own.passes(min(0.89 / card.RATIO, 80 / card.SPEEDUP, card.SHARE / 0.2))
    assert not own.passes(min(0.95 / card.RATIO, 49 / card.SPEEDUP, card.SHARE / 0.2))
    assert not own.passes(min(0.95 / card.RATIO, 80 / card.SPEEDUP, card.SHARE / 0.6))
    assert own.passes(min(0.91 / card.RATIO, 51 / card.SPEEDUP, card.SHARE / 0.4))


def test_plans_are_made_from_where_the_student_was_most_of_them_on_the_way(monkeypatch):
    """A student that stands at its goal for the last half of its walk: of moments anywhere one in two is there."""
    walk, asked = list[np.ndarray](), list[np.ndarray]()

    def play(own, acting, steps=None):
        for t in range(40):
            at = own.starts + t if t < 20 else own.goals
            walk.append(at)
            acting(at)

    class Told(card.Teacher):
        def plan(self, at, warm=None):
            asked.append(at)
            return warm

    class Own:
        factors = ()

        def act(self, states, explore=False):
            return {"a": torch.zeros_like(states["s"])}

        def rehearsed(self, *_):
            return None

        def keep(self, plan, given, steps):
            assert steps == card.EXECUTED

    monkeypatch.setattr(card, "play", play)
    monkeypatch.setattr(card, "Teacher", Told)
    monkeypatch.setattr(card, "taught", lambda *_: None)
    card.next_round(Own(), LAYOUT, lambda last: last["s"].sum(-1), 7, 1)
    goals = walk[-1]
    assert len(asked) == card.TIMES
    assert all(at.shape == (card.TAUGHT, 2) for at in asked)
    there = [np.mean(np.linalg.norm(at - goals, axis=-1) <= NEAR) for at in asked]
    assert max(there[:-1]) < 0.1  # by chance the way lies within reach of a goal
    assert 0.4 < there[-1] < 0.6
    known = {tuple(np.round(row, 6)) for at in walk for row in at}
    assert all(tuple(np.round(row, 6)) in known for at in asked for row in at)


@pytest.mark.slow
def test_it_measures_what_it_says(monkeypatch):
    """In miniature: what the numbers come to is nobody's claim."""
    small = {"WALKS": 8, "LENGTH": 60, "TAUGHT": 4, "TIMES": 2, "JUDGED": 3, "ROUNDS": 1, "UPDATES": 4, "BATCH": 8}
    for name, value in small.items():
        monkeypatch.setattr(card, name, value)
    for name, value in {"UPDATES": 5, "BATCH": 16}.items():
        monkeypatch.setattr(f"worldformula.cards.critic_from_memory.{name}", value)
    monkeypatch.setattr("worldformula.cards.rooms.STEPS", {"nine": 15})
    found = card.measure(100)
    assert found["holds"] == pytest.approx(min(found["ratio"] / 0.9, found["speedup"] / 50, 0.5 / found["iterations"]))
    assert found["ratio"] == pytest.approx(found["distilled"] / max(found["planned"], 1e-9))
    for name in ("planned", "distilled", "modes", "first_round", "cloned"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
