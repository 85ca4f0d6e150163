"""The run folder: what is written, what is cut off on resume, and what is refused."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from worldformula import Value
from worldformula.cli.fit import Fit
from worldformula.errors import ConfigError, NonFiniteError, RunFolderError
from worldformula.fitting import fit, fit_world
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.folder import MetricsLog, RunFolder, read_metrics
from worldformula.run.interact import Interact
from worldformula.training import devices


def test_metrics_go_on_at_the_checkpoint_and_forget_what_came_after(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({"steps": 5})
    with MetricsLog(folder, tensorboard=False) as metrics:
        metrics.write(1, {"loss": 0.1})
        position = metrics.position()
        metrics.write(2, {"loss": 0.2})
    folder.metrics_file.open("a").write('{"step": 3, "lo')
    folder.timing_file.open("a").write('{"step": 3, "se')
    assert [line["step"] for line in read_metrics(folder.metrics_file)] == [1, 2]
    with MetricsLog(folder, position=position, step=1, tensorboard=False) as metrics:
        metrics.write(2, {"loss": 0.25})
    assert read_metrics(folder.metrics_file) == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.25}]
    assert [line["step"] for line in read_metrics(folder.timing_file)] == [1, 2]


def test_metrics_go_on_behind_the_last_whole_line_of_a_file_that_somebody_cut(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({"steps": 5})
    with MetricsLog(folder, tensorboard=False) as metrics:
        for step in (1, 2):
            metrics.write(step, {"loss": 0.1})
        position = metrics.position()
    os.truncate(folder.metrics_file, position - 5)
    with MetricsLog(folder, position=position, step=2, tensorboard=False) as metrics:
        metrics.write(3, {"loss": 0.3})
        assert metrics.position() == folder.metrics_file.stat().st_size
    assert [line["step"] for line in read_metrics(folder.metrics_file)] == [1, 3]


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with (
        MetricsLog(folder, tensorboard=False) as metrics,
        pytest.raises(NonFiniteError, match="loss/kl is nan at step 7"),
    ):
        metrics.write(7, {"loss/image": 1.0, "loss/kl": math.nan, "loss/reward": math.inf})
    assert folder.metrics_file.read_text() == ""


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path)
    with MetricsLog(folder) as metrics:
        metrics.write(1, {"loss": 0.5})
    assert any(p.stat().st_size > 0 for p in folder.tensorboard.iterdir())


def test_the_configuration_round_trips_and_damage_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    assert not folder.exists
    with pytest.raises(RunFolderError, match=r"not a run folder: there is no such folder"):
        folder.config()
    folder.create({"steps": 5})
    assert folder.config() == {"steps": 5}
    folder.config_file.write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        folder.config()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match=r"holds files, but no config\.json"):
        RunFolder(tmp_path).create({})


@pytest.mark.parametrize("name", ["file/run", "file"])
def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / name).create({})


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_without_permission_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied"):
        RunFolder(tmp_path / "run").create({})
    tmp_path.chmod(0o700)


HOLD = """
import sys
from worldformula.run.folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="uses flock")
def test_a_folder_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    episodes = {"observation": np.zeros((2, 4, 1), np.float32), "action": np.zeros((2, 4, 1), np.float32)}
    (kept := tmp_path / "episodes.npz").write_bytes(b"of the run that goes on")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        never = "no_such_module:which"  # data and environments that nobody can open come after it
        for begin in (
            lambda: fit(Value("x").mean(), never, steps=1, run=tmp_path),
            lambda: fit_world("rssm", episodes, tmp_path),
            lambda: Fit("vae", never, out=tmp_path).config(),
            lambda: Interact(RunConfig("toy", "tiny", EnvConfig(never), None), Mock(), tmp_path),
        ):
            with pytest.raises(RunFolderError, match="another process is training"):
                begin()
        other.kill()
    assert kept.read_bytes() == b"of the run that goes on"
    RunFolder(tmp_path).free()
    RunFolder(tmp_path / "new").free()
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="uses flock")
def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another process"), RunFolder(tmp_path).locked():
            pass
        other.kill()
    with RunFolder(tmp_path).locked():  # a killed process holds nothing
        pass


def test_devices_are_chosen_or_refused_in_words() -> None:
    assert devices.choose("cpu") == torch.device("cpu")
    assert devices.describe(devices.choose("cpu")).startswith("cpu (")
    assert devices.choose().type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="Did you mean 'cuda'"):
        devices.choose("cudda")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no such device here"):
            devices.choose("cuda")
