"""Runs that go on with other settings, begin with another run's weights, or leave parts of them as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agent.test_dreamer_runs import CONFIG, SYSTEM
from tests.cli.test_fit_command import newest
from tests.cli.test_worlds import arrays
from worldformula.cli import main
from worldformula.cli.many import from_file
from worldformula.cli.train import Train
from worldformula.errors import ConfigError
from worldformula.run.folder import read_metrics
from worldformula.run.interact import Interact
from worldformula.training.settings import override

SIZES = ["--set", "pixels=256", "--set", "hidden=8", "--set", "latent=3"]
VAE = ["fit", "vae", "--data", "sprites", *SIZES, "--batch", "16", "--steps"]
AGENT = override(CONFIG, ["steps=48", "env.pixels=false", "eval_episodes=0", "checkpoint_every=16", "log_every=8"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("changes")
    assert main([*VAE, "10", "--run", str(at / "vae")]) == 0
    np.savez(at / "e.npz", **arrays(False))
    given = ["--data", str(at / "e.npz"), "--steps", "4", "--batch", "2", "--run", str(at / "rssm")]
    assert main(["fit", "rssm", *given]) == 0
    Interact(AGENT, SYSTEM.build, at / "agent").run()
    return at


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = newest(folder).state
    found: dict[str, torch.Tensor] = state["agent"]["weights"] if "agent" in state else state["fit"]["weights"]
    return found


# --------------------------------------------------------------------------------------------------- --resume-with


def test_a_fit_goes_on_with_another_rate_and_says_so(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a step size of nothing the weights stay; that of the checkpoint would move them."""
    folder = tmp_path / "run"
    shutil.copytree(runs / "vae", folder)
    go_on = ["fit", "--run", str(folder), "--resume"]
    assert main([*go_on, "--steps", "20", "--resume-with", "lr=1e-30", "--resume-with", "log_every=2"]) == 0
    before, after = weights(runs / "vae"), weights(folder)
    assert all(torch.allclose(before[name], after[name], atol=1e-12) for name in before)
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl") if row["step"] > 10] == [12, 14, 16, 18, 20]
    values = json.loads((folder / "config.json").read_text())
    assert values["changed"] == [
        {"step": 10, "setting": "fit.lr", "from": 1e-3, "to": 1e-30},
        {"step": 10, "setting": "fit.log_every", "from": None, "to": 2},
    ]
    assert values["fit"]["lr"] == 1e-30
    assert main([*go_on, "--steps", "22", "--resume-with", "lr=0.1"]) == 0, "and again, on top of what it says now"
    values = json.loads((folder / "config.json").read_text())
    assert [c["setting"] for c in values["changed"]] == ["fit.lr", "fit.log_every", "fit.lr"]
    assert values["changed"][-1] == {"step": 20, "setting": "fit.lr", "from": 1e-30, "to": 0.1}
    assert not all(torch.allclose(after[name], value, atol=1e-4) for name, value in weights(folder).items())
    capsys.readouterr()
    assert main(["report", str(folder)]) == 0


def test_other_settings_of_adam_count_from_the_change_on(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "vae", folder)
    change = ["--resume-with", "weight_decay=0.5", "--resume-with", "lr=1e-12"]
    assert main(["fit", "--run", str(folder), "--resume", "--steps", "12", *change]) == 0
    (optimiser,) = newest(folder).state["fit"]["optimisers"].values()
    assert [group["weight_decay"] for group in optimiser["param_groups"]] == [0.5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("latent=4", "--resume-with cannot change sizes.latent: the run was made with 3"),
        ("seed=3", "unknown setting 'seed'"),
        ("data.resize=8", "--resume-with cannot change reading.resize"),
        ("ema=0.9", "--resume-with cannot change fit.ema"),
        ("held=0.3", "--resume-with cannot change fit.held: the run was made with 0.0"),
        ("lrr=1", "Did you mean 'lr'"),
    ],
)
def test_what_a_fit_cannot_change(
    runs: Path, change: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    before = (runs / "vae" / "config.json").read_bytes()
    assert main(["fit", "--run", str(runs / "vae"), "--resume", "--resume-with", change]) == 1
    assert says in capsys.readouterr().err
    assert (runs / "vae" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "command", "says"),
    [
        ("vae", ["fit", "mvae", "--resume"], "holds a run of vae, got mvae: leave the name out"),
        ("agent", ["train", "planet"], "holds a run with other settings"),
    ],
)
def test_another_system_does_not_go_on_with_a_run(
    runs: Path, kind: str, command: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings in the folder are those of the system that it is of: another has others."""
    assert main([*command, "--run", str(runs / kind)]) == 1
    assert says in capsys.readouterr().err


def test_a_new_run_has_nothing_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*VAE, "2", "--run", str(tmp_path / "new"), "--resume-with", "lr=1"]) == 1
    assert main(["train", "--env", "pendulum", "--run", str(tmp_path / "new"), "--resume-with", "agent.lr=1"]) == 1
    assert capsys.readouterr().err.count("write --set for a new run") == 2


def test_an_agent_goes_on_with_another_rate_and_other_intervals(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "agent", folder)
    longer = override(AGENT, ["steps=64"])
    texts = ("agent.lr=1e-30", "agent.train_ratio=2", "log_every=4")
    Interact(longer, SYSTEM.build, folder, resume_with=texts).run()
    before, after = weights(runs / "agent"), weights(folder)
    moved = [name for name in before if not torch.allclose(before[name], after[name], atol=1e-9)]
    assert [name for name in moved if "slow" not in name and "norm" not in name] == []
    values = json.loads((folder / "config.json").read_text())
    assert [(c["setting"], c["from"], c["to"]) for c in values["changed"]] == [
        ("agent.train_ratio", 4.0, 2.0), ("agent.lr", 1e-3, 1e-30), ("log_every", 8, 4),
    ]  # fmt: skip
    assert {c["step"] for c in values["changed"]} == {newest(runs / "agent").step}
    counts = [newest(at).state["count"] for at in (runs / "agent", folder)]
    more, updates = (counts[1][name] - counts[0][name] for name in ("steps", "updates"))
    assert updates == pytest.approx(more * 2 / 12, abs=1.1)


@pytest.mark.parametrize(
    ("texts", "drawn"),
    [
        (("agent.mixture.priority=0.5", "agent.mixture.recent=0.25"), "priorities"),
        (("agent.online=true", "agent.length=5"), "online"),
    ],
)
def test_an_agent_goes_on_with_other_draws_from_its_replay(
    runs: Path, tmp_path: Path, texts: tuple[str, ...], drawn: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "agent", folder)
    before = newest(runs / "agent")
    Interact(override(AGENT, ["steps=80"]), SYSTEM.build, folder, resume_with=texts).run()
    replay = newest(folder).state["replay"]
    assert not before.state["replay"].get(drawn)
    rows = before.state["replay"]["count"]
    if drawn == "online":  # rows to come are served once, by sequences of five
        served = 2 * ((replay["count"] - rows) // 5)
        assert replay["online"] == {"begun": rows, "length": 5, "served": served}
    else:
        assert (replay["priorities"]["visits"] > 0).any()
    told = json.loads((folder / "config.json").read_text())["changed"]
    assert {c["setting"]: c["step"] for c in told} == {text.partition("=")[0]: before.step for text in texts}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("env.num=3", "cannot change env.num"),
        ("threads=0", "threads expects a whole number of at least 1, as the run has 1; got 0"),
        ("capacity=500", "cannot change capacity"),
        ("checkpoint_every=20", "cannot change checkpoint_every"),
        ("agent.layers=3", "cannot change agent.layers: networks of other sizes have other weights"),
        ("agent.world.sizes.units=8", "networks of other sizes"),
        ("agent.context=1", r"cannot change agent.context: the replay keeps no latents of every row, .* keep h, z"),
    ],
)
def test_what_an_agent_cannot_change(runs: Path, change: str, says: str) -> None:
    before = (runs / "agent" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=says):
        Interact(AGENT, SYSTEM.build, runs / "agent", resume_with=(change,))
    assert (runs / "agent" / "config.json").read_bytes() == before


# ---------------------------------------------------------------------------------------------- --init and --freeze


def test_a_fit_begins_with_the_weights_of_another_and_leaves_a_part_alone(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--init", str(runs / "vae"), "--freeze", "q_z_given_x"]
    assert main([*VAE, "6", "--seed", "5", "--run", str(tmp_path / "whole"), *more]) == 0
    out = capsys.readouterr().out
    assert f"init {runs / 'vae'}: 8 of 8 tensors of this run" in out
    before, after = weights(runs / "vae"), weights(tmp_path / "whole")
    frozen = [name for name in before if name.startswith("q_z_given_x")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    rest = [name for name in before if name not in frozen]
    assert all(not torch.equal(before[name], after[name]) for name in rest)
    assert all(torch.allclose(before[name], after[name], atol=0.02) for name in rest), "six steps of .001 from there"
    assert main([*VAE, "3", "--seed", "5", "--run", str(tmp_path / "parts"), *more]) == 0
    moved = runs / "moved"
    (runs / "vae").rename(moved)  # a run that goes on does not look there again
    try:
        assert main(["fit", "--run", str(tmp_path / "parts"), "--resume", "--steps", "6"]) == 0
    finally:
        moved.rename(runs / "vae")
    parts = weights(tmp_path / "parts")
    assert all(torch.equal(after[name], parts[name]) for name in after)


def test_a_fitted_world_becomes_that_of_an_agent(runs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = override(AGENT, [f"init={runs / 'rssm'}", "freeze=world", "steps=30", "agent.prefill=16"])
    run = Interact(config, SYSTEM.build, tmp_path / "run", say=said.append)
    assert run.run().counters.updates > 2
    ours, theirs = weights(tmp_path / "run"), weights(runs / "rssm")
    assert all(torch.equal(ours[f"world.{name}"], value) for name, value in theirs.items())
    new = run.fresh_agent().state_dict()
    assert any(not torch.equal(ours[name], new[name]) for name in new if name.startswith("policy"))
    assert said[0].startswith(f"init {runs / 'rssm'}: {len(theirs)} of {len(ours)} tensors")
    assert said[1].startswith("  new here, and not taken: ")
    assert "policy" in said[1] or "learner" in said[1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "latent=4"], "shapes that differ"),
        (["--freeze", "decoder"], "--freeze decoder: no weights have this name; there are "),
        (["--freeze", "p_x_given_z", "--freeze", "q_z_given_x"], "nothing is left to learn"),
        (["--init", "nowhere"], "is not a run folder"),
    ],
)
def test_what_cannot_begin(
    runs: Path, tmp_path: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    init = [] if "--init" in more else ["--init", str(runs / "vae")]
    assert main([*VAE, "2", "--run", str(tmp_path / "run"), *init, *more]) == 1
    err = capsys.readouterr().err
    assert says in err
    if says == "shapes that differ":
        assert "| [8, 8]" in err
        assert "| [6, 8]" in err
    assert not (tmp_path / "run").exists()


def test_weights_of_something_else_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main([*VAE, "2", "--run", str(tmp_path / "run"), "--init", str(runs / "rssm")]) == 1
    assert "none of its weights has a name that this run knows" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ train --config, --seeds


def test_a_file_of_options_and_several_seeds_of_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []

    def train(config: Any, folder: Path, resume_with: tuple[str, ...] = (), *, quiet: bool = False) -> float:
        started.append((config, folder))
        assert not quiet
        folder.mkdir(parents=True)
        return float(config.seed)

    monkeypatch.setattr("worldformula.cli.train.train", train)
    file = tmp_path / "run.toml"
    file.write_text(
        f'env = "pendulum"\nsteps = 70\nrun = "{tmp_path / "runs"}"\npixels = true\nlog-info = ["a", "b"]\n'
        "env-arg = {g = 9.5}\nseeds = [3, 4]\n[set]\ncapacity = 5000\n[set.agent]\nbatch = 3\n"
    )
    assert main(["train", "--config", str(file), "--steps", "80", "--set", "agent.batch=4"]) == 0
    assert [folder.name for _, folder in started] == ["seed-3", "seed-4"]
    config = started[0][0]
    assert (config.env.id, config.env.pixels, config.steps, config.seed) == ("pendulum", True, 80, 3)
    assert (config.env.log_info, config.env.args) == (("a", "b"), ("g=9.5",))
    assert (config.capacity, config.agent.batch) == (5000, 4), "the command line wins"
    assert "mean ± standard error | 3.5 ± 0.5" in capsys.readouterr().out
    assert "3.5 ± 0.5" in (tmp_path / "runs" / "seeds.txt").read_text()
    file.write_text('envs = "pendulum"\n')
    assert main(["train", "--config", str(file), "--run", str(tmp_path / "x")]) == 1
    assert "no option 'envs'. Did you mean 'env'" in capsys.readouterr().err
    assert main(["train", "--env", "pendulum"]) == 1
    assert "say where the run shall lie" in capsys.readouterr().err
    for one, expected in (
        ({"pixels": False}, "no_pixels"),
        ({"pixels": "no"}, "no_pixels"),
        ({"compile": True}, "compile"),
    ):
        (tmp_path / "run.json").write_text(json.dumps(one))
        read = from_file(Train(), tmp_path / "run.json")
        assert [name for name in ("pixels", "no_pixels", "compile") if getattr(read, name)] == [expected]
    seeds = ["train", "--env", "pendulum", "--run", str(tmp_path / "y"), "--seeds", "1,2", "--set", "seed=5"]
    assert main(seeds) == 1
    assert "got both --seeds and --set seed=5" in capsys.readouterr().err
