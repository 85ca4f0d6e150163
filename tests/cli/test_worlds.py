"""``worldformula fit`` of worlds: their columns, their page, and the same bits after a kill."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.test_fit_command import KILLED, newest
from worldformula import World, catalogue
from worldformula.cli import main
from worldformula.data import DataSet
from worldformula.data.own import Reading
from worldformula.data.sequences import sequences
from worldformula.envs import Envs
from worldformula.envs.play import play
from worldformula.errors import CatalogueError, RunFolderError
from worldformula.fitting import fit_world
from worldformula.model.config import start
from worldformula.model.run import build, open_model, sized
from worldformula.model.through_time import DISCOUNT, ThroughTime, built, columns_of
from worldformula.report.dreams import dreams
from worldformula.run.folder import read_metrics


def arrays(pixels: bool, n: int = 6, rows: int = 12, env: str = "pendulum") -> dict[str, Any]:
    """Episodes of random actions, ``[N, T, …]``."""
    envs = Envs(env, n, seed=3, pixels=pixels, max_steps=rows - 1, **({"size": 16} if pixels else {}))
    rng, now, found = np.random.default_rng(0), envs.reset(0), dict[str, list[Any]]()
    for _ in range(rows):
        actions = envs.random(rng, now)
        for key, value in {**now, **envs.stored(actions)}.items():
            found.setdefault(key, []).append(value)
        now = envs.step(actions)
    columns = {key: np.stack(values, 1) for key, values in found.items() if not key.startswith("is_")}
    return columns | {"terminated": found["is_terminal"][-1]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    np.savez(folder / "pixels.npz", **arrays(True))
    np.savez(folder / "vectors.npz", **arrays(False))
    rng = np.random.default_rng(0)
    bits, moves = rng.integers(0, 2, (6, 12, 25), dtype=np.uint8), rng.integers(0, 4, (6, 12))
    np.savez(folder / "bits.npz", x=bits.astype(np.float32), action=moves)
    np.savez(folder / "still.npz", x=bits.astype(np.float32))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "data", "more", "shown"),
    [
        ("rssm", "pixels", [], "dream.webp"),
        ("rssm", "vectors", [], "curves"),
        ("dmm", "still", ["--set", "inference=left"], "curves"),
        ("dmm", "bits", [], "curves"),
        ("vrnn", "still", [], "curves"),
        ("hmm", "still", [], "curves"),
        ("hmm", "bits", [], "curves"),
        ("td_vae", "bits", [], "curves"),
        ("simcore", "bits", ["--set", "horizons=1,2"], "curves"),
    ],
)
def test_every_world_learns_from_episodes(
    files: Path, tmp_path: Path, world: str, data: str, more: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    short = ["--steps", "12", "--batch", "3", "--set", "log_every=3", *more]
    assert main(["fit", world, "--data", str(files / f"{data}.npz"), *short, "--run", str(folder)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"60 rows to train on, \d windows to test on", out), "five of six episodes of twelve rows"
    assert re.search(r"reached: test/loss \S+, error_\d+/persistence \d", out)
    assert ("this world reads no action" in out) == (world == "td_vae" and data == "bits")
    rows = read_metrics(folder / "metrics.jsonl")
    assert rows[-1]["test/loss"] < rows[0]["test/loss"]
    page = (folder / "report.html").read_text()
    assert "<dt>training rows</dt><dd>60, in windows of 12</dd>" in page
    for part in ("What it dreams", "Prediction error against horizon", "persistence", "Terms of the loss", "The loss"):
        assert part in page
    assert ("data:image/webp" in page) == (shown == "dream.webp")
    capsys.readouterr()
    done = main(["dream", str(folder), "--context", "3", "--sequences", "1", "--length", "8"])
    said = capsys.readouterr()
    if shown == "curves":
        assert (done, "is no picture" in said.err) == (1, True)
    else:
        assert done == 0
        with Image.open(folder / "videos" / "dream.webp") as video:
            assert video.n_frames == 8


def test_columns_become_the_variables_of_the_loss() -> None:
    windows = {
        "image": np.full((2, 3, 16, 16, 3), 51, np.uint8),
        "place": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "room": np.array([[0, 1, 4], [2, 2, 2]]),
        "action": np.array([[0, 2, 0], [1, 1, 0]]),
        "reward": np.ones((2, 3), np.float32),
        "is_first": np.array([[1, 0, 0], [0, 1, 0]], bool),
        "is_last": np.array([[0, 0, 1], [1, 0, 0]], bool),
        "is_terminal": np.array([[0, 0, 1], [0, 0, 0]], bool),
    }
    train = {key: value.reshape(6, *value.shape[2:]) for key, value in windows.items()}
    columns = columns_of(DataSet("toy", train, train, (), "by hand", window=3))
    system = catalogue.find("rssm")
    model = built(system, system.sizes("tiny"), columns)
    assert json.loads(json.dumps(columns)) == columns
    rows = model.rows(windows)
    given = model.given(rows)
    assert torch.allclose(given["image"], torch.full((2, 3, 16, 16, 3), 0.2))
    assert torch.equal(given["place"], torch.arange(12.0).view(2, 3, 2))
    assert given["room"].argmax(-1).tolist() == windows["room"].tolist()
    assert given["room"].shape == (2, 3, 5)
    assert given["a"].tolist() == [[[1, 0, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [1, 0, 0]]]
    assert torch.allclose(given["c"], DISCOUNT * torch.tensor([[1.0, 1, 0], [1, 1, 1]]))
    assert DISCOUNT == 1 - 1 / 333
    assert math.isfinite(float(model.loss(**given, seed=0).value.detach()))


def test_whole_numbers_are_predicted_as_classes() -> None:
    """The loss of a column of classes is the cross-entropy of each of its choices, and not a squared error."""
    rng = np.random.default_rng(0)
    flags = {
        "is_first": np.zeros((2, 3), bool),
        "is_last": np.zeros((2, 3), bool),
        "is_terminal": np.zeros((2, 3), bool),
    }
    train = {
        "room": rng.integers(5, size=(2, 3)), "dice": rng.integers(1, 4, size=(2, 3, 2)),
        "action": np.zeros((2, 3), int), "reward": np.ones((2, 3), np.float32), **flags,
    }  # fmt: skip
    train["room"][0, 0], train["dice"][0, 0, 0] = 4, 3
    system = catalogue.find("rssm")
    rows = {key: value.reshape(-1, *value.shape[2:]) for key, value in train.items()}
    model = built(system, system.sizes("tiny"), columns_of(DataSet("toy", rows, rows, (), "by hand", window=3)))
    given = model.given(model.rows(train))
    out = model.loss(**given, seed=0)
    h, z = out.samples["h"].flatten(0, 1), out.samples["z"].flatten(0, 1)
    heads = {tuple(model.world.heads[name].shape): model.world.heads[name].net(h, z) for name in ("k_1", "k_2")}
    dice, room = heads[2, 4].reshape(6, 2, 4), heads[5,].reshape(6, 1, 5)  # choices of as many classes are one factor
    by_hand = [
        sum(
            torch.nn.functional.cross_entropy(logits[:, i], torch.from_numpy(index).flatten()).item()
            for i, index in enumerate(chosen)
        )
        for logits, chosen in ((dice, (train["dice"][..., 0], train["dice"][..., 1])), (room, (train["room"],)))
    ]
    told = [-float(v.detach()) for k, v in out.terms.items() if "k_{" in k]
    assert told == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in catalogue.names("worlds") if not catalogue.find(name).agent])
def test_every_world_observes_whole_numbers(name: str) -> None:
    """Three numbers of 5 classes each are 15 numbers of one-hots to a world that predicts no classes."""
    rng, none = np.random.default_rng(0), np.zeros((2, 12), bool)
    train = {
        "obs": rng.integers(0, 5, (2, 12, 3)), "action": rng.integers(0, 3, (2, 12)),
        "reward": np.ones((2, 12), np.float32), "is_first": none, "is_last": none, "is_terminal": none,
    }  # fmt: skip
    train["obs"][0, 0] = 4
    rows = {key: value.reshape(24, *value.shape[2:]) for key, value in train.items()}
    model = build(sized(start(name, "tiny", ""), DataSet("toy", rows, rows, (3,), "by hand", window=12)))
    assert isinstance(model, ThroughTime)
    given = model.given(model.rows(train))
    assert given[model.names["obs"]].sum(-1).tolist() == [[3.0] * 12] * 2
    assert given[model.names["obs"]].shape == (2, 12, 15)
    assert model.loss(**given, seed=0).value.isfinite().all()


def test_a_dream_is_what_the_world_says_and_persistence_is_the_last_row(files: Path, tmp_path: Path) -> None:
    given = ["--data", str(files / "vectors.npz"), "--steps", "4", "--batch", "3", "--run", str(tmp_path / "run")]
    assert main(["fit", "rssm", *given]) == 0
    run = open_model(tmp_path / "run")
    assert isinstance(run.model, ThroughTime)
    found = dreams(run.model, run.test_rows, context=4, seed=0)
    x = run.test_rows["vector"].numpy()
    assert np.allclose(found.truth, np.sign(x) * np.log1p(np.abs(x)), atol=1e-6)
    still = ((found.truth[:, 4:] - found.truth[:, 3:4]) ** 2).mean((0, 2))
    assert np.allclose(found.measured.persistence, still, rtol=1e-5)
    world, inputs = run.model.world, run.model.given(run.test_rows)
    with torch.no_grad():
        state = world.filter({k: v[:, :4] for k, v in inputs.items()}, seed=0, deterministic=True).last()
        dream = world.imagine(state, actions=inputs["a"][:, 3:-1], seed=0, deterministic=True)
        shown = world.decode(dream, ("y",))["y"][:, 1:]
    assert np.allclose(found.dream[:, 4:], shown.numpy(), atol=1e-6)


def test_a_dream_of_numbers_beside_choices_is_about_the_numbers(files: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    both = {"grid": rng.integers(0, 3, (6, 12, 4)), "pose": rng.normal(size=(6, 12, 2)).astype(np.float32)}
    both["speed"] = rng.normal(size=(6, 12)).astype(np.float32)
    np.savez(tmp_path / "both.npz", **both, action=rng.integers(0, 4, (6, 12)))
    given = ["--data", str(tmp_path / "both.npz"), "--steps", "2", "--batch", "3", "--run", str(tmp_path / "run")]
    assert main(["fit", "rssm", *given]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "symlog of pose, speed" in page
    assert all(f">{name}<" in page for name in ("pose 1", "pose 2", "speed"))  # not 1, 2 and 3
    run = open_model(tmp_path / "run")
    assert isinstance(run.model, ThroughTime)
    found = dreams(run.model, run.test_rows, context=4, seed=0)
    seen = np.concatenate([run.test_rows["pose"].numpy(), run.test_rows["speed"].numpy()[..., None]], -1)
    assert np.allclose(found.truth, np.sign(seen) * np.log1p(np.abs(seen)), atol=1e-6)


def test_a_world_without_a_decoder_dreams_of_its_reward(files: Path, tmp_path: Path) -> None:
    given = ["--data", str(files / "vectors.npz"), "--steps", "4", "--batch", "3", "--run", str(tmp_path / "run")]
    assert main(["fit", "implicit", *given]) == 0
    assert "Mean squared error on reward" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    run = open_model(tmp_path / "run")
    assert isinstance(run.model, ThroughTime)
    found = dreams(run.model, run.test_rows, context=4, seed=0)
    assert np.array_equal(found.truth[..., 0], run.test_rows["reward"].float().numpy())
    world, inputs = run.model.world, run.model.given(run.test_rows)
    z = world.e(inputs["x"][:, 3])
    with torch.no_grad():
        for t in range(4, found.truth.shape[1]):
            y = (world.R(z, inputs["a"][:, t - 1]).softmax(-1) * torch.linspace(-10, 10, 51)).sum(-1)
            assert np.allclose(found.dream[:, t, 0], (y.sign() * (y.abs().exp() - 1)).numpy(), atol=1e-5)
            z = world.d(z, inputs["a"][:, t - 1])


def test_a_world_without_a_head_dreams_of_its_latent(tmp_path: Path) -> None:
    """Of several levels the lowest, whose actions the data have."""
    np.savez(tmp_path / "many.npz", **arrays(False, n=12))
    given = ["--data", str(tmp_path / "many.npz"), "--steps", "4", "--batch", "3", "--run", str(tmp_path / "run")]
    assert main(["fit", "h_jepa", *given]) == 0
    assert "Mean squared error on the latent z" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    run = open_model(tmp_path / "run")
    assert isinstance(run.model, ThroughTime)
    found, inputs = dreams(run.model, run.test_rows, context=4, seed=0), run.model.given(run.test_rows)
    net = dict(run.model.loss.named_children())
    with torch.no_grad():
        z = net["e"](inputs["x"].flatten(0, 1)).unflatten(0, inputs["x"].shape[:2])
        assert np.allclose(found.truth, z.numpy(), atol=1e-6)
        ahead = z[:, 3]
        for t in range(4, z.shape[1]):
            ahead = net["f"](ahead, inputs["a"][:, t - 1])
            assert np.allclose(found.dream[:, t], ahead.numpy(), atol=1e-5)


@pytest.mark.parametrize("world", ["rssm", "c_rssm"])
def test_a_world_of_symbols_dreams_of_its_choices(world: str, tmp_path: Path) -> None:
    rows = {k: v.reshape(-1, *v.shape[2:]) for k, v in play("key_corridor", 0, 12, 20).items() if k != "event"}
    np.savez(tmp_path / "many.npz", **rows)
    given = ["--data", str(tmp_path / "many.npz"), "--set", "data.length=10", "--steps", "3", "--batch", "3"]
    assert main(["fit", world, *given, "--run", str(tmp_path / "run")]) == 0
    assert "Mean squared error on choices of vector" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    run = open_model(tmp_path / "run")
    assert isinstance(run.model, ThroughTime)
    found = dreams(run.model, run.test_rows, context=4, seed=0)
    corner = np.eye(7)[run.test_rows["vector"][..., 0, 0].long()]  # the first of 25 choices
    assert np.array_equal(found.truth.reshape(*corner.shape[:2], -1)[..., :7], corner)
    assert np.allclose(found.dream.reshape(*corner.shape[:2], -1)[..., :7].sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_killed_fit_of_a_world_goes_on_bit_for_bit(files: Path, tmp_path: Path) -> None:
    given = ["--data", str(files / "vectors.npz"), "--set", "data.length=5"]  # windows that begin anywhere
    short = ["fit", "rssm", *given, "--steps", "12", "--batch", "3", "--run"]
    assert main([*short, str(tmp_path / "whole")]) == 0
    command = [sys.executable, "-c", KILLED, "7", *short, str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert main([*short, str(tmp_path / "run"), "--resume"]) == 0
    for name in ("tensors.safetensors", "tree.json"):
        assert (newest(tmp_path / "run").path / name).read_bytes() == (
            newest(tmp_path / "whole").path / name
        ).read_bytes()


@pytest.mark.parametrize(
    ("world", "data", "more", "says"),
    [
        ("rssm", "still", [], "rssm reads actions, and the data have no column action"),
        ("simcore", "still", [], "has no column action"),
        ("c_rssm", "bits", ["--preset", "thick_tiny"], "c_rssm: jumps would never learn"),
        ("dmm", "pixels", ["--set", "data.length=5", "--set", "pixels=3"], "does not suit this model"),
        ("vrnn", "vectors", ["--set", "observed=bits"], "does not suit this model"),
        ("cem", "still", [], "is one of the planners; fit expects a model or a world"),
    ],
)
def test_what_a_world_cannot_learn_from(
    files: Path, tmp_path: Path, world: str, data: str, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(files / f"{data}.npz"), "--steps", "2", "--run", str(tmp_path / "run")]
    assert main(["fit", world, *given, *more]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gone.npz", "gone"])
def test_episodes_that_are_not_there_are_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["fit", "rssm", "--data", str(tmp_path / name), "--run", str(tmp_path / "run")]) == 1
    assert f"{tmp_path / name} does not exist. A world learns from episodes.npz" in capsys.readouterr().err


def test_whole_series_refuse_windows_of_two_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (6, 8, 5)).astype(np.float32)
    np.savez(tmp_path / "e.npz", x=bits, lengths=np.array([8, 3, 8, 3, 3, 8]))
    given = ["--data", str(tmp_path / "e.npz"), "--steps", "2", "--batch", "2"]
    assert main(["fit", "dmm", *given, "--run", str(tmp_path / "a")]) == 1
    assert "set data.length to at most the length of the shortest episode" in capsys.readouterr().err
    assert main(["fit", "dmm", *given, "--set", "data.length=3", "--run", str(tmp_path / "b")]) == 0


def test_a_world_on_episodes_in_python_is_the_same_run(tmp_path: Path) -> None:
    made = arrays(False)
    np.savez(tmp_path / "e.npz", **made)
    short = ["--steps", "6", "--batch", "3", "--set", "data.length=6"]
    assert main(["fit", "rssm", "--data", str(tmp_path / "e.npz"), *short, "--run", str(tmp_path / "shell")]) == 0
    change = ["batch=3", "data.length=6"]
    listed = [{k: v[i : i + 1] if k == "terminated" else v[i] for k, v in made.items()} for i in range(6)]
    for name, episodes in (("dictionary", made), ("list", listed)):
        world = fit_world("rssm", episodes, tmp_path / name, steps=6, change=change, progress=False)
        assert isinstance(world, World)
        assert not world.loss.training
        ours, theirs = (newest(tmp_path / n).state["fit"]["weights"] for n in (name, "shell"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert main(["fit", "--run", str(tmp_path / "list"), "--resume", "--steps", "8"]) == 0
    assert main(["report", str(tmp_path / "list")]) == 0
    again = fit_world("rssm", None, tmp_path / "list", steps=9, change=change, resume=True, progress=False)
    assert all(p.isfinite().all() for p in again.parameters())
    assert newest(tmp_path / "list").step == 9
    with pytest.raises(RunFolderError, match="pass resume=True"):
        fit_world("rssm", made, tmp_path / "list", steps=9, change=change, progress=False)
    with pytest.raises(RunFolderError, match="no run to go on with"):
        fit_world("rssm", made, tmp_path / "new", resume=True, progress=False)
    with pytest.raises(CatalogueError, match="fit expects a model or a world"):
        fit_world("cem", made, tmp_path / "new", progress=False)
    with pytest.raises(CatalogueError, match="vae is no world; fit_world expects one of .*dmm"):
        fit_world("vae", made, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_no_more_windows_are_measured_at_once_than_it_learns_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand windows of pictures would fill the memory of most machines."""
    sizes: list[int] = []
    given = ThroughTime.given

    def counted(self: ThroughTime, rows: Any) -> Any:
        sizes.append(len(next(iter(rows.values()))))
        return given(self, rows)

    monkeypatch.setattr(ThroughTime, "given", counted)
    np.savez(tmp_path / "e.npz", **arrays(False, n=30))
    short = ["--steps", "2", "--batch", "4", "--set", "data.length=4", "--run", str(tmp_path / "run")]
    assert main(["fit", "rssm", "--data", str(tmp_path / "e.npz"), *short]) == 0
    assert max(sizes[:-2]) == 4, "the last ones are dreams, without gradients"
    assert 4 < sizes[-1] <= 48


def test_windows_to_learn_from_are_drawn_anew_at_other_places_of_an_episode() -> None:
    """Every step of a walk says which row it is, so that a batch shows where its windows begin."""
    at = np.arange(40, dtype=np.float32)
    walks = [{"place": 100 * i + at[:, None], "action": np.zeros((40, 1))} for i in range(3)]
    found = sequences("walks", walks, Reading(length=8), "By hand.")
    system = catalogue.find("rssm")
    model = built(system, system.sizes("tiny"), columns_of(found))
    draw = model.drawn(found, 16)
    torch.manual_seed(3)
    first, second = draw(), draw()
    for batch in (first, second):
        place = batch["place"][..., 0]
        assert torch.equal(place, place[:, :1] + torch.arange(8))
        assert torch.equal(batch["is_first"], place % 100 == 0)
    begins = [set((b["place"][:, 0, 0] % 100).tolist()) for b in (first, second)]
    assert begins[0] != begins[1]
    assert any(begin % 8 for begin in begins[0])
    torch.manual_seed(3)
    assert torch.equal(draw()["place"], first["place"])


def test_a_world_that_reads_what_a_network_makes_names_the_agent_that_trains_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    first = np.zeros(40, bool)
    first[::10] = True
    np.savez(tmp_path / "e.npz", x=rng.random((40, 4), np.float32), action=rng.random((40, 1), np.float32),
             reward=np.zeros(40, np.float32), is_first=first)  # fmt: skip
    assert main(["fit", "mdn_rnn", "--data", str(tmp_path / "e.npz"), "--run", str(tmp_path / "run")]) != 0
    assert "worldformula train --model world_models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rewarded", "said"), [(2, ""), (1, "in 1 of them no column reward"), (0, "; no column reward")]
)
def test_rewards_that_nobody_gave_are_told(rewarded: int, said: str) -> None:
    walk = {"x": np.zeros((5, 2), np.float32), "action": np.ones((4, 1), np.float32)}
    found = [walk | {"reward": np.ones(4, np.float32)} if i < rewarded else dict(walk) for i in range(2)]
    note = sequences("walks", found, Reading(), "Two walks.").note
    assert said in note
    assert ("so that it is 0" in note) == (rewarded < 2)
