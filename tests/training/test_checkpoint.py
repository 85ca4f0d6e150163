"""Checkpoints: what goes in comes out; damage is noticed; the last good one always loads."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldformula.errors import CheckpointError
from worldformula.training import checkpoint
from worldformula.training.seeding import continued, derived, forked, rng_state, seed_everything, set_rng_state


def same(a: Any, b: Any) -> bool:
    """Equality of nests, types and dtypes included, NaN equal to NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def test_every_supported_value_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "weights": {"w": shared, "transposed": shared.T, "half": shared.bfloat16(), "scalar": torch.tensor(3)},
        "optimiser": {"state": {0: {"step": torch.tensor(7.0)}, 1: {}}, "groups": [{"betas": (0.9, 0.999)}]},
        "arrays": [np.arange(3, dtype=np.uint64), np.array([True, False]), np.float32([[1.5]]), np.zeros((0, 4))],
        "numbers": {
            "big": 2**127 + 1,
            "tenth": 0.1,
            "nan": float("nan"),
            "inf": float("-inf"),
            "no": None,
            "yes": True,
        },
        "$odd": "text",
    }
    path = checkpoint.save(tmp_path, 10, state)
    assert sorted(p.name for p in path.iterdir()) == ["tensors.safetensors", "tree.json"]
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert found.rejected == ()
    assert same(found.state, state)


def test_numpy_scalars_become_python_numbers(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True)})
    assert same(checkpoint.load(tmp_path / "000000000001").state, {"a": 3, "b": 0.5, "c": True})


@pytest.mark.parametrize("value", [object(), {1.5: 2}, np.array(["text"]), b"bytes"])
def test_what_cannot_be_stored_is_refused_with_its_place(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"state\.agent\.1"):
        checkpoint.save(tmp_path, 1, {"agent": [0, value]})
    assert checkpoint.load_latest(tmp_path) is None


def test_the_last_two_are_kept_and_an_abandoned_future_goes(tmp_path: Path) -> None:
    for step in (100, 200, 300, 1000):
        checkpoint.save(tmp_path, step, {"step": step})
    assert [int(p.name) for p in checkpoint.steps_in(tmp_path)] == [300, 1000]
    checkpoint.save(tmp_path, 400, {"step": 400})
    assert [int(p.name) for p in checkpoint.steps_in(tmp_path)] == [300, 400]


def test_a_folder_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    (tmp_path / ".draft-000000000005").mkdir()
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.load_latest(tmp_path / "missing") is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))


def change_number(path: Path) -> None:
    document = json.loads(path.read_text())
    document["tree"]["count"] += 1
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (checkpoint.TENSORS, truncate),
        (checkpoint.TENSORS, flip),
        (checkpoint.TENSORS, Path.unlink),
        (checkpoint.TREE, truncate),
        (checkpoint.TREE, change_number),
        (checkpoint.TREE, Path.unlink),
        (checkpoint.TREE, lambda path: path.write_text("[1]")),
    ],
)
def test_damage_falls_back_to_the_older_checkpoint_and_says_so(tmp_path: Path, file: str, damage: Any) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"count": step, "w": torch.full((3,), float(step))})
    damage(tmp_path / "000000000002" / file)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert found.state["count"] == 1
    assert len(found.rejected) == 1
    assert "000000000002" in found.rejected[0]
    checkpoint.save(tmp_path, 2, {"count": 2})  # going on rewrites the damaged step
    again = checkpoint.load_latest(tmp_path)
    assert again is not None
    assert again.step == 2
    assert again.rejected == ()
    damage(tmp_path / "000000000001" / file)
    checkpoint.save(tmp_path, 2, {"count": 2, "w": torch.ones(2)})
    damage(tmp_path / "000000000002" / file)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoint.load_latest(tmp_path)


FULL_DISK = """
import resource, sys, torch
from worldformula.training import checkpoint
from worldformula.errors import CheckpointError
checkpoint.save(sys.argv[1], 1, {"w": torch.ones(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save(sys.argv[1], 2, {"w": torch.ones(100_000)})
except CheckpointError as error:
    print(error)
print([p.name for p in checkpoint.steps_in(sys.argv[1])])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_disk_that_is_full_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"step 2 could not be written to {tmp_path / '.draft-000000000002' / checkpoint.TENSORS}: " in done.stdout
    assert "It takes 0.4 MB, and " in done.stdout, "a hundred thousand numbers of four bytes"
    assert "MB are free there" in done.stdout
    assert "['000000000001']" in done.stdout
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert torch.equal(found.state["w"], torch.ones(10))
    assert [p.name for p in tmp_path.iterdir()] == ["000000000001"]


@pytest.mark.parametrize("late", [checkpoint.TREE, "000000000002"])
def test_whatever_cannot_be_written_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """The disk is full at the second file, or the rename fails at the very end."""
    checkpoint.save(tmp_path, 1, {"w": torch.ones(10)})

    def full(self: Path, *given: Any, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text" if late == checkpoint.TREE else "rename", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*checkpoints written before are untouched"):
        checkpoint.save(tmp_path, 2, {"w": torch.ones(10)})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["000000000001"]
    assert checkpoint.load_latest(tmp_path) is not None


def draw() -> list[float]:
    import random

    legacy = float(np.random.normal())  # noqa: NPY002 - the global generator is what is tested
    return [random.random(), legacy, float(torch.randn(())), random.gauss(0, 1)]


def test_random_states_travel_through_a_checkpoint(tmp_path: Path) -> None:
    seed_everything(3)
    draw()
    checkpoint.save(tmp_path, 1, rng_state())
    expected = [draw(), draw()]
    set_rng_state(checkpoint.load(tmp_path / "000000000001").state)
    assert [draw(), draw()] == expected


def test_a_continued_generator_draws_what_torch_would_and_leaves_it_where_it_is() -> None:
    torch.manual_seed(3)
    torch.rand(5)
    other = continued()
    drawn = torch.randn(7, generator=other)
    assert torch.equal(drawn, torch.randn(7))
    assert torch.equal(torch.rand(2, generator=other), torch.rand(2))


def test_a_forked_block_leaves_no_trace_and_depends_on_its_seed_alone() -> None:
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    with forked(5):
        inside = draw()
    assert draw() == expected
    with forked(5):
        assert draw() == inside
    assert len({derived(0), derived(1), derived(0, 1), derived(0, 1, 0)}) == 4
