"""``worldformula fit``: a run folder from one line, killed and gone on with bit for bit, and a page that shows it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import worldformula.models
from worldformula.cli import main
from worldformula.cli.fit import Fit
from worldformula.model.config import read, start
from worldformula.model.run import ModelRun, open_model
from worldformula.run.folder import read_metrics
from worldformula.training import checkpoint
from worldformula.training.fit import Fitting

SPRITES = ["fit", "vae", "--data", "sprites", "--set", "pixels=256", "--set", "hidden=16", "--set", "latent=3"]
SHORT = [*SPRITES, "--steps", "40", "--batch", "32", "--set", "ema=0.9", "--set", "log_every=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    assert main([*SHORT, "--run", str(folder)]) == 0
    return folder


def newest(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load_latest(folder / "checkpoints")
    assert found is not None
    return found


def test_a_run_says_what_it_does_and_leaves_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--run", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("device cpu")
    for part in (
        "preset tiny, seed 0",
        "640 rows to train on",
        "step 40/40 | loss ",
        "reached: test/loss ",
        "report: ",
    ):
        assert part in out
    assert main([*SHORT, "--run", str(tmp_path / "quiet"), "--quiet"]) == 0
    quiet = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in quiet] == ["40", "reached:", "report:"]
    assert (tmp_path / "quiet" / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["sizes"] == {
        "pixels": 256, "latent": 3, "hidden": [16], "activation": "SiLU", "deviation": None, "picture": None,
        "free": 0.0, "strided": False,
    }  # fmt: skip
    assert (config["fit"]["steps"], config["fit"]["ema"]) == (40, 0.9)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(4, 44, 4))
    assert [row["step"] for row in rows if "test/loss" in row] == list(range(4, 44, 4))
    assert rows[-1]["test/loss"] < rows[1]["test/loss"]
    html = (tmp_path / "run" / "report.html").read_text()
    assert html.count("data:image/webp;base64,") == 3
    assert {p.name for p in (tmp_path / "run" / "pictures").iterdir()} == {
        "samples.webp", "reconstructions.webp", "traversals.webp",
    }  # fmt: skip


KILLED = """
import os, signal, sys
from worldformula.cli import main
from worldformula.training.fit import Fitting
step = Fitting._update
def update(self):
    if self.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Fitting._update = update
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 23])
def test_a_killed_run_goes_on_bit_for_bit(trained: Path, tmp_path: Path, at: int) -> None:
    command = [*SHORT, "--run", str(tmp_path / "run")]
    died = subprocess.run([sys.executable, "-c", KILLED, str(at), *command], capture_output=True, check=False)
    assert died.returncode == -9, died.stderr
    steps = checkpoint.steps_in(tmp_path / "run" / "checkpoints")
    assert [int(p.name) for p in steps] == ([16, 20] if at > 4 else [])
    assert main([*command, "--resume"]) == 0
    for name in ("tensors.safetensors", "tree.json"):
        assert (newest(tmp_path / "run").path / name).read_bytes() == (newest(trained).path / name).read_bytes()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


FULL = """
import resource, sys
from worldformula.cli import main
from worldformula.training.fit import Fitting
step = Fitting._update
def update(self):
    if self.step == 13:  # from here on no file may become longer than this
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return step(self)
Fitting._update = update
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_run_whose_disk_is_full_goes_on_bit_for_bit_once_there_is_room(trained: Path, tmp_path: Path) -> None:
    command = [*SHORT, "--run", str(tmp_path / "run")]
    died = subprocess.run([sys.executable, "-c", FULL, *command], capture_output=True, text=True, check=False)
    assert died.returncode == 1
    assert re.search(r"error: the checkpoint of step 16 could not be written to \S+tensors.safetensors: ", died.stderr)
    assert re.search(r"It takes \d\.\d MB, and [\d,.]+ MB are free there. Free some space", died.stderr)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in sorted(folder.iterdir())] == ["000000000008", "000000000012"], "no draft is left"
    assert main([*command, "--resume"]) == 0
    for name in ("tensors.safetensors", "tree.json"):
        assert (newest(tmp_path / "run").path / name).read_bytes() == (newest(trained).path / name).read_bytes()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("terminal")
def test_an_interruption_leaves_a_checkpoint_and_says_how_to_go_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Fitting._update

    def interrupted(self):
        if self.step == 13:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does; the update is made all the same
        return update(self)

    monkeypatch.setattr(Fitting, "_update", interrupted)
    assert main([*SHORT, "--run", str(tmp_path / "run")]) == 130
    said = capsys.readouterr().err
    assert "interrupted at step 14; go on after step 14: worldformula fit vae --run " in said
    monkeypatch.setattr(Fitting, "_update", update)
    assert main(shlex.split(said.partition(": worldformula ")[2])) == 0, "the command that was printed runs"
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    for name in ("tensors.safetensors", "tree.json"):
        assert (newest(tmp_path / "run").path / name).read_bytes() == (newest(trained).path / name).read_bytes()


def test_resume_needs_the_folder_alone_and_may_go_further(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert main(["fit", "--run", str(folder), "--resume", "--steps", "60"]) == 0
    assert newest(folder).step == 60
    assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == 60


def test_a_run_that_goes_on_is_that_of_this_version_and_says_where_it_has_no_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"sharpness": 2}))
    assert main(["fit", "--run", str(folder), "--resume"]) == 1
    assert "not a configuration of this version: unknown setting 'sharpness'" in capsys.readouterr().err
    assert json.loads((folder / "config.json").read_text())["sharpness"] == 2
    (folder / "config.json").write_text(json.dumps(values))
    shutil.rmtree(folder / "checkpoints")
    assert main(["fit", "--run", str(folder), "--resume"]) == 0
    assert f"{folder} has no checkpoint: the run begins anew" in capsys.readouterr().out
    assert (folder / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


def test_a_run_is_not_asked_for_fewer_steps_than_it_has_done(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert main(["fit", "--run", str(folder), "--resume", "--steps", "12"]) == 1
    done = newest(folder).step
    assert capsys.readouterr().err == (
        f"error: {folder} stands at step {done}, and --steps 12 is less: nothing would be learnt. Ask for more than "
        f"{done}, or begin in another folder\n"
    )
    assert before == {path: path.read_bytes() for path in before}, "the folder is as it was"
    assert main(["fit", "--run", str(folder), "--resume"]) == 0, "a run that has ended writes its page again"


def test_report_is_made_again_from_the_folder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = re.sub(r"measured \S+ \S+", "", (folder / "report.html").read_text())
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert "reached: test/loss" in capsys.readouterr().out
    after = re.sub(r"measured \S+ \S+", "", (folder / "report.html").read_text())
    pictures = re.compile(r"base64,[^\"]+")
    assert pictures.findall(after) == pictures.findall(before)


def test_open_model_brings_the_trained_weights(trained: Path) -> None:
    run = open_model(trained)
    rows = read_metrics(trained / "metrics.jsonl")
    assert run.tested() == {k: v for k, v in rows[-1].items() if k.startswith("test/")}
    assert run.model.generate(3, seed=0)["x"].shape == (3, 256)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "vae"], "say what to train on, e.g. --data digits. There are: "),
        (["fit", "vae"], "Data of your own go in by their path; `worldformula data --help` says which."),
        (["fit", "vae", "--resume"], "say which run goes on, e.g. --run runs/vae-digits --resume"),
        (["fit", "vea", "--data", "digits"], "Did you mean 'vae'"),
        (["fit", "cem", "--data", "digits"], "cem is one of the planners; fit expects a model or a world: "),
        (["fit", "vae", "--data", "digit"], "Did you mean 'digits'"),
        (["fit", "vae", "--data", "digits", "--set", "latnt=3"], "unknown setting 'latnt'. Did you mean 'latent'"),
        (["fit", "vae", "--data", "digits", "--set", "lr=0"], "lr > 0"),
        (["fit", "vae", "--data", "digits", "--set", "lr"], "expected key=value"),
        (["fit", "vae", "--data", "digits", "--steps", "0"], "steps expects a whole number of at least 1"),
        (
            ["fit", "rbm", "--data", "digits", "--set", "steps=3"],
            "'steps' may mean 2 things: write sizes.steps (of the model, now 5) or fit.steps (of",
        ),
        (
            ["fit", "flow_matching", "--data", "ring", "--preset", "plane", "--set", "steps=3"],
            "write sizes.steps (of the model, now 16) or fit.steps (of the training, now ",
        ),
        (["fit", "vae", "--data", "digits", "--seed", "-1"], "seed expects a whole number of at least 0"),
        (["fit", "--data", "digits"], "say which model, e.g. worldformula fit vae"),
        (["fit", "vae", "--data", "digits", "--run", "nowhere", "--resume"], "nowhere holds no run to go on with"),
        (
            ["fit", "vae", "--data", "sprites", "--set", "pixels=64"],
            "x        | [N, 64]            | [640, 256]\nThese data sets fit: digits",
        ),
        (
            ["fit", "flow_matching", "--data", "digits-grey", "--set", "coupling=given"],
            "epsilon  | [N, 64]            | missing\nThese data sets fit: none of this package.",
        ),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_a_folder_keeps_its_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "config.json").read_bytes()
    assert main([*SHORT, "--run", str(trained)]) == 1
    assert "add --resume" in capsys.readouterr().err
    assert main([*SHORT, "--run", str(trained), "--resume", "--seed", "5", "--set", "latent=4"]) == 1
    err = capsys.readouterr().err
    assert "holds a run with other settings" in err
    assert "seed " in err
    assert "sizes.latent | 3" in err
    assert (trained / "config.json").read_bytes() == before


def test_equal_seeds_give_equal_models_and_others_do_not() -> None:
    def weights(seed: int) -> list[float]:
        config = start("vae", "tiny", "sprites").changed(["pixels=256", "hidden=4"])
        run = ModelRun(type(config)(**{**vars(config), "seed": seed}), "unused")
        return [p.sum().item() for p in run.model.loss.parameters()]

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_steps_are_updates_also_where_the_model_has_steps_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Fit("rbm", data="digits", steps="7", batch="5", settings=("sizes.steps=3",)).config()
    assert (asked.fit.steps, asked.fit.batch, asked.sizes.steps) == (7, 5, 3)
    assert main(["fit", "rbm", "--help"]) == 0
    out = capsys.readouterr().out
    assert "  sizes.steps=5 " in out
    assert "  fit.steps=4000 " in out
    assert read(asked.to_dict(), "here") == asked


def test_help_lists_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data", "digits", "vae", "--help"]) == 0
    assert "settings for --set KEY=VALUE (vae, preset tiny):" in capsys.readouterr().out
    assert main(["fit", "vae", "--help"]) == 0
    out = capsys.readouterr().out
    for part in (
        "settings for --set KEY=VALUE (vae, preset tiny)",
        "latent=16  (a whole number)",
        "ema=none",
        "lr=0.001",
    ):
        assert part in out
    assert main(["fit", "--help"]) == 0
    assert "KEY=VALUE (" not in capsys.readouterr().out


@pytest.fixture
def catalogue_with_a_game(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(__file__).parent / "models")
    monkeypatch.setattr(worldformula.models, "__path__", [*worldformula.models.__path__, folder])
    monkeypatch.delitem(sys.modules, "worldformula.models.planar_gan", raising=False)


GAN = ["fit", "planar_gan", "--data", "moons", "--steps", "20", "--set", "hidden=8"]


@pytest.mark.usefixtures("catalogue_with_a_game")
def test_a_game_is_trained_resumed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, steps in (("whole", "20"), ("parts", "10")):
        assert main([*GAN, "--run", str(tmp_path / name), "--steps", steps, "--set", "log_every=5"]) == 0
    assert "reached: test/loss/d " in capsys.readouterr().out
    assert main([*GAN, "--run", str(tmp_path / "parts"), "--resume"]) == 0
    weights = [newest(tmp_path / name).state["fit"]["weights"] for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    html = (tmp_path / "whole" / "report.html").read_text()
    for part in ("What d minimises", "What g minimises", "loss/g on test data", 'aria-label="model"'):
        assert part in html
    assert "image/webp" not in html


@pytest.mark.usefixtures("catalogue_with_a_game")
def test_named_coefficients_are_set_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", "beta_toy", "--data", "moons", "--steps", "4", "--set", "log_every=1", "--run"]
    assert main([*command, str(tmp_path / "none")]) == 1
    assert "the formula of beta_toy has the coefficient beta: --set beta=1.0" in capsys.readouterr().err
    values = {}
    for beta in ("0", "4"):
        folder = tmp_path / beta
        assert main([*command, str(folder), "--set", f"beta={beta}"]) == 0
        (name,) = (k for k in read_metrics(folder / "metrics.jsonl")[0] if "KL" in k and k.startswith("loss/"))
        row = read_metrics(folder / "metrics.jsonl")[0]
        values[beta] = (row["loss"], row[name])
    assert values["4"][0] - values["0"][0] == pytest.approx(4 * values["4"][1], rel=1e-4)
    assert main([*command, str(tmp_path / "4"), "--resume", "--steps", "6"]) == 0
    assert open_model(tmp_path / "4").config.symbols == {"beta": 4.0}


def test_arrays_without_x_are_told_how_to_be_x(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Episodes are for a world; before, the message was that no model takes them."""
    path, command = tmp_path / "e.npz", ["fit", "vae", "--run", str(tmp_path / "run"), "--data"]
    np.savez(path, image=np.zeros((6, 4)), action=np.zeros((6, 4, 1)))
    assert main([*command, str(path)]) == 1
    said = capsys.readouterr().err
    assert "--set data.names=x=image; or, of episodes, fit a world: worldformula fit rssm --data " in said
    assert main([*command, str(path), "--set", "data.names=x=image", "--steps", "1"]) == 0
