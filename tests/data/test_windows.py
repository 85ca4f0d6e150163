"""Episodes of every form become the same windows; what does not fit is told."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldformula import data
from worldformula.data.own import Reading, located, short
from worldformula.data.sequences import Windows, episodes, load
from worldformula.errors import ConfigError, ReplayError

RNG = np.random.default_rng(0)
N, T = 5, 9
PLACE = RNG.normal(size=(N, T, 2)).astype(np.float32)
ACTION = RNG.integers(0, 3, size=(N, T))
REWARD = RNG.normal(size=(N, T)).astype(np.float32)
ARRAYS: dict[str, Any] = {"place": PLACE, "action": ACTION, "reward": REWARD, "terminated": np.array([1, 0, 0, 1, 0])}


def test_a_dictionary_a_list_a_table_and_a_file_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "e.npz", **ARRAYS)
    listed = [{k: v[i : i + 1] if k == "terminated" else v[i] for k, v in ARRAYS.items()} for i in range(N)]
    table = {k: v.reshape(N * T, *v.shape[2:]) for k, v in ARRAYS.items() if k != "terminated"}
    table["is_first"] = np.arange(N * T) % T == 0
    table["terminated"] = np.repeat(ARRAYS["terminated"], T)
    made = types.ModuleType("forms")
    made.one, made.two = lambda: listed, lambda: table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "forms", made)
    whole = load(str(tmp_path / "e.npz"), Reading(length=4))
    for name in ("forms:one", "forms:two"):
        other = load(name, Reading(length=4))
        for part in ("train", "test"):
            ours, theirs = getattr(whole, part), getattr(other, part)
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert {k: v.shape for k, v in whole.train.items()} == {
        "place": (36, 2), "reward": (36,), "action": (36,), "is_first": (36,), "is_last": (36,), "is_terminal": (36,),
    }  # fmt: skip
    assert len(whole.test["place"]) == T, "one episode of five"
    assert whole.window == 4


def flags(*lengths: int) -> NDArray[np.bool_]:
    """``is_first`` of episodes of these lengths."""
    found = np.zeros(sum(lengths), bool)
    found[np.cumsum([0, *lengths[:-1]])] = True
    return found


def test_windows_to_test_on_by_hand() -> None:
    cut = Windows(flags(5, 2, 1), 2)
    assert cut.cut().tolist() == [[0, 1], [2, 3], [3, 4], [5, 6], [7, 7]]
    assert Windows(flags(2, 5, 2), 3).cut().tolist() == [[2, 3, 4], [4, 5, 6], [0, 1, 7], [8, 0, 1]]
    assert Windows(flags(4, 4), 4).cut().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (cut.joined, Windows(flags(4, 4), 4).joined) == (True, False)


@pytest.mark.parametrize("lengths", [(9, 12), (3, 9, 2, 4), (2, 1, 3), (4,)])
def test_windows_to_learn_from_begin_anywhere_and_leave_no_row_out(lengths: tuple[int, ...]) -> None:
    """Against a list of all windows that lie within one episode, made by a loop; short ones are joined in a ring."""
    length, ends = 4, np.cumsum(lengths)
    found = Windows(flags(*lengths), length)
    drawn = found.rows(found.starts)
    whole = [range(e - n, e) for n, e in zip(lengths, ends, strict=True) if n >= length]
    short = [row for n, e in zip(lengths, ends, strict=True) if n < length for row in range(e - n, e)]
    inside = [tuple(e[i : i + length]) for e in whole for i in range(len(e) - length + 1)]
    ring = [tuple(short[(i + k) % len(short)] for k in range(length)) for i in range(len(short))]
    assert set(map(tuple, drawn.tolist())) == {*inside, *ring}
    often = np.bincount(drawn.reshape(-1), minlength=sum(lengths))
    assert often.min() >= length, "a row at the edge of an episode is learnt from as often as one in its middle"
    for episode in whole:
        middle = often[episode.start + length : episode.stop - length]
        assert (middle == length).all()


def test_lengths_and_valid_flags_leave_padding_out() -> None:
    lengths = np.array([9, 4, 1, 9, 2])
    padded = PLACE.copy()
    valid = np.arange(T) < lengths[:, None]
    padded[~valid] = np.nan
    base = {"place": padded, "action": ACTION}
    one, two = episodes({**base, "lengths": lengths}), episodes({**base, "valid": valid})
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        assert len(a["place"]) == lengths[i]
        assert np.array_equal(a["place"], b["place"])
        assert np.array_equal(a["place"], PLACE[i, : lengths[i]])
    short_actions = episodes({"place": padded, "action": ACTION[:, :-1], "lengths": lengths})
    assert [len(e["action"]) for e in short_actions] == (lengths - 1).tolist()
    gaps = valid.copy()
    gaps[0, 3] = False
    with pytest.raises(ConfigError, match="got gaps"):
        episodes({**base, "valid": gaps})
    with pytest.raises(ConfigError, match="lengths expects 5 whole numbers from 1 to 9"):
        episodes({**base, "lengths": lengths + 1})


def test_boundaries_inside_a_row_of_arrays_are_episodes() -> None:
    first = np.zeros((N, T), bool)
    first[:, 0] = first[:, 6] = True
    found = episodes({"place": PLACE, "action": ACTION, "is_first": first})
    assert [len(e["place"]) for e in found] == [6, 3] * N


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (3, "expected episodes as a dictionary .* got int"),
        ({"place": PLACE[0, :, 0]}, r"expected arrays \[N, T, …\]"),
        ({"place": PLACE, "action": ACTION[:3]}, "one number of episodes"),
    ],
)
def test_what_are_no_episodes(made: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        episodes(made)


def test_nan_and_single_episodes_are_refused(tmp_path: Path) -> None:
    broken = PLACE.copy()
    broken[3, 2] = np.nan
    np.savez(tmp_path / "nan.npz", place=broken, action=ACTION)
    with pytest.raises(ReplayError, match=r"episode 3: 'place' is not finite in row 2"):
        load(str(tmp_path / "nan.npz"))
    np.savez(tmp_path / "one.npz", place=PLACE[:1, :7], action=ACTION[:1, :7])
    with pytest.raises(ConfigError, match=r"two episodes, .* or one of 8 rows or more, .*; got one of 7"):
        load(str(tmp_path / "one.npz"))
    with pytest.raises(ConfigError, match=r"pictures.png does not exist. A world learns from episodes.npz"):
        load("./pictures.png")


def test_a_table_is_not_as_many_episodes_as_it_has_rows(tmp_path: Path) -> None:
    table = np.zeros((600, 2))
    np.savez(tmp_path / "table.npz", x=table)
    with pytest.raises(
        ConfigError, match=r"600 episodes of one number at 2 steps\n.*x=rows\[None\].*x=rows\[..., None\]"
    ):
        load(str(tmp_path / "table.npz"))
    assert [len(e["x"]) for e in episodes({"x": table[None]})] == [600]
    assert [e["x"].shape for e in episodes({"x": table[:9, :, None]})] == [(2, 1)] * 9
    assert [e["x"].shape for e in episodes({"x": table.T})] == [(600,)] * 2
    ended = {"x": np.zeros((30, 20)), "terminated": np.ones((30, 1), bool)}  # one flag for each episode of 20 steps
    assert [len(e["x"]) for e in episodes(ended)] == [20] * 30


@pytest.mark.parametrize(("rows", "length", "held"), [(1000, 64, 100), (100, 64, 25), (8, 64, 2)])
def test_the_last_rows_of_one_long_series_are_tested_on(tmp_path: Path, rows: int, length: int, held: int) -> None:
    """A tenth of them, or a window that is no more than a quarter; in their order, none of them twice."""
    series = np.arange(2.0 * rows).reshape(1, rows, 2)
    np.savez(tmp_path / "one.npz", x=series)
    found = load(str(tmp_path / "one.npz"), Reading(length=length, test=0.1))
    np.testing.assert_array_equal(found.train["x"], series[0, :-held])
    np.testing.assert_array_equal(found.test["x"], series[0, -held:])
    for part in (found.train, found.test):
        assert np.flatnonzero(part["is_first"]).tolist() == [0]
        assert np.flatnonzero(part["is_last"]).tolist() == [len(part["x"]) - 1]
        assert not part["is_terminal"].any()


def test_a_data_set_of_series_has_time_first() -> None:
    found = load("rolling")
    assert found.train["x"].shape[1:] == (8, 12)
    assert found.window == 16
    assert np.array_equal(np.flatnonzero(found.train["is_first"]), np.arange(0, len(found.train["x"]), 16))


class Stub(types.ModuleType):
    """The documented calls of Minari: `load_dataset`, `iterate_episodes`, and the fields of an episode."""

    def load_dataset(self, name: str) -> Any:
        if name != "D4RL/toy-v2":
            raise FileNotFoundError("Dataset not found locally")
        episode = types.SimpleNamespace
        return types.SimpleNamespace(
            iterate_episodes=lambda: iter(
                episode(
                    observations={"place": PLACE[i], "goal": {"at": PLACE[i, :, :1]}}, actions=ACTION[i, :-1],
                    rewards=REWARD[i, 1:].astype(np.float64), terminations=np.arange(1, T) == T - 1,
                    truncations=np.zeros(T - 1, bool), infos={},
                )
                for i in range(N)
            )
        )  # fmt: skip


def test_minari_observations_are_one_longer_than_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub("minari")
    stub.__spec__ = types.SimpleNamespace(name="minari")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "minari", stub)
    found = load("minari:D4RL/toy-v2", Reading(length=T))
    assert found.train["place"].shape == (4 * T, 2)
    assert found.train["at"].shape == (4 * T, 1)
    part = {key: value[:T] for key, value in found.train.items()}
    i = next(i for i in range(N) if np.array_equal(PLACE[i], part["place"]))
    assert np.array_equal(part["action"], [*ACTION[i, :-1], 0])
    assert np.allclose(part["reward"], [0, *REWARD[i, 1:]], atol=1e-6)
    assert part["is_terminal"].tolist() == [False] * (T - 1) + [True]
    with pytest.raises(ConfigError, match="Get it with: minari download D4RL/none-v0"):
        load("minari:D4RL/none-v0")
    assert located("minari:D4RL/toy-v2") == "minari:D4RL/toy-v2"
    assert short("minari:D4RL/toy-v2") == "D4RL-toy-v2"
    with pytest.raises(ConfigError, match="which are for worlds: worldformula fit rssm --data minari:D4RL/toy-v2"):
        data.load("minari:D4RL/toy-v2")


def test_without_minari_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'worldformula\[minari\]'"):
        load("minari:D4RL/toy-v2")
