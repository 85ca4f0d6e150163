"""The room of questions: who says what when, what a word earns, that colours are out of sight; floors and reference."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import Envs, make
from worldformula.envs import lang_room_mini as rooms
from worldformula.envs.home_tiles import FIGURE
from worldformula.envs.lang_room_mini import LangRoom, reference
from worldformula.envs.play import play as data
from worldformula.errors import ConfigError

SILENT = {"move": 0, "talk": 0}


def script(env, seed, steps):
    """The words of an episode, and its events by row."""
    observation, _ = env.reset(seed=seed)
    words, events = [int(observation["token"])], [[]]
    for _ in range(steps):
        observation, *_, info = env.step(SILENT)
        words.append(int(observation["token"]))
        events.append(info["event"])
    return words, events


def test_words_are_silence_colours_things_and_those_of_questions():
    full, mini = LangRoom(room="full"), LangRoom(room="mini", extra=3)
    assert len(full.vocabulary) == 15
    assert full.vocabulary.words[:5] == ("<silence>", "red", "green", "blue", "yellow")
    assert len(mini.vocabulary) == 11 + 3
    assert make("lang_room_mini", extra=3).actions["talk"].size == 14
    assert make("lang_room_mini").metadata["vocabulary"].words == mini.vocabulary.words[:11]


def test_the_script_pauses_asks_waits_and_answers():
    env = LangRoom(8, room="full")
    for seed in range(20):
        words, events = script(env, seed, 120)
        text = " ".join("_" if w == 0 else env.vocabulary.words[w] for w in words)
        first = re.match(
            r"((?:_ )+)what color is the (ball|rug|table|vase) \? ((?:_ )+)it is (\w+) ((?:_ )+)what", text
        )
        assert first is not None
        pause, thing, think, colour, between = first.groups()
        assert 5 <= len(pause.split()) <= 9
        assert len(think.split()) == 10
        assert 10 <= len(between.split()) <= 18  # behind one answer and before the next question
        assert colour in rooms.COLOURS
        asked = words.index(env.vocabulary.number("what"))
        assert events[asked] == ["question"]
        env.reset(seed=seed)
        assert rooms.PLANS["full"].things[thing]
        assert env.vocabulary.words[1 + env.colours[list(env.plan.things).index(thing)]] == colour


def test_a_question_may_be_asked_once_more_before_its_answer():
    """Nothing else changes: its second time is in the last six of the ten rows, and it is one question."""
    once, again = LangRoom(8, room="mini"), LangRoom(8, room="mini", again=1)
    for seed in range(10):
        (words, events), (more, others) = script(once, seed, 60), script(again, seed, 60)
        assert events == others
        told, waits = "".join(chr(97 + w) for w in words), "a" * 10
        for question in set(re.findall(f"([^a]{{6}}){waits}", told)):
            told = told.replace(question + waits, question + waits[:4] + question)
        assert "".join(chr(97 + w) for w in more)[:40] == told[:40]
        for env in (once, again):
            env.reset(seed=seed)
        for word in more[1:]:
            states = [env.step(SILENT)[-1]["state"]["answer"] for env in (once, again)]
            assert states[0] == states[1], word


def test_a_question_that_is_asked_twice_more_takes_more_rows():
    env = LangRoom(8, room="mini", again=2)
    words, events = script(env, 3, 60)
    told = " ".join("_" if w == 0 else env.vocabulary.words[w] for w in words)
    asked = re.search(r"((?:what color is the (?:ball|vase) \? ){3})it is (?:red|green) _", told)
    assert asked is not None
    assert len(set(re.findall("ball|vase", asked[1]))) == 1
    assert sum("question" in event for event in events) == 2, "of 60 rows: three times what is one question"


def test_what_a_word_earns():
    """At the moment of the colour: 1, −0.1, 0; elsewhere −0.01 and 0."""
    env = LangRoom(8, room="full")
    for said, expected, event in (("right", 1.0, "correct"), ("wrong", -0.1, "wrong"), ("silence", 0.0, None)):
        _, info = env.reset(seed=4)
        while info["state"]["next"][0] not in (1, 2, 3, 4):
            *_, info = env.step(SILENT)
        colour = int(info["state"]["next"][0])
        talk = {"right": colour, "wrong": colour % 4 + 1, "silence": 0}[said]
        observation, reward, end, cut, info = env.step({"move": 0, "talk": talk})
        assert (reward, end, cut) == (expected, False, False)
        assert info["event"] == ["answer_due"] + ([event] if event else [])
        assert observation["token"] == colour
        assert info["success"] == (said == "right")
        assert env.step({"move": 0, "talk": colour})[1] == -0.01
        assert env.step(SILENT)[1] == 0.0


def test_things_are_in_the_way_and_their_colours_a_permutation():
    env, seen = LangRoom(8, room="full"), []
    for seed in range(200):
        env.reset(seed=seed)
        assert sorted(env.colours) == [0, 1, 2, 3]
        assert (env.x, env.y) == (4, 4)
        seen.append(env.colours[0])
    np.testing.assert_allclose(np.bincount(seen) / 200, 0.25, atol=0.1)
    for _ in range(9):
        env.step({"move": 2, "talk": 0}), env.step({"move": 4, "talk": 0})
    assert (env.x, env.y) in ((1, 2), (2, 1))


@pytest.mark.parametrize("room", ["full", "mini"])
def test_colours_are_hidden_until_the_figure_comes_near(room):
    env, views = LangRoom(16, room=room), []
    for seed in range(10):
        observation, info = env.reset(seed=seed)
        views.append((observation["view"], env.render()))
        assert set(info["hidden"]) == set(env.plan.things)
    assert all(same(views[0], view) for view in views)
    for _ in range(2):
        env.step({"move": 2, "talk": 0})
        *_, info = env.step({"move": 4, "talk": 0})
    assert set(info["hidden"]) == set(env.plan.things) - {"ball"}
    near = env._view()
    assert near[near >= 2].tolist() == [2 + env.colours[0]]


@pytest.mark.slow
def test_floors_and_reference_are_those_that_were_measured_before():
    """Oracle 5.98 ± .13, silent 0, random −1.99, each of 200 steps."""
    assert play(LangRoom(8, room="full"), 60, 200, policy=reference).off(5.98, 0.13) < 3
    assert play(LangRoom(8, room="full"), 3, 200, policy=lambda _: SILENT).returns.sum() == 0
    assert play(LangRoom(8, room="full"), 100, 200).off(-1.99) < 3


def test_a_blind_guess_earns_45_hundredths_a_question():
    env, earned = LangRoom(8, room="mini"), []
    rng = np.random.default_rng(0)
    for seed in range(150):
        _, info = env.reset(seed=seed)
        for _ in range(60):
            due = info["state"]["next"][0] in (1, 2)
            _, reward, *_, info = env.step({"move": 0, "talk": int(rng.integers(1, 3)) if due else 0})
            earned += [reward] * due
    assert np.mean(earned) == pytest.approx(0.45, abs=3 * 0.55 / np.sqrt(len(earned)))
    best = play(env, 40, 60, policy=reference)
    assert best.returns.sum() == sum(events.count("answer_due") for events in best.events)


def test_two_steps_towards_a_corner_before_the_answer_are_enough():
    """From the middle of 7 cells, (3, 3), the view of (2, 2) holds the corner (1, 1)."""
    env = LangRoom(8, room="mini")
    env.reset(seed=0)
    for move in (2, 4):
        observation, *_ = env.step({"move": move, "talk": 0})
    assert observation["view"][0, 0] == 2 + env.colours[0]


def test_a_seed_says_everything_and_streams_take_both_actions():
    assert all(same(a, b) for a, b in twice(lambda: LangRoom(16, room="full"), 80))
    envs = Envs("lang_room_mini", 2, seed=0)
    envs.reset()
    rows = envs.step({"move": np.array([1, 2]), "talk": np.array([0, 3])})
    np.testing.assert_allclose(rows["reward"], [0.0, -0.01])
    assert set(envs.row_spec) >= {"action/move", "action/talk", "view", "token"}


def test_the_picture_has_the_ball_in_the_upper_left_corner():
    env = LangRoom(60, room="full")
    env.reset(seed=0)
    env.x, env.y, env.colours = 3, 2, np.array([3, 0, 1, 2])
    frame = env.render().astype(int)
    rows, columns = (np.abs(frame - np.array(rooms.COLOURS["yellow"])).sum(-1) < 40).nonzero()
    assert (columns.mean(), rows.mean()) == (pytest.approx(5.5, abs=1), pytest.approx(17.5, abs=1))
    assert env._mosaic.glyphs[env._figure].tolist() == FIGURE.tolist()


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="Did you mean 'mini'"):
        LangRoom(room="mimi")
    with pytest.raises(ConfigError, match="at least 0"):
        LangRoom(extra=-1)
    with pytest.raises(ConfigError, match="expected again as a whole number of at least 0, got True"):
        LangRoom(again=True)


def test_play_of_the_reference_is_data_with_both_actions():
    rows = data("lang_room_mini", 100, 3, 60, random=(0.0,), labels=("hidden/ball",), events=("answer_due", "correct"))
    due, correct = rows["event"][..., 0], rows["event"][..., 1]
    assert due.any()
    np.testing.assert_array_equal(due, correct)
    np.testing.assert_array_equal(rows["reward"], correct)
    before = rows["action/talk"][:, :-1]
    np.testing.assert_array_equal(before[correct[:, 1:]], rows["token"][:, 1:][correct[:, 1:]])
    assert not before[~correct[:, 1:]].any()
    assert np.isfinite(rows["label/hidden/ball"]).all()  # it stays in the middle and never sees the ball
