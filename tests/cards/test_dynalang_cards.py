"""The cards of an agent that reads: what they measure, on small numbers and by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from worldformula import cards
from worldformula.cards import dynalang_hint, dynalang_text
from worldformula.data import DataSet
from worldformula.envs import Envs
from worldformula.training.settings import differences


def test_the_bound_is_that_of_a_grammar_whose_choices_are_equally_probable():
    """11 · 11 · 11 casts less those in which one kind plays two roles, counted one by one; orders, and words."""
    kinds = [[k for k in range(12) if k != held] for held in range(3)]
    casts = sum(len({a, b, c}) == 3 for a in kinds[0] for b in kinds[1] for c in kinds[2])
    nats = math.log(casts) + math.log(6) + 3 * math.log(3 * 3 * 3 * 4)
    phrases = "is the deadly enemy|will hurt you|is an opponent to avoid|brings harm|carries the message|holds the secret letter|has the note you need|keeps the document|is the goal|waits for the delivery|is where you must go|is the final target"  # noqa: E501
    words = 3 * (3 + np.mean([len(p.split()) for p in phrases.split("|")]) + 1)
    assert dynalang_text.bound_of("train") == pytest.approx(math.exp(nats / (words - 1)))


def test_the_floor_counts_words_behind_the_first():
    def part(words, first):
        return {"token": np.array(words), "is_first": np.array(first, bool)}

    learnt, unseen = part([0, 1, 1, 0, 2, 1], [1, 0, 0, 1, 0, 0]), part([0, 1, 2], [1, 0, 0])
    data = DataSet("x", learnt, unseen, (), "", window=3, words=("a", "b", "c"))
    counted = Counter([1, 1, 2, 1])
    p = [(counted[w] + 1) / (4 + 3) for w in (1, 2)]
    assert dynalang_text.unigram(data) == pytest.approx(math.exp(-np.log(p).mean()))


@pytest.mark.slow
def test_a_measurement_of_a_few_updates_is_worse_than_the_grammar(monkeypatch):
    for name, value in (("LINES", 60), ("UPDATES", 3), ("HELD", 20)):
        monkeypatch.setattr(dynalang_text, name, value)
    monkeypatch.setattr(dynalang_text, "config", lambda path, seed, own=dynalang_text.config: own(path, seed, 3))
    found = dynalang_text.measure(100)
    assert found["ratio"] == pytest.approx(found["perplexity"] / found["bound"])
    assert found["ratio"] > cards.load("dynalang_text").threshold
    assert found["unigram"] > 5
    assert found["held"] > 1.5


def test_the_agents_differ_by_what_is_said_alone():
    one, other = dynalang_hint.config(3), dynalang_hint.config(3, hint="none")
    assert differences(one, other) == {"env.args": (("hint=true",), ("hint=none",))}
    assert one.seed == 3


@pytest.mark.parametrize(
    ("told", "false", "without", "holds"),
    [(0.95, 0.05, 0.33, 3), (0.9, 0.1, 0.38, 3), (0.89, 0.05, 0.33, 2), (0.06, 0.06, 0.06, 2), (0.5, 0.5, 0.5, 0)],
)
def test_the_claims_are_counted(monkeypatch, told, false, without, holds):
    asked = []

    def success(config, hints):
        asked.append((config.env.args, hints))
        return [told, false] if len(hints) == 2 else [without]

    monkeypatch.setattr(dynalang_hint, "success", success)
    found = dynalang_hint.measure(5)
    assert found == {"claims": float(holds), "with": told, "false": false, "without": without}
    assert asked == [(("hint=true",), ("true", "swapped")), (("hint=none",), ("none",))]


def test_a_false_sentence_is_never_the_way_that_opens():
    for seed in range(12):
        envs = Envs("home_dynamics", 1, seed=seed, hint="swapped")
        envs.reset(0)
        state = envs.infos[0]["state"]
        assert state["told"] != state["secret"]
