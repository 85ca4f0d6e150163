"""Whatever stops a run, it says so in one error, keeps its last good checkpoint, and goes on from there."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.agent.systems.toy import ToyAgent, config
from tests.agent.test_loop import assert_same_run
from worldformula.agent.config import EnvConfig
from worldformula.agent.loop import Loop
from worldformula.envs.pendulum import Pendulum
from worldformula.errors import (
    BrokenEnvironmentError,
    CheckpointError,
    NonFiniteError,
    ReplayError,
    RunFolderError,
    SpaceError,
)
from worldformula.training import checkpoint


class Failing(Pendulum):
    """A pendulum that fails once, at a chosen step of all copies together."""

    left = 0
    fault: Callable[[tuple[Any, ...]], tuple[Any, ...]]

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        Failing.left -= 1
        return Failing.fault(answer) if Failing.left == 0 else answer


gymnasium.register("tests/Failing-v0", entry_point=Failing, max_episode_steps=200)
FAILING = EnvConfig("tests/Failing-v0", num=3, max_steps=23)


def breaks(_: tuple[Any, ...]) -> tuple[Any, ...]:
    raise RuntimeError("the simulator broke")


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (lambda a: (a[0] * np.nan, *a[1:]), NonFiniteError, "the observation 'vector' of tests/Failing-v0"),
        (lambda a: (a[0], float("nan"), *a[2:]), NonFiniteError, "the reward of tests/Failing-v0 .*: nan"),
        (lambda a: (a[0], float("inf"), *a[2:]), NonFiniteError, "the reward of tests/Failing-v0 .*: inf"),
        (lambda a: (a[0][:2], *a[1:]), SpaceError, "lies outside its space"),
        (lambda a: a[:4], BrokenEnvironmentError, "failed at step .* ValueError: not enough values to unpack"),
        (breaks, BrokenEnvironmentError, "failed at step .* RuntimeError: the simulator broke"),
    ],
)
def test_an_environment_that_fails_after_a_checkpoint_costs_nothing_else(
    tmp_path: Path, fault: Any, error: type[Exception], says: str
) -> None:
    Failing.left, Failing.fault = 137, staticmethod(fault)
    settings = dataclasses.replace(config(steps=300), env=FAILING)
    with pytest.raises(error, match=says):
        Loop(settings, ToyAgent, tmp_path / "run").run()
    found = checkpoint.load_latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert 100 <= found.step < 103
    Loop(settings, ToyAgent, tmp_path / "run").run()  # it fails no second time
    Loop(settings, ToyAgent, tmp_path / "whole").run()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# -------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # the error's traceback still holds the files


@pytest.mark.parametrize("left", [0, 4096, 12_288])
def test_a_disk_that_fills_up_stops_the_run_and_it_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    def fill(loop: Loop) -> None:
        if loop.count.epoch == 2 and not others.exists():
            others.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))

    others, settings = small_disk / "others", config(steps=600, log_every=3)
    monkeypatch.setattr("worldformula.agent.loop.SHOW_EVERY", 0.0)
    with pytest.raises((RunFolderError, CheckpointError, ReplayError), match="No space left on device"):
        Loop(settings, ToyAgent, small_disk / "run", show=fill).run()
    found = checkpoint.load_latest(small_disk / "run" / "checkpoints")
    assert found is not None
    assert found.state["count"]["epoch"] >= 2
    others.unlink()
    Loop(settings, ToyAgent, small_disk / "run").run()
    Loop(settings, ToyAgent, tmp_path / "whole").run()
    assert_same_run(small_disk / "run", tmp_path / "whole")


def test_a_file_that_may_not_grow_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    script = """
        import resource, sys
        from tests.agent.systems.toy import ToyAgent, config
        from worldformula.agent import loop
        from worldformula.agent.loop import Loop
        from worldformula.errors import WorldformulaError

        loop.SHOW_EVERY = 0

        def limit(run):
            if run.count.epoch == 2:
                size = run.folder.metrics_file.stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        try:
            Loop(config(), ToyAgent, sys.argv[1], show=limit).run()
        except WorldformulaError as error:
            sys.exit(f"{type(error).__name__}: {error}")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoint.load_latest(tmp_path / "run" / "checkpoints") is not None
    Loop(config(), ToyAgent, tmp_path / "run").run()
