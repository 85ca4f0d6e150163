"""Sequences at the beginnings and ends of episodes, and episodes of one's own."""

from __future__ import annotations

import numpy as np
import pytest

from worldformula.data.episodes import from_episodes, split
from worldformula.data.replay import Replay
from worldformula.errors import ReplayError

LENGTHS = (3, 9, 5)


def episodes(lengths=LENGTHS):
    """Row t of episode e observes (e, t), is rewarded 10·e + t (the first row 0) and acts e + t/100."""
    found = []
    for e, n in enumerate(lengths):
        place = np.stack([np.full(n, e), np.arange(n)], 1).astype(np.float64)
        found.append(
            {"place": place, "action": e + np.arange(n - 1)[:, None] / 100, "reward": 10 * e + np.arange(1, n)}
        )
    return found


def test_a_sequence_at_a_start_begins_with_an_episode_and_stays_in_it():
    replay = from_episodes(episodes())
    batch = replay.sample(300, 6, where="start")
    episode = batch["place"][:, 0, 0].astype(int)
    assert set(episode) == {0, 1, 2}
    assert batch["is_first"][:, 0].all()
    for i, e in enumerate(episode):
        n = min(6, LENGTHS[e])
        assert batch["valid"][i].tolist() == [True] * n + [False] * (6 - n)
        assert batch["place"][i, :n].tolist() == [[e, t] for t in range(n)]
        assert batch["is_last"][i].tolist() == [t == LENGTHS[e] - 1 for t in range(6)]
        assert all(not value[i, n:].any() for value in batch.values())


def test_a_sequence_at_an_end_stops_with_an_episode_and_stays_in_it():
    replay = from_episodes(episodes())
    batch = replay.sample(300, 4, where="end")
    rows = batch["valid"].sum(1)
    for i, n in enumerate(rows):
        e = int(batch["place"][i, 0, 0])
        assert n == min(4, LENGTHS[e])
        assert batch["place"][i, :n].tolist() == [[e, LENGTHS[e] - n + t] for t in range(n)]
        assert batch["is_last"][i].tolist() == [t == n - 1 for t in range(4)]
    assert set(rows) == {3, 4}


def test_every_start_is_as_likely_however_long_its_episode():
    batch = from_episodes(episodes()).sample(3000, 2, where="start")
    share = np.bincount(batch["place"][:, 0, 0].astype(int)) / 3000
    assert np.abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 3000)


def test_only_what_is_held_counts_and_a_running_episode_has_no_end():
    spec = {"place": ((), "float32"), "is_first": ((), "bool"), "is_last": ((), "bool"), "action": ((1,), "float32")}
    replay = Replay(8, spec)
    for t in range(13):  # episodes of five rows; the last 8 rows are 5 … 12, and the third one runs
        flags = {"is_first": np.array([t % 5 == 0]), "is_last": np.array([t % 5 == 4])}
        replay.add({"place": np.array([t], np.float32), **flags}, np.ones((1, 1), np.float32))
    assert set(replay.sample(50, 4, where="start")["place"][:, 0]) == {5, 10}
    ends = replay.sample(50, 4, where="end")
    assert (ends["place"] == [6, 7, 8, 9]).all()
    replay.add({"place": np.array([13.0], np.float32), "is_first": np.array([True]), "is_last": np.array([False])},
               np.ones((1, 1), np.float32))  # fmt: skip
    ends = replay.sample(90, 4, where="end")  # row 12 was abandoned
    assert {tuple(place[valid]) for place, valid in zip(ends["place"], ends["valid"], strict=True)} == {
        (6, 7, 8, 9), (10, 11, 12)
    }  # fmt: skip
    with pytest.raises(ReplayError, match='expected where="any", "start" or "end"'):
        replay.sample(1, 2, where="middle")


def test_episodes_as_gymnasium_returns_them_become_rows():
    replay = from_episodes({"a": episodes()[1] | {"terminated": True}, "b": episodes()[2] | {"truncated": True}})
    batch = replay.sample(100, 14)
    row = {key: value[0] for key, value in batch.items()}
    assert row["place"].dtype == row["action"].dtype == row["reward"].dtype == np.float32
    assert row["reward"].tolist() == [0, *range(11, 19), 0, *range(21, 25)]
    assert row["action"][:, 0] == pytest.approx(
        [*(1 + t / 100 for t in range(8)), 0, *(2 + t / 100 for t in range(4)), 0]
    )
    assert row["is_first"].tolist() == [t in (0, 9) for t in range(14)]
    assert row["is_last"].tolist() == [t in (8, 13) for t in range(14)]
    assert row["is_terminal"].tolist() == [t == 8 for t in range(14)]


def test_kinds_are_kept():
    episode = {
        "image": np.zeros((4, 8, 8, 3), np.uint8),
        "token": np.arange(4),
        "lamp": np.ones(4, bool),
        "label/goal": np.array([np.nan, 0, 0, 1]),
        "action/move": np.arange(4),
        "action/force": np.zeros((4, 2)),
    }
    spec = from_episodes([episode, episode]).spec
    assert {key: (shape, dtype.name) for key, (shape, dtype) in spec.items()} == {
        "image": ((8, 8, 3), "uint8"),
        "token": ((), "int64"),
        "lamp": ((), "bool"),
        "label/goal": ((), "float32"),
        "reward": ((), "float32"),
        "action/move": ((), "int64"),
        "action/force": ((2,), "float32"),
        "is_first": ((), "bool"),
        "is_last": ((), "bool"),
        "is_terminal": ((), "bool"),
    }


@pytest.mark.parametrize("key", ["is_first", "is_last"])
def test_a_long_table_is_split_where_episodes_begin_or_end(key):
    whole = episodes()
    flags = {
        "is_first": np.concatenate([np.arange(n) == 0 for n in LENGTHS]),
        "is_last": np.concatenate([np.arange(n) == n - 1 for n in LENGTHS]),
    }
    place = np.concatenate([episode["place"] for episode in whole])
    terminated = np.isin(np.arange(17), (11,))
    parts = split({"place": place, "action": np.zeros((17, 1)), key: flags[key], "terminated": terminated})
    assert [len(part["place"]) for part in parts] == list(LENGTHS)
    assert [bool(part["terminated"][-1]) for part in parts] == [False, True, False]
    assert all((part["place"] == episode["place"]).all() for part, episode in zip(parts, whole, strict=True))
    with pytest.raises(ReplayError, match="with is_first or is_last among them"):
        split({"place": place})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"place": np.full((5, 2), np.nan)}, "episode 1: 'place' is not finite in row 0"),
        ({"reward": np.zeros(7)}, "episode 1: 'reward' has 7 rows, and 'place' has 5"),
        ({"place": np.zeros((5, 3))}, r"episode 1 has other columns than the first: place float32 \(3,\)"),
        ({"place": [None] * 5}, "expected an array of numbers, one row per step, got object"),
        ({"more": np.zeros(5)}, "other columns than the first"),
    ],
)
def test_an_episode_that_does_not_fit_is_named(change, says):
    given = episodes((5, 5))
    with pytest.raises(ReplayError, match=says):
        from_episodes([given[0], given[1] | change])


def test_what_is_no_episode_is_refused():
    with pytest.raises(ReplayError, match="at least one episode"):
        from_episodes([])
    with pytest.raises(ReplayError, match="expected observations and an action, got place"):
        from_episodes([{"place": np.zeros((4, 2))}])
