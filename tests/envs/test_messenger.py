"""Messenger: touches, limits, the manual and its grammar, held-out pairs, entropies by counting, floors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import messenger as game
from worldformula.envs.messenger import Messenger, reference
from worldformula.envs.play import play as data
from worldformula.errors import ConfigError

UP, DOWN, LEFT, RIGHT, STAY = range(5)


def begun(seed=0, **options):
    env = Messenger(8, hint="none", **options)
    env.reset(seed=seed)
    env.places, env.carries = ((5, 3), (3, 5), (5, 7)), False  # enemy above, message left, goal below
    return env


@pytest.mark.parametrize(
    ("way", "carries", "reward", "event"),
    [
        ((LEFT, LEFT), False, 1.0, "got_message"), ((LEFT, LEFT), True, -1.0, "died"),
        ((DOWN, DOWN), True, 1.0, "won"), ((DOWN, DOWN), False, -1.0, "died"),
        ((UP, UP), False, -1.0, "died"), ((UP, UP), True, -1.0, "died"),
        ((RIGHT, RIGHT, STAY, STAY), False, -1.0, "timeout"), ((RIGHT, LEFT, LEFT, LEFT), False, 1.0, "got_message"),
    ],
)  # fmt: skip
def test_who_is_touched_ends_the_episode(way, carries, reward, event):
    env = begun()
    env.carries = carries
    rows = [env.step(action) for action in way]
    assert [r[1] for r in rows] == [0.0] * (len(way) - 1) + [reward]
    assert [r[2] for r in rows] == [False] * (len(way) - 1) + [True]
    assert rows[-1][4]["event"] == [event]
    assert rows[-1][4]["success"] == (reward > 0)


def test_the_manual_is_read_with_the_avatar_frozen_and_names_the_true_roles():
    env = Messenger(32)
    for seed in range(30):
        observation, info = env.reset(seed=seed)
        words, sentences = [int(observation["token"])], [info["sentence"]]
        while info["is_read_step"]:
            observation, reward, done, _, info = env.step(LEFT)
            assert (reward, done, env.x, env.y) == (0.0, False, 5, 5)
            words.append(int(observation["token"]))
            sentences.append(info["sentence"])
        assert words[-1] == 0
        texts = [text for text in sentences if text]
        assert game.VOCABULARY.text(words) == " ".join(texts)
        for text in texts:
            role = next(r for r, phrases in game.ROLES.items() if any(text.endswith(p) for p in phrases))
            kind = next(k for k, names in game.KINDS.items() if text.split()[2] in names)
            assert list(game.KINDS).index(kind) == info["hidden"][role]
            assert text.split()[1] in game.MOVEMENTS["stay"]


def test_swapped_manuals_give_every_kind_another_role():
    env = Messenger(8, hint="swapped")
    for seed in range(40):
        _, info = env.reset(seed=seed)
        while info["is_read_step"]:
            if info["sentence"]:
                role = next(r for r, ps in game.ROLES.items() if any(info["sentence"].endswith(p) for p in ps))
                names = list(game.KINDS.values())[int(info["hidden"][role])]
                assert info["sentence"].split()[2] not in names
            *_, info = env.step(STAY)
    assert not Messenger(8, hint="none").reset(seed=0)[1]["is_read_step"]


def test_roles_are_not_seen():
    """The same three kinds at the same places look alike, whoever is the enemy."""
    env = begun()
    rows = []
    for order in itertools.permutations(range(3)):
        env.cast = tuple((kind, role) for role, kind in enumerate(np.array([4, 7, 9])[list(order)]))
        env.places = tuple(((5, 3), (3, 5), (5, 7))[k] for k in order)
        rows.append((env._view(), env.render()))
    assert all(same(rows[0], row) for row in rows)


def test_places_kinds_and_messages_are_drawn_as_the_rules_say():
    env, laden, used = Messenger(8, hint="none", split="all"), [], []
    for seed in range(400):
        observation, info = env.reset(seed=seed)
        assert len(set(env.places)) == 3
        assert set(env.places) <= set(game.SPOTS)
        laden.append(info["state"]["carries"][0])
        used.append([game.SPOTS.index(p) for p in env.places])
        assert observation["view"][5, 5] == (16 if env.carries else 15)
        assert len(np.unique(observation["view"])) == 5
    assert np.mean(laden) == pytest.approx(0.2, abs=3 * 0.02)
    for role in range(3):
        np.testing.assert_allclose(np.bincount(np.array(used)[:, role]) / 400, 0.25, atol=0.09)


def test_held_out_pairs_are_in_no_training_game_and_in_every_test_game():
    train, test, all_ = (set(game.casts(split)) for split in ("train", "test", "all"))
    assert len(all_) == 12 * 11 * 10
    assert train | test == all_
    assert not train & test
    assert not any(pair in game.HELD for cast in train for pair in cast)
    assert all(any(pair in game.HELD for pair in cast) for cast in test)
    env = Messenger(8, split="test")
    env.reset(seed=3)
    assert env.cast in test


def test_entropy_counts_the_manuals():
    """Different choices give different sentences, so the manuals are as many as their choices."""
    counts = (range(12), range(3), range(3), range(3), range(4), range(3))
    texts = [game.sentence(*choice) for choice in itertools.product(*counts)]
    assert len(set(texts)) == len(texts) == 12 * 3 * 3 * 3 * 4 * 3
    nats, words = game.entropy("all")
    assert nats == pytest.approx(math.log(12 * 11 * 10 * 6 * (3 * 4 * 3 * 3) ** 3))
    made = game.manuals(0, 4000, "all")
    lengths = [len(game.VOCABULARY.numbers(text)) for text in made]
    assert abs(np.mean(lengths) - words) < 3 * np.std(lengths) / np.sqrt(4000)
    assert game.manuals(0, 3, "all") == made[:3]
    for text in game.manuals(1, 300, "train"):
        for part in text.rstrip(".").split(". "):
            kind = next(i for i, names in enumerate(game.KINDS.values()) if part.split()[2] in names)
            role = next(i for i, ps in enumerate(game.ROLES.values()) if any(part.endswith(p) for p in ps))
            assert (kind, role) not in game.HELD


def test_what_can_be_earned_without_reading():
    """Of three kinds of unknown roles a third is right: 1/3 − 2/3."""
    assert game.blind("all") == pytest.approx(-1 / 3)
    assert -1 / 3 < game.blind("train") < 0.0


def test_random_play_and_the_reference():
    """Random −.836, oracle 1."""
    random = play(Messenger(8, hint="none"), 500, 60)
    assert random.off(-0.836) < 3
    assert play(Messenger(8), 60, 60, policy=reference).returns.tolist() == [1.0] * 60
    assert play(Messenger(8), 60, 60, policy=reference).steps.max() <= 40


def test_a_seed_says_everything():
    assert all(same(a, b) for a, b in twice(lambda: Messenger(20), 60))


def test_the_picture_is_the_grid_x_to_the_right_and_y_down():
    view = np.zeros((10, 10), int)
    view[2, 7] = 2  # a red disc with a dark middle
    frame = Messenger(160).batch_render(view).astype(int)
    rows, columns = (np.abs(frame - np.array([220, 60, 50])).sum(-1) < 30).nonzero()
    assert 112 <= columns.min() <= columns.max() < 128
    assert 32 <= rows.min() <= rows.max() < 48


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        Messenger(split="trian")
    with pytest.raises(ConfigError, match="hint as one of"):
        Messenger(hint="false")


def test_play_with_random_actions_between_is_data():
    rows = data("messenger", seed=0, chunks=4, steps=80, random=(0.5,), events=("won", "died", "timeout"))
    assert rows["event"].shape == (4, 80, 3)
    assert rows["event"].any()
