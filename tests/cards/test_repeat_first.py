"""The card of memory: both agents differ by one setting, and what nobody passes without memory is counted."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from worldformula import cards
from worldformula.cards import repeat_first
from worldformula.envs import Envs
from worldformula.training.settings import differences


def test_the_agents_differ_by_what_they_carry_alone():
    one, other = repeat_first.config(3), repeat_first.config(3, carry=False)
    assert differences(one, other) == {"agent.world.carry": (True, False)}
    assert one.seed == 3
    assert one.agent.length > 52  # rows of an episode: most sequences hold a first card


def test_a_measurement_is_the_difference_of_both(monkeypatch):
    monkeypatch.setattr(repeat_first, "score", lambda asked: 0.9 if asked.agent.world.carry else -0.5)
    assert repeat_first.measure(7) == {"gain": pytest.approx(1.4), "with": 0.9, "without": -0.5}


def test_an_answer_is_learnt_as_one_and_scored_as_the_task_has_it(monkeypatch):
    """On a stand-in whose every step gives 1: its wrapper is found by its name, and the score is divided again."""
    env = repeat_first.config(1).env
    envs = Envs("CartPole-v1", 2, seed=0, wrap=env.wrap, max_steps=5)
    envs.reset(0)
    assert envs.step(np.zeros(2, np.int64))["reward"].tolist() == [51.0, 51.0]
    monkeypatch.setattr(repeat_first, "Interact", lambda *_, **__: SimpleNamespace(run=lambda: None, agent=None))
    monkeypatch.setattr(repeat_first, "evaluate", lambda *_, **__: SimpleNamespace(mean=51.0 * 0.25))
    assert repeat_first.score(repeat_first.config(1)) == 0.25


def test_without_memory_nobody_passes_what_the_card_says():
    """By symmetry a memoryless rule answers with the suit that it sees, or with another one: expected returns."""
    steps = 51  # 52 cards of 4 suits; the answer to the first is worth as much as any other
    seen = (1 + 50 * Fraction(12, 51)) / steps
    another = 50 * Fraction(13, 51) / steps
    best = 2 * max(seen, another) - 1
    assert float(best) == pytest.approx(-0.4994, abs=5e-5)
    card = cards.load("repeat_first")
    assert "−0.4994" in card.notes
    assert card.threshold == (1 + 0.5) / 2
