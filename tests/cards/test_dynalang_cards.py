"""The cards of an agent that reads: what they measure, on small numbers and by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from worldformula import cards
from worldformula.cards import dynalang_hint, dynalang_text
from worldformula.data import DataSet
from worldformula.envs import Envs, make
from worldformula.envs.play import play


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


@pytest.mark.parametrize(
    ("told", "false", "without", "holds"),
    [(0.95, 0.05, 0.33, 3), (0.9, 0.1, 0.38, 3), (0.89, 0.05, 0.33, 2), (0.06, 0.06, 0.06, 2), (0.5, 0.5, 0.5, 0)],
)
def test_the_claims_are_counted(monkeypatch, told, false, without, holds):
    asked = []

    def success(agent, seed, hints):
        asked.append((agent, seed, hints))
        return [told, false] if len(hints) == 2 else [without]

    monkeypatch.setattr(dynalang_hint, "learnt", lambda seed, hint: f"learnt from {hint}")
    monkeypatch.setattr(dynalang_hint, "success", success)
    found = dynalang_hint.measure(5)
    assert found == {"claims": float(holds), "with": told, "false": false, "without": without}
    assert asked == [("learnt from true", 5, ("true", "swapped")), ("learnt from none", 5, ("none",))]


def test_who_tries_knows_no_more_than_the_agent_and_opens_one_bin_in_three():
    """The same acts whatever opens the bin; it comes to nearly all bins, and opens a third of them."""
    rows = play("home_dynamics", 5, 120, 32, random=(0.0,), controller=dynalang_hint.tries, hint="true", again=True)
    ended, by_bin, opened = (int(rows[key].sum()) for key in ("is_last", "is_terminal", "reward"))
    assert by_bin > 0.9 * ended
    assert abs(opened / by_bin - 1 / 3) < 3 * math.sqrt(2 / 9 / by_bin)
    env = make("home_dynamics")
    for seed in range(20):
        state = env.reset(seed=seed)[1]["state"]
        told = {dynalang_hint.tries({**state, "secret": np.array([s]), "told": np.array([s])}) for s in range(3)}
        assert len(told) == 1


def test_the_hint_card_learns_from_play_and_acts(monkeypatch):
    for name, value in (("CHUNKS", 16), ("WORLD", 1), ("ALL", 1), ("EPISODES", 4)):
        monkeypatch.setattr(dynalang_hint, name, value)
    found = dynalang_hint.measure(100)
    assert 0 <= min(found["with"], found["false"], found["without"]) <= 1
    assert found["claims"] == dynalang_hint.holding(found)


def test_a_false_sentence_is_never_the_way_that_opens():
    for seed in range(12):
        envs = Envs("home_dynamics", 1, seed=seed, hint="swapped")
        envs.reset(0)
        state = envs.infos[0]["state"]
        assert state["told"] != state["secret"]
