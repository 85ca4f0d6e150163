"""One kind of run: what every task gets from `Run`, chains of phases, and what each command says of another kind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.agent.systems.toy import ToyAgent, config
from tests.run.test_interact import assert_same_run
from worldformula import Normal, log
from worldformula.cli import main
from worldformula.envs import Envs
from worldformula.errors import ConfigError, RunFolderError
from worldformula.fitting import fit, task
from worldformula.run.contract import Acting, Learning
from worldformula.run.folder import RunFolder, read_metrics
from worldformula.run.interact import Interact
from worldformula.run.kinds import KINDS, kind_of
from worldformula.run.phases import Phase, Phases
from worldformula.run.play import Randomly, play
from worldformula.training import checkpoint
from worldformula.training.minimise import Fitting

QUIET = {"tensorboard": False, "eval_episodes": 0}


def regression(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return -log(Normal("p(y|x)", nn.Linear(3, 1), scale=1.0)).mean()


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_leaves_a_checkpoint_of_an_agent_too(tmp_path: Path) -> None:
    class Pressed(ToyAgent):
        calls = 0

        def update(self, batch: Any) -> Any:
            Pressed.calls += 1
            if Pressed.calls == 17:
                os.kill(os.getpid(), signal.SIGINT)
            return super().update(batch)

    Interact(config(), ToyAgent, tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt, match=r"interrupted at step (\d+); go on after step \1: worldformula train"):
        Interact(config(), Pressed, tmp_path / "parts").run()
    found = checkpoint.load_latest(tmp_path / "parts" / "checkpoints")
    assert found is not None
    assert found.step % 100 > 3, "between two checkpoints"
    assert found.state["count"]["updates"] == 17
    Interact(config(), ToyAgent, tmp_path / "parts").run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_what_only_acts_fills_the_replay(tmp_path: Path) -> None:
    def build(agent: Any, observations: Any, actions: Any, seed: int) -> Any:
        return Randomly(actions)

    run = Interact(config(90, **QUIET), build, tmp_path / "run")
    assert isinstance(run.agent, Acting)
    assert not isinstance(run.agent, Learning)
    assert run.run().counters.updates == 0
    assert len(run.replay) >= 90
    whole = Interact(config(150, **QUIET), build, tmp_path / "whole")
    whole.run()
    longer = Interact(config(150, **QUIET), build, tmp_path / "run")
    longer.run()  # goes on with the actions that it would have drawn
    a, b = (r.replay.sample(20, 4)["action"] for r in (whole, longer))
    assert np.array_equal(a, b)
    envs, rng = Envs("pendulum", 2), np.random.default_rng(5)
    by_environments = [envs.random(rng, None) for _ in range(3)]
    actor = Randomly(envs.actions, 5)
    ours = [actor.act({"is_first": np.zeros(2, bool)}, {})[0] for _ in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(by_environments, ours, strict=True))


def test_play_yields_where_it_acted_and_what_came() -> None:
    envs = Envs("pendulum", 2)
    actor = Randomly(envs.actions, 0)
    turns = play(envs, actor)
    one, two = next(turns), next(turns)
    assert one.rows["is_first"].all()
    assert (one.after["vector"] == two.rows["vector"]).all()
    again = Envs("pendulum", 2)
    again.reset(0)
    assert (again.step(one.actions)["vector"] == one.after["vector"]).all()


def chain(folder: Path, steps: int = 60) -> Phases:
    """Collect with a toy agent, fit a line to what it saw, fit another to the first one's answers."""

    def rows(run: Interact) -> dict[str, torch.Tensor]:
        held = run.replay.sample(40, 1)
        return {"x": torch.from_numpy(held["vector"][:, 0]), "y": torch.from_numpy(held["reward"])}

    def second(folder: RunFolder, given: Any) -> Any:
        with torch.no_grad():
            y = given["line"](given["rows"]["x"])
        return task(regression(1), {"x": given["rows"]["x"], "y": y}, folder, steps=steps, batch=8)

    return Phases(
        [
            Phase("collect", lambda f, _: Interact(config(120, **QUIET), ToyAgent, f), {"rows": rows}),
            Phase(
                "first",
                lambda f, given: task(regression(), given["rows"], f, steps=steps, batch=8),
                {"line": lambda t: next(m for m in t.fitting.loss.modules() if isinstance(m, nn.Linear))},
                takes=("rows",),
            ),
            Phase("second", second, {"loss": lambda t: t.fitting.loss}, takes=("rows", "line")),
        ],
        folder,
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.run.test_run import chain
from worldformula.training.minimise import Fitting
step, calls = Fitting._update, 0
def update(self):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Fitting._update = update
chain(Path(sys.argv[1])).run()
"""


@pytest.mark.slow
def test_a_chain_killed_in_its_second_or_third_phase_goes_on_there_bit_for_bit(tmp_path: Path) -> None:
    whole = chain(tmp_path / "whole").run()["loss"].state_dict()
    for at, done in ((20, 1), (75, 2)):
        folder = tmp_path / str(at)
        command = [sys.executable, "-c", KILLED, str(folder), str(at)]
        died = subprocess.run(command, capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert [int(p.name) for p in checkpoint.steps_in(folder / "checkpoints")][-1] == done
        parts = chain(folder).run()["loss"].state_dict()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        for name in ("first", "second"):
            a, b = (f / name / "metrics.jsonl" for f in (tmp_path / "whole", folder))
            assert a.read_bytes() == b.read_bytes()
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["kind"] == "phases"
    assert [row["step"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_in_a_phase_leaves_a_checkpoint_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chain(tmp_path / "whole", steps=30).run()["loss"].state_dict()
    update, calls = Fitting._update, [0]

    def pressed(self: Fitting) -> Any:
        calls[0] += 1
        if calls[0] == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self)

    monkeypatch.setattr(Fitting, "_update", pressed)
    with pytest.raises(KeyboardInterrupt, match=r"step 2; go on after step 2: run the same phases in the same folder"):
        chain(tmp_path / "parts", steps=30).run()
    assert checkpoint.steps_in(tmp_path / "parts" / "second" / "checkpoints")[-1].name == "000000000010"
    monkeypatch.setattr(Fitting, "_update", update)
    parts = chain(tmp_path / "parts", steps=30).run()["loss"].state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_chain_of_other_phases_is_refused(tmp_path: Path) -> None:
    chain(tmp_path / "run", steps=4).run()
    other = chain(tmp_path / "run", steps=4)
    other.phases.pop()
    with pytest.raises(RunFolderError, match="phases"):
        other.run()
    longer = chain(tmp_path / "run", steps=4)
    rows = ("rows",)
    longer.phases[1] = Phase("first", lambda f, g: task(regression(), g["rows"], f, steps=4, batch=9), takes=rows)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "away")  # so that every phase has to go on by itself
    longer.written = chain(tmp_path / "run", steps=4).written
    with pytest.raises(RunFolderError, match=r"first holds a run with other settings"):
        longer.run()


def test_phases_that_cannot_be_a_chain(tmp_path: Path) -> None:
    def make(folder: RunFolder, given: Any) -> Any:
        raise AssertionError

    with pytest.raises(ConfigError, match="the phase b takes 'rows', and those before it give lines"):
        Phases([Phase("a", make, {"lines": len}), Phase("b", make, takes=("rows",))], tmp_path)
    with pytest.raises(ConfigError, match="different names"):
        Phases([Phase("a", make), Phase("a", make)], tmp_path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished run of every kind."""
    at = tmp_path_factory.mktemp("kinds")
    Interact(config(60, **QUIET), ToyAgent, at / "interact").run()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    fit(regression(), {"x": x, "y": x.sum(-1, keepdim=True)}, steps=2, batch=4, run=at / "python", progress=False)
    chain(at / "phases", steps=2).run()
    assert main(["fit", "vae", "--data", "sprites", "--set", "hidden=4", "--steps", "2", "--run", str(at / "fit")]) == 0
    return {kind: at / kind for kind in KINDS}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("command", ["eval", "dream", "report", "train", "fit"])
def test_every_command_says_what_to_do_with_a_folder_of_another_kind(
    folders: dict[str, Path], kind: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"eval": ("interact",), "dream": ("interact", "fit"), "train": ("interact",), "fit": ("fit",)}
    if kind in own.get(command, ("interact", "fit")):
        return
    before = (folders[kind] / "config.json").read_bytes()
    capsys.readouterr()
    given = {"train": ["--run"], "fit": ["--resume", "--run"]}.get(command, [])
    assert main([command, *given, str(folders[kind])]) == 1
    said = capsys.readouterr().err
    what, commands = KINDS[kind]
    assert f"{folders[kind]} holds {what}, and worldformula {command} expects" in said
    for line in commands.values():
        assert line.format(str(folders[kind])) in said
    assert (folders[kind] / "config.json").read_bytes() == before


def test_folders_of_earlier_versions_are_known_by_what_they_say(folders: dict[str, Path], tmp_path: Path) -> None:
    assert [kind_of(v, "x") for v in ({"env": {}}, {"command": "fit"}, {"command": "worldformula.fitting.fit"})] == [
        "interact", "fit", "python",
    ]  # fmt: skip
    with pytest.raises(RunFolderError, match=r"x holds a run of kind 'dance', which this version does not know"):
        kind_of({"kind": "dance"}, "x")
    folder = tmp_path / "older"  # as 0.1 wrote it: no kind, and a count that there is no more
    shutil.copytree(folders["interact"], folder)
    values = json.loads((folder / "config.json").read_text())
    assert values.pop("kind") == "interact"
    (folder / "config.json").write_text(json.dumps(values))
    fitted = tmp_path / "fitted"
    shutil.copytree(folders["fit"], fitted)
    older = json.loads((fitted / "config.json").read_text())
    for key in ("kind", "init", "freeze", "columns"):
        older.pop(key)
    (fitted / "config.json").write_text(json.dumps({"command": "fit", **older}))
    assert main(["fit", "--run", str(fitted), "--resume", "--steps", "3"]) == 0
    assert main(["report", str(fitted)]) == 0
    Interact(config(90, **QUIET), ToyAgent, folder).run()
    assert checkpoint.steps_in(folder / "checkpoints")[-1].name >= "000000000090"
