"""The cards of an agent that reads: what they measure, on small numbers and by hand."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from worldformula import cards
from worldformula.cards import dynalang_hint, dynalang_speech, dynalang_text
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


def hinted(seed, stray):
    """Play as the card's, without random actions, by a share of steps that lead anywhere."""
    tries = partial(dynalang_hint.tries, np.random.default_rng(seed), stray=stray)
    return play("home_dynamics", seed, 120, 32, random=(0.0,), controller=tries, hint="true", again=True, room=3)


def test_who_tries_knows_no_more_than_the_agent_and_opens_one_bin_in_three():
    """The same acts whatever opens the bin; who does not stray comes to most bins, and opens a third of them."""
    rows = hinted(5, 0.0)
    ended, by_bin, opened = (int(rows[key].sum()) for key in ("is_last", "is_terminal", "reward"))
    assert by_bin > 0.8 * ended
    assert abs(opened / by_bin - 1 / 3) < 3 * math.sqrt(2 / 9 / by_bin)
    env = make("home_dynamics", room=3)
    for seed in range(20):
        state = env.reset(seed=seed)[1]["state"]
        known = [{**state, "secret": np.array([s]), "told": np.array([s])} for s in range(3)]
        assert len({dynalang_hint.tries(np.random.default_rng(seed), one, 0.5) for one in known}) == 1


def test_who_strays_hears_the_sentence_again():
    """The word that says how comes again in the rows 6 and 12: more of the slow episodes than of the quick ones go on
    behind these.
    """

    def late(stray):
        rows = hinted(5, stray)
        begun = np.maximum.accumulate(np.where(rows["is_first"], np.arange(32), 0), axis=1)
        return float(np.mean((np.arange(32) - begun)[rows["is_last"]] > 12))

    assert late(dynalang_hint.SLOW[0]) > 1.5 * late(dynalang_hint.QUICK[0])


def test_the_world_learns_from_slow_play_and_then_from_a_quarter_of_it(monkeypatch):
    monkeypatch.setattr(dynalang_hint, "FIRST", 2)
    slow, quick = ({"r": torch.full((9, 4), value)} for value in (0.0, 1.0))
    found = dynalang_hint.batches(np.random.default_rng(0), 16, slow, quick)
    assert [int(next(found)["r"].sum()) for _ in range(4)] == [0, 0, 48, 48]


def test_the_hint_card_learns_from_play_and_acts(monkeypatch):
    for name, value in (
        ("SLOW", (0.6, 16)),
        ("QUICK", (0.1, 8)),
        ("FIRST", 1),
        ("WORLD", 2),
        ("ALL", 1),
        ("EPISODES", 4),
    ):
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


class Speaker:
    """Goes to the ball, and speaks by what it sees and has heard; of as many streams as there are."""

    def __init__(self, minds, words):
        self.minds, self.number = minds, words.number

    def initial(self, num):
        return {"asked": [""] * num, "before": [0] * num, "x": [3] * num, "ball": [0] * num}

    def act(self, rows, state, explore=True):
        moves, said = [], []
        for k, word in enumerate(rows["token"]):
            if rows["is_first"][k]:
                state["x"][k] = 3
            for tile in rows["view"][k].ravel():
                if tile in (2, 3):
                    state["ball"][k] = int(tile) - 2
            for thing in ("ball", "vase"):
                if word == self.number(thing):
                    state["asked"][k] = thing
            due = word == self.number("is") and state["before"][k] == self.number("it")
            colour = state["ball"][k] ^ (state["asked"][k] == "vase" and self.minds)
            said.append(1 + colour if due else 0)
            moves.append({3: 4, 2: 2}.get(state["x"][k], 0))
            state["x"][k], state["before"][k] = state["x"][k] - 1, word
        return {"move": np.array(moves), "talk": np.array(said)}, state


def test_who_looks_and_minds_the_question_earns_one_and_who_does_not_a_half():
    """Of two colours one each: who always says the ball's is right in half of the questions, and pays a tenth else."""
    env = dynalang_speech.config(0, 0, prior=False).env
    words = make("lang_room_mini").metadata["vocabulary"]
    assert dynalang_speech.earned(Speaker(True, words), env, 7) == pytest.approx(1.0)
    assert dynalang_speech.earned(Speaker(False, words), env, 7) == pytest.approx(0.45, abs=3 * 0.55 / 180**0.5)


@pytest.mark.parametrize(
    ("few", "prior", "entropy", "holds"),
    [(0.9, 0.85, 0.1, 3), (0.85, 0.8, 0.3, 3), (0.84, 0.9, 0.0, 2), (0.0, 0.0, 0.0, 1), (0.9, 0.9, 0.31, 2)],
)
def test_the_claims_of_speech_are_counted(monkeypatch, few, prior, entropy, holds):
    """Each from a run of its own: words that are never right, and what the words are kept near to."""

    def spoke(asked):
        talk, extra = asked.agent.talk, int(asked.env.args[0].partition("=")[2])
        assert asked.seed == 5
        return {(0, ""): few, (189, "talk=token"): prior, (189, ""): entropy}[extra, talk]

    monkeypatch.setattr(dynalang_speech, "spoke", spoke)
    assert dynalang_speech.measure(5) == {"claims": float(holds), "few": few, "prior": prior, "entropy": entropy}


def test_the_large_vocabulary_has_two_hundred_words():
    assert len(make("lang_room_mini", extra=dynalang_speech.MANY).metadata["vocabulary"]) == 200


@pytest.mark.slow
def test_the_speech_card_learns_and_is_asked(monkeypatch):
    monkeypatch.setattr(dynalang_speech, "EPISODES", 1)
    asked = dynalang_speech.config(100, dynalang_speech.MANY, True, steps=1_300)
    assert -20 < dynalang_speech.spoke(asked) <= 1
