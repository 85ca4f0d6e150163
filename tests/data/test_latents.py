"""What a replay gives before a sequence, what is written back into it, and that a checkpoint finds it as it left it."""

import json
from collections import Counter

import numpy as np
import pytest

from tests.data.test_replay import SPEC, row
from worldformula.data.replay import Replay
from worldformula.errors import ReplayError

SHAPES = {"h": (3,), "z": (2, 2)}
STREAMS = 2


def made(time, version=0):
    """Latents that follow from stream, time and how often they were written."""
    stream = np.arange(STREAMS)
    value = (1000 * version + 100 * stream + time).astype(np.float32)
    return {
        name: np.broadcast_to(value.reshape(-1, *[1] * len(shape)), (STREAMS, *shape)) for name, shape in SHAPES.items()
    }


def replay(tmp_path=None, capacity=40, **more):
    place = {} if tmp_path is None else {"directory": tmp_path / "replay", "slack": 60}
    return Replay(capacity, SPEC, streams=STREAMS, latents=SHAPES, **place, **more)


def fill(found, start, stop):
    for time in range(start, stop):
        found.add(*row(time, STREAMS), latents=made(time))


def held(found, count):
    """The first number of every latent, by stream and time, of the rows that can be a context."""
    seen = {}
    for _ in range(40):
        batch = found.sample(16, 1, context=1)
        for stream, time, h, z in zip(
            batch["stream"], batch["row"][:, 0] - 1, batch["start/h"], batch["start/z"], strict=True
        ):
            assert (h == h[0]).all()
            assert (z == h[0]).all()
            assert seen.setdefault((int(stream), int(time)), float(h[0])) == h[0]
    assert len(seen) == count
    return seen


@pytest.mark.parametrize("files", [False, True])
def test_the_row_before_a_sequence(tmp_path, files):
    found = replay(tmp_path if files else None)
    fill(found, 0, 33)
    for _ in range(20):
        batch = found.sample(8, 5, context=1)
        before = batch["row"][:, 0] - 1
        np.testing.assert_array_equal(batch["row"], batch["place"][..., 1])
        np.testing.assert_array_equal(batch["stream"], batch["place"][:, 0, 0])
        np.testing.assert_array_equal(batch["start/h"][:, 0], 100 * batch["stream"] + before)
        executed = np.where(before % 7 == 6, 0, before + 1)  # at the last row of an episode nothing is executed
        np.testing.assert_array_equal(batch["start/action"][:, 0], executed)
        assert before.min() >= 13  # 20 rows of each stream are held


@pytest.mark.parametrize("files", [False, True])
def test_what_is_written_back_is_what_is_read(tmp_path, files):
    found = replay(tmp_path if files else None)
    fill(found, 0, 20)
    right = {(s, t): 100.0 * s + t for s in range(STREAMS) for t in range(19)}
    for version in range(1, 30):
        batch = found.sample(3, 4, context=1)
        value = 1000 * version + 100 * batch["stream"][:, None] + batch["row"]
        found.write(
            batch,
            {
                name: np.broadcast_to(value.reshape(*value.shape, *[1] * len(s)), (*value.shape, *s))
                for name, s in SHAPES.items()
            },
        )
        right |= {
            (int(s), int(t)): float(v)
            for s, ts, vs in zip(batch["stream"], batch["row"], value, strict=True)
            for t, v in zip(ts, vs, strict=True)
            if t < 19
        }
        if version % 4 == 0:
            found.flush()
            found.checkpointed()
    assert held(found, 38) == right


def rewritten(found, version, count=4):
    for _ in range(count):
        batch = found.sample(4, 3, context=1)
        value = 1000.0 * version + 100 * batch["stream"][:, None] + batch["row"]
        found.write(
            batch,
            {
                n: np.broadcast_to(value.reshape(*value.shape, *[1] * len(s)), (*value.shape, *s))
                for n, s in SHAPES.items()
            },
        )


@pytest.mark.parametrize("back", [1, 2])
def test_a_killed_run_finds_the_latents_of_either_of_its_last_two_checkpoints(tmp_path, back):
    """Rows are added and rewritten all the time; whatever came after the checkpoint is as if it had not been."""
    found, states, seen = replay(tmp_path), [], []
    time = 0
    for version in range(1, 8):
        fill(found, time, time + 9)
        time += 9
        rewritten(found, version)
        found.flush()
        states.append(json.loads(json.dumps({k: v for k, v in found.state().items() if k != "latents"})))
        states[-1]["latents"] = {k: v.copy() for k, v in found.state()["latents"].items()}
        found.checkpointed()
        rng = found._rng.bit_generator.state
        seen.append(held(found, 2 * (min(time, 20) - 1)))
        found._rng.bit_generator.state = rng
        if version == 1:
            before = found.sample(3, 3, context=1)["row"]  # a run that goes on draws what it would have drawn
            found._rng.bit_generator.state = rng
            assert (found.sample(3, 3, context=1)["row"] == before).all()
            found._rng.bit_generator.state = rng
    fill(found, time, time + 8)
    rewritten(found, 99, 10)
    again = replay(tmp_path)
    again.restore(states[-back])
    assert held(again, 38) == seen[-back]
    rewritten(again, 100, 10)  # what it writes now leaves the checkpoint that it came from alone
    once_more = replay(tmp_path)
    once_more.restore(states[-back])
    assert held(once_more, 38) == seen[-back]


def test_in_memory_a_checkpoint_holds_them():
    found = replay()
    fill(found, 0, 25)
    rewritten(found, 3)
    state, right = found.state(), held(found, 38)
    again = replay()
    again.restore(state)
    assert held(again, 38) == right


def test_every_row_is_served_once_while_it_is_new():
    """Sequences of 5, stream by stream, wait in a queue kept by hand; each batch begins with those that wait."""
    found = Replay(1000, SPEC, streams=STREAMS, online=True)
    waiting, served = [], Counter()
    for time in range(200):
        found.add(*row(time, STREAMS))
        if time % 5 == 4:
            waiting += [(stream, time - 4) for stream in range(STREAMS)]
        if time >= 10 and time % 2:
            drawn = [(int(stream), int(start)) for stream, start in found.sample(3, 5)["place"][:, 0]]
            new, waiting = waiting[:3], waiting[3:]
            assert drawn[: len(new)] == new
            served.update(new)
    assert set(served.values()) == {1}
    assert set(served) | set(waiting) == {(s, t) for s in range(STREAMS) for t in range(0, 200, 5)}


def test_the_online_queue_is_as_the_count_of_those_served():
    found = Replay(1000, SPEC, streams=STREAMS, online=True)
    for time in range(23):
        found.add(*row(time, STREAMS))
    first = found.sample(6, 5)["place"][:, 0]
    assert first.tolist() == [[0, 0], [1, 0], [0, 5], [1, 5], [0, 10], [1, 10]]
    state = found.state()
    assert found.sample(6, 5)["place"][:2, 0].tolist() == [[0, 15], [1, 15]]
    again = Replay(1000, SPEC, streams=STREAMS, online=True)
    again.restore(state)
    assert again.sample(6, 5)["place"][:2, 0].tolist() == [[0, 15], [1, 15]]
    after = again.sample(50, 5)["place"][:, 0]  # nothing new: any, also what does not begin at a fifth row
    assert any(time % 5 for _, time in after)


def test_what_the_ring_has_overwritten_is_served_no_more():
    found = Replay(40, SPEC, streams=STREAMS, online=True)
    for time in range(58):
        found.add(*row(time, STREAMS))
    assert found.sample(4, 5)["place"][:, 0].tolist() == [[0, 40], [1, 40], [0, 45], [1, 45]]


def test_an_online_queue_that_begins_late_serves_the_rows_to_come():
    plain = Replay(1000, SPEC, streams=STREAMS)
    for time in range(12):
        plain.add(*row(time, STREAMS))
    found = Replay(1000, SPEC, streams=STREAMS, online=True)
    found.restore(plain.state())
    for time in range(12, 24):
        found.add(*row(time, STREAMS))
    first = found.sample(4, 5)["place"][:, 0].tolist()
    assert first == [[0, 12], [1, 12], [0, 17], [1, 17]]


def test_sequences_of_another_length_are_served_behind_those_that_were():
    found = Replay(1000, SPEC, streams=STREAMS, online=True)
    for time in range(40):
        found.add(*row(time, STREAMS))
    assert found.sample(3, 5)["place"][:, 0].tolist() == [[0, 0], [1, 0], [0, 5]]
    again = Replay(1000, SPEC, streams=STREAMS, online=True)
    again.restore(found.state())
    later = again.sample(5, 8)["place"][:, 0].tolist()
    assert later == [[0, 10], [1, 10], [0, 18], [1, 18], [0, 26]], "row 5 of the second stream is left out"


def test_errors():
    with_them, without = replay(), Replay(40, SPEC, streams=STREAMS)
    with pytest.raises(ReplayError, match="this replay keeps the latents h, z: pass latents="):
        with_them.add(*row(0, STREAMS))
    with pytest.raises(ReplayError, match="this replay keeps no latents: pass latents= to add exactly where it does"):
        without.add(*row(0, STREAMS), latents=made(0))
    fill(with_them, 0, 10)
    with pytest.raises(ReplayError, match=r"expected the latents \['h', 'z'\], got \['h'\]"):
        with_them.write(with_them.sample(2, 3, context=1), {"h": np.zeros((2, 3, 3), np.float32)})
    for time in range(10):
        without.add(*row(time, STREAMS))
    batch = without.sample(2, 3, context=1)
    assert "start/action" in batch
    assert "start/h" not in batch
    with pytest.raises(ReplayError, match="this replay keeps no latents: create it with"):
        without.write(batch, {})
    with pytest.raises(ReplayError, match="a sequence at the end of an episode has no context"):
        without.sample(2, 3, "end", context=1)
    with pytest.raises(ReplayError, match="sequences of 11 rows need 11 per stream"):
        without.sample(2, 10, context=1)
    with pytest.raises(ReplayError, match="a replay with latents and one without"):
        without.restore(with_them.state())
