"""Replay: which rows it holds, which sequences it draws, and that a killed run continues bit for bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldformula.data.replay import Replay
from worldformula.errors import ConfigError, ReplayError

EPISODE = 7
SPEC = {
    "image": ((4, 4, 1), "uint8"),
    "place": ((2,), "float32"),
    "reward": ((), "float32"),
    "is_first": ((), "bool"),
    "is_last": ((), "bool"),
    "is_terminal": ((), "bool"),
    "action": ((3,), "float32"),
}


def row(time, streams=2, *, first=None):
    """The rows and actions at one time: everything in them follows from stream and time."""
    stream = np.arange(streams)
    place = np.stack([stream, np.full(streams, time)], 1).astype(np.float32)
    image = np.broadcast_to((time * 5 + stream)[:, None, None, None] % 251, (streams, 4, 4, 1)).astype(np.uint8)
    flags = {"is_first": time % EPISODE == 0 if first is None else first, "is_last": time % EPISODE == EPISODE - 1}
    rows = {key: np.full(streams, value, np.bool_) for key, value in flags.items()}
    rows |= {"is_terminal": rows["is_last"], "image": image, "place": place}
    rows["reward"] = (100.0 * stream + time).astype(np.float32)
    return rows, np.full((streams, 3), time + 1, np.float32)


def fill(replay, start, stop):
    for time in range(start, stop):
        replay.add(*row(time, replay.streams))


def places(tmp_path):
    return {"memory": {}, "files": {"directory": tmp_path / "replay", "slack": 40}}


@pytest.fixture(params=["memory", "files"])
def where(request, tmp_path):
    return places(tmp_path)[request.param]


def test_a_sample_holds_what_was_added(where):
    replay = Replay(60, SPEC, streams=2, **where)
    fill(replay, 0, 100)  # three times around the ring
    assert len(replay) == 60
    batch = replay.sample(200, 5)
    for key, (shape, dtype) in SPEC.items():
        assert batch[key].shape == (200, 5, *shape)
        assert batch[key].dtype == dtype
    for i in range(200):
        for t in range(5):
            stream, time = batch["place"][i, t].astype(int)
            rows, action = row(time)
            assert all((batch[key][i, t] == rows[key][stream]).all() for key in rows)
            assert (batch["action"][i, t] == (0 if rows["is_last"][stream] else action[stream])).all()


def test_sequences_are_neighbouring_rows_of_one_stream_between_oldest_and_newest(where):
    replay = Replay(60, SPEC, streams=2, **where)
    for stop in (10, 29, 30, 31, 77):
        fill(replay, replay._count, stop)
        place = replay.sample(300, 8)["place"]
        assert (place[:, :, 0] == place[:, :1, 0]).all()
        assert (np.diff(place[:, :, 1], axis=1) == 1).all()
        assert place[..., 1].min() == max(0, stop - 30)
        assert place[..., 1].max() == stop - 1


def test_a_glimpse_is_spread_over_what_is_held_and_draws_nothing():
    replay, other = (Replay(60, SPEC, streams=2) for _ in range(2))
    assert replay.glimpse(4, 8) == {}
    for one in (replay, other):
        fill(one, 0, 40)
    found = replay.glimpse(6, 8)["place"]
    assert found[:, 0].tolist() == [[0, 10], [0, 17], [0, 25], [1, 10], [1, 17], [1, 25]]
    assert (np.diff(found[:, :, 1], axis=1) == 1).all()
    assert len(replay.glimpse(1000, 30)["place"]) == 2  # as many as there are, each once
    assert same(replay.sample(5, 8), other.sample(5, 8))


def test_starts_are_uniform_over_streams_and_times():
    replay = Replay(40, SPEC, streams=2)
    fill(replay, 0, 33)
    drawn = 17_000
    place = replay.sample(drawn, 4)["place"][:, 0].astype(int)
    counts = Counter(map(tuple, place.tolist()))
    assert len(counts) == 2 * 17
    expected = drawn / 34
    statistic = sum((n - expected) ** 2 / expected for n in counts.values())
    assert statistic < 63.9  # chi-square with 33 degrees of freedom, p = 0.001


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 40), st.integers(1, 12))
def test_any_sizes_draw_valid_sequences_or_say_why_not(streams, per_stream, added, length):
    replay = Replay(streams * per_stream, SPEC, streams=streams)
    fill(replay, 0, added)
    held = min(added, per_stream)
    if length > held:
        with pytest.raises(ReplayError, match=f"holds {held} rows in each of its {streams} streams.*need {length}"):
            replay.sample(3, length)
    else:
        times = replay.sample(3, length)["place"][..., 1]
        assert (np.diff(times, axis=1) == 1).all()
        assert added - held <= times.min() <= times.max() < added


def test_an_abandoned_episode_ends_where_it_was_left(where):
    replay = Replay(60, SPEC, streams=1, **where)
    for time in range(20):
        rows, action = row(time, 1, first=time in (0, 4, 14))
        rows["is_last"][:] = rows["is_terminal"][:] = time == 13
        replay.add(rows, action)
    batch = replay.sample(100, 6)
    time = batch["place"][..., 1].astype(int)
    assert (batch["is_last"] == np.isin(time, (3, 13))).all()
    assert (batch["is_terminal"] == (time == 13)).all()
    assert (batch["action"][time == 3] == 0).all()
    assert (batch["action"][time == 2] == 3).all()


def test_a_sample_is_a_copy():
    replay = Replay(20, SPEC, streams=2)
    fill(replay, 0, 10)
    state = replay.state()
    before = replay.sample(4, 10)
    for value in before.values():
        value[...] = 0
    replay.restore(state)
    assert replay.sample(4, 10)["reward"].any()


# ------------------------------------------------------------------------------------------------------ exact resume


def same(one, other):
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def test_a_killed_run_continues_bit_for_bit(where):
    whole = Replay(60, SPEC, streams=2, seed=5, **where)
    fill(whole, 0, 50)
    whole.sample(3, 5)
    state = json.loads(json.dumps(whole.state())) if where else whole.state()
    whole.checkpointed()
    expected = []
    for start in (50, 60):
        expected.append(whole.sample(6, 9))
        fill(whole, start, start + 10)
    again = Replay(60, SPEC, streams=2, seed=99, **where)  # the files now hold twenty rows from after the checkpoint
    again.restore(state)
    for start, batch in zip((50, 60), expected, strict=True):
        assert same(again.sample(6, 9), batch)
        fill(again, start, start + 10)
    assert len(again) == len(whole)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=8), st.integers(0, 7))
def test_either_of_the_last_two_checkpoints_can_be_restored(tmp_path_factory, intervals, lost):
    folder = tmp_path_factory.mktemp("replay")
    replay, states = Replay(10, SPEC, streams=1, directory=folder, slack=24), []
    for interval in intervals:
        fill(replay, replay._count, replay._count + interval)
        states.append(replay.state())
        replay.checkpointed()
    fill(replay, replay._count, replay._count + lost % 12)
    for state in states[-2:]:
        again = Replay(10, SPEC, streams=1, directory=folder, slack=24)
        again.restore(state)
        held = min(10, state["count"])
        assert len(again) == held
        if held:
            assert (again.sample(5, held)["place"][:, :, 1] == np.arange(state["count"] - held, state["count"])).all()


def test_rows_of_the_last_two_checkpoints_are_not_overwritten(tmp_path):
    replay = Replay(10, SPEC, streams=1, directory=tmp_path, slack=6)
    fill(replay, 0, 100)  # no checkpoint: nothing to protect
    replay.checkpointed()
    fill(replay, 100, 104)
    replay.checkpointed()
    fill(replay, 104, 106)
    with pytest.raises(ReplayError, match="6 rows were added since the older.*slack of 6 rows"):
        fill(replay, 106, 107)
    replay.checkpointed()
    fill(replay, 106, 110)


def test_after_a_restore_the_older_checkpoint_is_still_protected(tmp_path):
    replay = Replay(10, SPEC, streams=1, directory=tmp_path, slack=6)
    fill(replay, 0, 100)
    replay.checkpointed()
    fill(replay, 100, 104)
    state = replay.state()
    replay.checkpointed()
    again = Replay(10, SPEC, streams=1, directory=tmp_path, slack=6)
    again.restore(state)
    fill(again, 104, 106)
    with pytest.raises(ReplayError, match="slack of 6 rows"):
        fill(again, 106, 107)


def test_a_process_killed_with_sigkill_loses_nothing(tmp_path):
    script = """
        import json, os, signal, sys
        from tests.data.test_replay import *
        replay = Replay(60, SPEC, streams=2, directory=sys.argv[1], slack=40, seed=5)
        fill(replay, 0, 45)
        state = json.dumps(replay.state())
        replay.checkpointed()
        print(state, flush=True)
        fill(replay, 45, 55)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "files")]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = Replay(60, SPEC, streams=2, directory=tmp_path / "files", slack=40)
    again.restore(json.loads(killed.stdout))
    whole = Replay(60, SPEC, streams=2, seed=5)
    fill(whole, 0, 45)
    assert same(again.sample(20, 11), whole.sample(20, 11))


# ------------------------------------------------------------------------------------------------------------ errors


def test_rows_that_do_not_fit_are_refused_with_a_table():
    replay = Replay(20, SPEC, streams=2)
    rows, action = row(0)
    with pytest.raises(ReplayError, match=r"reward +\| float32 \(2,\) +\| float64 \(2,\)"):
        replay.add({**rows, "reward": rows["reward"].astype(np.float64)}, action)
    with pytest.raises(ReplayError, match=r"action +\| float32 \(2, 3\) +\| float32 \(2, 4\)"):
        replay.add(rows, np.zeros((2, 4), np.float32))
    with pytest.raises(ReplayError, match=r"missing are \['reward'\], unknown are \['rewrd'\]"):
        replay.add({"rewrd" if key == "reward" else key: value for key, value in rows.items()}, action)
    assert len(replay) == 0


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="capacity ≥ streams"):
        Replay(3, SPEC, streams=4)
    with pytest.raises(ReplayError, match="lacks \\['action'\\]"):
        Replay(3, {key: value for key, value in SPEC.items() if key != "action"})
    replay = Replay(3, SPEC)
    with pytest.raises(ReplayError, match="at least one sequence"):
        replay.sample(0, 1)


def test_files_of_another_description_are_refused(tmp_path):
    fill(Replay(20, SPEC, streams=2, directory=tmp_path), 0, 3)
    with pytest.raises(ReplayError, match=r"rows_per_stream +\| 10 +\| 20"):
        Replay(40, SPEC, streams=2, directory=tmp_path)
    with pytest.raises(ReplayError, match="columns"):
        Replay(20, SPEC | {"more": ((), "bool")}, streams=2, directory=tmp_path)


def test_damaged_and_missing_files_are_refused(tmp_path):
    replay = Replay(20, SPEC, streams=2, directory=tmp_path)
    fill(replay, 0, 3)
    state = replay.state()
    reward = next(tmp_path.glob("*_reward.bin"))
    with reward.open("r+b") as file:
        file.truncate(8)
    with pytest.raises(ReplayError, match=r"reward.bin has 8 bytes, expected .*damaged"):
        Replay(20, SPEC, streams=2, directory=tmp_path)
    (tmp_path / "replay.json").write_text("{")
    with pytest.raises(ReplayError, match=r"replay.json cannot be read"):
        Replay(20, SPEC, streams=2, directory=tmp_path)
    for _ in range(2):  # the first attempt leaves nothing that the second would take for the lost rows
        with pytest.raises(ReplayError, match="needs 3 rows per stream"):
            Replay(20, SPEC, streams=2, directory=tmp_path / "empty").restore(state)
    with pytest.raises(ReplayError, match="rows_per_stream = 10, this replay 20"):
        Replay(40, SPEC, streams=2, directory=tmp_path / "larger").restore(state)
    with pytest.raises(ReplayError, match="cannot restore each other"):
        Replay(20, SPEC, streams=2).restore(state)


def test_a_disk_that_is_too_small_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**3))
    with pytest.raises(ReplayError, match=r"grows to 0.0 GB.*lower its capacity"):
        Replay(200, SPEC, directory=tmp_path)


def script(tmp_path, code):
    """Runs code in a process of its own, which a full disk may kill."""
    command = [sys.executable, "-c", "from tests.data.test_replay import *\n" + textwrap.dedent(code), str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}, check=False)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_later_stops_adding_and_kills_nobody(small_disk):
    done = script(
        small_disk,
        """
        from pathlib import Path
        import worldformula.data.ring as module
        module.RESERVE_BYTES = 100_000
        folder = Path(sys.argv[1])
        replay = Replay(80_000, SPEC, streams=2, directory=folder / "replay", slack=0)
        fill(replay, 0, 50)
        (folder / "others").write_bytes(bytes(6_000_000))  # somebody else takes what was free before
        try:
            fill(replay, 50, 40_000)
        except ReplayError as error:
            print(error)
        stopped = replay._count
        assert 50 < stopped < 40_000, stopped
        assert (replay.sample(50, 8)["place"][..., 1] < stopped).all()
        (folder / "others").unlink()
        fill(replay, stopped, 39_000)
        assert replay.sample(500, 8)["place"][..., 1].max() > 20_000
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "the disk has no room for more rows" in done.stdout
    assert "No space left" in done.stdout


@pytest.mark.parametrize("answer", ["absent", "unsupported"])
def test_where_disk_cannot_be_reserved_it_must_be_free(tmp_path, monkeypatch, answer):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if answer == "absent":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    monkeypatch.setattr("worldformula.data.ring.RESERVE_BYTES", 1000)
    replay = Replay(2000, SPEC, streams=2, directory=tmp_path)
    fill(replay, 0, 20)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ReplayError, match=r"no room for more rows.*holds \d+ rows"):
        fill(replay, 20, 60)
    assert len(replay) < 60


def test_files_that_cannot_be_made_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplayError, match="cannot be made: Not a directory"):
        Replay(20, SPEC, directory=tmp_path / "file" / "replay")


def test_files_take_disk_only_as_they_fill(tmp_path):
    replay = Replay(1_000_000, SPEC, streams=1, directory=tmp_path)
    fill(replay, 0, 50)
    replay.flush()
    taken = sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir())
    assert taken < 0.3 * replay.nbytes
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) == replay.nbytes
