"""The cards of an agent that reads: what they measure, on small numbers and by hand."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldformula import cards
from worldformula.agents import dynalang
from worldformula.cards import (
    dynalang_corrections,
    dynalang_future,
    dynalang_hint,
    dynalang_speech,
    dynalang_text,
    from_play,
    home_grid,
)
from worldformula.cards.from_play import Begun
from worldformula.data import DataSet
from worldformula.envs import Envs, make
from worldformula.envs.play import play
from worldformula.run.evaluate import Evaluation
from worldformula.world import saying


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
    [
        (0.95, 0.05, 0.33, True),
        (0.9, 0.1, 0.38, True),
        (0.89, 0.05, 0.33, False),
        (0.95, 0.11, 0.33, False),
        (0.95, 0.05, 0.39, False),
        (0.06, 0.06, 0.06, False),
    ],
)
def test_all_claims_of_the_hint_must_hold(monkeypatch, told, false, without, holds):
    asked = []

    def success(agent, seed, hints):
        asked.append((agent, seed, hints))
        return [told, false] if len(hints) == 2 else [without]

    def learnt(seed, hint, updates=None):
        assert updates == (None if hint == "true" else (600, 1400)), "as many without the sentence as with it"
        return f"learnt from {hint}", [Begun(600, 1.0), Begun(1400, 0.99)]

    monkeypatch.setattr(dynalang_hint, "learnt", learnt)
    monkeypatch.setattr(dynalang_hint, "success", success)
    found = dynalang_hint.measure(5)
    own = {"with": told, "false": false, "without": without}
    assert found == {**own, "keeps": 600.0, "kept": 1.0, "knows": 1400.0, "known": 0.99}
    assert cards.load("dynalang_hint").holds([found]) == holds
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


def test_batches_have_as_many_chunks_of_slow_play_as_they_are_told():
    slow, quick = ({"r": torch.full((9, 4), value)} for value in (0.0, 1.0))
    for some, sums in ((16, 0), (4, 48)):
        found = dynalang_hint.batches(np.random.default_rng(0), 16, some, slow, quick)
        assert [int(next(found)["r"].sum()) for _ in range(2)] == [sums, sums]


def test_what_comes_again_is_the_word_that_says_how(monkeypatch):
    """Said first in the row 0 of an episode, which nobody could know, and again in every sixth one."""
    monkeypatch.setattr(dynalang_hint, "UNSEEN", (0.6, 60))
    rows = dynalang_hint.played(100, "true", 2)
    begun = np.maximum.accumulate(np.where(rows["is_first"], np.arange(32), 0), axis=1)
    asked = dynalang_hint.again(rows)
    assert set((np.arange(32) - begun)[asked]) == {6, 12, 18}
    words = [dynalang_hint.VOCABULARY.words[k] for k in rows["token"][asked]]
    assert set(words) == set(dynalang_hint.OPENING)
    assert not dynalang_hint.again(dynalang_hint.played(100, "none", 2)).any()


def test_the_hint_card_learns_from_play_and_acts(monkeypatch):
    for name, value in (
        ("SLOW", (0.6, 16)),
        ("QUICK", (0.1, 8)),
        ("UNSEEN", (0.6, 16)),
        ("ALL", 1),
        ("EPISODES", 4),
    ):
        monkeypatch.setattr(dynalang_hint, name, value)
    for name, value in (("EVERY", 2), ("MOST", 4)):
        monkeypatch.setattr(from_play, name, value)
    found = dynalang_hint.measure(100)
    assert found["keeps"] == found["knows"] == 4, "it knows nothing yet"
    assert 0 <= min(found["with"], found["false"], found["without"]) <= 1


@pytest.fixture
def reader(monkeypatch):
    """An agent whose world has learnt nothing, the play, and the rows at which a bin was tried."""
    monkeypatch.setattr(dynalang_hint, "QUICK", (0.1, 8))
    rows = dynalang_hint.played(100, "true", 1)
    envs = Envs("home_dynamics", 2, seed=0, **dynalang_hint.env("true").options())
    agent = dynalang.build(dynalang_hint.config(), envs.observations, envs.actions, 0)
    envs.close()
    return agent, rows, rows["is_terminal"]


def test_what_an_act_earns_is_foretold_from_the_row_before_it(reader, monkeypatch):
    """A head that says what the dreamt state is, and a dream that says which act was done where: one row before."""
    agent, rows, asked = reader
    begun, dreams = [], agent.world.imagine

    def imagine(start, **given):
        begun.append((start, given["actions"]))
        return dreams(start, **given)

    monkeypatch.setattr(agent.world, "imagine", imagine)
    value = torch.as_tensor(rows["reward"][asked])
    monkeypatch.setattr(agent.world, "decode", lambda states, names: {"r": value})
    assert from_play.foretold(agent, rows, asked) == 1.0
    monkeypatch.setattr(agent.world, "decode", lambda states, names: {"r": -value})
    assert from_play.foretold(agent, rows, asked) == 0.0
    seen = agent.world.filter(agent.perception.learn(rows, agent.device), seed=0)
    before = np.roll(asked, -1, axis=1)
    torch.testing.assert_close(begun[0][0]["h"], seen["h"][torch.as_tensor(before)])
    acts = begun[0][1]["a"][:, 0].argmax(-1).numpy()
    assert np.array_equal(acts, rows["action"][before])
    assert set(acts) <= {4, 5, 6}, "they are those that open"


def test_a_word_is_recalled_where_it_is_the_likeliest(reader, monkeypatch):
    """Of what is expected at the row before: three of four chunks expect the word that comes."""
    agent, rows, _ = reader
    asked, said = dynalang_hint.again(rows), np.eye(41)[rows["token"][:, 1:]]
    said[::4] = np.roll(said[::4], 1, axis=-1)
    monkeypatch.setattr(saying, "expected", lambda *_, **__: torch.as_tensor(said))
    assert from_play.recalled(agent, rows, asked) == pytest.approx(1 - asked[::4].sum() / asked.sum())


@pytest.mark.parametrize(
    ("told", "updates"), [([0.99, 0.98], 4), ([0.99, 0.5, 0.99, 0.99], 8), ([0.5] * 5, 10), ([0.99, 0.9] * 2 + [1], 10)]
)
def test_a_world_learns_until_it_knows_twice_in_a_row_or_never(reader, monkeypatch, told, updates):
    agent, rows, _ = reader
    looks, made = iter(told), []
    monkeypatch.setattr(from_play, "EVERY", 2)
    monkeypatch.setattr(from_play, "MOST", 10)

    def batches():
        while True:
            made.append(1)
            yield from_play.inputs(agent, rows)

    begun = from_play.begin(agent, batches(), lambda: next(looks), seed=0)
    assert begun == Begun(updates, told[updates // 2 - 1])
    assert len(made) == updates


def test_a_world_without_anything_to_know_learns_for_so_many_updates(reader):
    agent, rows, _ = reader
    before = [weight.clone() for weight in agent.world.parameters()]
    given = iter([from_play.inputs(agent, rows)] * 2)
    begun = from_play.begin(agent, given, lambda: pytest.fail("nobody looks"), seed=0, updates=2)
    assert begun.updates == 2
    assert math.isnan(begun.known)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.world.parameters(), strict=True))


def test_the_unseen_is_of_no_play_that_anything_learns_from(monkeypatch):
    for name in ("SLOW", "QUICK", "UNSEEN"):
        monkeypatch.setattr(dynalang_hint, name, (0.6, 20))
    kinds = [dynalang_hint.played(100, "true", kind) for kind in range(3)] + [dynalang_hint.played(101, "true", 0)]
    chunks = {(k, c.tobytes()) for k, rows in enumerate(kinds) for c in rows["view"]}
    assert len({c for _, c in chunks}) == len(chunks) == 80


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
    words = make("lang_room_mini").metadata["vocabulary"]
    assert dynalang_speech.earned(Speaker(True, words), 0, 7) == pytest.approx(1.0)
    assert dynalang_speech.earned(Speaker(False, words), 0, 7) == pytest.approx(0.45, abs=3 * 0.55 / 180**0.5)


@pytest.mark.parametrize(
    ("few", "prior", "entropy", "holds"),
    [
        (0.9, 0.85, 0.1, True), (0.85, 0.8, 0.3, True), (0.84, 0.9, 0.0, False), (0.0, 0.0, 0.0, False),
        (0.9, 0.79, 0.1, False), (0.9, 0.9, 0.31, False),
    ],
)  # fmt: skip
def test_all_claims_of_speech_must_hold(monkeypatch, few, prior, entropy, holds):
    """Each of an agent of its own: words that are never right, and what the words are kept near to."""
    kinds = {(0, False): few, (989, True): prior, (989, False): entropy}

    def learnt(seed, extra, priors):
        return [kinds[extra, one] for one in priors], Begun(1600 + extra, 0.99)

    monkeypatch.setattr(dynalang_speech, "learnt", learnt)
    monkeypatch.setattr(dynalang_speech, "earned", lambda agent, extra, seed: agent if seed == 10_005 else math.nan)
    found = dynalang_speech.measure(5)
    own = {"few": few, "prior": prior, "entropy": entropy}
    known = {"few_updates": 1600.0, "few_known": 0.99, "many_updates": 2589.0, "many_known": 0.99}
    assert found == {**own, **known}
    assert cards.load("dynalang_speech").holds([found] * 5) == holds


def test_the_large_vocabulary_has_a_thousand_words():
    assert len(make("lang_room_mini", extra=dynalang_speech.MANY).metadata["vocabulary"]) == 1000


def test_who_guesses_looks_and_is_right_half_of_the_time():
    """He is next to the ball, whose colour he sees, when an answer is due, and says either colour then alone."""
    rows = dynalang_speech.played(100, 120, 0)
    asked = dynalang_speech.answered(rows)
    assert 90 < asked.sum() < 150
    assert rows["reward"][asked].mean() == pytest.approx(0.45, abs=3 * 0.55 / asked.sum() ** 0.5)
    sees = np.isin(rows["view"], (2, 3)).any((2, 3))
    assert sees[asked].mean() > 0.8
    assert set(rows["reward"][asked].round(2)) == {1.0, np.float32(-0.1)}
    assert (rows["reward"][~asked] <= 0).all(), "nothing else is an answer"
    env, rng = make("lang_room_mini", again=2), np.random.default_rng
    for seed in range(20):
        state = env.reset(seed=seed)[1]["state"]
        known = [{**state, "answer": np.array([k]), "next": np.array([n])} for k in (0, 1, 2) for n in (1, 2)]
        assert len({str(dynalang_speech.guesses(rng(seed), one)) for one in known}) == 1


@pytest.mark.slow
def test_the_speech_card_learns_and_is_asked(monkeypatch):
    for name, value in (("EPISODES", 1), ("CHUNKS", 16), ("UNSEEN", 16), ("ALL", 1)):
        monkeypatch.setattr(dynalang_speech, name, value)
    for name, value in (("EVERY", 2), ("MOST", 4)):
        monkeypatch.setattr(from_play, name, value)
    worlds, go_on = [], from_play.go_on

    def begun_with(agent, *given):
        worlds.append([weight.clone() for weight in agent.world.parameters()])
        go_on(agent, *given)

    monkeypatch.setattr(from_play, "go_on", begun_with)
    agents, begun = dynalang_speech.learnt(100, dynalang_speech.MANY, [True, False])
    assert begun.updates == 4, "it knows nothing yet"
    assert all(torch.equal(a, b) for a, b in zip(*worlds, strict=True)), "both begin with the world that learnt"
    assert [agent.learner.spoken is None for agent in agents] == [False, True]
    assert -20 < dynalang_speech.earned(agents[0], dynalang_speech.MANY, 7) <= 1


# ------------------------------------------------------------------------------------------------------ what will be


def test_who_walks_anywhere_knows_no_more_than_the_agent_and_comes_to_the_end_of_one_arm():
    """The same steps whatever arm the thing is in; of those who go straight on from the middle one in four finds it."""
    env = make("home_future")
    for seed in range(20):
        state = env.reset(seed=seed)[1]["state"]
        known = [{**state, "secret": np.array([s]), "told": np.array([s])} for s in range(4)]
        assert len({from_play.walks(np.random.default_rng(seed), one, 0.2) for one in known}) == 1


def test_what_is_read_names_an_arm_before_the_figure_acts():
    """Eight words; the seventh is the arm; nothing moves before the ninth row; then the sentence comes again."""
    rows = play("home_future", 5, 20, 32, random=(1.0,), hint="true", again=True)
    arms = [dynalang_future.VOCABULARY.number(arm) for arm in dynalang_future.ARMS]
    read, said = dynalang_future.READ, dynalang_future.SAID
    assert np.isin(rows["token"][:, said], arms).all()
    assert not np.isin(np.delete(rows["token"][:, :read], said, 1), arms).any()
    assert (rows["view"][:, :read] == rows["view"][:, :1]).all()
    longest = ~rows["is_first"][:, 1 : 2 * read].any(1)
    assert longest.any()
    np.testing.assert_array_equal(rows["token"][longest, read : 2 * read], rows["token"][longest, :read])


@pytest.mark.parametrize(
    ("told", "false", "without", "auc", "holds"),
    [
        (0.85, 0.05, 0.3, 0.95, True), (0.84, 0, 0.25, 1, False), (1, 0.06, 0.25, 1, False), (1, 0, 0.31, 1, False),
        (1, 0, 0.25, 0.94, False), (0, 0, 0, 0.5, False),
    ],
)  # fmt: skip
def test_all_claims_about_what_will_be_must_hold(told, false, without, auc, holds):
    found = {"with": told, "false": false, "without": without, "grounded": auc}
    assert cards.load("dynalang_future").holds([found] * 5) == holds


def test_a_walk_is_told_from_the_same_walk_after_another_sentence(monkeypatch):
    """A dream whose reward is what the walk into the named arm is worth, and one for which all walks are alike."""
    monkeypatch.setattr(dynalang_future, "UNSEEN", 12)
    rows = dynalang_future.played(100, "true", 1)
    envs = Envs("home_future", 1, seed=0)
    agent = dynalang.build(dynalang_future.config(), envs.observations, envs.actions, 0)
    envs.close()
    named = torch.tensor([dynalang_future.ARMS.index(dynalang_future.VOCABULARY.words[w]) for w in rows["token"][:, 6]])
    seen = agent.world.filter(agent.perception.learn(rows, agent.device), seed=0)["h"]
    begun = []

    def imagine(start, actions, seed):
        begun.append((start["h"], actions["a"]))
        right = (actions["a"].argmax(-1) == named.repeat_interleave(4)[:, None]).float()
        return SimpleNamespace(at=lambda k: {1: right[:, 0], 2: right[:, 1], 3: right[:, 2]}[k])

    monkeypatch.setattr(agent.world, "imagine", imagine)
    monkeypatch.setattr(agent.world, "decode", lambda dream, names: {"r": dream})
    assert dynalang_future.grounded(agent, rows) == 1.0
    starts, walks = begun[0]
    torch.testing.assert_close(starts, seen[:, dynalang_future.READ].repeat_interleave(4, 0))
    assert walks.shape == (48, 3, 4)
    assert walks.argmax(-1).tolist() == [[k] * 3 for k in range(4)] * 12
    monkeypatch.setattr(agent.world, "decode", lambda dream, names: {"r": torch.ones(48)})
    assert dynalang_future.grounded(agent, rows) == 0.5


def test_the_walk_that_is_imagined_is_the_one_that_earns_something_in_truth():
    """From the row that the dreams begin with, into each arm: one for the arm that was named, nothing for others."""
    arms = [dynalang_future.VOCABULARY.number(arm) for arm in dynalang_future.ARMS]
    for seed, act in itertools.product(range(6), range(4)):
        env = make("home_future", hint="true", again=True)
        words, earned = [int(env.reset(seed=seed)[0]["token"])], []
        for row in range(dynalang_future.READ + dynalang_future.WALK):
            seen, reward, *_ = env.step((act + 1) % 4 if row < dynalang_future.READ else act)
            words.append(int(seen["token"]))
            earned.append(float(reward))
        named = arms.index(words[dynalang_future.SAID])
        assert sum(earned[dynalang_future.READ :]) == (act == named)
        assert earned[-1] == (act == named)
        assert not any(earned[:-1])


@pytest.mark.slow
def test_the_card_of_what_will_be_learns_and_is_asked(monkeypatch):
    for name, value in (("CHUNKS", 16), ("UNSEEN", 8), ("ALL", 1), ("EPISODES", 4)):
        monkeypatch.setattr(dynalang_future, name, value)
    for name, value in (("EVERY", 2), ("MOST", 4)):
        monkeypatch.setattr(from_play, name, value)
    found = dynalang_future.measure(100)
    assert found["updates"] == 4, "it knows nothing yet"
    assert not cards.load("dynalang_future").holds([found] * 5)
    assert min(found.values()) >= 0


# ----------------------------------------------------------------------------------------------- no, turn around


def test_steps_with_corrections_are_told_in_those_without(monkeypatch):
    lengths = {
        ("learnt from true", "true"): 12.0,
        ("learnt from true", "swapped"): 50.0,
        ("learnt from none", "none"): 20,
    }
    monkeypatch.setattr(dynalang_corrections, "learnt", lambda seed, hint: f"learnt from {hint}")
    monkeypatch.setattr(dynalang_corrections, "steps", lambda agent, hint, seed: lengths[agent, hint])
    assert dynalang_corrections.measure(5) == {"ratio": 0.6, "with": 12.0, "false": 50.0, "without": 20}


class Straight:
    """Goes to the right, as far as it gets."""

    def initial(self, num):
        return {}

    def act(self, rows, state, explore=True):
        assert explore, "by samples"
        return np.full(len(rows["token"]), 1), state


def test_who_never_arrives_takes_all_sixty_steps(monkeypatch):
    """The target lies to the right of few, who need five steps at most."""
    monkeypatch.setattr(dynalang_corrections, "EPISODES", 40)
    assert 40 < dynalang_corrections.steps(Straight(), "none", 3) < 60


@pytest.mark.slow
def test_the_card_of_corrections_learns_and_walks(monkeypatch):
    for name, value in (("CHUNKS", 8), ("ALONE", 1), ("ALL", 1), ("EPISODES", 4)):
        monkeypatch.setattr(dynalang_corrections, name, value)
    found = dynalang_corrections.measure(100)
    assert 0 < found["with"] <= 60
    assert found["ratio"] == pytest.approx(found["with"] / found["without"])


# ----------------------------------------------------------------------------------------------------- a whole home


def test_how_far_one_return_lies_over_another():
    """Two of 1 ± 1 and two of 5 ± 2 by hand: returns 0, 2 and 3, 7; errors of the means 1 and 2."""
    low, high = Evaluation((0.0, 2.0), (1, 1)), Evaluation((3.0, 7.0), (1, 1))
    assert home_grid.over(high, low) == pytest.approx(4 / 5**0.5)
    assert home_grid.over(low, high) == pytest.approx(-4 / 5**0.5)
    none = Evaluation((0.0, 0.0), (1, 1))
    assert home_grid.over(none, none) == 0


@pytest.mark.slow
def test_the_card_of_the_home_learns_and_plays(monkeypatch):
    for name, value in (("STEPS", 48), ("EPISODES", 4)):
        monkeypatch.setattr(home_grid, name, value)
    monkeypatch.setattr(home_grid, "ENV", replace(home_grid.ENV, num=2))
    small = ("prefill=16", "batch=2", "length=8", "imag_last=4", "imagine=2")
    monkeypatch.setattr(home_grid, "SETTINGS", (*home_grid.SETTINGS, *small))
    monkeypatch.setattr(home_grid, "config", lambda seed, own=home_grid.config: own(seed, 48))
    found = home_grid.measure(100)
    assert 0 <= found["random"] < 3
    assert found["over"] * (found["return"] - found["random"]) >= 0
    assert math.isfinite(found["error"])
