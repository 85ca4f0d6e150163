"""The command line: every option is shown, every mistake is one clear line, and a run folder is all that it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import worldformula
import worldformula.agents
from worldformula.cli import main
from worldformula.cli.display import Display
from worldformula.cli.train import Train
from worldformula.errors import CheckpointError, ConfigError
from worldformula.run.folder import read_metrics
from worldformula.run.interact import Interact
from worldformula.run.saved import load_agent, open_run, record
from worldformula.trained import load
from worldformula.training import checkpoint, settings
from worldformula.training.progress import duration

SYSTEMS = str(Path(__file__).parent / "agent" / "systems")
SMALL = ["--set", "env.max_steps=20", "--set", "eval_episodes=2", "--set", "tensorboard=no", "--set=threads=1"]


@pytest.fixture(autouse=True)
def toy_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue lists folders: one more folder, one more system."""
    monkeypatch.setattr(worldformula.agents, "__path__", [*worldformula.agents.__path__, SYSTEMS])
    monkeypatch.delitem(sys.modules, "worldformula.agents.toy", raising=False)


def train(folder: Path, *more: str) -> int:
    return main(["train", "--env", "pendulum", "--model", "toy", "--run", str(folder), "--steps", "200", *SMALL, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the toy agent, made by the command line in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worldformula.agents, "__path__", [*worldformula.agents.__path__, SYSTEMS])
        assert train(folder) == 0
    return folder


def test_a_run_says_where_on_what_and_how_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert out.startswith("device cpu")
    for part in (
        "1 CPU thread",
        "pendulum × 4",
        "return: floor and best known are measured with the report",
        "floor (random policy) -",
        "replay 0.0",
        " GB on disk",
        "time: about",
        "environment steps",
    ):
        assert part in out
    assert re.search(r"updates 5[678] ", out)  # the plain line of the last turn: 160 actions × 7 / 20
    assert f"report: {tmp_path / 'run' / 'report.html'}" in out
    assert "reached: return -" in out


def test_a_quiet_run_prints_what_it_reached_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", "--quiet") == 0
    done, reached, page = capsys.readouterr().out.splitlines()
    assert done.startswith("200 steps, ")
    assert reached.startswith("reached: return -")
    assert page == f"report: {tmp_path / 'run' / 'report.html'}"
    for command in ("train", "fit", "demo", "report", "reproduce"):
        assert main([command, "--help"]) == 0
        assert "--quiet" in capsys.readouterr().out


def test_the_run_folder_is_complete(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "videos", "report.html", "replay"} <= names
    config = json.loads((trained / "config.json").read_text())
    assert config["env"]["id"] == "pendulum"
    assert config["env"]["max_steps"] == 20
    assert config["agent"] == {"batch": 4, "length": 5, "train_ratio": 7.0, "prefill": 40, "rate": 0.01}
    assert "eval/return" in read_metrics(trained / "metrics.jsonl")[-1]


def test_the_folder_alone_goes_on(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert main(["train", "--run", str(folder), "--steps", "300"]) == 0
    assert re.search(r"about \S+ s for (9\d|100) environment steps", capsys.readouterr().out)
    found = checkpoint.load_latest(folder / "checkpoints")
    assert found is not None
    assert 300 <= found.step < 304
    assert train(folder, "--steps", "300") == 0  # the full command again agrees with the folder


def test_eval_report_and_dream_take_a_run_folder(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(trained), "--episodes", "3"]) == 0
    out = capsys.readouterr().out
    assert "toy on pendulum after 200 steps" in out
    assert re.search(r"return -\S+ ± \S+ \(n = 3\), mean ± standard error", out)
    assert "floor -" in out
    assert main(["report", str(trained)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert main(["dream", str(trained)]) == 1
    assert "does not predict pictures" in capsys.readouterr().err


def test_the_best_weights_are_evaluated_where_they_are_kept(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert main(["eval", str(folder), "--best", "--episodes", "3"]) == 1
    assert "keeps no best weights" in capsys.readouterr().err
    newest = checkpoint.load_latest(folder / "checkpoints")
    assert newest is not None
    weights = {key: torch.zeros_like(value) for key, value in newest.state["agent"]["weights"].items()}
    checkpoint.save(folder / "best", 120, {"agent": {**newest.state["agent"], "weights": weights}})
    assert main(["eval", str(folder), "--best", "--episodes", "3"]) == 0
    assert "toy on pendulum after 120 steps" in capsys.readouterr().out
    assert all(not p.any() for p in load(folder, best=True).inner.parameters())
    assert any(p.any() for p in load(folder).inner.parameters())


def test_a_loaded_agent_is_the_trained_one(trained: Path) -> None:
    run = open_run(trained)
    agent, found, _ = load_agent(run, "cpu")
    saved = found.state["agent"]["weights"]["net.1.weight"]
    assert torch.equal(dict(agent.named_parameters())["net.1.weight"], saved)
    rows = record(agent, run.config.env, sequences=2, length=45, seed=0)
    assert rows["vector"].shape == (2, 45, 3)
    assert rows["is_first"][0].nonzero()[0].tolist() == [0, 21, 42]
    assert not rows["action"][rows["is_last"]].any()
    assert rows["action"][~rows["is_last"]].any()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "agent.ratee=1"], "unknown setting 'agent.ratee'. Did you mean 'agent.rate'"),
        (["--set", "agent.batch=some"], "agent.batch expects a whole number, got 'some'"),
        (["--set", "agent.batch=inf"], "agent.batch expects a whole number, got 'inf'"),
        (["--set", "agent.train_ratio=inf"], "agent.train_ratio expects a number, got 'inf'"),
        (["--set", "agent.rate=nan"], "agent.rate expects a number, got 'nan'"),
        (["--set", "env.num=0"], "num expects a whole number of at least 1"),
        (["--set", "rate"], "expected key=value"),
        (["--model", "toi"], "Did you mean 'toy'"),
        (["--preset", "tyni"], "Did you mean 'tiny'"),
        (["--env", "pendulm"], "Did you mean 'pendulum'"),
        (["--device", "gpu"], "device='gpu' is not one of"),
        (["--model", "vae"], "vae is one of the models; train expects an agent: "),
        (["--steps", "many"], "steps expects a whole number, got 'many'"),
        (["--set", "threads=100000"], "threads expects a whole number of at most 1024"),
        (["--steps", "30"], "nothing would be learnt. Set more steps, or a smaller prefill: --set agent.prefill=15"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert train(tmp_path / "run", *more) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--run", "nowhere/at/all"], "say what to train on"),
        (["eval", "nowhere"], "not a run folder"),
        (["report", "nowhere"], "not a run folder"),
        (["dream", "nowhere", "--context", "9", "--length", "5"], "0 < context < length"),
        (["reproduce", "vae-digitss"], "Did you mean 'vae_digits'"),
        (["reproduce", "vae-digits", "--seeds", "1,x"], "seeds expects a list"),
        (["reproduce", "vae-digits", "--seeds", ""], "expected at least one seed"),
        (["reproduce", "vae-digits", "--seeds", "1,-2"], "--seeds expects a whole number of at least 0, got -2"),
        (["reproduce", "vae-digits", "--json", "."], "--json expects a file that can be written, got ."),
        (["reproduce", "vae-digits", "--json", f"{__file__}/x.json"], "--json expects a file that can be written"),
        (["eval", "nowhere", "--episodes", "0"], "--episodes expects a whole number of at least 1, got 0"),
        (["eval", "nowhere", "--seed", "-1"], "--seed expects a whole number of at least 0, got -1"),
        (["dream", "nowhere", "--sequences", "0"], "--sequences expects a whole number of at least 1, got 0"),
        (["dream", "nowhere", "--seed", "-1"], "--seed expects a whole number of at least 0, got -1"),
        (["demo", "--seed", "-1", "--run", "nowhere"], "seed expects a whole number of at least 0, got -1"),
        (["demo", "--steps", "900", "--run", "nowhere"], "expected --steps above that, got 900"),
    ],
)
def test_other_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 1
    assert says in capsys.readouterr().err


def test_another_configuration_than_the_folder_has(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "config.json").read_bytes()
    assert main(["train", "--run", str(trained), "--seed", "5", "--preset", "slow"]) == 1
    err = capsys.readouterr().err
    assert "holds a run with other settings" in err
    assert "seed " in err
    assert "preset " in err
    assert (trained / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda c: "{", "cannot be read"),
        (lambda c: "[]", "expected an object, got list"),
        (lambda c: {k: v for k, v in c.items() if k != "env"}, "is damaged: it lacks 'env'"),
        (lambda c: {k: v for k, v in c.items() if k != "model"}, "is damaged: it lacks 'model'"),
        (lambda c: c | {"env": "pendulum"}, "env expects the settings of the environment"),
        (lambda c: c | {"env": {}}, "env expects the settings of the environment"),
        (lambda c: c | {"env": c["env"] | {"id": "pendulm"}}, "Did you mean 'pendulum'"),
        (lambda c: c | {"model": 3}, "model expects a text, got 3"),
        (lambda c: c | {"model": "toi"}, "Did you mean 'toy'"),
        (lambda c: c | {"preset": ["tiny"]}, "preset expects a text"),
        (lambda c: c | {"agent": None}, "agent expects a group of settings, got None"),
        (lambda c: c | {"agent": {"batch": "many"}}, "agent.batch expects a whole number, got 'many'"),
        (lambda c: c | {"steps": -1}, "steps expects a whole number of at least 1, got -1"),
        (lambda c: c | {"stepps": 1}, "unknown setting 'stepps'. Did you mean 'steps'"),
    ],
)
@pytest.mark.parametrize("command", [["train", "--run"], ["eval"], ["report"]])
def test_a_damaged_configuration(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], damage: Any, says: str
) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    new = damage(json.loads((trained / "config.json").read_text()))
    (tmp_path / "config.json").write_text(new if isinstance(new, str) else json.dumps(new))
    assert main([*command, str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def test_an_interrupted_run_says_where_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(after: int) -> None:
        def call(display: Display, loop: Interact) -> None:
            if loop.count.steps > after:
                raise KeyboardInterrupt

        monkeypatch.setattr(Display, "__call__", call)

    monkeypatch.setattr("worldformula.run.interact.SHOW_EVERY", 0.0)
    more = ("--set", "checkpoint_every=60")
    interrupt(40)
    assert train(tmp_path / "run", *more) == 130
    command = f"worldformula train --run {tmp_path / 'run'}"
    again = "start again, as it had no checkpoint yet"
    assert capsys.readouterr().err == f"\ninterrupted at step 44; {again}: {command}\n"
    interrupt(100)
    assert train(tmp_path / "run", *more) == 130
    assert capsys.readouterr().err == f"\ninterrupted at step 104; go on after step 60: {command}\n"


def test_damaged_logs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "timing.jsonl").write_text("garbage\n")
    assert main(["report", str(folder)]) == 0
    assert main(["train", "--run", str(folder), "--steps", "240"]) == 0
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n')
    assert main(["report", str(folder)]) == 1
    assert f"line 2 of {folder / 'metrics.jsonl'} cannot be read" in capsys.readouterr().err


def test_a_run_without_its_replay_can_be_shown_but_not_go_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "replay")
    for _ in range(2):
        assert main(["train", "--run", str(folder), "--steps", "300"]) == 1
        assert "start a new run in another folder" in capsys.readouterr().err
    assert main(["eval", str(folder), "--episodes", "1"]) == 0


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train(tmp_path / "file") == 1
    assert "cannot be written: File exists. Choose another folder" in capsys.readouterr().err
    for command in ("eval", "dream", "report"):
        assert main([command, str(tmp_path / "file")]) == 1
        assert "is not a run folder" in capsys.readouterr().err


def test_an_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train(tmp_path / "file" / "run") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_damaged_checkpoints(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert main(["train", "--run", str(folder), "--steps", "300"]) == 0
    newest, older = reversed(checkpoint.steps_in(folder / "checkpoints"))
    (newest / checkpoint.TREE).write_text("{")
    capsys.readouterr()
    assert main(["eval", str(folder), "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "warning: the checkpoint" in out
    assert "after 200 steps" in out
    (older / checkpoint.TENSORS).unlink()
    assert main(["eval", str(folder)]) == 1
    assert "no readable checkpoint" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        main(["--debug", "eval", str(folder)])
    assert main(["train", "--run", str(folder), "--steps", "400"]) == 1


@pytest.mark.parametrize(
    ("arguments", "model", "preset"),
    [
        (["planet", "--help"], "planet", "tiny"),
        (["--quiet", "planet", "--help", "--preset", "official"], "planet", "official"),
        (["--run", "planet", "--help"], "dreamer_v3", "tiny"),
        (["--help", "--preset", "official"], "dreamer_v3", "official"),
    ],
)
def test_help_shows_the_defaults_of_the_agent_and_the_preset_that_are_named(
    arguments: list[str], model: str, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of `planet` were those of `dreamer_v3`, and without what a preset says of the run."""
    assert main(["train", *arguments]) == 0
    out = capsys.readouterr().out
    assert f"settings for --set KEY=VALUE ({model}, preset {preset}):" in out
    config = Train(model=model, preset=preset, env="ID", out=Path("x")).config()
    for key in ("env.num", "env.action_repeat", "capacity"):
        value = next(s.value for s in settings.leaves(config) if s.key == key)
        assert f"\n  {key}={value}  (" in out


def test_help_shows_every_option_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "--model", "toy", "--preset=slow"]) == 0
    out = capsys.readouterr().out
    for option in ("--env", "--model", "--preset", "--set", "--steps", "--seed", "--run", "--device"):
        assert option in out
    for setting in ("agent.rate=0.001  (a number)", "env.max_steps=none", "checkpoint_every=5000", "env.pixels=false"):
        assert setting in out
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in ("demo", "train", "eval", "dream", "report", "models", "envs", "reproduce"):
        assert name in out
        assert main([name, "--help"]) == 0


def test_pixels_is_a_flag_and_a_setting(tmp_path: Path) -> None:
    def pixels(*more: str) -> bool:
        return Train(tmp_path / "run", env="pendulum", model="toy", **dict.fromkeys(more, True)).config().env.pixels

    assert not pixels()
    assert pixels("pixels")
    assert not pixels("no_pixels")
    with pytest.raises(ConfigError, match="both --pixels and --no-pixels"):
        pixels("pixels", "no_pixels")


def test_the_flag_of_pixels_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--env", "CartPole-v1", "--pixels", "--no-pixels", "--run", str(tmp_path / "run")]
    assert main(command) == 1
    assert "write one of them" in capsys.readouterr().err


def test_a_run_keeps_its_pixels_where_the_flag_is_not_given(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not Train(trained).config().env.pixels
    assert main(["train", "--run", str(trained), "--no-pixels"]) == 0
    assert main(["train", "--run", str(trained), "--pixels"]) == 1
    assert re.search(r"env.pixels +\| False +\| True", capsys.readouterr().err)


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"worldformula {worldformula.__version__}, torch {torch.__version__}")
    assert main(["--tyro-print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "complete " in script
    assert "reproduce" in script


def test_a_reader_that_has_read_enough_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m worldformula train --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("usage: worldformula train")
    assert done.stderr == ""


def test_wrong_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--run", "x", "--evn", "pendulum"]) == 2
    assert "--env" in capsys.readouterr().err


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--full"]) == 0
    assert "toy (agents; presets: tiny, slow)" in capsys.readouterr().out
    assert main(["models"]) == 0
    short = capsys.readouterr().out
    assert re.search(r"\nagents: act and learn; .*\n(  \w.*\n)*  toy  ", short)
    assert "presets" not in short
    assert main(["envs"]) == 0
    out = capsys.readouterr().out
    assert "cartpole_balance (250 steps), cartpole_swingup (250 steps)\n    Cart-poles from pixels" in out
    assert out.count("Cart-poles") == 1


def test_lists_fit_a_terminal_of_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for command, most in ((["models"], 90), (["envs"], 60), (["envs", "two_rooms"], 14)):
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) <= most, "a list that is longer than two screens is read by nobody"


def test_one_environment_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "pendulum"]) == 0
    out = capsys.readouterr().out
    for part in ("pendulum (worldformula/Pendulum-v0, 200 steps", "observes vector: vector (3,)", "acts by action: "):
        assert part in out
    assert "worldformula train --env pendulum --run runs/pendulum" in out
    assert main(["envs", "Pendulum-v1"]) == 0
    out = capsys.readouterr().out
    assert "observes vector: vector (3,) float32 -8…8" in out
    assert "worldformula train --env Pendulum-v1 --run runs/Pendulum-v1" in out
    assert main(["envs", "pendulm"]) == 1
    assert "Did you mean 'pendulum'" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "worldformula", "eval", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: nowhere is not a run folder: there is no such folder\n"


def test_a_folder_of_runs_is_no_run_and_says_which_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 1
    assert f"it has no config.json, but runs lie in it: {tmp_path / 'first'}\n" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "first" / "config.json")]) == 1
    assert "config.json is not a run folder: it is a file\n" in capsys.readouterr().err
    assert main(["train", "--run", str(tmp_path / "new"), "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml: there is no such file\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.26, "0.3 s"), (70, "70 s"), (600, "10 min"), (9000, "2.5 h"), (400_000, "4.6 days")]
)
def test_durations_are_said_in_the_fitting_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words
