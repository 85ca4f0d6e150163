"""``worldformula fit`` and ``worldformula data`` on your own data; several seeds; options from a file."""

from __future__ import annotations

import contextlib
import functools
import json

import numpy as np
import pytest
from PIL import Image

from worldformula import catalogue, data
from worldformula.cli import main
from worldformula.errors import MissingInputError, RunFolderError, ShapeError
from worldformula.model.config import start
from worldformula.model.run import ModelRun, open_model, sized
from worldformula.report.model import write_model
from worldformula.run.folder import read_metrics
from worldformula.trained import load
from worldformula.training import settings

FEW = ["--steps", "4", "--batch", "4"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for kind, colour in (("cat", (250, 20, 20)), ("dog", (20, 20, 250))):
        (tmp_path / "pngs" / kind).mkdir(parents=True)
        for i in range(6):
            pixels = np.zeros((*rng.integers(9, 20, 2), 3), np.uint8) + np.array(colour, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pngs" / kind / f"{i}.png")
    rows = "\n".join(f"{i},{'' if i == 3 else i * i},{'ab'[i % 2]}" for i in range(12))
    (tmp_path / "t.csv").write_text(f"n,square,kind\n{rows}\n")
    (tmp_path / "t.txt").write_text("hello world " * 40)
    np.savez(tmp_path / "x.npz", x=rng.random((12, 3, 3)), y=np.arange(12) % 3)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sizes"),
    [
        (["vae", "--data", "./pngs", "--set", "data.resize=8"], {"pixels": 192}),
        (["vae", "--preset", "pictures", "--data", "pngs", "--set", "data.resize=7", "--set", "hidden=4,4"],
         {"pixels": 147, "picture": [7, 7, 3]}),
        (["cvae", "--data", "x.npz"], {"pixels": 9, "condition": 3}),
        (["vae", "--data", "t.csv", "--set", "data.missing=fill"], {"pixels": 4, "deviation": 0.5}),
        (["cvae", "--data", "t.csv", "--set", "data.missing=drop", "--set", "data.label=kind", "--set",
          "data.scale=unit"], {"pixels": 2, "condition": 2}),
        (["transformer_ar", "--data", "t.txt", "--set", "data.length=8", "--set", "width=8"],
         {"length": 8, "levels": 8}),
    ],
)  # fmt: skip
def test_own_data_from_one_line(folder, capsys, command, sizes):
    assert main(["fit", *command, *FEW, "--run", "run"]) == 0
    out = capsys.readouterr().out
    config = json.loads((folder / "run" / "config.json").read_text())
    assert {name: config["sizes"][name] for name in sizes} == sizes
    assert all(f"{name}=" in out for name in sizes), "the sizes that were found are told"
    assert (folder / "run" / "report.html").is_file()
    assert open_model("run").fitting.step == 4


def test_a_convolutional_vae_learns_the_pictures(folder):
    command = ["fit", "vae", "--preset", "pictures", "--data", "pngs", "--set", "data.resize=8", "--set", "hidden=8,8"]
    assert main([*command, "--steps", "60", "--batch", "10", "--set", "lr=0.003", "--run", "run"]) == 0
    values = [row["test/loss"] for row in read_metrics(folder / "run" / "metrics.jsonl") if "test/loss" in row]
    assert values[-1] < values[0] / 2


def test_data_that_changed_are_not_gone_on_with(folder, capsys):
    assert main(["fit", "vae", "--data", "x.npz", *FEW, "--run", "run"]) == 0
    again = ["fit", "--run", "run", "--resume", "--steps", "8"]
    (folder / "elsewhere").mkdir()
    np.savez(folder / "x.npz", x=np.zeros((12, 3, 3)), y=np.arange(12) % 3)
    assert main(again) == 1
    assert "x.npz has changed since step 4" in capsys.readouterr().err


def test_a_model_that_cannot_take_the_data_says_which_can(folder, capsys):
    assert main(["fit", "vae", "--data", "t.txt"]) == 1
    said = capsys.readouterr().err
    assert "expected a value from 0 to 1" in said
    assert "These models take t.txt: " in said
    assert "transformer_ar" in said.rpartition("take t.txt")[2]
    assert not (folder / "runs").exists()


def test_a_table_says_which_options_it_lacks(folder, capsys):
    command = ["fit", "cvae", "--data", "t.csv", "--set", "data.missing=fill"]
    assert main(command) == 1
    assert "\ny is the column of classes: name it, as in --set data.label=kind\n" in capsys.readouterr().err
    assert main([*command, "--set", "data.label=kind"]) == 1
    assert "\nNumeric columns go from 0 to 1 with --set data.scale=unit, and stay" in capsys.readouterr().err
    assert main([*command, "--set", "data.label=kind", "--set", "data.scale=unit", *FEW, "--run", "run"]) == 0
    assert main(["fit", "transformer_ar", "--data", "x.npz"]) == 1
    assert "data.scale" not in capsys.readouterr().err


def test_data_are_listed_and_shown(folder, capsys):
    assert main(["data", "./pngs", "--set", "data.resize=8"]) == 0
    assert "12 pictures of pngs in 2 classes (cat, dog), 8 × 8 colour" in capsys.readouterr().out
    with Image.open(folder / "pngs.png") as shown:
        colours = np.unique(np.asarray(shown).reshape(-1, 3), axis=0).tolist()
    assert [250, 20, 20] in [[round(c) for c in colour] for colour in colours] or len(colours) >= 3
    assert main(["data", "t.csv", "--set", "missing=drop", "--set", "scale=none"]) == 0
    assert "n  square  kind=a  kind=b" in capsys.readouterr().out
    assert main(["data", "t.txt", "--set", "length=6"]) == 0
    assert "'hello '" in capsys.readouterr().out
    assert main(["data", "digit"]) == 1
    assert "Did you mean 'digits'" in capsys.readouterr().err


def test_seeds_have_a_folder_each_and_a_table(folder, capsys):
    assert main(["fit", "vae", "--data", "x.npz", *FEW, "--seeds", "1,2", "--run", "many"]) == 0
    out = capsys.readouterr().out
    reached = [read_metrics(folder / "many" / f"seed-{s}" / "metrics.jsonl")[-1]["test/loss"] for s in (1, 2)]
    assert reached[0] != reached[1]
    assert f"{np.mean(reached):.5g} ± {abs(reached[0] - reached[1]) / 2:.2g}" in out
    assert (folder / "many" / "seeds.txt").read_text().strip() in out
    assert main(["fit", "vae", "--data", "x.npz", "--seeds", "1,1"]) == 1
    assert main(["fit", "vae", "--data", "x.npz", "--seeds", "1,2", "--seed", "1"]) == 1


def test_seeds_go_on_where_some_of_them_have_begun(folder, capsys):
    given = ["fit", "vae", "--data", "x.npz", *FEW, "--run", "many"]
    assert main([*given, "--seeds", "1,2", "--resume"]) == 1  # nothing goes on where nothing is
    assert "holds no run to go on with" in capsys.readouterr().err
    assert main([*given, "--seeds", "1"]) == 0
    first = (folder / "many" / "seed-1" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main([*given, "--seeds", "1,2", "--resume"]) == 0
    assert (folder / "many" / "seed-1" / "metrics.jsonl").read_bytes() == first
    assert "mean ± standard error" in capsys.readouterr().out
    assert json.loads((folder / "many" / "seed-2" / "config.json").read_text())["seed"] == 2


def test_options_from_a_file(folder, capsys):
    (folder / "run.toml").write_text(
        'data = "x.npz"\nsteps = 3\nbatch = 4\nrun = "a"\n[set]\nlatent = 2\nhidden = [8]\n'
    )
    assert main(["fit", "vae", "--config", "run.toml", "--steps", "2"]) == 0
    config = json.loads((folder / "a" / "config.json").read_text())
    assert (config["fit"]["steps"], config["sizes"]["latent"], config["sizes"]["hidden"]) == (2, 2, [8])
    (folder / "run.json").write_text('{"model": "vae", "stepz": 3}')
    assert main(["fit", "--config", "run.json"]) == 1
    assert "no option 'stepz'. Did you mean 'steps'" in capsys.readouterr().err


def test_a_file_of_options_says_what_the_command_line_would(folder, capsys):
    given = ["fit", "vae", "--data", "x.npz", *FEW, "--config"]
    (folder / "init.toml").write_text('run = "b"\ninit = "a"\nquiet = "no"\n')
    assert main([*given[:-1], "--run", "a"]) == 0
    capsys.readouterr()
    assert main([*given, "init.toml"]) == 0
    out = capsys.readouterr().out
    assert "12 of 12 tensors of this run" in out
    assert "\ndevice cpu" in out, "quiet = no"
    for text, says in (
        ('{"steps": 3, "steps": 2}', "cannot be read as JSON: 'steps' is there twice"),
        ('{"set": {"latent": 3, "latent": 2}}', "'latent' is there twice"),
        ('{"quiet": "perhaps"}', "--config: quiet expects true or false, got 'perhaps'"),
    ):
        (folder / "wrong.json").write_text(text)
        assert main([*given, "wrong.json", "--run", "c"]) == 1
        assert says in capsys.readouterr().err
    assert not (folder / "c").exists()


SETS = ("digits", "digits-17", "sprites", "ring", "trimodal", "rooms")
SMALL = {
    "units": 8, "blocks": 1, "channels": 4, "width": 8, "layers": 1, "heads": 2, "first": 2, "later": 1,
    "rounds": 1,
}  # fmt: skip
FURTHER = [("ddpm", "guidance"), ("vae", "pictures"), ("gan", "wgan_gp"), ("vq_vae", "by_loss"), ("flow", "plane")]


@functools.cache
def few(name):
    found = data.load(name)
    cut = [{k: v[:24] for k, v in part.items()} for part in (found.train, found.test)]
    return data.DataSet(found.name, *cut, found.shape, found.note)


def configured(model, preset, name):
    config = start(model, preset, name)
    keys = {s.key for s in settings.leaves(config.sizes)}
    small = [f"sizes.{k}={v}" for k, v in SMALL.items() if k in keys]
    return sized(config.changed([*small, "fit.steps=3", "fit.batch=8"]), few(name))


@pytest.fixture
def brief(monkeypatch):
    """What a refusal suggests takes seconds to find, and has a test of its own."""
    monkeypatch.setattr("worldformula.model.run.suitable", lambda model, preset, chosen: [])
    monkeypatch.setattr("worldformula.model.run.takers", lambda found: [])


def runs(model, preset, name, folder):
    return ModelRun(configured(model, preset, name), folder, data=few(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "preset"),
    [*((name, "tiny") for name in catalogue.names("models") if name != "ldm"), *FURTHER],
)  # fmt: skip
@pytest.mark.usefixtures("brief")
def test_every_model_is_fitted_and_reported_on_a_set_that_suits_it(tmp_path, model, preset):
    for name in SETS:
        with contextlib.suppress(ShapeError, MissingInputError):
            run = runs(model, preset, name, tmp_path / name)
            break
    run.run()
    assert run.fitting.step == 3
    assert "test data</p>" in write_model(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "name", "error", "says"),
    [
        ("cvae", "ring", MissingInputError, "ring has no y, which this model reads"),
        ("vae", "ring", None, ""),
        ("factor_vae", "sprites", None, ""),
        ("pixel_cnn", "ring", ShapeError, "ring does not"),
        ("jmvae", "digits", ShapeError, "a .* missing"),
    ],
)
@pytest.mark.usefixtures("brief")
def test_pairs_that_once_ended_in_a_traceback(tmp_path, model, name, error, says):
    if error is None:
        run = runs(model, "tiny", name, tmp_path / "run")
        run.run()
        assert write_model(run).is_file()
        return
    with pytest.raises((ShapeError, MissingInputError), match=says):
        runs(model, "tiny", name, tmp_path / "run")


def test_series_are_shown_as_numbers_and_pictures_as_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((20, 6, 3)).astype(np.float32)
    np.savez("series.npz", x=x, a=x[..., :1])
    np.savez("pictures.npz", x=x, y=np.arange(20) % 2)
    assert main(["data", "series.npz"]) == 0
    assert "and 8 more columns" in capsys.readouterr().out
    assert not (tmp_path / "series.png").exists()
    assert main(["data", "pictures.npz"]) == 0
    assert (tmp_path / "pictures.png").exists()
    capsys.readouterr()
    assert main(["fit", "rssm", "--data", "series.npz"]) == 1
    assert "no column action; they have x, a. Give episodes" in capsys.readouterr().err


def test_a_batch_of_more_rows_than_there_are_is_told(folder, capsys):
    command = ["fit", "vae", "--data", "x.npz", "--steps", "1", "--quiet"]
    assert main([*command, "--batch", "99", "--run", "many"]) == 0
    warning, reached, *_ = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: a batch of 99 rows, of 9 to learn from, holds each of them 11 times")
    assert "warning" not in reached
    assert main([*command, "--batch", "9", "--run", "all"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_the_best_weights_are_those_of_agents(folder, capsys):
    assert main(["fit", "vae", "--data", "x.npz", *FEW, "--run", "run"]) == 0
    capsys.readouterr()
    assert main(["report", "run", "--best"]) == 1
    assert "run is no run of an agent, whose best weights --best takes" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match="best=True is of a run of an agent"):
        load("run", best=True)


def test_the_last_line_of_progress_is_printed_once(folder, capsys):
    assert main(["fit", "vae", "--data", "t.csv", "--set", "data.missing=drop", *FEW]) == 0
    assert capsys.readouterr().out.count("step 4/4 |") == 1
